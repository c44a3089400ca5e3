//! Another program as PID 1.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Instant;

use nix::sys::wait::WaitStatus;
use protocol::Stage;

use super::*;

/// A shell that ends when it is asked to end the machine, as systemd and as others are.
const OBEDIENT: &str = "trap 'exit 7' INT 39; while :; do sleep 0.05; done";

fn init(path: &str, args: &[&str]) -> Option<Init> {
    Some(Init::Program {
        path: bytes(path),
        args: args.iter().copied().map(bytes).collect(),
        env: vec![(bytes("COLOUR"), bytes("blue"))],
    })
}

fn with_init(script: &str) -> Option<Guest> {
    Guest::start_with(Profile::default(), init("/bin/sh", &["-c", script]))
}

/// What the host's `/proc` has about a process.
fn about(pid: Pid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

/// The numbers of the children of the process `pid`.
fn children(pid: Pid) -> String {
    about(pid, &format!("task/{pid}/children"))
}

/// The first child of the init that this is true of; a test fails without one. A child may end while it is looked at, and
/// proc_pid_children(5) may pass one over while others come and go.
fn child_that(guest: &Guest, is: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let children = children(guest.pid);
        if let Some(found) = children.split_whitespace().find(|pid| is(pid)) {
            return found.to_owned();
        }
        assert!(Instant::now() < deadline, "{children}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_init_takes_nothing_of_agentd_with_it() {
    let Some(guest) = with_init(OBEDIENT) else {
        return;
    };
    guest.assert_alive();
    let init = guest.pid;
    assert_eq!(about(init, "cmdline"), format!("/bin/sh\0-c\0{OBEDIENT}\0"));
    let environment = about(init, "environ");
    assert!(
        environment.starts_with("PATH=/usr/local/sbin:"),
        "{environment}"
    );
    assert!(
        environment.ends_with("\0HOME=/\0COLOUR=blue\0"),
        "{environment}"
    );
    let descriptors = fs::read_dir(format!("/proc/{init}/fd")).unwrap();
    assert_eq!(descriptors.count(), 3);
    // While the shell starts a program it blocks signals itself.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !about(init, "status").contains("SigBlk:\t0000000000000000") {
        assert!(Instant::now() < deadline, "{}", about(init, "status"));
        sleep(Duration::from_millis(10));
    }
    let cwd = fs::read_link(format!("/proc/{init}/cwd")).unwrap();
    assert_eq!(cwd, PathBuf::from("/"));
    // agentd goes on as a child of it.
    let has = |pid: &str, file: &str, wanted: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}")).is_ok_and(|text| text.starts_with(wanted))
    };
    let agentd = child_that(&guest, |pid| has(pid, "comm", "agentd\n"));
    assert!(has(&agentd, "cmdline", "@"));
}

#[test]
fn sessions_end_before_the_init_is_asked_to() {
    let Some(mut guest) = with_init(OBEDIENT) else {
        return;
    };
    let line = "trap 'echo bye; exit 3' TERM; echo on; while :; do sleep 0.05; done";
    let mut client = guest.exec(shell(line));
    client.hear_until("on\n");
    guest.stop(20_000);
    let outcome = client.outcome();
    assert_eq!((outcome.text(), outcome.code()), ("bye\n", 3));
    assert!(!guest.says_goodbye(), "the init ends the machine");
    let status = waitpid(guest.pid, None).unwrap();
    assert_eq!(status, WaitStatus::Exited(guest.pid, 7));
}

#[test]
fn orphans_are_the_inits() {
    let Some(guest) = with_init(OBEDIENT) else {
        return;
    };
    guest.shell("setsid sleep 60 & :");
    // While the orphan becomes another program it has no command line.
    child_that(&guest, |pid| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("60"))
    });
}

#[test]
fn an_init_that_does_not_listen_does_not_hold_up_the_stop() {
    let Some(mut guest) = with_init("trap '' INT 39; while :; do sleep 0.05; done") else {
        return;
    };
    guest.assert_alive();
    let begin = Instant::now();
    guest.stop(100);
    assert!(guest.says_goodbye());
    assert!(begin.elapsed() < Duration::from_secs(10));
    // Nothing has been killed that is not the sessions'.
    assert!(about(guest.pid, "cmdline").starts_with("/bin/sh"));
}

#[test]
fn without_grace_the_init_is_not_asked() {
    let Some(mut guest) = with_init("trap 'sleep 60' INT 39; while :; do sleep 0.05; done") else {
        return;
    };
    let mut client = guest.exec(shell("trap '' TERM; echo on; while :; do sleep 0.05; done"));
    client.hear_until("on\n");
    let begin = Instant::now();
    guest.stop(0);
    assert_eq!(client.outcome().signal(), 9);
    assert!(guest.says_goodbye());
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn an_init_that_cannot_be_executed_is_an_answer() {
    for (path, errno) in [("/etc/passwd", libc::EACCES), ("/no/such", libc::ENOENT)] {
        let Some(mut guest) = Guest::start_with(Profile::default(), init(path, &[])) else {
            return;
        };
        let mut reader = FrameReader::new(guest.control.take().unwrap());
        match reader.read().unwrap() {
            Some(GuestMessage::Failed(failure)) => {
                assert_eq!((failure.stage, failure.errno), (Stage::Init, errno));
                assert!(failure.message.contains(path), "{}", failure.message);
            }
            other => panic!("{other:?}"),
        }
    }
}
