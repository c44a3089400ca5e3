//! What stands for the machine: a process that holds the lock, says what it does, and does what it is asked, without a guest.
//!
//! What it does apart from that is told by the kernel's command line.

use std::fs;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use microsandbox::control::{
    ControlReply, ControlRequest, Ended, Exit, MachineMetrics, MachineState, MachineStatus,
    Refusal, RefusalKind, StopReason,
};
use microsandbox::home::Home;
use microsandbox::launch::{
    Command, Handover, LaunchConfig, Report, RootSource, StartFailure, StartStage, send_report,
};
use microsandbox::logs::DEFAULT_LIMIT;
use microsandbox::protocol::{
    Failure, FrameReader, FrameWriter, GuestMessage, Hello, HostMessage, Stage, Started,
};

use crate::ready::ready;

/// Does not come up.
pub(super) const FAILS: &str = "fails";
/// Never comes up; opens the pipe of this name in its root when it has begun.
pub(super) const HANGS: &str = "hangs";
/// Ends with exit code 3 when it is drained and somebody watches.
pub(super) const COMPLETES: &str = "completes";

/// Understands no client.
pub(super) const FOREIGN: &str = "foreign";

/// Everybody who watches.
type Watchers = Arc<(Mutex<Vec<UnixStream>>, Condvar)>;

pub(super) fn run(launch: RawFd) {
    let handover = Handover::receive(launch).unwrap();
    let log = handover.config.log.as_ref().unwrap();
    assert_eq!(log.limit, DEFAULT_LIMIT);
    let behaviour = handover.config.extra_command_line.clone();
    set_state(&handover, MachineState::Starting);
    if behaviour == FAILS {
        return fail(handover);
    }
    if behaviour == HANGS {
        let RootSource::Folder(root) = &handover.config.root.source else {
            panic!("no folder")
        };
        // Somebody waits for this.
        fs::write(root.0.join(HANGS), "").unwrap();
        // Its creator goes.
        let _: Option<Command> = FrameReader::new(&handover.commands).read().unwrap();
        return;
    }
    set_state(&handover, MachineState::Running);
    // Its creator may be gone.
    let _ = send_report(&handover.reports, &ready());
    let watchers = Watchers::default();
    let (ends, end) = channel();
    run_commands(&handover);
    let owned = Arc::new(AtomicBool::new(!handover.config.lifetime.detached));
    serve(&handover, &watchers, &owned, ends.clone());
    attend(&handover, owned, ends);
    finish(handover, &watchers, end.recv().unwrap());
}

fn set_state(handover: &Handover, state: MachineState) {
    let status = status(&handover.config, state);
    handover.directory.set_status(&status).unwrap();
}

fn status(config: &LaunchConfig, state: MachineState) -> MachineStatus {
    let sandbox = config.state.as_ref().and_then(|path| path.0.file_name());
    MachineStatus {
        state,
        sandbox: sandbox.map(|identity| identity.to_str().unwrap().to_owned()),
        pid: std::process::id(),
        ready_at: None,
    }
}

fn fail(handover: Handover) {
    let ended = ended(StopReason::StartFailed);
    let reports = handover.reports.try_clone().unwrap();
    finish(handover, &Watchers::default(), ended);
    let failure = StartFailure {
        stage: StartStage::Guest(Stage::Root),
        errno: libc::EIO,
        message: "Failed to mount the root file system".to_owned(),
        causes: vec!["bad luck".to_owned()],
        console: b"last words\n".to_vec(),
    };
    let _ = send_report(&reports, &Report::Failed(failure));
}

/// Waits for the creator: machines end with it as long as they are `owned`.
fn attend(handover: &Handover, owned: Arc<AtomicBool>, ends: Sender<Ended>) {
    let commands = handover.commands.try_clone().unwrap();
    std::thread::spawn(move || {
        let command: Option<Command> = FrameReader::new(&commands).read().unwrap();
        match command {
            Some(Command::Shutdown { .. }) => drop(ends.send(ended(StopReason::Stopped))),
            None if owned.load(Ordering::SeqCst) => {
                let _ = ends.send(ended(StopReason::CreatorDied));
            }
            _ => {}
        }
    });
}

/// Commands begin, and end with the machine.
fn run_commands(handover: &Handover) {
    let listener = handover.listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                let say = |message| {
                    // Its client may be gone.
                    let _ = FrameWriter::new(&stream).write(&message);
                };
                say(GuestMessage::Hello(Hello::current("fake")));
                let mut reader = FrameReader::new(&stream);
                while let Ok(Some(message)) = reader.read() {
                    if let HostMessage::Exec(_) = message {
                        say(GuestMessage::Started(Started {
                            pid: 2,
                            session: 1,
                            terminal: false,
                        }));
                    }
                }
            });
        }
    });
}

fn serve(handover: &Handover, watchers: &Watchers, owned: &Arc<AtomicBool>, ends: Sender<Ended>) {
    let listener = handover.control.try_clone().unwrap();
    let (watchers, owned) = (Arc::clone(watchers), Arc::clone(owned));
    let directory = handover.directory.clone();
    let config = handover.config.clone();
    let completes = handover.config.extra_command_line == COMPLETES;
    let foreign = handover.config.extra_command_line == FOREIGN;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (watchers, owned) = (Arc::clone(&watchers), Arc::clone(&owned));
            let ends = ends.clone();
            let (directory, config) = (directory.clone(), config.clone());
            std::thread::spawn(move || {
                let stream = stream.unwrap();
                let mut reader = FrameReader::new(stream.try_clone().unwrap());
                let reply = |reply: &ControlReply| {
                    let _ = FrameWriter::new(&stream).write(reply);
                };
                while let Ok(Some(request)) = reader.read::<ControlRequest>() {
                    let set_state = |state| {
                        directory.set_status(&status(&config, state)).unwrap();
                        reply(&ControlReply::Done);
                    };
                    match request {
                        ControlRequest::Hello(_) if foreign => {
                            reply(&ControlReply::Refused(Refusal {
                                kind: RefusalKind::Protocol,
                                message: "it speaks another version".to_owned(),
                            }))
                        }
                        ControlRequest::Hello(_) => {
                            reply(&ControlReply::Hello(Hello::current("fake")))
                        }
                        ControlRequest::Stop { grace_ms } => {
                            reply(&ControlReply::Done);
                            let _ = ends.send(Ended {
                                detail: Some(format!("within {grace_ms} ms")),
                                ..ended(StopReason::Stopped)
                            });
                        }
                        ControlRequest::Kill => {
                            reply(&ControlReply::Done);
                            let _ = ends.send(ended(StopReason::Killed));
                        }
                        ControlRequest::Drain if completes => {
                            reply(&ControlReply::Done);
                            let (streams, come) = &*watchers;
                            let nobody = |streams: &mut Vec<_>| streams.is_empty();
                            drop(come.wait_while(streams.lock().unwrap(), nobody).unwrap());
                            let exit = Some(Exit::Code(3));
                            let _ = ends.send(Ended {
                                exit,
                                ..ended(StopReason::Completed)
                            });
                        }
                        ControlRequest::Drain => set_state(MachineState::Draining),
                        ControlRequest::Pause => set_state(MachineState::Paused),
                        ControlRequest::Resume => set_state(MachineState::Running),
                        // The guest ends before it answers.
                        ControlRequest::Run(_) => {
                            let failure = Failure {
                                stage: Stage::Protocol,
                                errno: 0,
                                message: "The guest closed the connection".to_owned(),
                            };
                            reply(&ControlReply::Failed(failure));
                            let _ = ends.send(ended(StopReason::Crashed));
                        }
                        ControlRequest::Metrics => {
                            reply(&ControlReply::Metrics(Box::new(metrics())))
                        }
                        ControlRequest::Watch => {
                            reply(&ControlReply::State(MachineState::Running));
                            watchers.0.lock().unwrap().push(stream.try_clone().unwrap());
                            watchers.1.notify_all();
                        }
                        ControlRequest::Release => {
                            owned.store(false, Ordering::SeqCst);
                            reply(&ControlReply::Done);
                        }
                        request => panic!("{request:?}"),
                    }
                }
            });
        }
    });
}

/// The end, in the order of `msb vm`.
fn finish(handover: Handover, watchers: &Watchers, ended: Ended) {
    let state = handover.config.state.clone().unwrap();
    // Somebody may have removed it.
    let _ = ended.write(&state.0);
    for watcher in watchers.0.lock().unwrap().iter() {
        let _ = FrameWriter::new(watcher).write(&ControlReply::Ended(Box::new(ended.clone())));
    }
    let run = handover.directory.path().parent().unwrap().to_owned();
    handover.directory.remove(handover.lock).unwrap();
    let home = Home::at(run.parent().map(Path::to_owned).unwrap());
    // The next reader does it.
    let _ = microsandbox::conclude(&home, &handover.config.name.parse().unwrap());
}

fn ended(reason: StopReason) -> Ended {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Ended {
        reason,
        exit: None,
        detail: None,
        console: None,
        clean: reason != StopReason::Killed,
        at: u64::try_from(at.as_millis()).unwrap(),
    }
}

fn metrics() -> MachineMetrics {
    MachineMetrics {
        uptime_ns: 1_500_000_000,
        vcpu_time_ns: 2,
        cpu_percent: 3.5,
        memory_limit: 4,
        memory_used: 5,
        memory_available: Some(6),
        memory_host_resident: None,
        disk_read: 7,
        disk_written: 8,
        net_received: 9,
        net_sent: 10,
        upper_used: None,
        upper_free: None,
        upper_host_allocated: None,
        sessions: 11,
    }
}
