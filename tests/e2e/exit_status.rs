//! The exit status of `msb run`: that of the command, or what says why there is none.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use msb_tests::{Finished, Home};

#[track_caller]
fn assert_code(home: &Home, script: &str, code: i32) {
    let finished = home.busybox().shell(script);
    assert_eq!(finished.code(), code, "{script}: {finished}");
    assert!(finished.stderr.is_empty(), "{script}: {finished}");
}

#[test]
fn the_commands_status_is_passed_on() {
    let home = Home::new();
    for code in [0, 1, 125, 255] {
        assert_code(&home, &format!("exit {code}"), code);
    }
}

#[test]
fn a_signal_that_ends_the_command_adds_128() {
    let home = Home::new();
    for (signal, code) in [("HUP", 129), ("KILL", 137), ("SEGV", 139), ("TERM", 143)] {
        assert_code(&home, &format!("kill -{signal} $$"), code);
    }
}

#[track_caller]
fn run(home: &Home, command: &[&str]) -> Finished {
    home.busybox().run(command)
}

#[test]
fn a_program_that_is_not_found_is_127() {
    let home = Home::new();
    run(&home, &["no-such-program", "argument"]).assert_error(127, "no-such-program");
    run(&home, &["/bin/no-such-program"]).assert_error(127, "/bin/no-such-program");
}

#[test]
fn a_program_that_cannot_be_executed_is_126() {
    let home = Home::new();
    run(&home, &["/etc/passwd"]).assert_error(126, "/etc/passwd");
    run(&home, &["/etc"]).assert_error(126, "/etc");
    // Executable, yet no program.
    let root = home.folder("root");
    std::fs::copy("/bin/busybox", root.join("garbage")).unwrap();
    std::fs::write(root.join("garbage"), "\x7fELF of another kind\n").unwrap();
    home.guest(root)
        .run(["/garbage"])
        .assert_error(126, "/garbage");
}

#[test]
fn what_the_guest_refuses_is_125() {
    let home = Home::new();
    let refused = |options: &[&str], what| {
        home.busybox()
            .with(options)
            .run(["true"])
            .assert_error(125, what)
    };
    refused(&["--user", "nosuchuser"], "nosuchuser");
    refused(&["--user", "root:nosuchgroup"], "nosuchgroup");
    refused(&["--workdir", "/no/such/directory"], "/no/such/directory");
    // As root would, but the number of files that one may open has an upper limit in every kernel.
    refused(&["--rlimit", "nofile=unlimited"], "limit");
    refused(&["--tmpfs", "/etc/passwd/below"], "/etc/passwd/below");
}

#[test]
fn a_time_out_is_124() {
    let home = Home::new();
    let guest = home.busybox().with(["--timeout", "2s"]);
    guest
        .shell("echo begun; sleep 1000")
        .assert_error(124, "2s");
    // Nor does it help to refuse to end.
    guest
        .shell("trap '' TERM INT HUP; while :; do sleep 1; done")
        .assert_error(124, "2s");
    // In time.
    let finished = home.busybox().with(["--timeout", "1h"]).shell("exit 3");
    assert_eq!(finished.code(), 3, "{finished}");
}
