//! The machine's process and those who control it, without a command in between.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use microsandbox::control::{
    Change, ControlClient, ControlError, ControlRequest, ControlSession, Ended, MachineMetrics,
    MachineState, RefusalKind, StopReason, Watch,
};
use microsandbox::names::Name;
use microsandbox::protocol::{
    Bytes, Exec, Exit, ExitStatus, FrameWriter, GuestMessage, HostMessage,
};
use microsandbox::run_directory::RunDirectory;
use msb_tests::{Home, LIMIT, kernels, product};

/// A sandbox named `box` that waits for commands.
struct Sandbox {
    home: Home,
    directory: RunDirectory,
    name: Name,
}

impl Sandbox {
    #[track_caller]
    fn create(options: &[&str]) -> Sandbox {
        let home = Home::new();
        let root = product::busybox();
        let arguments = ["create", "--memory=128M", "--name=box"]
            .into_iter()
            .chain(options.iter().copied())
            .chain([root.to_str().unwrap()]);
        let created = home.msb(arguments);
        assert_eq!(created.code(), 0, "{created}");
        let name: Name = "box".parse().unwrap();
        let place = microsandbox::home::Home::at(home.msb_home());
        let directory = RunDirectory::of(&place, &name);
        Sandbox {
            home,
            directory,
            name,
        }
    }

    fn connect(&self) -> ControlClient {
        ControlClient::connect(&self.directory, &self.name, LIMIT).unwrap()
    }

    fn ask(&self, request: &ControlRequest) {
        self.connect().ask(request, LIMIT).unwrap();
    }

    /// Watches it from its present state on.
    fn watch(&self, state: MachineState) -> Watch {
        let mut watch = self.connect().watch(LIMIT).unwrap();
        assert_eq!(watch.next(Some(LIMIT)).unwrap(), Change::State(state));
        watch
    }

    fn open(&self, request: &ControlRequest) -> Result<Session, ControlError> {
        let opened = self.connect().open_session(request, LIMIT)?;
        opened.stream.set_read_timeout(Some(LIMIT)).unwrap();
        Ok(Session { opened })
    }

    fn sh(&self, script: &str) -> Session {
        self.open(&run(script)).unwrap()
    }

    /// Waits until the guest's agent answers no more: only the guest itself knows when it hangs.
    fn wait_until_silent(&self) {
        let deadline = Instant::now() + LIMIT;
        // The agent measures as long as it lives.
        while self.metrics().memory_available.is_some() {
            assert!(Instant::now() < deadline, "the agent answers");
        }
    }

    fn metrics(&self) -> MachineMetrics {
        self.connect().metrics(LIMIT).unwrap()
    }

    /// What is left when the machine is gone: nothing but the sandbox.
    fn gone(self) {
        self.home.wait_until_alone();
        let removed = self.home.msb(["rm", "box"]);
        assert_eq!(removed.code(), 0, "{removed}");
    }
}

fn run(script: &str) -> ControlRequest {
    ControlRequest::Run(Box::new(Exec {
        args: ["sh", "-c", script]
            .map(|argument| Bytes(argument.as_bytes().to_vec()))
            .to_vec(),
        env: Vec::new(),
        cwd: None,
        user: None,
        rlimits: Vec::new(),
        terminal: None,
        stdin: true,
        timeout_ms: None,
        stop_signal: None,
    }))
}

/// A session that the machine's process keeps.
struct Session {
    opened: ControlSession,
}

impl Session {
    fn say(&self, message: &HostMessage<'_>) {
        FrameWriter::new(&self.opened.stream)
            .write(message)
            .unwrap();
    }

    /// Reads until the output ends with `end`, or the process has ended.
    fn read(&mut self, end: &str) -> (String, Option<Exit>) {
        let mut output = String::new();
        let ControlSession {
            stream, decoder, ..
        } = &mut self.opened;
        loop {
            while let Some(message) = decoder.next_frame::<GuestMessage<'_>>().unwrap() {
                match message {
                    GuestMessage::Stdout(data) => output += std::str::from_utf8(data).unwrap(),
                    GuestMessage::Exited(exit) => return (output, Some(exit)),
                    _ => {}
                }
                if output.ends_with(end) && !end.is_empty() {
                    return (output, None);
                }
            }
            assert!(decoder.read_from(&mut &*stream).unwrap() > 0, "{output}");
        }
    }
}

/// The states until the end, and the end.
fn end(mut watch: Watch) -> (Vec<MachineState>, Ended) {
    let mut states = Vec::new();
    loop {
        match watch.next(Some(LIMIT)).unwrap() {
            Change::State(state) => states.push(state),
            Change::Ended(ended) => {
                assert_eq!(watch.next(Some(LIMIT)).unwrap(), Change::Gone);
                return (states, *ended);
            }
            Change::Gone => panic!("no word of the end after {states:?}"),
        }
    }
}

#[test]
fn a_machine_that_is_asked_to_stop_ends_cleanly_and_says_so() {
    let sandbox = Sandbox::create(&[]);
    let pid = sandbox.home.machine().as_raw();
    assert_eq!(sandbox.connect().pid(), pid);
    let watch = sandbox.watch(MachineState::Running);
    sandbox.ask(&ControlRequest::Stop { grace_ms: 1_000 });
    let (states, ended) = end(watch);
    assert_eq!(states, [MachineState::Stopping]);
    assert_eq!((ended.reason, ended.clean), (StopReason::Stopped, true));
    sandbox.gone();
}

#[test]
fn a_kill_is_no_orderly_end() {
    let sandbox = Sandbox::create(&[]);
    let watch = sandbox.watch(MachineState::Running);
    sandbox.ask(&ControlRequest::Kill);
    let ended = end(watch).1;
    assert_eq!((ended.reason, ended.clean), (StopReason::Killed, false));
    sandbox.gone();
}

#[test]
fn a_guest_that_hangs_is_stopped_in_time() {
    let sandbox = Sandbox::create(&[]);
    // The agent freezes, as everything else that would answer.
    let mut session = sandbox.sh(
        "mkdir /tmp/c && mount -t cgroup2 none /tmp/c && mkdir /tmp/c/f && \
         echo 1 >/tmp/c/f/cgroup.procs && echo frozen && sleep 1 && echo 1 >/tmp/c/f/cgroup.freeze",
    );
    assert_eq!(session.read("frozen\n").0, "frozen\n");
    sandbox.wait_until_silent();
    let watch = sandbox.watch(MachineState::Running);
    let begun = Instant::now();
    sandbox.ask(&ControlRequest::Stop { grace_ms: 3_000 });
    let ended = end(watch).1;
    assert!(begun.elapsed() >= Duration::from_secs(3));
    assert_eq!((ended.reason, ended.clean), (StopReason::Killed, false));
    assert_eq!(ended.detail.as_deref(), Some("the guest did not answer"));
    sandbox.gone();
}

#[test]
fn a_guest_whose_processor_hears_nothing_is_stopped_and_killed_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernels::hanging(folder.path());
    let sandbox = Sandbox::create(&["--kernel", kernel.to_str().unwrap()]);
    let hang = || {
        let mut session = sandbox.sh("echo now; echo c >/proc/sysrq-trigger");
        assert_eq!(session.read("now\n").0, "now\n");
        sandbox.wait_until_silent();
        // It is no halt: the processor runs.
        let before = sandbox.metrics().vcpu_time_ns;
        std::thread::sleep(Duration::from_millis(300));
        assert!(sandbox.metrics().vcpu_time_ns > before + 50_000_000);
        sandbox.watch(MachineState::Running)
    };
    let watch = hang();
    // Who waits for a command has a limit of its own.
    let command = ["exec", "--timeout=1s", "box", "true"];
    sandbox.home.msb(command).assert_error(124, "--timeout");
    let begun = Instant::now();
    assert_eq!(
        sandbox.home.msb(["stop", "-t", "2", "box"]).lines(),
        ["box"]
    );
    // Not the 10 s more that a guest has which answers.
    assert!((2..12).contains(&begun.elapsed().as_secs()));
    let ended = end(watch).1;
    assert_eq!((ended.reason, ended.clean), (StopReason::Killed, false));
    assert_eq!(ended.detail.as_deref(), Some("the guest did not answer"));

    assert_eq!(sandbox.home.msb(["start", "box"]).lines(), ["box"]);
    let watch = hang();
    assert_eq!(sandbox.home.msb(["kill", "box"]).lines(), ["box"]);
    // Its process says so itself: nobody had to kill it.
    let ended = end(watch).1;
    assert_eq!((ended.reason, ended.clean), (StopReason::Killed, false));
    sandbox.gone();
}

#[test]
fn a_draining_machine_ends_with_its_last_session() {
    let sandbox = Sandbox::create(&[]);
    let mut session = sandbox.sh("echo ready; read line; exit 7");
    assert_eq!(session.read("ready\n").0, "ready\n");
    let mut watch = sandbox.watch(MachineState::Running);
    sandbox.ask(&ControlRequest::Drain);
    let draining = Change::State(MachineState::Draining);
    assert_eq!(watch.next(Some(LIMIT)).unwrap(), draining);
    match sandbox.open(&run("true")) {
        Err(ControlError::Refused(refusal)) => assert_eq!(refusal.kind, RefusalKind::State),
        other => panic!("{:?}", other.err()),
    }
    session.say(&HostMessage::Stdin(b"\n"));
    let exit = session.read("").1.expect("it exits");
    assert_eq!(exit.status, ExitStatus::Code(7));
    let ended = end(watch).1;
    assert_eq!((ended.reason, ended.clean), (StopReason::Drained, true));
    sandbox.gone();
}

#[test]
fn a_machine_that_nobody_uses_ends() {
    let sandbox = Sandbox::create(&["--idle-timeout=5s"]);
    let watch = sandbox.watch(MachineState::Running);
    // As long as something runs, it is in use, whoever looks.
    let mut session = sandbox.sh("sleep 10; echo awake");
    assert_eq!(session.read("awake\n").0, "awake\n");
    let ended = end(watch).1;
    assert_eq!((ended.reason, ended.clean), (StopReason::Idle, true));
    sandbox.gone();
}

#[test]
fn a_machine_whose_time_is_over_drains_and_ends() {
    let sandbox = Sandbox::create(&["--max-duration=10s"]);
    let watch = sandbox.watch(MachineState::Running);
    let mut session = sandbox.sh("echo unsynced >/file; sleep 12; echo done");
    assert_eq!(session.read("").0, "done\n");
    let (states, ended) = end(watch);
    assert_eq!(states, [MachineState::Draining, MachineState::Stopping]);
    assert_eq!((ended.reason, ended.clean), (StopReason::MaxDuration, true));
    // What nobody has synced is there all the same.
    assert_eq!(sandbox.home.msb(["start", "box"]).lines(), ["box"]);
    let written = sandbox.home.exec_shell("box", "cat /file");
    assert_eq!(written.lines(), ["unsynced"]);
    sandbox.ask(&ControlRequest::Kill);
    sandbox.gone();
}

#[test]
fn a_process_outlives_its_client_and_others_come_back_to_it() {
    let sandbox = Sandbox::create(&[]);
    let mut session = sandbox.sh("echo $$; read a; echo \"got $a\"; read b; exit 3");
    let number = session.opened.opened.session;
    let (first, _) = session.read("\n");
    session.say(&HostMessage::Stdin(b"one\n"));
    drop(session);
    let again = |seen| {
        let request = ControlRequest::Attach {
            session: Some(number),
            seen,
        };
        sandbox.open(&request).unwrap()
    };
    let mut session = again(first.len() as u64);
    assert_eq!(session.read("\n").0, "got one\n");
    session.say(&HostMessage::Stdin(b"two\n"));
    session.say(&HostMessage::StdinEnd);
    drop(session);
    // Also when it has ended meanwhile.
    let (output, exit) = again(0).read("");
    assert_eq!(output, format!("{first}got one\n"));
    assert_eq!(exit.unwrap().status, ExitStatus::Code(3));
    sandbox.ask(&ControlRequest::Stop { grace_ms: 0 });
    sandbox.gone();
}

#[test]
fn a_paused_machine_uses_nothing_and_stops_when_it_is_asked() {
    let sandbox = Sandbox::create(&[]);
    let mut session = sandbox.sh("echo ready; while :; do :; done");
    assert_eq!(session.read("ready\n").0, "ready\n");
    let watch = sandbox.watch(MachineState::Running);
    sandbox.ask(&ControlRequest::Pause);
    let time = || sandbox.connect().metrics(LIMIT).unwrap().vcpu_time_ns;
    // A processor's thread uses a moment more to fall asleep than to say that it will.
    std::thread::sleep(Duration::from_millis(100));
    let before = time();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(time(), before);
    sandbox.ask(&ControlRequest::Resume);
    while time() == before {}
    sandbox.ask(&ControlRequest::Pause);
    sandbox.ask(&ControlRequest::Stop { grace_ms: 500 });
    let (states, ended) = end(watch);
    assert_eq!(states.last(), Some(&MachineState::Stopping));
    assert_eq!((ended.reason, ended.clean), (StopReason::Stopped, true));
    sandbox.gone();
}

/// The time of day in whole seconds.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs()
}

/// Sets the clock of this machine to the time that it shows: who waits for that is told, and nobody misses a second. Says whether
/// this process may.
fn set_clock_to_itself() -> bool {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes one `timespec` to where the pointer leads.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    assert_eq!(read, 0);
    // SAFETY: clock_settime(2) reads one.
    unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) == 0 }
}

#[test]
fn the_guests_time_of_day_is_the_hosts() {
    let sandbox = Sandbox::create(&[]);
    let is_right = || {
        let before = now();
        let shown: u64 = sandbox.sh("date +%s").read("").0.trim().parse().unwrap();
        // Two clocks may be about to change seconds.
        (before.saturating_sub(1)..=now() + 1).contains(&shown)
    };
    let becomes_right = |what: &str| {
        let deadline = Instant::now() + LIMIT;
        while !is_right() {
            assert!(
                Instant::now() < deadline,
                "the clock stays wrong after {what}"
            );
        }
    };
    assert!(is_right());
    sandbox.ask(&ControlRequest::Pause);
    std::thread::sleep(Duration::from_secs(4));
    sandbox.ask(&ControlRequest::Resume);
    becomes_right("a pause");
    // The host's clock is set, and the guest has another time than the host.
    let set = sandbox.sh("date -s @1000000000").read("").1.unwrap();
    assert_eq!(set.status, ExitStatus::Code(0));
    assert!(!is_right());
    if set_clock_to_itself() {
        becomes_right("the host's clock was set");
    } else {
        println!("this user may not set the host's clock: only the pause was looked at");
    }
    sandbox.ask(&ControlRequest::Kill);
    sandbox.gone();
}
