//! Carries out what the supervisor decides.

use std::fs::File;
use std::process;
use std::sync::mpsc::Receiver;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use microsandbox::control::{ControlReply, MachineMetrics, MachineState, MachineStatus};
use microsandbox::launch::{Moment, Report, Startup, send_report};
use microsandbox::protocol::{Exec, HostMessage, Ready, Shutdown};
use microsandbox::run_directory::RunDirectory;
use vmm::machine::Stopper;

use super::control::{ControlThread, Notice};
use super::log::LogLines;
use super::supervisor::{Action, Event, Supervisor};
use super::verdict::Verdict;

/// Sees a machine through to its end.
pub(super) struct Attendant<'a> {
    pub(super) supervisor: Supervisor,
    pub(super) events: &'a Receiver<Event>,
    pub(super) stopper: Stopper,
    pub(super) control: &'a ControlThread,
    pub(super) directory: &'a RunDirectory,
    /// Where the creator is told.
    pub(super) reports: &'a File,
    /// When this process started.
    pub(super) process: Moment,
    /// When the guest's first instruction ran.
    pub(super) kernel_entry: Moment,
    /// When the guest was up, in milliseconds since 1970-01-01 00:00 UTC.
    pub(super) ready_at: Option<u64>,
    /// Bytes of memory that the guest may have.
    pub(super) memory: u64,
    pub(super) started: Instant,
    /// The sandbox's own process, until it is started.
    pub(super) main: Option<Box<Exec>>,
    /// For the sandbox's log.
    pub(super) lines: &'a LogLines,
}

impl Attendant<'_> {
    /// Returns when the machine is no more.
    pub(super) fn attend(mut self) -> Verdict {
        self.tell_state(MachineState::Starting);
        loop {
            let actions = match self.next() {
                Some(event) => self.supervisor.on_event(event, Instant::now()),
                None => self.supervisor.on_deadline(Instant::now()),
            };
            for action in actions {
                if action == Action::Finish {
                    return self.supervisor.into_verdict();
                }
                self.carry_out(action);
            }
        }
    }

    /// The next event, or `None` when the deadline came first.
    fn next(&self) -> Option<Event> {
        let Some(deadline) = self.supervisor.deadline() else {
            // The thread that waits for the machine always has a last word.
            return self.events.recv().ok();
        };
        self.events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Reply(client, reply) => self.control.tell(Notice::Reply(client, reply)),
            Action::State(state) => self.tell_state(state),
            Action::ReportReady(ready) => self.report_ready(ready),
            Action::Measure(client) => {
                let metrics = ControlReply::Metrics(Box::new(self.metrics()));
                self.control.tell(Notice::Reply(client, metrics));
            }
            Action::Drain => self.tell_agent(&HostMessage::Drain),
            Action::ShutDown { grace_ms } => {
                self.tell_agent(&HostMessage::Shutdown(Shutdown { grace_ms }));
            }
            Action::Stop => self.stopper.stop(),
            Action::StartMain => {
                if let Some(exec) = self.main.take() {
                    self.control.tell(Notice::StartMain(exec));
                }
            }
            Action::Pause | Action::Resume | Action::Finish => {}
        }
    }

    /// An agent that cannot be asked any more means a guest that is about to end by itself, and to tell how; if not, a
    /// deadline ends it.
    fn tell_agent(&mut self, message: &HostMessage<'_>) {
        if let Some(agent) = &mut self.supervisor.control
            && let Err(error) = agent.tell(message)
        {
            tracing::debug!(%error, "the agent cannot be asked");
        }
    }

    fn report_ready(&mut self, agent: Ready) {
        let startup = Startup {
            process: self.process,
            kernel_entry: self.kernel_entry,
            ready: Moment::now(),
            agent,
        };
        self.lines.write("the guest is ready");
        // A creator that is gone shows as the end of its commands.
        let _ = send_report(self.reports, &Report::Ready(startup));
    }

    fn tell_state(&mut self, state: MachineState) {
        if state == MachineState::Running && self.ready_at.is_none() {
            self.ready_at = Some(milliseconds_now());
        }
        let status = MachineStatus {
            state,
            pid: process::id(),
            ready_at: self.ready_at,
        };
        if let Err(error) = self.directory.set_status(&status) {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
        self.lines.write(&format!("the machine is {state}"));
        self.control.tell(Notice::State(state));
    }

    fn metrics(&self) -> MachineMetrics {
        MachineMetrics {
            uptime_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            vcpu_time_ns: 0,
            cpu_percent: 0.0,
            memory_limit: self.memory,
            memory_used: 0,
            memory_available: None,
            memory_host_resident: None,
            disk_read: 0,
            disk_written: 0,
            net_received: 0,
            net_sent: 0,
            upper_used: None,
            upper_free: None,
            upper_host_allocated: None,
            sessions: 0,
        }
    }
}

/// By the wall clock, since 1970-01-01 00:00 UTC.
pub(super) fn milliseconds_now() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
