//! What the machine's process does about what happens: decisions only, no actions.
//!
//! ```text
//! booting --Ready--> starting main --Started--> running <--> paused
//!                                                 |  '--Drain--> draining
//!                                                 |                 |  Drained, or its time is over
//!                                Stop, idle, ... -'--> closing <----'
//!                                                         |  Goodbye
//!                failure, time-out, Kill, creator gone ---'--> stopping --> the machine is no more
//! ```
//! The first terminal event decides how the machine is said to have ended; what follows from stopping it does
//! not.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use microsandbox::control::{
    ControlReply, ControlRequest, Exit, MachineState, Refusal, RefusalKind, StopReason,
};
use microsandbox::launch::{Command, Ending, LaunchConfig, Lifetime};
use microsandbox::protocol::{Failure, Ready};
use vmm::machine;

use super::agent::{AgentEvent, Control};
use super::control::ClientId;
use super::start::StartError;
use super::verdict::{Outcome, Verdict, describe};

/// How long the guest may take for the shutdown besides the grace for its processes: to sync and to unmount.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// How long the agent may take to say that it heard of the shutdown, if the grace is shorter. One that says nothing hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The same when the creator asks, whose grace is for left-overs of a command and says nothing about hanging guests, and
/// when the machine ends by itself.
const PATIENT_ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Grace for processes where nobody says how long they may take.
const GRACE_MS: u32 = 10_000;

/// How long what runs may take to end by itself when the machine's time is over.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long a machine may take to stop by force; only a monitor with a bug takes so long.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long a guest without its agent may take to end by itself. Where another program is PID 1, the agent ends in the middle
/// of a shutdown, for which systemd gives a service 90 s (systemd-system.conf(5), DefaultTimeoutStopSec).
const LOST_LIMIT: Duration = Duration::from_secs(120);

/// Something happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The creator wants something.
    Creator(Command),
    /// The creator is gone.
    CreatorGone,
    /// A client wants something that is not the control thread's business.
    Request(ClientId, ControlRequest),
    /// A client did something that counts as use of the sandbox.
    Used,
    /// The agent said something.
    Agent(AgentEvent),
    /// The processors are halted, as this client asked.
    Paused(ClientId),
    /// The host's wall clock was set.
    ClockSet,
    /// A session began.
    SessionOpened,
    /// A session ended.
    SessionClosed,
    /// The sandbox's own process runs.
    MainStarted,
    /// The sandbox's own process cannot be run.
    MainFailed(Failure),
    /// The sandbox's own process ended.
    MainEnded(Exit),
    /// The machine is no more.
    Machine(machine::Ending),
}

/// Something is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// A client is to be answered.
    Reply(ClientId, ControlReply),
    /// Sessions are to be let in.
    LetIn,
    /// Everybody is to be told the state.
    State(MachineState),
    /// The sandbox's own process is to be started.
    StartMain,
    /// The creator is to be told that the guest is up.
    ReportReady(Ready),
    /// A client is to be told what the machine uses.
    Measure(ClientId),
    /// The processors are to be halted, as this client asks.
    Pause(ClientId),
    /// The processors are to go on.
    Resume,
    /// The guest's wall clock is to be set.
    SetClock,
    /// The agent is to be asked to refuse sessions, and to say when there is none any more.
    Drain,
    /// The agent is to be asked to shut the guest down.
    ShutDown {
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u32,
    },
    /// The creator's standard error is to be let go of.
    LeaveCreator,
    /// The machine is to be stopped.
    Stop,
    /// It is over.
    Finish,
}

/// Keeps track of one machine.
#[derive(Debug)]
pub(super) struct Supervisor {
    phase: Phase,
    boot_timeout: Duration,
    lifetime: Lifetime,
    has_main: bool,
    /// Whether the guest's PID 1 ends the machine in good order, by a reset or by halting it.
    has_init: bool,
    /// Whether the machine ends with its creator.
    owned: bool,
    /// When the phase has lasted too long.
    phase_end: Option<Instant>,
    /// When the machine's time is over.
    time_over: Option<Instant>,
    /// When nobody has used it for too long.
    idle: Option<Instant>,
    /// When a guest without an agent must have ended.
    lost: Option<Instant>,
    sessions: u32,
    /// How the sandbox's own process ended.
    exit: Option<Exit>,
    verdict: Option<Verdict>,
    /// What is to be done about the event at hand.
    actions: Vec<Action>,
    /// The agent's side of a running guest.
    pub(super) control: Option<Control>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The agent has not answered yet.
    Booting,
    /// The guest is up, and the sandbox's own process not yet.
    StartingMain(Ready),
    /// Sessions come and go.
    Running,
    /// The processors are halted.
    Paused,
    /// Sessions end, and then the machine, for this reason.
    Draining(StopReason),
    /// The agent shuts the guest down.
    Closing(Closing),
    /// The machine is being stopped.
    Stopping,
}

/// A guest that shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Closing {
    reason: StopReason,
    grace_ms: u32,
    /// Whether the agent said that it heard of it.
    answered: bool,
}

impl Supervisor {
    /// A machine of `config` that was started at `now`.
    pub(super) fn new(config: &LaunchConfig, now: Instant) -> Supervisor {
        let boot_timeout = Duration::from_millis(config.boot_timeout_ms.into());
        Supervisor {
            phase: Phase::Booting,
            boot_timeout,
            lifetime: config.lifetime,
            has_main: config.main.is_some(),
            has_init: config.init.is_some(),
            owned: !config.lifetime.detached,
            phase_end: now.checked_add(boot_timeout),
            time_over: None,
            idle: None,
            lost: None,
            sessions: 0,
            exit: None,
            verdict: None,
            actions: Vec::new(),
            control: None,
        }
    }

    /// When [`on_deadline`](Self::on_deadline) is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.phase_end, self.time_over, self.idle, self.lost]
            .into_iter()
            .flatten()
            .min()
    }

    /// What to do about `event`, in this order.
    pub(super) fn on_event(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Machine(ending) => self.on_machine_ended(ending),
            Event::Creator(Command::Shutdown { grace_ms }) => {
                self.close(StopReason::Stopped, grace_ms, PATIENT_ANSWER_LIMIT, now);
            }
            Event::Creator(Command::Release) => self.release(),
            Event::CreatorGone if self.owned => {
                self.stop(Ending::Forced, StopReason::CreatorDied, None, now);
            }
            Event::CreatorGone => {}
            Event::Request(client, request) => self.on_request(client, request, now),
            Event::Used => self.idle = None,
            Event::Agent(event) => self.on_agent(event, now),
            Event::Paused(client) => {
                if self.phase == Phase::Running {
                    self.enter(Phase::Paused, None);
                }
                self.actions.push(Action::Reply(client, ControlReply::Done));
            }
            Event::ClockSet => {
                // A paused guest is told when it goes on.
                if matches!(self.phase, Phase::Running | Phase::Draining(_)) {
                    self.actions.push(Action::SetClock);
                }
            }
            Event::SessionOpened => self.sessions = self.sessions.saturating_add(1),
            Event::SessionClosed => self.sessions = self.sessions.saturating_sub(1),
            Event::MainStarted => {
                if let Phase::StartingMain(ready) = self.phase {
                    self.run(ready, now);
                }
            }
            Event::MainFailed(failure) => {
                if matches!(self.phase, Phase::StartingMain(_)) {
                    self.fail(StartError::Main(failure), now);
                }
            }
            Event::MainEnded(exit) => self.on_main_ended(exit, now),
        }
        self.watch_use(now);
        std::mem::take(&mut self.actions)
    }

    /// What to do about the deadline.
    pub(super) fn on_deadline(&mut self, now: Instant) -> Vec<Action> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.phase_end) {
            self.on_phase_end(now);
        } else if is_due(self.lost) {
            self.lost = None;
            let detail = "the agent in the guest was lost, and the guest did not end".to_owned();
            self.stop(Ending::Forced, StopReason::Crashed, Some(detail), now);
        } else if is_due(self.time_over) {
            self.time_over = None;
            self.drain(StopReason::MaxDuration, now.checked_add(DRAIN_LIMIT));
        } else if is_due(self.idle) {
            self.idle = None;
            self.close(StopReason::Idle, GRACE_MS, PATIENT_ANSWER_LIMIT, now);
        }
        std::mem::take(&mut self.actions)
    }

    /// Whether the agent can answer.
    pub(super) fn has_agent(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Draining(_)) && self.lost.is_none()
    }

    /// Sessions that there are.
    pub(super) fn sessions(&self) -> u32 {
        self.sessions
    }

    /// The verdict, after [`Action::Finish`].
    pub(super) fn into_verdict(self) -> Verdict {
        let verdict = self.verdict.unwrap_or(Verdict {
            outcome: Outcome::Ended(Ending::Forced),
            reason: StopReason::Killed,
            detail: None,
            exit: None,
        });
        Verdict {
            exit: self.exit,
            ..verdict
        }
    }

    fn on_request(&mut self, client: ClientId, request: ControlRequest, now: Instant) {
        let refused = match request {
            ControlRequest::Metrics => return self.actions.push(Action::Measure(client)),
            ControlRequest::Stop { grace_ms } => {
                self.close(StopReason::Stopped, grace_ms, ANSWER_LIMIT, now);
                None
            }
            ControlRequest::Kill => {
                self.stop(Ending::Forced, StopReason::Killed, None, now);
                None
            }
            ControlRequest::Drain => match self.phase {
                Phase::Running | Phase::Paused => {
                    self.drain(StopReason::Drained, None);
                    None
                }
                // It ends already.
                Phase::Draining(_) | Phase::Closing(_) | Phase::Stopping => None,
                Phase::Booting | Phase::StartingMain(_) => Some("The machine is not up yet"),
            },
            ControlRequest::Pause => match self.phase {
                Phase::Running => return self.actions.push(Action::Pause(client)),
                Phase::Paused => None,
                Phase::Booting | Phase::StartingMain(_) => Some("The machine is not up yet"),
                Phase::Draining(_) => Some("The machine is draining"),
                Phase::Closing(_) | Phase::Stopping => Some("The machine is stopping"),
            },
            ControlRequest::Resume => match self.phase {
                Phase::Paused => {
                    self.resume();
                    self.enter(Phase::Running, None);
                    None
                }
                Phase::Running => None,
                _ => Some("The machine is not paused"),
            },
            ControlRequest::Release => {
                self.release();
                None
            }
            ControlRequest::Hello(_)
            | ControlRequest::Watch
            | ControlRequest::Run(_)
            | ControlRequest::Attach { .. } => Some("That is not for the supervisor"),
        };
        let reply = match refused {
            None => ControlReply::Done,
            Some(message) => ControlReply::Refused(Refusal {
                kind: RefusalKind::State,
                message: message.to_owned(),
            }),
        };
        self.actions.push(Action::Reply(client, reply));
        self.idle = None;
    }

    fn on_agent(&mut self, event: AgentEvent, now: Instant) {
        match (event, self.phase) {
            (AgentEvent::Ready(ready, control), Phase::Booting) => {
                self.control = Some(control);
                self.actions.push(Action::LetIn);
                if self.has_main {
                    self.phase = Phase::StartingMain(ready);
                    self.actions.push(Action::StartMain);
                } else {
                    self.run(ready, now);
                }
            }
            (AgentEvent::Failed(failure), Phase::Booting) => {
                self.fail(StartError::Guest(failure), now);
            }
            (AgentEvent::Lost(error), Phase::Booting | Phase::StartingMain(_)) => {
                self.fail(StartError::Agent(error), now);
            }
            (AgentEvent::Stopping, Phase::Closing(closing)) if !closing.answered => {
                self.phase = Phase::Closing(Closing {
                    answered: true,
                    ..closing
                });
                self.phase_end = now.checked_add(shutdown_limit(closing.grace_ms));
            }
            (AgentEvent::Drained, Phase::Draining(reason)) => {
                self.close(reason, GRACE_MS, PATIENT_ANSWER_LIMIT, now);
            }
            (AgentEvent::Goodbye, Phase::Closing(closing)) => {
                self.stop(Ending::Clean, closing.reason, None, now);
            }
            // The guest is in trouble, or shuts itself down: the machine is about to tell more by its end.
            (AgentEvent::Lost(_), Phase::Running | Phase::Paused | Phase::Draining(_)) => {
                self.lost = now.checked_add(LOST_LIMIT);
            }
            _ => {}
        }
    }

    fn on_main_ended(&mut self, exit: Exit, now: Instant) {
        if matches!(self.phase, Phase::Booting | Phase::Stopping) {
            return;
        }
        self.exit = Some(exit);
        let reason = match self.phase {
            Phase::Draining(reason) => reason,
            Phase::Closing(_) => return,
            _ => StopReason::Completed,
        };
        self.close(reason, GRACE_MS, PATIENT_ANSWER_LIMIT, now);
    }

    fn on_phase_end(&mut self, now: Instant) {
        match self.phase {
            Phase::Booting | Phase::StartingMain(_) => {
                let seconds = self.boot_timeout.as_secs_f32();
                self.fail(StartError::TooSlow { seconds }, now);
            }
            Phase::Draining(reason) => self.close(reason, GRACE_MS, PATIENT_ANSWER_LIMIT, now),
            Phase::Running | Phase::Paused => self.phase_end = None,
            Phase::Closing(closing) => {
                let reason = match closing.reason {
                    StopReason::Stopped => StopReason::Killed,
                    reason => reason,
                };
                let detail = if closing.answered {
                    "the guest did not shut down in time"
                } else {
                    "the guest did not answer"
                };
                self.stop(Ending::Forced, reason, Some(detail.to_owned()), now);
            }
            Phase::Stopping => self.actions.push(Action::Finish),
        }
    }

    fn on_machine_ended(&mut self, ending: machine::Ending) {
        let ending = describe(ending);
        let ended_itself = self.has_init && matches!(ending, Ending::Reset | Ending::Halted);
        let detail = Some(ending.to_string());
        let verdict = match self.phase {
            Phase::Booting | Phase::StartingMain(_) => {
                Verdict::not_started(StartError::Died(ending))
            }
            Phase::Closing(closing) if ended_itself => {
                Verdict::ended(Ending::Clean, closing.reason, None)
            }
            Phase::Draining(reason) if ended_itself => Verdict::ended(Ending::Clean, reason, None),
            _ if ended_itself => Verdict::ended(Ending::Clean, StopReason::Completed, None),
            _ => Verdict::ended(ending, StopReason::Crashed, detail),
        };
        self.verdict.get_or_insert(verdict);
        self.actions.push(Action::Finish);
    }

    /// The guest is up.
    fn run(&mut self, ready: Ready, now: Instant) {
        let time = self.lifetime.max_duration_ms.map(Duration::from_millis);
        self.time_over = time.and_then(|time| now.checked_add(time));
        self.enter(Phase::Running, None);
        self.actions.push(Action::ReportReady(ready));
    }

    /// The creator lets go of the machine.
    fn release(&mut self) {
        self.owned = false;
        self.actions.push(Action::LeaveCreator);
    }

    /// Lets a paused machine go on. It does not know what the time of day is.
    fn resume(&mut self) {
        if self.phase == Phase::Paused {
            self.actions.push(Action::Resume);
            self.actions.push(Action::SetClock);
        }
    }

    /// Lets no more sessions begin, until there is none or `limit` comes.
    fn drain(&mut self, reason: StopReason, limit: Option<Instant>) {
        match self.phase {
            Phase::Running | Phase::Paused => self.resume(),
            Phase::Draining(_) => {
                // The agent knows already.
                return self.enter(Phase::Draining(reason), limit);
            }
            _ => return,
        }
        self.actions.push(Action::Drain);
        self.enter(Phase::Draining(reason), limit);
    }

    /// Asks the guest to shut down. It is stopped by force if it is not up yet, does not answer within `grace_ms` or
    /// `answer_limit`, whichever is longer, or takes too long then.
    fn close(&mut self, reason: StopReason, grace_ms: u32, answer_limit: Duration, now: Instant) {
        let grace = Duration::from_millis(grace_ms.into());
        match self.phase {
            Phase::Running | Phase::Paused | Phase::Draining(_) => {
                self.resume();
                self.actions.push(Action::ShutDown { grace_ms });
                let closing = Closing {
                    reason,
                    grace_ms,
                    answered: false,
                };
                self.enter(
                    Phase::Closing(closing),
                    now.checked_add(grace.max(answer_limit)),
                );
            }
            Phase::Closing(closing) if grace_ms < closing.grace_ms => {
                self.actions.push(Action::ShutDown { grace_ms });
                self.phase = Phase::Closing(Closing {
                    grace_ms,
                    ..closing
                });
                let limit = if closing.answered {
                    shutdown_limit(grace_ms)
                } else {
                    grace.max(answer_limit)
                };
                self.phase_end = self.phase_end.min(now.checked_add(limit));
            }
            Phase::Closing(_) | Phase::Stopping => {}
            // There is nobody to ask yet.
            Phase::Booting | Phase::StartingMain(_) => self.stop(Ending::Forced, reason, None, now),
        }
    }

    fn fail(&mut self, error: StartError, now: Instant) {
        self.end(Verdict::not_started(error), now);
    }

    fn stop(&mut self, ending: Ending, reason: StopReason, detail: Option<String>, now: Instant) {
        self.end(Verdict::ended(ending, reason, detail), now);
    }

    fn end(&mut self, verdict: Verdict, now: Instant) {
        if self.phase == Phase::Stopping {
            return;
        }
        self.verdict.get_or_insert(verdict);
        self.actions.push(Action::Stop);
        self.enter(Phase::Stopping, now.checked_add(STOP_LIMIT));
    }

    fn enter(&mut self, phase: Phase, end: Option<Instant>) {
        let before = self.state();
        self.phase = phase;
        self.phase_end = end;
        if matches!(phase, Phase::Closing(_) | Phase::Stopping) {
            (self.time_over, self.idle, self.lost) = (None, None, None);
        }
        if self.state() != before {
            self.actions.push(Action::State(self.state()));
        }
    }

    fn state(&self) -> MachineState {
        match self.phase {
            Phase::Booting | Phase::StartingMain(_) => MachineState::Starting,
            Phase::Running => MachineState::Running,
            Phase::Paused => MachineState::Paused,
            Phase::Draining(_) => MachineState::Draining,
            Phase::Closing(_) | Phase::Stopping => MachineState::Stopping,
        }
    }

    /// Counts the time without use: a paused machine was left so by somebody, and a draining one ends anyway.
    fn watch_use(&mut self, now: Instant) {
        let Some(timeout) = self.lifetime.idle_timeout_ms else {
            return;
        };
        if self.phase != Phase::Running || self.sessions > 0 {
            self.idle = None;
        } else if self.idle.is_none() {
            self.idle = now.checked_add(Duration::from_millis(timeout));
        }
    }
}

/// How long a guest that shuts down may take, all in all.
fn shutdown_limit(grace_ms: u32) -> Duration {
    Duration::from_millis(grace_ms.into()).saturating_add(SHUTDOWN_LIMIT)
}
