use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use microsandbox::control::{
    Change, ControlClient, ControlError, ControlRequest, Refusal, RefusalKind, StopReason,
};
use microsandbox::protocol::{FrameReader, FrameWriter, Hello};

use super::server::MAX_CLIENTS;
use super::*;

mod sessions;

const LIMIT: Duration = Duration::from_secs(30);

/// A machine that has a control thread and nothing else.
struct Machine {
    control: ControlThread,
    events: Mutex<Receiver<Event>>,
    /// Where the agent would listen.
    agent: UnixListener,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        Machine::with_main(false)
    }

    fn with_main(has_main: bool) -> Machine {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, events) = channel();
        let place = RunDirectory::at(directory.path().to_owned());
        Machine {
            control: ControlThread::start(listener, place, has_main, sender).unwrap(),
            agent: UnixListener::bind(directory.path().join("agent.sock")).unwrap(),
            events: Mutex::new(events),
            socket,
            _directory: directory,
        }
    }

    fn stranger(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn client(&self) -> ControlClient {
        ControlClient::greet(self.stranger(), LIMIT).unwrap()
    }

    /// What the supervisor is told next.
    fn event(&self) -> Event {
        self.events.lock().unwrap().recv_timeout(LIMIT).unwrap()
    }

    /// Answers the next request of a client.
    fn answer(&self, expected: &ControlRequest, reply: ControlReply) {
        match self.event() {
            Event::Request(id, request) => {
                assert_eq!(&request, expected);
                self.control.tell(Notice::Reply(id, reply));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn ended() -> Ended {
    Ended {
        reason: StopReason::Stopped,
        exit: None,
        detail: None,
        console: None,
        clean: true,
        at: 1,
    }
}

/// What is left to read.
fn rest(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that is reset has nothing left either.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn requests_reach_the_supervisor_and_replies_the_client() {
    let machine = Machine::new();
    let mut client = machine.client();
    assert_eq!(client.pid(), std::process::id().cast_signed());
    let stop = ControlRequest::Stop { grace_ms: 1 };
    for reply in [
        ControlReply::Done,
        ControlReply::Refused(Refusal {
            kind: RefusalKind::State,
            message: "No".to_owned(),
        }),
    ] {
        let outcome = std::thread::scope(|scope| {
            let asked = scope.spawn(|| client.ask(&stop, LIMIT));
            machine.answer(&stop, reply.clone());
            asked.join().unwrap()
        });
        match reply {
            ControlReply::Done => outcome.unwrap(),
            _ => assert!(matches!(outcome, Err(ControlError::Refused(_)))),
        }
    }
    machine.control.finish(ended());
}

#[test]
fn watchers_are_told_every_state_and_the_end() {
    let machine = Machine::new();
    let mut watch = machine.client().watch(LIMIT).unwrap();
    let mut next = || watch.next(Some(LIMIT)).unwrap();
    for state in [MachineState::Starting, MachineState::Running] {
        machine.control.tell(Notice::State(state));
        assert_eq!(next(), Change::State(state));
    }
    machine.control.finish(ended());
    assert_eq!(next(), Change::Ended(Box::new(ended())));
    assert_eq!(next(), Change::Gone);
}

#[test]
fn a_watcher_that_does_not_read_is_told_the_latest() {
    let machine = Machine::new();
    let mut watch = machine.client().watch(LIMIT).unwrap();
    for _ in 0..100_000 {
        machine.control.tell(Notice::State(MachineState::Running));
        machine.control.tell(Notice::State(MachineState::Paused));
    }
    machine.control.tell(Notice::State(MachineState::Stopping));
    while watch.next(Some(LIMIT)).unwrap() != Change::State(MachineState::Stopping) {}
    machine.control.finish(ended());
}

#[test]
fn a_machine_that_does_not_answer_is_given_up() {
    let (client, _machine) = UnixStream::pair().unwrap();
    let limit = Duration::from_millis(20);
    let error = ControlClient::greet(client, limit).unwrap_err();
    assert!(
        matches!(error, ControlError::TimedOut { limit: told } if told == limit),
        "{error:?}"
    );
    let (client, machine) = UnixStream::pair().unwrap();
    drop(machine);
    let error = ControlClient::greet(client, LIMIT).unwrap_err();
    assert!(matches!(error, ControlError::Gone), "{error:?}");
}

#[test]
fn hostile_clients_harm_nobody() {
    let machine = Machine::new();
    let mut greeting = Vec::new();
    let hello = ControlRequest::Hello(Hello::current("test"));
    microsandbox::protocol::encode(&hello, &mut greeting).unwrap();
    let silent = machine.stranger();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 0],
        &[1, 0, 0, 0, 99],
        &[&greeting[..], &greeting[..]].concat(),
        &[&greeting[..], &[2, 0, 0, 0, 2, 2]].concat(),
    ] {
        let mut stream = machine.stranger();
        stream.write_all(bytes).unwrap();
        rest(&stream);
    }
    // Half a frame, and away.
    machine.stranger().write_all(&greeting[..3]).unwrap();
    // A greeting of another version is answered.
    let stream = machine.stranger();
    let other = Hello {
        version: 0,
        ..Hello::current("old")
    };
    FrameWriter::new(&stream)
        .write(&ControlRequest::Hello(other))
        .unwrap();
    let reply = FrameReader::new(&stream).read::<ControlReply>().unwrap();
    assert!(
        matches!(&reply, Some(ControlReply::Refused(refusal)) if refusal.kind == RefusalKind::Protocol),
        "{reply:?}"
    );
    drop(machine.client().watch(LIMIT).unwrap());
    machine.client();
    drop(silent);
    machine.control.finish(ended());
}

#[test]
fn one_client_too_many_is_told_so_and_others_are_let_in_again() {
    let machine = Machine::new();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| machine.client()).collect();
    let error = ControlClient::greet(machine.stranger(), LIMIT).unwrap_err();
    assert!(
        matches!(&error, ControlError::Refused(refusal) if refusal.kind == RefusalKind::Limit),
        "{error:?}"
    );
    clients.clear();
    machine.client();
    machine.control.finish(ended());
}

#[test]
fn who_waits_for_an_answer_at_the_end_is_refused() {
    let machine = Machine::new();
    let mut client = machine.client();
    let outcome = std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.ask(&ControlRequest::Drain, LIMIT));
        let event = machine.event();
        assert!(matches!(event, Event::Request(..)), "{event:?}");
        machine.control.tell(Notice::Ended(Box::new(ended())));
        asked.join().unwrap()
    });
    machine.control.thread.join().unwrap();
    assert!(
        matches!(outcome, Err(ControlError::Refused(_))),
        "{outcome:?}"
    );
}
