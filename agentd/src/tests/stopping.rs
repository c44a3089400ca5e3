//! The stop of the guest, and the duties of PID 1.

use std::fs;
use std::thread::sleep;
use std::time::Instant;

use protocol::{Shutdown, Stage};

use super::*;

impl Guest {
    pub(super) fn stop(&mut self, grace_ms: u32) {
        let control = self.control.as_ref().unwrap().try_clone().unwrap();
        let stop = HostMessage::Shutdown(Shutdown { grace_ms });
        FrameWriter::new(control).write(&stop).unwrap();
    }

    /// Whether the guest says goodbye, as the last thing.
    pub(super) fn says_goodbye(&mut self) -> bool {
        let mut reader = FrameReader::new(self.control.take().unwrap());
        loop {
            match reader.read::<GuestMessage>().unwrap() {
                Some(GuestMessage::Stopping) => {}
                Some(GuestMessage::Goodbye) => {
                    return reader.read::<GuestMessage>().unwrap().is_none();
                }
                None => return false,
                other => panic!("{other:?}"),
            }
        }
    }

    fn wait_for_end(&self) {
        waitpid(self.pid, None).unwrap();
    }
}

#[test]
fn processes_get_a_chance_to_end() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    let line = "trap 'echo bye; exit 7' TERM; echo on; while :; do sleep 0.05; done";
    let mut client = guest.exec(shell(line));
    client.hear_until("on\n");
    guest.stop(20_000);
    let outcome = client.outcome();
    assert_eq!((outcome.text(), outcome.code()), ("bye\n", 7));
    assert!(guest.says_goodbye());
    guest.wait_for_end();
}

#[test]
fn stopped_and_left_behind_processes_end_too() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    guest.shell("setsid sleep 60 & setsid sh -c 'kill -STOP $$' &");
    let begin = Instant::now();
    guest.stop(20_000);
    assert!(guest.says_goodbye());
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_process_with_a_signal_of_its_own_ends_before_others_are_asked() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    let other = "trap 'echo other; exit 0' TERM; echo on; while :; do sleep 0.05; done";
    let mut other = guest.exec(shell(other));
    other.hear_until("on\n");
    // What it has started ends when it says so, and not before.
    let line = "sh -c 'trap \"echo too early\" TERM; trap \"exit 0\" USR1; echo on; while :; do sleep 0.05; done' &
        trap 'echo quit; sleep 0.3; kill -USR1 $!; wait $!; echo done; exit 7' QUIT
        while :; do sleep 0.05; done";
    let mut main = guest.exec(Exec {
        stop_signal: Some(3),
        ..shell(line)
    });
    main.hear_until("on\n");
    // This one would not end by itself.
    guest.shell("setsid sleep 60 &");
    let begin = Instant::now();
    guest.stop(20_000);
    let outcome = main.outcome();
    assert_eq!((outcome.text(), outcome.code()), ("quit\ndone\n", 7));
    assert_eq!(other.outcome().text(), "other\n");
    assert!(guest.says_goodbye());
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_signal_that_does_not_exist_is_refused() {
    let Some(guest) = Guest::start() else { return };
    for signal in [0, 65] {
        let wrong = Exec {
            stop_signal: Some(signal),
            ..shell("true")
        };
        assert_eq!(guest.exec(wrong).fail().stage, Stage::Protocol);
    }
    guest.assert_alive();
}

#[test]
fn who_ignores_the_request_is_killed_after_the_grace() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    let mut client = guest.exec(shell("trap '' TERM; echo on; while :; do sleep 0.05; done"));
    client.hear_until("on\n");
    let begin = Instant::now();
    guest.stop(500);
    assert_eq!(client.outcome().signal(), 9);
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert!(guest.says_goodbye());
}

#[test]
fn a_second_request_can_shorten_the_grace() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    let mut client = guest.exec(shell("trap '' TERM; echo on; while :; do sleep 0.05; done"));
    client.hear_until("on\n");
    guest.stop(1_000_000);
    guest.stop(0);
    assert_eq!(client.outcome().signal(), 9);
    assert!(guest.says_goodbye());
}

#[test]
fn no_session_begins_while_the_guest_stops() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    let mut client = guest.exec(shell("trap '' TERM; echo on; while :; do sleep 0.05; done"));
    client.hear_until("on\n");
    guest.stop(600);
    client.say(HostMessage::Signal(libc::SIGWINCH));
    assert_eq!(client.outcome().signal(), 9);
    assert!(UnixStream::connect(guest.folder.path().join("sock")).is_err());
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_stop() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    let mut client = guest.exec(exec(&["yes"]));
    client.started();
    guest.stop(200);
    assert!(guest.says_goodbye());
}

#[test]
fn without_the_host_everything_ends() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    let mut client = guest.exec(shell(
        "trap '' TERM HUP; echo on; while :; do sleep 0.05; done",
    ));
    client.hear_until("on\n");
    drop(guest.control.take());
    assert_eq!(client.outcome().signal(), 9);
    guest.wait_for_end();
}

#[test]
fn a_bad_frame_of_the_host_ends_everything_without_a_goodbye() {
    let Some(mut guest) = Guest::start() else {
        return;
    };
    guest
        .control
        .as_ref()
        .unwrap()
        .write_all(&[1, 0, 0, 0, 99])
        .unwrap();
    assert!(!guest.says_goodbye());
}

#[test]
fn orphans_are_reaped() {
    let Some(guest) = Guest::start() else { return };
    guest.shell("for i in 1 2 3 4 5; do setsid true & done; wait; (sleep 0.2 &)");
    let pid = guest.pid;
    let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !children().is_empty() {
        assert!(Instant::now() < deadline, "{}", children());
        sleep(Duration::from_millis(10));
    }
}
