//! Carries out what the supervisor decides.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::process;
use std::sync::mpsc::Receiver;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use microsandbox::control::{ControlReply, MachineState, MachineStatus, Refusal, RefusalKind};
use microsandbox::launch::{Moment, Report, Startup, send_report};
use microsandbox::protocol::{Exec, HostMessage, Measurement, Ready, Shutdown};
use microsandbox::run_directory::RunDirectory;
use vmm::machine::{Pauser, Stopper};

use super::agent::AgentEvent;
use super::clock;
use super::control::{ClientId, ControlThread, Notice};
use super::diagnostics::Diagnostics;
use super::log::LogLines;
use super::metrics::Metrics;
use super::sessions::Door;
use super::supervisor::{Action, Event, Supervisor};
use super::verdict::Verdict;

/// Sees a machine through to its end.
pub(super) struct Attendant<'a> {
    pub(super) supervisor: Supervisor,
    pub(super) events: &'a Receiver<Event>,
    pub(super) stopper: Stopper,
    pub(super) pauser: Pauser,
    pub(super) metrics: Metrics,
    pub(super) control: &'a ControlThread,
    /// Of sessions; `None` where nobody but the creator knows of the machine.
    pub(super) door: Option<Door>,
    pub(super) directory: &'a RunDirectory,
    /// Where the creator is told.
    pub(super) reports: &'a File,
    /// When this process started.
    pub(super) process: Moment,
    /// When the guest's first instruction ran.
    pub(super) kernel_entry: Moment,
    /// When the guest was up, in milliseconds since 1970-01-01 00:00 UTC.
    pub(super) ready_at: Option<u64>,
    /// The sandbox's own process, until it is started.
    pub(super) main: Option<Box<Exec>>,
    /// The sandbox's directory.
    pub(super) state: Option<&'a Path>,
    /// For the sandbox's log.
    pub(super) lines: &'a LogLines,
    /// For this process's log lines.
    pub(super) diagnostics: &'a Diagnostics,
}

impl Attendant<'_> {
    /// Returns when the machine is no more.
    pub(super) fn attend(mut self) -> Verdict {
        self.tell_state(MachineState::Starting);
        loop {
            let event = self.next();
            let now = Instant::now();
            let actions = match event {
                Some(Event::Agent(AgentEvent::Measured(measurement))) => {
                    self.answer_measures(Some(measurement), now);
                    continue;
                }
                Some(event) => self.supervisor.on_event(event, now),
                None => {
                    if self
                        .metrics
                        .deadline
                        .is_some_and(|deadline| deadline <= now)
                    {
                        self.answer_measures(None, now);
                    }
                    self.supervisor.on_deadline(now)
                }
            };
            let mut actions = VecDeque::from(actions);
            while let Some(action) = actions.pop_front() {
                if action == Action::Finish {
                    self.answer_measures(None, now);
                    return self.supervisor.into_verdict();
                }
                actions.extend(self.carry_out(action, now));
            }
        }
    }

    /// The next event, or `None` when the deadline came first.
    fn next(&self) -> Option<Event> {
        let deadlines = [self.supervisor.deadline(), self.metrics.deadline];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            // The thread that waits for the machine always has a last word.
            return self.events.recv().ok();
        };
        self.events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()
    }

    /// Returns what is to be done next because of that.
    fn carry_out(&mut self, action: Action, now: Instant) -> Vec<Action> {
        match action {
            Action::Reply(client, reply) => self.control.tell(Notice::Reply(client, reply)),
            Action::LetIn => {
                if let Some(door) = &self.door {
                    door.open();
                }
            }
            Action::State(state) => self.tell_state(state),
            Action::ReportReady(ready) => self.report_ready(ready),
            Action::StartMain => {
                if let Some(exec) = self.main.take() {
                    self.control.tell(Notice::StartMain(exec));
                }
            }
            Action::Measure(client) => self.measure(client, now),
            Action::Pause(client) => return self.pause(client, now),
            Action::Resume => {
                // The guest goes on in any case.
                if let Err(error) = self.pauser.resume() {
                    tracing::warn!("{:#}", anyhow::Error::from(error));
                }
            }
            Action::SetClock => self.tell_agent(&HostMessage::SetClock(clock::now())),
            Action::Drain => self.tell_agent(&HostMessage::Drain),
            Action::ShutDown { grace_ms } => {
                self.tell_agent(&HostMessage::Shutdown(Shutdown { grace_ms }));
            }
            Action::LeaveCreator => self.leave_creator(),
            Action::Stop => self.stopper.stop(),
            Action::Finish => {}
        }
        Vec::new()
    }

    fn leave_creator(&self) {
        if let Err(error) = self.diagnostics.leave_creator(self.state) {
            tracing::warn!("the creator's standard error stays open: {error}");
        }
    }

    fn pause(&mut self, client: ClientId, now: Instant) -> Vec<Action> {
        match self.pauser.pause() {
            Ok(()) => self.supervisor.on_event(Event::Paused(client), now),
            Err(error) => {
                let refusal = Refusal {
                    kind: RefusalKind::Host,
                    message: format!("The machine cannot be paused: {error}"),
                };
                vec![Action::Reply(client, ControlReply::Refused(refusal))]
            }
        }
    }

    fn measure(&mut self, client: ClientId, now: Instant) {
        self.metrics.wait(client, now);
        let has_agent = self.supervisor.has_agent();
        let asked = match &mut self.supervisor.control {
            Some(agent) if has_agent => agent.measure().is_ok(),
            _ => false,
        };
        if !asked {
            self.answer_measures(None, now);
        }
    }

    fn answer_measures(&mut self, measurement: Option<Measurement>, now: Instant) {
        let waiting = self.metrics.take_waiting();
        if waiting.is_empty() {
            return;
        }
        let metrics = self
            .metrics
            .read(measurement, self.supervisor.sessions(), now);
        for client in waiting {
            let reply = ControlReply::Metrics(Box::new(metrics.clone()));
            self.control.tell(Notice::Reply(client, reply));
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
        // $MSB_HOME/sandboxes/<identity>
        let sandbox = self.state.and_then(|path| path.file_name()?.to_str());
        let status = MachineStatus {
            state,
            sandbox: sandbox.map(str::to_owned),
            pid: process::id(),
            ready_at: self.ready_at,
        };
        if let Err(error) = self.directory.set_status(&status) {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
        self.lines.write(&format!("the machine is {state}"));
        self.control.tell(Notice::State(state));
    }
}

/// By the wall clock, since 1970-01-01 00:00 UTC.
pub(super) fn milliseconds_now() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
