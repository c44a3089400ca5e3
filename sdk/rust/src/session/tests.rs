//! Sessions with an agent that lives in the test.

use std::fs::OpenOptions;
use std::io::{Read, Seek, Write};
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use protocol::{
    ExitStatus, FrameReader, FrameWriter, GuestMessage, INITIAL_STDIN_CREDIT, MAX_DATA, Stage,
    Started, TerminalSize,
};

use super::*;

/// The agent's end of a connection.
struct Agent {
    reader: FrameReader<UnixStream>,
    writer: FrameWriter<UnixStream>,
}

impl Agent {
    /// Exchanges greetings and takes the request.
    fn greet(stream: UnixStream) -> (Agent, Exec) {
        let mut agent = Agent {
            reader: FrameReader::new(stream.try_clone().unwrap()),
            writer: FrameWriter::new(stream),
        };
        agent.say(GuestMessage::Hello(Hello::current("test")));
        match agent.reader.read().unwrap() {
            Some(HostMessage::Hello(hello)) => hello.check().unwrap(),
            other => panic!("{other:?}"),
        }
        match agent.reader.read().unwrap() {
            Some(HostMessage::Exec(exec)) => (agent, *exec),
            other => panic!("{other:?}"),
        }
    }

    fn say(&mut self, message: GuestMessage<'_>) {
        self.writer.write(&message).unwrap();
    }

    fn exit(&mut self, code: u8) {
        let status = ExitStatus::Code(code);
        self.say(GuestMessage::Exited(Exit {
            status,
            timed_out: false,
        }));
    }

    /// Gives standard input back as standard output, `window` bytes at a time, and checks that no
    /// more came than there was credit for.
    fn echo(&mut self, window: u32) {
        let mut credit = INITIAL_STDIN_CREDIT;
        loop {
            let data = match self.reader.read().unwrap() {
                Some(HostMessage::Stdin(data)) => data.to_vec(),
                Some(HostMessage::StdinEnd) => return,
                other => panic!("{other:?}"),
            };
            assert!(data.len() <= MAX_DATA);
            credit = credit
                .checked_sub(u32::try_from(data.len()).unwrap())
                .unwrap();
            self.say(GuestMessage::Stdout(&data));
            if credit < window {
                self.say(GuestMessage::StdinCredit(window));
                credit += window;
            }
        }
    }
}

fn exec() -> Exec {
    Exec {
        args: vec![protocol::Bytes(b"cat".to_vec())],
        env: Vec::new(),
        cwd: None,
        user: None,
        rlimits: Vec::new(),
        terminal: None,
        stdin: true,
        timeout_ms: None,
        stop_signal: None,
    }
}

/// Runs a session with an agent that does `act`, and `input` as standard input.
fn session(
    input: Option<File>,
    output: File,
    error: File,
    act: impl FnOnce(Agent) + Send + 'static,
) -> Session {
    let (host, guest) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let (agent, request) = Agent::greet(guest);
        assert_eq!(request, exec());
        act(agent);
    });
    Session::attach(
        host,
        exec(),
        Streams {
            input,
            output,
            error,
        },
    )
    .unwrap()
}

fn pipe() -> (File, File) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    (File::from(reader), File::from(writer))
}

fn nowhere() -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
}

/// Bytes that no mistake in their order leaves the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

fn exited(code: u8) -> SessionEnd {
    SessionEnd::Exited(Exit {
        status: ExitStatus::Code(code),
        timed_out: false,
    })
}

#[test]
fn a_large_stream_comes_back_whole_through_pipes() {
    for window in [1, 64 * 1024, INITIAL_STDIN_CREDIT] {
        let data = noise(if window == 1 { 270_000 } else { 32 << 20 });
        let (input, mut feed) = pipe();
        let (mut drain, output) = pipe();
        let session = session(Some(input), output, nowhere(), move |mut agent| {
            agent.echo(window);
            agent.exit(7);
        });
        let sent = data.clone();
        thread::spawn(move || feed.write_all(&sent).unwrap());
        let mut received = Vec::new();
        drain.read_to_end(&mut received).unwrap();
        assert!(
            received == data,
            "{} of {} bytes",
            received.len(),
            data.len()
        );
        assert_eq!(session.end().unwrap(), exited(7));
    }
}

#[test]
fn files_are_read_and_written_too() {
    let data = noise(300_000);
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(&data).unwrap();
    input.rewind().unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let copy = output.try_clone().unwrap();
    let session = session(Some(input), copy, nowhere(), |mut agent| {
        agent.echo(64 * 1024);
        agent.exit(0);
    });
    assert_eq!(session.end().unwrap(), exited(0));
    let mut received = Vec::new();
    output.rewind().unwrap();
    output.read_to_end(&mut received).unwrap();
    assert!(received == data);
}

#[test]
fn output_and_errors_stay_apart() {
    let (mut output, output_writer) = pipe();
    let (mut error, error_writer) = pipe();
    let session = session(None, output_writer, error_writer, |mut agent| {
        agent.say(GuestMessage::Started(Started {
            pid: 2,
            session: 1,
            terminal: false,
        }));
        agent.say(GuestMessage::Stdout(b"out"));
        agent.say(GuestMessage::Stderr(b"err"));
        agent.exit(0);
    });
    assert_eq!(session.end().unwrap(), exited(0));
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    error.read_to_string(&mut text).unwrap();
    assert_eq!(text, "outerr");
}

#[test]
fn input_waits_for_credit() {
    let (input, mut feed) = pipe();
    let (told, credit_used) = mpsc::channel();
    let session = session(Some(input), nowhere(), nowhere(), move |mut agent| {
        let mut received = 0;
        while received < INITIAL_STDIN_CREDIT as usize {
            match agent.reader.read().unwrap() {
                Some(HostMessage::Stdin(data)) => received += data.len(),
                other => panic!("{other:?}"),
            }
        }
        told.send(received).unwrap();
        // Without credit, signals still come; what comes next is no input.
        match agent.reader.read().unwrap() {
            Some(HostMessage::Signal(signal)) => assert_eq!(signal, 15),
            other => panic!("{other:?}"),
        }
        agent.say(GuestMessage::StdinCredit(10));
        match agent.reader.read().unwrap() {
            Some(HostMessage::Stdin(data)) => assert_eq!(data.len(), 10),
            other => panic!("{other:?}"),
        }
        agent.exit(0);
    });
    thread::spawn(move || feed.write_all(&noise(1 << 20)));
    assert_eq!(credit_used.recv().unwrap(), INITIAL_STDIN_CREDIT as usize);
    session.remote().signal(15);
    assert_eq!(session.end().unwrap(), exited(0));
}

#[test]
fn input_that_nobody_takes_is_left_alone() {
    let (input, mut feed) = pipe();
    let (closed, is_closed) = mpsc::channel();
    let session = session(Some(input), nowhere(), nowhere(), move |mut agent| {
        agent.say(GuestMessage::StdinClosed);
        closed.send(()).unwrap();
        // Some of it may have been on its way.
        loop {
            match agent.reader.read().unwrap() {
                Some(HostMessage::Stdin(_)) => {}
                Some(HostMessage::Signal(1)) => return agent.exit(0),
                other => panic!("{other:?}"),
            }
        }
    });
    is_closed.recv().unwrap();
    // Its last reader is gone soon; until then the pipe takes some bytes.
    let error = loop {
        if let Err(error) = feed.write_all(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    session.remote().signal(1);
    assert_eq!(session.end().unwrap(), exited(0));
}

#[test]
fn signals_and_sizes_arrive_in_time() {
    let size = TerminalSize {
        rows: 50,
        columns: 132,
    };
    // Standard input never has anything to say.
    let (input, _feed) = pipe();
    let session = session(Some(input), nowhere(), nowhere(), move |mut agent| {
        let mut signals = Vec::new();
        let mut last_size = None;
        while signals.len() < 2 || last_size.is_none() {
            match agent.reader.read().unwrap() {
                Some(HostMessage::Signal(signal)) => signals.push(signal),
                Some(HostMessage::Resize(size)) => last_size = Some(size),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((signals, last_size), (vec![2, 15], Some(size)));
        agent.exit(0);
    });
    session.remote().signal(2);
    session.remote().resize(size);
    session.remote().signal(15);
    assert_eq!(session.end().unwrap(), exited(0));
}

#[test]
fn a_reader_that_went_away_ends_the_session() {
    let (drain, output) = pipe();
    let (gone, agent_saw_end) = mpsc::channel();
    drop(drain);
    let session = session(None, output, nowhere(), move |mut agent| {
        while agent
            .writer
            .write(&GuestMessage::Stdout(&[0; 4096]))
            .is_ok()
        {}
        gone.send(()).unwrap();
    });
    assert_eq!(session.end().unwrap(), SessionEnd::OutputClosed);
    agent_saw_end.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn a_slow_reader_of_a_non_blocking_pipe_loses_nothing() {
    let data = noise(1 << 20);
    let (mut drain, output) = pipe();
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let sent = data.clone();
    let session = session(None, output, nowhere(), move |mut agent| {
        for chunk in sent.chunks(MAX_DATA) {
            agent.say(GuestMessage::Stdout(chunk));
        }
        agent.exit(0);
    });
    let mut received = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        match drain.read(&mut buffer).unwrap() {
            0 => break,
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
    assert!(received == data);
    assert_eq!(session.end().unwrap(), exited(0));
}

#[test]
fn what_cannot_be_run_is_told() {
    let failure = Failure {
        stage: Stage::ProgramNotFound,
        errno: libc::ENOENT,
        message: "no".into(),
    };
    let told = failure.clone();
    let session = session(None, nowhere(), nowhere(), move |mut agent| {
        agent.say(GuestMessage::Failed(told));
    });
    assert_eq!(session.end().unwrap(), SessionEnd::Refused(failure));
}

#[test]
fn a_guest_that_vanishes_is_disconnected() {
    for cut in [0, 3, 50] {
        let (host, guest) = UnixStream::pair().unwrap();
        let streams = Streams {
            input: None,
            output: nowhere(),
            error: nowhere(),
        };
        let session = Session::attach(host, exec(), streams).unwrap();
        let mut frames = Vec::new();
        protocol::encode(&GuestMessage::Hello(Hello::current("test")), &mut frames).unwrap();
        let whole = frames.len();
        protocol::encode(&GuestMessage::Stdout(&[0; 100]), &mut frames).unwrap();
        (&guest).write_all(&frames[..whole + cut]).unwrap();
        drop(guest);
        assert_eq!(session.end().unwrap(), SessionEnd::Disconnected, "{cut}");
    }
}

#[test]
fn an_agent_of_another_release_is_refused() {
    let (host, guest) = UnixStream::pair().unwrap();
    let streams = Streams {
        input: None,
        output: nowhere(),
        error: nowhere(),
    };
    let session = Session::attach(host, exec(), streams).unwrap();
    let hello = Hello {
        version: 999,
        ..Hello::current("9.9")
    };
    FrameWriter::new(&guest)
        .write(&GuestMessage::Hello(hello))
        .unwrap();
    let error = session.end().unwrap_err();
    assert!(
        matches!(error, SessionError::Hello(HelloError::Version { .. })),
        "{error:?}"
    );
}

#[test]
fn messages_out_of_turn_are_refused() {
    let session = session(None, nowhere(), nowhere(), |mut agent| {
        agent.say(GuestMessage::Goodbye);
    });
    let error = session.end().unwrap_err();
    assert!(
        matches!(error, SessionError::Unexpected { message: "Goodbye" }),
        "{error:?}"
    );
}

#[test]
fn a_request_that_is_too_long_is_refused_before_anything_is_sent() {
    let (host, _guest) = UnixStream::pair().unwrap();
    let streams = Streams {
        input: None,
        output: nowhere(),
        error: nowhere(),
    };
    let args = vec![protocol::Bytes(vec![b'x'; protocol::MAX_MESSAGE])];
    let exec = Exec { args, ..exec() };
    assert!(matches!(
        check(&exec),
        Err(SessionError::Request(FrameError::TooLong))
    ));
    let error = Session::attach(host, exec, streams).unwrap_err();
    assert!(
        matches!(error, SessionError::Request(FrameError::TooLong)),
        "{error:?}"
    );
}

#[test]
fn dropping_a_session_ends_it_at_the_other_side() {
    let (tell, told) = mpsc::channel();
    let (input, _feed) = pipe();
    let session = session(Some(input), nowhere(), nowhere(), move |mut agent| {
        tell.send("runs").unwrap();
        if let Ok(None) = agent.reader.read::<HostMessage>() {
            tell.send("ended").unwrap();
        }
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok("runs"));
    drop(session);
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok("ended"));
}

#[test]
fn the_end_can_be_waited_for() {
    let (go, wait) = mpsc::channel();
    let session = session(None, nowhere(), nowhere(), move |mut agent| {
        wait.recv().unwrap();
        agent.exit(3);
    });
    let poll = |timeout: u16| {
        use nix::poll::{PollFd, PollFlags, poll};
        poll(
            &mut [PollFd::new(session.finished(), PollFlags::POLLIN)],
            timeout,
        )
        .unwrap()
    };
    assert_eq!(poll(0), 0);
    go.send(()).unwrap();
    assert_eq!(poll(10_000), 1);
    assert_eq!(session.end().unwrap(), exited(3));
}

#[test]
fn the_streams_are_closed_at_the_end() {
    let (mut drain, output) = pipe();
    let session = session(None, output, nowhere(), |mut agent| agent.exit(0));
    assert_eq!(session.end().unwrap(), exited(0));
    // Otherwise this would wait for ever.
    assert_eq!(drain.read(&mut [0]).unwrap(), 0);
}
