//! Sessions that survive their clients, with a thread of the test in the place of the agent.

use std::io::ErrorKind;

use microsandbox::control::{ControlSession, SessionOpened};
use microsandbox::protocol::{
    Exec, Exit, ExitStatus, Failure, FrameDecoder, GuestMessage, HostMessage, INITIAL_STDIN_CREDIT,
    MAX_DATA, Stage, Started,
};

use super::*;
use crate::vm::tests::exec;

const EXITED: GuestMessage<'static> = GuestMessage::Exited(Exit {
    status: ExitStatus::Code(3),
    timed_out: false,
});

fn started(session: u64) -> Started {
    Started {
        pid: 1,
        session,
        terminal: false,
    }
}

fn run() -> ControlRequest {
    ControlRequest::Run(Box::new(exec()))
}

fn again(session: Option<u64>, seen: u64) -> ControlRequest {
    ControlRequest::Attach { session, seen }
}

/// The agent's end of a session.
struct Guest {
    stream: UnixStream,
    decoder: FrameDecoder,
}

impl Guest {
    /// Takes the next session and greets.
    fn accept(machine: &Machine) -> Guest {
        Guest::accept_with(machine, &exec())
    }

    /// As [`accept`](Self::accept), where this is asked for.
    fn accept_with(machine: &Machine, exec: &Exec) -> Guest {
        let (stream, _) = machine.agent.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let mut guest = Guest {
            stream,
            decoder: FrameDecoder::new(),
        };
        assert!(matches!(guest.next(), HostMessage::Hello(_)));
        assert_eq!(guest.next(), HostMessage::Exec(Box::new(exec.clone())));
        guest.say(&GuestMessage::Hello(Hello::current("test")));
        guest
    }

    fn say(&self, message: &GuestMessage<'_>) {
        FrameWriter::new(&self.stream).write(message).unwrap();
    }

    fn next(&mut self) -> HostMessage<'_> {
        while !self.decoder.has_frame().unwrap() {
            assert!(self.decoder.read_from(&mut self.stream).unwrap() > 0);
        }
        self.decoder.next_frame().unwrap().unwrap()
    }
}

/// A client of a session.
struct Attached {
    session: ControlSession,
}

impl Attached {
    fn next(&mut self) -> Option<GuestMessage<'_>> {
        let ControlSession {
            stream, decoder, ..
        } = &mut self.session;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        while !decoder.has_frame().unwrap() {
            if decoder.read_from(&mut &*stream).unwrap() == 0 {
                return None;
            }
        }
        decoder.next_frame().unwrap()
    }

    /// What comes before any output: that the process runs, and its credit.
    fn begin(&mut self, number: u64, credit: u32) {
        assert_eq!(self.next(), Some(GuestMessage::Started(started(number))));
        assert_eq!(self.next(), Some(GuestMessage::StdinCredit(credit)));
    }

    fn say(&self, message: &HostMessage<'_>) {
        FrameWriter::new(&self.session.stream)
            .write(message)
            .unwrap();
    }

    /// All output up to the end.
    fn output(&mut self) -> (Vec<u8>, Option<Exit>) {
        let mut output = Vec::new();
        loop {
            match self.next() {
                Some(GuestMessage::Stdout(data) | GuestMessage::Stderr(data)) => {
                    output.extend(data);
                }
                Some(GuestMessage::Exited(exit)) => return (output, Some(exit)),
                None => return (output, None),
                Some(other) => panic!("{other:?}"),
            }
        }
    }
}

impl Machine {
    fn running() -> Machine {
        let machine = Machine::new();
        machine.enter(MachineState::Running);
        machine
    }

    /// Returns when the thread knows the state.
    fn enter(&self, state: MachineState) {
        let mut watch = self.client().watch(LIMIT).unwrap();
        self.control.tell(Notice::State(state));
        while watch.next(Some(LIMIT)).unwrap() != Change::State(state) {}
    }

    fn open(&self, request: &ControlRequest) -> Result<Attached, ControlError> {
        let session = self.client().open_session(request, LIMIT)?;
        Ok(Attached { session })
    }

    /// Runs process number `number`.
    fn start(&self, number: u64) -> (Attached, Guest) {
        std::thread::scope(|scope| {
            let client = scope.spawn(|| self.open(&run()).unwrap());
            let guest = Guest::accept(self);
            guest.say(&GuestMessage::Started(started(number)));
            let mut client = client.join().unwrap();
            client.begin(number, INITIAL_STDIN_CREDIT);
            (client, guest)
        })
    }

    /// Comes back as soon as the session is free, which it is when the thread sees that the last client is gone.
    fn come_back(&self, number: u64, seen: u64) -> Attached {
        self.open(&again(Some(number), seen)).unwrap()
    }
}

fn refusal(result: Result<Attached, ControlError>) -> RefusalKind {
    match result {
        Err(ControlError::Refused(refusal)) => refusal.kind,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_client_is_joined_to_its_process() {
    let machine = Machine::running();
    let (mut client, mut guest) = machine.start(5);
    let opened = SessionOpened {
        session: 5,
        missed: 0,
        position: 0,
        terminal: false,
    };
    assert_eq!(client.session.opened, opened);
    client.say(&HostMessage::Stdin(b"input"));
    assert_eq!(guest.next(), HostMessage::Stdin(b"input"));
    guest.say(&GuestMessage::StdinCredit(5));
    assert_eq!(client.next(), Some(GuestMessage::StdinCredit(5)));
    client.say(&HostMessage::Signal(15));
    assert_eq!(guest.next(), HostMessage::Signal(15));
    guest.say(&GuestMessage::StdinClosed);
    assert_eq!(client.next(), Some(GuestMessage::StdinClosed));
    guest.say(&GuestMessage::Stdout(b"out"));
    assert_eq!(client.next(), Some(GuestMessage::Stdout(b"out")));
    guest.say(&GuestMessage::Stderr(b"err"));
    guest.say(&EXITED);
    assert_eq!(client.next(), Some(GuestMessage::Stderr(b"err")));
    assert_eq!(client.next(), Some(EXITED));
    assert_eq!(client.next(), None);
    machine.control.finish(ended());
}

#[test]
fn a_process_has_one_end_of_its_input_whoever_comes_and_goes() {
    let machine = Machine::running();
    let (client, mut guest) = machine.start(1);
    client.say(&HostMessage::StdinEnd);
    assert_eq!(guest.next(), HostMessage::StdinEnd);
    drop(client);
    // Others have nothing to say either, or do not know yet that nobody listens.
    let mut next = machine.come_back(1, 0);
    next.say(&HostMessage::StdinEnd);
    assert_eq!(next.next(), Some(GuestMessage::Started(started(1))));
    assert_eq!(next.next(), Some(GuestMessage::StdinClosed));
    next.say(&HostMessage::StdinEnd);
    next.say(&HostMessage::Signal(1));
    assert_eq!(guest.next(), HostMessage::Signal(1));
    guest.say(&EXITED);
    assert_eq!(next.next(), Some(EXITED));
    machine.control.finish(ended());
}

#[test]
fn a_process_without_input_is_told_nothing_of_it() {
    let machine = Machine::running();
    let exec = Exec {
        stdin: false,
        ..exec()
    };
    let request = ControlRequest::Run(Box::new(exec.clone()));
    let (mut client, mut guest) = std::thread::scope(|scope| {
        let client = scope.spawn(|| machine.open(&request).unwrap());
        let guest = Guest::accept_with(&machine, &exec);
        guest.say(&GuestMessage::Started(started(1)));
        let client = client.join().unwrap();
        (client, guest)
    });
    assert_eq!(client.next(), Some(GuestMessage::Started(started(1))));
    assert_eq!(client.next(), Some(GuestMessage::StdinClosed));
    client.say(&HostMessage::StdinEnd);
    client.say(&HostMessage::Signal(1));
    assert_eq!(guest.next(), HostMessage::Signal(1));
    guest.say(&EXITED);
    assert_eq!(client.next(), Some(EXITED));
    machine.control.finish(ended());
}

#[test]
fn a_process_outlives_its_client_and_the_next_gets_the_rest() {
    let machine = Machine::running();
    let (mut client, mut guest) = machine.start(1);
    client.say(&HostMessage::Stdin(&[0; 1000]));
    guest.say(&GuestMessage::Stdout(b"before"));
    assert_eq!(client.next(), Some(GuestMessage::Stdout(b"before")));
    assert_eq!(
        refusal(machine.open(&again(Some(1), 0))),
        RefusalKind::SessionInUse
    );
    // What it said last is heard although it is gone.
    client.say(&HostMessage::Stdin(b"last"));
    drop(client);
    assert_eq!(guest.next(), HostMessage::Stdin(&[0; 1000]));
    assert_eq!(guest.next(), HostMessage::Stdin(b"last"));
    guest.say(&GuestMessage::Stdout(b" after"));

    let mut next = machine.come_back(1, 6);
    assert_eq!(next.session.opened.position, 6);
    next.begin(1, INITIAL_STDIN_CREDIT - 1004);
    assert_eq!(next.next(), Some(GuestMessage::Stdout(b" after")));
    drop(next);
    guest.say(&EXITED);
    drop(guest);
    // As often as somebody asks, also when it has ended.
    for _ in 0..2 {
        let mut late = machine.come_back(1, 0);
        late.begin(1, INITIAL_STDIN_CREDIT - 1004);
        let (output, exit) = late.output();
        assert_eq!(output, b"before after");
        assert_eq!(exit.map(|exit| exit.status), Some(ExitStatus::Code(3)));
    }
    assert_eq!(
        refusal(machine.open(&again(Some(1), 13))),
        RefusalKind::Protocol
    );
    assert_eq!(
        refusal(machine.open(&again(Some(2), 0))),
        RefusalKind::NoSession
    );
    assert_eq!(
        refusal(machine.open(&again(None, 0))),
        RefusalKind::NoSession
    );
    machine.control.finish(ended());
}

#[test]
fn without_a_client_nothing_holds_a_process_up_and_its_last_output_is_kept() {
    let machine = Machine::running();
    let (client, guest) = machine.start(1);
    drop(client);
    let chunk = [b'x'; MAX_DATA];
    for _ in 0..64 {
        guest.say(&GuestMessage::Stdout(&chunk));
    }
    guest.say(&GuestMessage::Stderr(b"end"));
    guest.say(&EXITED);
    // The end of the connection comes when everything has been read.
    let mut end = [0];
    assert_eq!((&guest.stream).read(&mut end).unwrap(), 0);
    let mut late = machine.come_back(1, 10);
    let opened = late.session.opened;
    assert_eq!(opened.position, 64 * MAX_DATA as u64 + 3 - (1 << 20));
    assert_eq!(opened.missed, opened.position - 10);
    late.begin(1, INITIAL_STDIN_CREDIT);
    let (output, exit) = late.output();
    assert_eq!(output.len(), 1 << 20);
    assert!(output.ends_with(b"xend"));
    assert!(exit.is_some());
    machine.control.finish(ended());
}

#[test]
fn a_client_that_does_not_read_slows_its_process_and_loses_nothing() {
    let machine = Machine::running();
    let (mut client, guest) = machine.start(1);
    guest.stream.set_nonblocking(true).unwrap();
    // As much as fits between here and there.
    let mut sent: u64 = 0;
    let mut frame = Vec::new();
    let message = GuestMessage::Stdout(&[b'x'; MAX_DATA]);
    microsandbox::protocol::encode(&message, &mut frame).unwrap();
    let mut rest = &frame[..];
    let mut idle = 0;
    while idle < 20 {
        match (&guest.stream).write(rest) {
            Ok(count) => {
                idle = 0;
                rest = &rest[count..];
                if rest.is_empty() {
                    sent += MAX_DATA as u64;
                    rest = &frame[..];
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                idle += 1;
                // The thread takes it in the meantime, if it takes anything.
                let answered = machine.client().open_session(&again(Some(9), 0), LIMIT);
                assert!(answered.is_err());
            }
        }
        assert!(sent < 4 << 20, "nothing slows the process down");
    }
    guest.stream.set_nonblocking(false).unwrap();
    std::thread::scope(|scope| {
        // The frame that it was in the middle of.
        scope.spawn(|| (&guest.stream).write_all(rest).unwrap());
        let mut got = 0;
        while got < sent + MAX_DATA as u64 {
            match client.next() {
                Some(GuestMessage::Stdout(data)) => got += data.len() as u64,
                other => panic!("{other:?}"),
            }
        }
    });
    drop((client, guest));
    machine.control.finish(ended());
}

#[test]
fn what_cannot_be_started_is_told() {
    let machine = Machine::running();
    let failure = Failure {
        stage: Stage::ProgramNotFound,
        errno: 2,
        message: "No".into(),
    };
    std::thread::scope(|scope| {
        let client = scope.spawn(|| machine.open(&run()));
        let guest = Guest::accept(&machine);
        guest.say(&GuestMessage::Failed(failure.clone()));
        let outcome = client.join().unwrap();
        assert!(
            matches!(&outcome, Err(ControlError::Exec(told)) if *told == failure),
            "{:?}",
            outcome.err()
        );
    });
    machine.enter(MachineState::Draining);
    assert_eq!(refusal(machine.open(&run())), RefusalKind::State);
    machine.control.finish(ended());
}

/// They come in one piece, and the thread does not hear one client for ever.
#[test]
fn a_client_that_says_much_at_once_is_heard_to_the_end() {
    const MESSAGES: usize = 100;
    let machine = Machine::running();
    let (client, mut guest) = machine.start(1);
    let mut bytes = Vec::new();
    for _ in 0..MESSAGES {
        microsandbox::protocol::encode(&HostMessage::Stdin(b"x"), &mut bytes).unwrap();
    }
    (&client.session.stream).write_all(&bytes).unwrap();
    for _ in 0..MESSAGES {
        assert_eq!(guest.next(), HostMessage::Stdin(b"x"));
    }
    drop(client);
    guest.say(&EXITED);
    machine.control.finish(ended());
}

#[test]
fn a_client_that_breaks_the_rules_is_let_go_and_its_process_is_not() {
    let machine = Machine::running();
    let (mut client, mut guest) = machine.start(1);
    let chunk = [0; MAX_DATA];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..INITIAL_STDIN_CREDIT as usize / MAX_DATA {
                client.say(&HostMessage::Stdin(&chunk));
            }
            client.say(&HostMessage::Stdin(b"x"));
        });
        for _ in 0..INITIAL_STDIN_CREDIT as usize / MAX_DATA {
            assert_eq!(guest.next(), HostMessage::Stdin(&chunk));
        }
    });
    assert_eq!(client.next(), None);
    let mut next = machine.come_back(1, 0);
    assert_eq!(next.next(), Some(GuestMessage::Started(started(1))));
    next.say(&HostMessage::Drain);
    assert_eq!(next.output().1, None);
    let mut last = machine.come_back(1, 0);
    assert_eq!(last.next(), Some(GuestMessage::Started(started(1))));
    guest.say(&EXITED);
    assert!(last.output().1.is_some());
    machine.control.finish(ended());
}

#[test]
fn a_guest_that_breaks_the_rules_ends_its_session_and_nothing_else() {
    let machine = Machine::running();
    for (number, bytes) in (1..).zip([&[0xff; 16][..], &[1, 0, 0, 0, 99], &[1, 0, 0, 0, 9], &[]]) {
        let (mut client, guest) = machine.start(number);
        guest.say(&GuestMessage::Stdout(b"x"));
        (&guest.stream).write_all(bytes).unwrap();
        drop(guest);
        assert_eq!(client.output(), (b"x".to_vec(), None));
    }
    // Out of turn.
    std::thread::scope(|scope| {
        let client = scope.spawn(|| machine.open(&run()));
        let guest = Guest::accept(&machine);
        guest.say(&EXITED);
        assert!(matches!(
            client.join().unwrap(),
            Err(ControlError::Exec(Failure {
                stage: Stage::Protocol,
                ..
            }))
        ));
    });
    machine.control.finish(ended());
}

#[test]
fn whoever_comes_early_waits_for_the_sandboxs_own_process() {
    let machine = Machine::with_main(true);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| machine.open(&again(None, 0)).unwrap());
        assert!(matches!(machine.event(), Event::Used));
        machine.control.tell(Notice::StartMain(Box::new(exec())));
        let guest = Guest::accept(&machine);
        guest.say(&GuestMessage::Started(started(1)));
        let mut client = client.join().unwrap();
        client.begin(1, INITIAL_STDIN_CREDIT);
        assert!(matches!(machine.event(), Event::MainStarted));
        guest.say(&GuestMessage::Stdout(b"all"));
        guest.say(&EXITED);
        assert!(matches!(
            machine.event(),
            Event::MainEnded(microsandbox::control::Exit::Code(3))
        ));
        // The machine ends at once; who is attached gets everything nevertheless.
        machine.control.tell(Notice::Ended(Box::new(ended())));
        assert_eq!(client.output().0, b"all");
    });
    machine.control.thread.join().unwrap();
}
