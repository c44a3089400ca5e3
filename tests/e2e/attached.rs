//! A program's terminal, joined by the library to that of a command. That it is as before at the end is checked in each of these.

use std::env;
use std::process::Command;

use microsandbox::Sandbox;
use msb_tests::running::piped;
use msb_tests::sandboxes::{run, sandbox};
use msb_tests::{Home, LIMIT, Running, Terminal, processes, product};
use nix::sys::signal::Signal;

/// Tells the program that it is another one, and what it joins its terminal to.
const ROLE: &str = "MSB_TEST_ATTACHES";

/// Runs in the terminal: sizes, a line, an interrupt.
const SCRIPT: &str = "
    stty size; echo ready; read line; echo \"got <$line>\"
    trap 'echo now $(stty size)' WINCH; trap 'echo caught; exit 7' INT
    echo waits; while :; do sleep 0.2; done";

/// Not a test but a role: a program that joins its terminal.
#[test]
fn program() {
    let Ok(role) = env::var(ROLE) else { return };
    run(async {
        let handle = Sandbox::get("box").await.unwrap();
        let sandbox = handle.connect().await.unwrap();
        let end = match &*role {
            "attach" => format!("{:?}", sandbox.attach("sh", ["-c", SCRIPT]).await),
            "attach_shell" => format!("{:?}", sandbox.attach_shell().await),
            _ => {
                let main = sandbox.reattach(None, 0).await.unwrap();
                let keys = Some(&b"\x10\x11"[..]);
                format!("{:?}", main.join_terminal(keys).await)
            }
        };
        println!("ended: {end}");
    });
}

fn command(home: &Home, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "attached::program", "--nocapture"])
        .env("MSB_HOME", home.msb_home())
        .env(ROLE, role);
    command
}

#[test]
fn a_programs_terminal_is_joined_to_that_of_a_command() {
    let home = Home::new();
    run(async {
        let builder = sandbox(&home, "box").image(product::busybox());
        // The main process has a terminal, too.
        let builder = builder.command(["sh", "-c", "echo main; exec cat"]);
        let sandbox = builder.tty(true).create().await.unwrap();
        join(&home);
        // Only the main process is left, which whoever left it left running.
        while sandbox.metrics().await.unwrap().sessions > 1 {
            tokio::task::yield_now().await;
        }
        let main = sandbox.reattach(None, 0).await.unwrap();
        main.kill().await.unwrap();
        let exit = main.collect().await.unwrap().exit;
        assert_eq!(exit.signal, Some(9));
        let _ = sandbox.wait_until_stopped().await;
    });
}

fn join(home: &Home) {
    let mut terminal = Terminal::start(command(home, "attach"));
    terminal.screen.wait_for("30 100\r\nready\r\n");
    assert!(!terminal.is_as_before(), "keys are the command's");
    // The guest's terminal echoes, and erases with backspace.
    terminal.type_keys("helxx\x7f\x7flo\r");
    terminal.screen.wait_for("got <hello>\r\nwaits\r\n");
    terminal.resize((50, 132));
    terminal.screen.wait_for("now 50 132");
    terminal.type_keys("\x03");
    let closed = terminal.finish();
    assert!(closed.screen.contains("^Ccaught\r\n"), "{closed:?}");
    assert!(closed.screen.contains("ended: Ok(7)"), "{closed:?}");

    let mut terminal = Terminal::start(command(home, "attach_shell"));
    terminal.screen.wait_for("# ");
    terminal.type_keys("kill -9 $$\r");
    let closed = terminal.finish();
    assert!(closed.screen.contains("ended: Ok(137)"), "{closed:?}");

    let mut terminal = Terminal::start(command(home, "main"));
    terminal.screen.wait_for("main\r\n");
    terminal.type_keys("word\r");
    terminal.screen.wait_for("word\r\nword\r\n");
    terminal.type_keys("\x10\x11");
    let closed = terminal.finish();
    assert!(closed.screen.contains("ended: Ok(Detached)"), "{closed:?}");

    // A signal ends the program as it would any other, but the terminal is put back before.
    let terminal = Terminal::start(command(home, "attach"));
    terminal.screen.wait_for("ready\r\n");
    terminal.signal(Signal::SIGTERM);
    assert!(processes::wait_for_end(terminal.pid(), LIMIT));
    assert!(terminal.is_as_before());
    assert!(!terminal.screen.so_far().contains("ended:"));

    // One that is killed cannot, but nothing of its command is left.
    let terminal = Terminal::start(command(home, "attach"));
    terminal.screen.wait_for("ready\r\n");
    terminal.signal(Signal::SIGKILL);
    drop(terminal);

    let finished = Running::start(piped(&mut command(home, "attach"))).finish();
    assert!(
        finished.text().contains("ended: Err(Unsupported"),
        "{finished}"
    );
}
