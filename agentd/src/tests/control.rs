//! What the host can ask for besides the stop of the guest.

use protocol::{ClockTime, Measurement, Shutdown, Stage};

use super::*;

/// The host's side of the control connection.
struct Host {
    writer: FrameWriter<UnixStream>,
    reader: FrameReader<UnixStream>,
}

/// An answer that does not borrow.
#[derive(Debug, PartialEq)]
enum Answer {
    Stopping,
    Drained,
    Measured(Measurement),
    Goodbye,
    End,
}

impl Guest {
    fn host(&self) -> Host {
        let control = self.control.as_ref().unwrap();
        Host {
            writer: FrameWriter::new(control.try_clone().unwrap()),
            reader: FrameReader::new(control.try_clone().unwrap()),
        }
    }
}

impl Host {
    fn say(&mut self, message: &HostMessage) {
        self.writer.write(message).unwrap();
    }

    fn hear(&mut self) -> Answer {
        match self.reader.read().unwrap() {
            Some(GuestMessage::Stopping) => Answer::Stopping,
            Some(GuestMessage::Drained) => Answer::Drained,
            Some(GuestMessage::Measured(measurement)) => Answer::Measured(measurement),
            Some(GuestMessage::Goodbye) => Answer::Goodbye,
            Some(other) => panic!("{other:?}"),
            None => Answer::End,
        }
    }

    fn measure(&mut self) -> Measurement {
        self.say(&HostMessage::Measure);
        match self.hear() {
            Answer::Measured(measurement) => measurement,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_guest_says_at_once_that_it_stops() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(shell("trap '' TERM; echo on; while :; do sleep 0.05; done"));
    client.hear_until("on\n");
    let mut host = guest.host();
    let shutdown = |grace_ms| HostMessage::Shutdown(Shutdown { grace_ms });
    host.say(&shutdown(1_000_000));
    assert_eq!(host.hear(), Answer::Stopping);
    host.say(&shutdown(0));
    assert_eq!(host.hear(), Answer::Stopping);
    assert_eq!(host.hear(), Answer::Goodbye);
    assert_eq!(host.hear(), Answer::End);
}

#[test]
fn draining_waits_for_what_runs_and_refuses_what_is_new() {
    let Some(guest) = Guest::start() else { return };
    let mut running = guest.exec(Exec {
        stdin: true,
        ..shell("echo on; read line; echo \"$line\"")
    });
    running.hear_until("on\n");
    let mut early = guest.stranger();
    early.say(HostMessage::Hello(Hello::current("test")));
    let mut host = guest.host();
    host.say(&HostMessage::Drain);
    // After an answer, what was said before it is carried out.
    host.measure();
    let refused = early.fail();
    assert_eq!(
        (refused.stage, refused.errno),
        (Stage::Draining, libc::ESHUTDOWN)
    );
    assert_eq!(guest.exec(shell("true")).fail().stage, Stage::Draining);
    running.say(HostMessage::Stdin(b"to the end\n"));
    let outcome = running.outcome();
    assert_eq!((outcome.text(), outcome.code()), ("to the end\n", 0));
    assert_eq!(host.hear(), Answer::Drained);
    // It stays so, and who asks again hears it again.
    assert_eq!(guest.exec(shell("true")).fail().stage, Stage::Draining);
    host.say(&HostMessage::Drain);
    assert_eq!(host.hear(), Answer::Drained);
}

#[test]
fn without_sessions_the_guest_is_drained_at_once() {
    let Some(guest) = Guest::start() else { return };
    guest.assert_alive();
    let _silent = guest.stranger();
    let mut host = guest.host();
    host.say(&HostMessage::Drain);
    assert_eq!(host.hear(), Answer::Drained);
}

#[test]
fn a_session_whose_client_left_is_waited_for() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let done = folder.path().join("done");
    let line = format!(
        "trap 'sleep 0.3; echo >{}; exit' HUP; echo on; while :; do sleep 0.05; done",
        done.display()
    );
    let mut client = guest.exec(shell(&line));
    client.hear_until("on\n");
    drop(client);
    let mut host = guest.host();
    host.say(&HostMessage::Drain);
    assert_eq!(host.hear(), Answer::Drained);
    assert!(done.exists());
}

#[test]
fn many_measurements_are_answered_one_by_one() {
    let Some(guest) = Guest::start() else { return };
    let mut host = guest.host();
    let mut frames = Vec::new();
    for _ in 0..1000 {
        protocol::encode(&HostMessage::Measure, &mut frames).unwrap();
    }
    // More than the socket holds of answers before the first of them is read.
    guest.control.as_ref().unwrap().write_all(&frames).unwrap();
    for _ in 0..1000 {
        let Answer::Measured(measurement) = host.hear() else {
            panic!("no measurement");
        };
        assert!(measurement.memory_available <= measurement.memory_total);
        assert_eq!(measurement.upper, None);
    }
    guest.assert_alive();
}

#[test]
fn a_moment_that_does_not_exist_is_not_set() {
    let Some(guest) = Guest::start() else { return };
    let mut host = guest.host();
    let nowhere = ClockTime {
        seconds: i64::MIN,
        nanoseconds: u32::MAX,
    };
    host.say(&HostMessage::SetClock(nowhere));
    host.measure();
    guest.assert_alive();
}
