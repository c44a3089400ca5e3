//! `msb run` in a terminal. That the terminal is as before at the end is checked in each of these.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod exec_terminal;

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use msb_tests::terminal::{SIZE, open_pair};
use msb_tests::{Home, LIMIT, Terminal, processes};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

#[test]
fn a_terminal_is_chosen_and_echoes_what_is_typed() {
    let home = Home::new();
    let script = "
        [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminals
        tty; echo $TERM; stty size
        read line; echo \"got <$line>\"
        cat; echo after the end
        exit 7";
    let mut command = home.busybox().shell_command(script);
    command.env("TERM", "vt220");
    let mut terminal = Terminal::start(command);
    terminal.screen.wait_for("30 100\r\n");
    assert_eq!(SIZE, (30, 100));
    assert!(
        !terminal.is_as_before(),
        "keys are the guest's while it runs"
    );
    // The guest's terminal echoes, and erases with backspace.
    terminal.type_keys("helxx\x7f\x7flo\r");
    terminal.screen.wait_for("got <hello>");
    terminal.type_keys("to cat\r");
    terminal.screen.wait_for("to cat\r\nto cat\r\n");
    // Ctrl-D
    terminal.type_keys("\x04");
    let closed = terminal.finish();
    assert_eq!(closed.code, 7, "{}", closed.screen);
    let begin = "terminals\r\n/dev/pts/0\r\nvt220\r\n30 100\r\nhelxx";
    assert!(closed.screen.starts_with(begin), "{:?}", closed.screen);
    assert!(
        closed.screen.ends_with("after the end\r\n"),
        "{:?}",
        closed.screen
    );
}

#[test]
fn a_new_size_is_passed_on() {
    let home = Home::new();
    let script = "
        trap 'echo now $(stty size)' WINCH
        stty size; echo ready
        while :; do sleep 0.2; done";
    let mut terminal = home.busybox().terminal(script);
    terminal.screen.wait_for("30 100\r\nready");
    terminal.resize((50, 132));
    terminal.screen.wait_for("now 50 132");
    terminal.resize((20, 60));
    terminal.screen.wait_for("now 20 60");
    terminal.type_keys("\x03");
    assert_eq!(terminal.finish().code, 130);
}

#[test]
fn control_c_is_for_the_foreground_process() {
    let home = Home::new();
    let script = "
        trap 'caught=yes' INT; echo ready
        while [ -z \"$caught\" ]; do sleep 0.2; done
        trap - INT; echo caught; sleep 1000";
    let mut terminal = home.busybox().terminal(script);
    terminal.screen.wait_for("ready");
    terminal.type_keys("\x03");
    terminal.screen.wait_for("^Ccaught\r\n");
    // Nothing catches the next one, and not msb either: it is the guest's terminal that makes it a signal.
    terminal.type_keys("\x03");
    assert_eq!(terminal.finish().code, 130);
}

#[test]
fn a_full_screen_program_gets_every_key() {
    let home = Home::new();
    let script = "stty raw -echo; echo ready; head -c 6 | xxd -p; stty sane";
    let mut terminal = home.busybox().terminal(script);
    terminal.screen.wait_for("ready");
    terminal.type_keys("\x03\x04\x1a\x11\r\x1d");
    let closed = terminal.finish();
    assert_eq!(closed.code, 0, "{:?}", closed.screen);
    assert!(
        closed.screen.contains("03041a110d1d"),
        "{:?}",
        closed.screen
    );
}

#[test]
fn the_default_shell_is_at_home_in_a_terminal() {
    let home = Home::new();
    let mut terminal = Terminal::start(home.busybox().command([""; 0]));
    terminal.screen.wait_for("# ");
    terminal.type_keys("echo $((6 * 7)) >&2\r");
    terminal.screen.wait_for("42\r\n");
    terminal.type_keys("exit 5\r");
    let closed = terminal.finish();
    assert_eq!(closed.code, 5, "{:?}", closed.screen);
    assert!(
        !closed.screen.contains("job control"),
        "{:?}",
        closed.screen
    );
}

#[test]
fn a_terminal_can_be_refused() {
    let home = Home::new();
    let guest = home.busybox().with(["--no-tty"]);
    let script = "[ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo none; echo ready; read line; echo $line; sleep 1000";
    let mut terminal = guest.terminal(script);
    terminal.screen.wait_for("none\r\nready\r\n");
    assert!(terminal.is_as_before(), "the keys are not the guest's");
    terminal.type_keys("word\r");
    terminal.screen.wait_for("word\r\nword\r\n");
    // Now it is this terminal that makes a signal of it, for msb to pass on.
    terminal.type_keys("\x03");
    assert_eq!(terminal.finish().code, 130);
}

#[test]
fn a_terminal_can_be_had_without_one() {
    let home = Home::new();
    let mut guest = home.busybox().with(["-t"]).start("tty; stty size; cat");
    guest.stdout.wait_for("/dev/pts/0\r\n24 80\r\n");
    guest.send("line\n");
    guest.stdout.wait_for("line\r\nline\r\n");
    guest.send("\x04");
    assert_eq!(guest.finish().code(), 0);
}

#[test]
fn output_that_goes_elsewhere_means_no_terminal() {
    let home = Home::new();
    let output = home.path().join("output");
    let mut command = home
        .busybox()
        .shell_command("[ -t 0 ] || echo no terminal; wc -l");
    command.stdout(File::create(&output).unwrap());
    let mut terminal = Terminal::start_with(command, |command, device| {
        command
            .stdin(device.try_clone().unwrap())
            .stderr(device.try_clone().unwrap());
    });
    terminal.type_keys("one\rtwo\r\x04");
    assert_eq!(terminal.finish().code, 0);
    assert_eq!(std::fs::read_to_string(output).unwrap(), "no terminal\n2\n");
}

#[test]
fn the_terminal_is_restored_when_msb_or_its_machine_is_told_to_end() {
    let home = Home::new();
    // By way of the command,
    let terminal = home.busybox().terminal("echo ready; sleep 1000");
    terminal.screen.wait_for("ready");
    terminal.signal(Signal::SIGTERM);
    assert_eq!(terminal.finish().code, 143);
    // because of an error,
    let terminal = home.busybox().terminal("echo ready; sleep 1000");
    terminal.screen.wait_for("ready");
    nix::sys::signal::kill(home.machine(), Signal::SIGKILL).unwrap();
    let closed = terminal.finish();
    assert_eq!(closed.code, 125);
    // which begins at the left side of the screen,
    assert!(
        closed
            .screen
            .contains("\r\nerror: the machine's process was killed\r\n"),
        "{closed:?}"
    );
    // and because there was nothing to run.
    let closed = Terminal::start(home.busybox().command(["no-such-program"])).finish();
    assert_eq!(closed.code, 127, "{closed:?}");
    assert!(closed.screen.starts_with("error: "), "{closed:?}");
}

#[test]
fn closing_the_window_ends_everything() {
    let home = Home::new();
    let (window, device) = open_pair();
    let mut command = home
        .busybox()
        .shell_command("echo ready; while :; do sleep 1; done");
    // The window's process group leader is a shell, as it is in life.
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let program = command.get_program().to_owned();
    command = {
        let mut setsid = std::process::Command::new("setsid");
        setsid
            .args(["--ctty", "--wait"])
            .arg(program)
            .args(arguments)
            .env_clear();
        for (name, value) in command.get_envs() {
            setsid.env(name, value.unwrap());
        }
        setsid
    };
    let stream = || Stdio::from(device.try_clone().unwrap());
    let mut child = command
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    drop(command);
    let mut window = File::from(window);
    drop(device);
    let mut screen = Vec::new();
    while !String::from_utf8_lossy(&screen).contains("ready") {
        let mut buffer = [0; 256];
        let count = window.read(&mut buffer).unwrap();
        screen.extend_from_slice(&buffer[..count]);
    }
    drop(window);
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    assert!(processes::wait_for_end(pid, LIMIT));
    child.wait().unwrap();
    home.wait_until_alone();
}
