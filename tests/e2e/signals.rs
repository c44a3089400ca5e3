//! Signals that reach the command, and ends that come from elsewhere.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use msb_tests::{Finished, Home};
use nix::sys::signal::{Signal, kill};

/// Waits for signals and says which one came. Short sleeps: a shell runs its trap between two commands.
const WAIT: &str = "echo ready; while :; do sleep 0.2; done";

#[test]
fn signals_are_passed_on() {
    let home = Home::new();
    let traps = "for s in HUP INT QUIT TERM; do trap \"echo $s; exit 9\" $s; done;";
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let guest = home.busybox().start(&format!("{traps} {WAIT}"));
        guest.stdout.wait_for("ready\n");
        guest.signal(signal);
        let finished = guest.finish();
        let name = signal.as_str().strip_prefix("SIG").unwrap();
        assert_eq!(
            (finished.code(), finished.text()),
            (9, &*format!("ready\n{name}\n"))
        );
    }
}

#[test]
fn a_signal_ends_a_command_that_does_not_expect_it() {
    let home = Home::new();
    let guest = home.busybox().start("echo ready; exec sleep 1000");
    guest.stdout.wait_for("ready\n");
    guest.signal(Signal::SIGTERM);
    let finished = guest.finish();
    assert_eq!((finished.code(), finished.errors()), (143, ""));
}

#[test]
fn the_whole_process_group_gets_the_signal() {
    let home = Home::new();
    // As with Ctrl-C in a terminal: the shell waits for its child, which has to be told as well.
    let guest = home
        .busybox()
        .start("sh -c 'echo ready; sleep 1000'; echo child $?");
    guest.stdout.wait_for("ready\n");
    guest.signal(Signal::SIGINT);
    assert_eq!(guest.finish().code(), 130);
}

#[test]
fn a_second_interrupt_kills() {
    let home = Home::new();
    let guest = home
        .busybox()
        .start(&format!("trap 'echo interrupted' INT; {WAIT}"));
    guest.stdout.wait_for("ready\n");
    guest.signal(Signal::SIGINT);
    guest.stdout.wait_for("interrupted\n");
    guest.signal(Signal::SIGINT);
    assert_eq!(guest.finish().code(), 130);
}

#[test]
fn an_interrupt_ends_a_guest_that_is_not_up_yet() {
    let home = Home::new();
    let (log, console) = home.named_pipe("console");
    let guest = home
        .busybox()
        .with(["--console".as_ref(), log.as_os_str()])
        .start("echo ready");
    // The first words of the kernel.
    console.wait_for("Linux version");
    guest.signal(Signal::SIGTERM);
    let finished = guest.finish();
    assert_eq!((finished.code(), finished.text()), (143, ""), "{finished}");
}

#[test]
fn when_msb_is_killed_its_machine_ends() {
    let home = Home::new();
    let guest = home.busybox().start(WAIT);
    guest.stdout.wait_for("ready\n");
    assert_eq!(home.machines().len(), 1);
    guest.signal(Signal::SIGKILL);
    // It notices by itself; what else it may leave behind is looked for at the end of every test.
    home.wait_until_alone();
}

#[test]
fn when_the_machine_is_killed_msb_says_so() {
    let home = Home::new();
    let guest = home.busybox().start(WAIT);
    guest.stdout.wait_for("ready\n");
    kill(home.machine(), Signal::SIGKILL).unwrap();
    guest
        .finish()
        .assert_error(125, "the machine's process was killed");
}

#[test]
fn when_the_machine_stops_for_a_while_nothing_is_lost() {
    let home = Home::new();
    let mut guest = home
        .busybox()
        .start("echo ready; while read line; do echo got $line; done");
    guest.stdout.wait_for("ready\n");
    let machine = home.machine();
    kill(machine, Signal::SIGSTOP).unwrap();
    guest.send("one\ntwo\n");
    kill(machine, Signal::SIGCONT).unwrap();
    assert_eq!(guest.finish().lines(), ["ready", "got one", "got two"]);
}

/// Runs a script that ends the guest under its command.
fn disaster(home: &Home, options: &[&str], script: &str) -> Finished {
    home.busybox().with(options).start(script).finish()
}

#[test]
fn the_ends_of_a_guest_are_told_apart() {
    let home = Home::new();
    let script = "reboot -f; sleep 1000";
    disaster(&home, &[], script).assert_error(125, "the guest reset itself");
    // This is how a kernel reboots that is told to: with an interrupt that nobody handles.
    disaster(&home, &["--cmdline=reboot=t"], script).assert_error(125, "triple fault");
    let panic = "echo c >/proc/sysrq-trigger; sleep 1000";
    let finished = disaster(&home, &[], panic);
    finished.assert_error(125, "the guest's kernel panicked");
    finished.assert_error(125, "sysrq triggered crash");
    // The last words of the kernel come along.
    assert!(
        finished
            .errors()
            .lines()
            .any(|line| line.starts_with("  guest: ")),
        "{finished}"
    );
}

#[test]
fn a_guest_that_powers_itself_off_ends() {
    let home = Home::new();
    let finished = disaster(&home, &[], "poweroff -f; sleep 1000");
    assert_eq!(finished.code(), 125, "{finished}");
}

#[test]
fn the_agent_cannot_be_killed_from_inside() {
    let home = Home::new();
    let script = "
        for signal in KILL TERM INT SEGV ABRT STOP HUP USR1; do kill -$signal 1; done
        sleep 1
        echo alive";
    assert_eq!(home.busybox().shell(script).lines(), ["alive"]);
}

#[test]
fn memory_that_runs_out_in_the_guest_costs_the_one_who_took_it() {
    let home = Home::new();
    let guest = home.busybox().with(["--memory=64M"]);
    // `tail` keeps what may be the last line.
    let finished = guest.shell("tail /dev/zero 2>/dev/null; echo $?; echo alive");
    assert_eq!(finished.text(), "137\nalive\n");
}
