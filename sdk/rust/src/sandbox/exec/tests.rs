//! Commands of an agent that lives in the test.

use std::os::unix::net::UnixStream as StdStream;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use protocol::{
    Exec, Exit, ExitStatus, Failure, FrameReader, FrameWriter, GuestMessage, INITIAL_STDIN_CREDIT,
    MAX_DATA, Stage, Started,
};

use super::*;
use crate::ErrorKind;
use crate::control::{ControlReply, SessionOpened};
use crate::home::Home;
use crate::sandbox::machine::Machine;
use crate::sandbox::{Rlimit, RlimitResource, SandboxConfig};

/// The other end of a connection.
struct Agent {
    reader: FrameReader<StdStream>,
    writer: FrameWriter<StdStream>,
}

impl Agent {
    /// Exchanges greetings and takes the request.
    fn greet(stream: StdStream) -> (Agent, Exec) {
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

    fn start(&mut self) {
        self.say(GuestMessage::Started(Started {
            pid: 300,
            session: 2,
            terminal: false,
        }));
    }

    fn exit(&mut self, status: ExitStatus, timed_out: bool) {
        self.say(GuestMessage::Exited(Exit { status, timed_out }));
    }
}

/// Runs `test` in a runtime of one thread, as a small program has it.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, test).await.expect("it hangs")
    })
}

/// A machine that nobody knows.
fn nowhere() -> Machine {
    Machine::new(&Home::at("/nowhere"), &"box".parse().unwrap())
}

/// Begins `cat` at an agent that does `act`.
async fn begin<T: Send + 'static>(
    options: ExecOptions,
    act: impl FnOnce(Agent, Exec) -> T + Send + 'static,
) -> (Result<Execution, MicrosandboxError>, JoinHandle<T>) {
    let (host, guest) = StdStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let agent = thread::spawn(move || {
        let (agent, exec) = Agent::greet(guest);
        act(agent, exec)
    });
    let config = SandboxConfig::new("box", "/root");
    let exec = options.request(&config, "cat").unwrap();
    let request = HostMessage::Exec(Box::new(exec));
    let stream = UnixStream::from_std(host).unwrap();
    let channel = ask_agent(stream, &request).await.unwrap();
    (Execution::begin(channel, nowhere(), options).await, agent)
}

#[test]
fn output_and_end_come_in_order() {
    run(async {
        let (cat, agent) = begin(ExecOptions::new(), |mut agent, _| {
            agent.start();
            agent.say(GuestMessage::Stdout(b"out"));
            agent.say(GuestMessage::Stderr(b"err"));
            agent.exit(ExitStatus::Signal(15), false);
            assert_eq!(agent.reader.read::<HostMessage>().unwrap(), None);
        })
        .await;
        let mut cat = cat.unwrap();
        assert_eq!((cat.session(), cat.pid()), (2, Some(300)));
        // The agent would end a command for that.
        let error = cat.controls().resize(24, 80).await.unwrap_err();
        assert!(matches!(error, MicrosandboxError::Unsupported { .. }));
        let mut events = Vec::new();
        while let Some(event) = cat.recv().await.unwrap() {
            events.push(event);
        }
        let exit = ExecExit {
            code: None,
            signal: Some(15),
            timed_out: false,
        };
        assert_eq!(
            events,
            [
                ExecEvent::Started {
                    pid: 300,
                    session: 2
                },
                ExecEvent::Stdout("out".into()),
                ExecEvent::Stderr("err".into()),
                ExecEvent::Exited(exit),
            ]
        );
        assert_eq!(cat.wait().await.unwrap(), exit);
        drop(cat);
        agent.join().unwrap();
    });
}

/// Gives standard input back as standard output, 1000 bytes of credit at a time, and checks that no more came than there was
/// credit for.
fn echo(mut agent: Agent) {
    let window = 1000;
    let mut credit = INITIAL_STDIN_CREDIT;
    loop {
        let data = match agent.reader.read().unwrap() {
            Some(HostMessage::Stdin(data)) => data.to_vec(),
            Some(HostMessage::StdinEnd) => break,
            other => panic!("{other:?}"),
        };
        assert!(data.len() <= MAX_DATA);
        let length = u32::try_from(data.len()).unwrap();
        credit = credit.checked_sub(length).unwrap();
        agent.say(GuestMessage::Stdout(&data));
        if credit < window {
            agent.say(GuestMessage::StdinCredit(window));
            credit += window;
        }
    }
    agent.exit(ExitStatus::Code(0), false);
}

#[test]
fn bytes_of_input_go_as_credit_comes() {
    let input: Vec<u8> = (0..600_000_u32).map(|n| (n / 5) as u8).collect();
    let output = run(async {
        let options = ExecOptions::new().stdin_bytes(input.clone());
        let (cat, agent) = begin(options, |mut agent, exec| {
            assert!(exec.stdin);
            agent.start();
            echo(agent);
        })
        .await;
        let output = cat.unwrap().collect().await.unwrap();
        agent.join().unwrap();
        output
    });
    assert!(output.success() && output.stdout == input);
}

#[test]
fn input_that_nobody_reads_is_an_error_and_no_wait() {
    run(async {
        let options = ExecOptions::new().stdin_pipe();
        let (cat, agent) = begin(options, |mut agent, _| {
            agent.start();
            agent.say(GuestMessage::StdinClosed);
            // More credit than a number holds.
            for _ in 0..3 {
                agent.say(GuestMessage::StdinCredit(u32::MAX));
            }
            while !matches!(agent.reader.read().unwrap(), Some(HostMessage::Signal(9))) {}
            agent.exit(ExitStatus::Signal(9), false);
        })
        .await;
        let mut cat = cat.unwrap();
        let mut stdin = cat.stdin().unwrap();
        let error = stdin.write_all(&vec![0; 1 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        cat.kill().await.unwrap();
        assert_eq!(cat.wait().await.unwrap().signal, Some(9));
        agent.join().unwrap();
    });
}

#[test]
fn who_takes_nothing_stops_the_command_in_bounded_memory() {
    run(async {
        let (sent, stopped) = mpsc::channel();
        let (cat, agent) = begin(ExecOptions::new(), move |mut agent, _| {
            agent.start();
            for part in 0..1000_u32 {
                agent.say(GuestMessage::Stdout(&[7; MAX_DATA]));
                sent.send(part).unwrap();
            }
            agent.exit(ExitStatus::Code(3), false);
        })
        .await;
        let cat = cat.unwrap();
        let mut taken = 0;
        // What fits goes, then nothing more.
        while let Ok(part) = stopped.recv_timeout(Duration::from_millis(300)) {
            taken = part;
            tokio::task::yield_now().await;
        }
        assert!(taken < 64, "{taken} parts were taken");
        let output = cat.collect().await.unwrap();
        assert_eq!(
            (output.stdout.len(), output.exit.code),
            (1000 * MAX_DATA, Some(3))
        );
        agent.join().unwrap();
    });
}

#[test]
fn failures_are_typed() {
    run(async {
        for stage in [Stage::ProgramNotFound, Stage::Draining] {
            let (cat, agent) = begin(ExecOptions::new(), move |mut agent, _| {
                agent.say(GuestMessage::Failed(Failure {
                    stage,
                    errno: 2,
                    message: "cat is in no directory of PATH".into(),
                }));
            })
            .await;
            agent.join().unwrap();
            match cat.unwrap_err() {
                MicrosandboxError::ExecFailed { stage, errno, .. } => {
                    assert_eq!((stage, errno), (Stage::ProgramNotFound, 2));
                }
                MicrosandboxError::SandboxDraining { name } => {
                    assert_eq!((name.as_str(), stage), ("box", Stage::Draining));
                }
                other => panic!("{other:?}"),
            }
        }
        let timeout = Duration::from_millis(1500);
        let (cat, agent) = begin(ExecOptions::new().timeout(timeout), |mut agent, exec| {
            assert_eq!(exec.timeout_ms, Some(1500));
            agent.start();
            agent.exit(ExitStatus::Signal(9), true);
        })
        .await;
        let error = cat.unwrap().collect().await.unwrap_err();
        assert!(matches!(
            error,
            MicrosandboxError::ExecTimeout { timeout: told } if told == timeout
        ));
        agent.join().unwrap();
    });
}

#[test]
fn a_guest_that_hangs_does_not_keep_who_waits_for_a_time_limit() {
    let limited = || ExecOptions::new().timeout(Duration::from_millis(1));
    run(async {
        let (let_go, held) = mpsc::channel::<()>();
        let (slow, lively) = begin(limited(), |mut agent, _| {
            agent.start();
            for _ in 0..100 {
                agent.say(GuestMessage::Stdout(b"output"));
            }
            agent.exit(ExitStatus::Signal(9), true);
        })
        .await;
        let (hung, hanging) = begin(limited(), move |mut agent, _| {
            agent.start();
            let _ = held.recv();
        })
        .await;
        let error = hung.unwrap().collect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ExecTimeout, "{error}");
        drop(let_go);
        // By then the time of the other is over for as long, and all of its output is there nevertheless.
        let mut slow = slow.unwrap();
        let mut bytes = 0;
        while let Some(event) = slow.recv().await.unwrap() {
            if let ExecEvent::Stdout(data) = event {
                bytes += data.len();
            }
        }
        assert_eq!(bytes, 600);
        assert!(slow.wait().await.unwrap().timed_out);
        hanging.join().unwrap();
        lively.join().unwrap();
    });
}

#[test]
fn an_agent_that_lies_is_an_error() {
    run(async {
        let (cat, agent) = begin(ExecOptions::new(), |mut agent, _| {
            agent.say(GuestMessage::Goodbye);
        })
        .await;
        assert!(matches!(cat, Err(MicrosandboxError::Runtime { .. })));
        agent.join().unwrap();
    });
}

/// At once: what would run in the runtime's only thread does not have its turn any more.
#[test]
fn dropping_it_ends_the_connection() {
    run(async {
        let (ended, told) = mpsc::channel();
        let options = ExecOptions::new().stdin_bytes(vec![0; 1 << 20]);
        let (cat, agent) = begin(options, move |mut agent, _| {
            agent.start();
            while let Ok(Some(_)) = agent.reader.read::<HostMessage>() {}
            let _ = ended.send(());
        })
        .await;
        drop(cat.unwrap());
        told.recv_timeout(Duration::from_secs(30)).unwrap();
        agent.join().unwrap();
    });
}

#[test]
fn a_kept_session_is_come_back_to() {
    run(async {
        let (host, guest) = StdStream::pair().unwrap();
        let machine = thread::spawn(move || {
            let mut reader = FrameReader::new(guest.try_clone().unwrap());
            let mut writer = FrameWriter::new(guest);
            assert!(matches!(
                reader.read().unwrap(),
                Some(ControlRequest::Hello(_))
            ));
            let hello = Hello::current("test");
            writer.write(&ControlReply::Hello(hello)).unwrap();
            assert_eq!(
                reader.read().unwrap(),
                Some(ControlRequest::Attach {
                    session: Some(7),
                    seen: 5
                })
            );
            let opened = SessionOpened {
                session: 7,
                missed: 3,
                position: 8,
                terminal: false,
            };
            writer.write(&ControlReply::Session(opened)).unwrap();
            writer.write(&GuestMessage::Stdout(b"rest")).unwrap();
            writer.write(&GuestMessage::StdinCredit(4)).unwrap();
            let read = reader.read().unwrap();
            assert_eq!(read, Some(HostMessage::Stdin(b"typ")));
            let status = ExitStatus::Code(0);
            let exit = Exit {
                status,
                timed_out: false,
            };
            writer.write(&GuestMessage::Exited(exit)).unwrap();
        });
        let request = ControlRequest::Attach {
            session: Some(7),
            seen: 5,
        };
        let client = ControlClient::greet(host, OPEN_LIMIT).unwrap();
        let kept = client.open_session(&request, OPEN_LIMIT).unwrap();
        let mut execution = Execution::resume(kept, nowhere()).unwrap();
        assert_eq!((execution.position(), execution.missed()), (8, 3));
        execution.resize(24, 80).await.unwrap_err();
        let mut stdin = execution.stdin().unwrap();
        stdin.write_all(b"typ").await.unwrap();
        let output = execution.collect().await.unwrap();
        assert_eq!(
            (output.stdout.as_slice(), output.success()),
            (&b"rest"[..], true)
        );
        machine.join().unwrap();
    });
}

#[test]
fn the_configuration_is_what_a_call_does_not_say() {
    let mut config = SandboxConfig::new("box", "/root");
    config.env.insert("A".into(), "config".into());
    config.env.insert("B".into(), "config".into());
    config.user = Some("1000".into());
    config.workdir = Some("/srv".into());
    config.rlimits = vec![
        Rlimit::new(RlimitResource::Nofile, 100),
        Rlimit::new(RlimitResource::Core, 0),
    ];
    let options = ExecOptions::new()
        .args(["-l"])
        .env("B", "call")
        .rlimit(Rlimit::new(RlimitResource::Nofile, 200))
        .tty(24, 80);
    let exec = options.request(&config, "ls").unwrap();
    let text = |bytes: &protocol::Bytes| String::from_utf8(bytes.0.clone()).unwrap();
    let env: Vec<_> = exec.env.iter().map(|(n, v)| (text(n), text(v))).collect();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(env, [pair("A", "config"), pair("B", "call")]);
    assert_eq!(exec.args.iter().map(text).collect::<Vec<_>>(), ["ls", "-l"]);
    assert_eq!(exec.user.as_deref(), Some("1000"));
    assert_eq!(exec.cwd.as_ref().map(text).as_deref(), Some("/srv"));
    let limits: Vec<_> = exec.rlimits.iter().map(|limit| limit.soft).collect();
    assert_eq!(limits, [0, 200]);
    assert!(!exec.stdin && exec.terminal.is_some());
    let other = ExecOptions::new().user("root").cwd("/");
    let exec = other.request(&config, "ls").unwrap();
    assert_eq!(exec.user.as_deref(), Some("root"));
    for bad in [
        ExecOptions::new().args(["a\0b"]),
        ExecOptions::new().env("A=B", ""),
        ExecOptions::new().env("", "x"),
    ] {
        let error = bad.request(&config, "ls").unwrap_err();
        assert!(matches!(error, MicrosandboxError::InvalidConfig { .. }));
    }
}
