//! What the machine's process does about what happens: decisions only, no actions.
//!
//! ```text
//! booting --Ready--> running --Shutdown--> closing --Goodbye--> stopping --> the machine is no more
//!    |                  |                     |                    ^
//!    '------------------+---------------------'--------------------'
//!                  failure, time-out, creator gone
//! ```
//! The first terminal event decides how the machine is said to have ended; what follows from stopping it does
//! not.

use std::time::{Duration, Instant};

use microsandbox::launch::{Command, Ending};
use microsandbox::protocol::Ready;
use vmm::machine;

use super::agent::{AgentEvent, Control};
use super::start::StartError;

/// How long the guest may take for the shutdown besides the grace for its processes: to sync and to unmount.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// How long a machine may take to stop by force; only a monitor with a bug takes so long.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Something happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The creator wants something.
    Creator(Command),
    /// The creator is gone.
    CreatorGone,
    /// The agent said something.
    Agent(AgentEvent),
    /// The machine is no more.
    Machine(machine::Ending),
}

/// Something is to be done.
#[derive(Debug)]
pub(super) enum Action {
    /// Nothing.
    Wait,
    /// The creator is to be told that the guest is up.
    ReportReady(Ready),
    /// The agent is to be asked to shut the guest down.
    ShutDown {
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u32,
    },
    /// The machine is to be stopped.
    Stop,
    /// It is over.
    Finish,
}

/// How it all ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The guest never came up.
    NotStarted(StartError),
    /// It did, and ended so.
    Ended(Ending),
}

/// Keeps track of one machine.
#[derive(Debug)]
pub(super) struct Supervisor {
    phase: Phase,
    /// When the phase has lasted too long.
    deadline: Option<Instant>,
    boot_timeout: Duration,
    verdict: Option<Verdict>,
    /// The agent's side of a running guest.
    pub(super) control: Option<Control>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The agent has not answered yet.
    Booting,
    /// Sessions come and go.
    Running,
    /// The agent shuts the guest down.
    Closing,
    /// The machine is being stopped.
    Stopping,
}

impl Supervisor {
    /// A machine that was started at `now`.
    pub(super) fn new(now: Instant, boot_timeout: Duration) -> Supervisor {
        Supervisor {
            phase: Phase::Booting,
            deadline: now.checked_add(boot_timeout),
            boot_timeout,
            verdict: None,
            control: None,
        }
    }

    /// When [`on_deadline`](Self::on_deadline) is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What to do about `event`.
    pub(super) fn on_event(&mut self, event: Event, now: Instant) -> Action {
        match event {
            Event::Machine(ending) => {
                self.on_machine_ended(ending);
                Action::Finish
            }
            Event::CreatorGone => self.stop(Verdict::Ended(Ending::Forced), now),
            Event::Creator(Command::Shutdown { grace_ms }) => self.on_shutdown(grace_ms, now),
            Event::Creator(Command::Release) => Action::Wait,
            Event::Agent(event) => self.on_agent(event, now),
        }
    }

    /// What to do about the deadline.
    pub(super) fn on_deadline(&mut self, now: Instant) -> Action {
        match self.phase {
            Phase::Booting => {
                let seconds = self.boot_timeout.as_secs_f32();
                self.stop(Verdict::NotStarted(StartError::TooSlow { seconds }), now)
            }
            Phase::Running | Phase::Closing => self.stop(Verdict::Ended(Ending::Forced), now),
            Phase::Stopping => Action::Finish,
        }
    }

    /// The verdict, after [`Action::Finish`].
    pub(super) fn into_verdict(self) -> Verdict {
        self.verdict.unwrap_or(Verdict::Ended(Ending::Forced))
    }

    fn on_shutdown(&mut self, grace_ms: u32, now: Instant) -> Action {
        match self.phase {
            Phase::Running => {
                let grace = Duration::from_millis(grace_ms.into());
                self.phase = Phase::Closing;
                self.deadline = now.checked_add(grace.saturating_add(SHUTDOWN_LIMIT));
                Action::ShutDown { grace_ms }
            }
            // There is nobody to ask yet.
            Phase::Booting => self.stop(Verdict::Ended(Ending::Forced), now),
            Phase::Closing | Phase::Stopping => Action::Wait,
        }
    }

    fn on_agent(&mut self, event: AgentEvent, now: Instant) -> Action {
        match (event, self.phase) {
            (AgentEvent::Ready(ready, control), Phase::Booting) => {
                self.phase = Phase::Running;
                self.deadline = None;
                self.control = Some(control);
                Action::ReportReady(ready)
            }
            (AgentEvent::Failed(failure), Phase::Booting) => {
                self.stop(Verdict::NotStarted(StartError::Guest(failure)), now)
            }
            (AgentEvent::Lost(error), Phase::Booting) => {
                self.stop(Verdict::NotStarted(StartError::Agent(error)), now)
            }
            (AgentEvent::Goodbye, Phase::Closing) => self.stop(Verdict::Ended(Ending::Clean), now),
            // An agent that is lost means a guest in trouble: the machine is about to tell more by
            // its end. If not, the guest goes on without until its creator has had enough of it.
            _ => Action::Wait,
        }
    }

    fn on_machine_ended(&mut self, ending: machine::Ending) {
        let ending = describe(ending);
        let verdict = match self.phase {
            Phase::Booting => Verdict::NotStarted(StartError::Died(ending)),
            Phase::Running | Phase::Closing | Phase::Stopping => Verdict::Ended(ending),
        };
        self.verdict.get_or_insert(verdict);
    }

    fn stop(&mut self, verdict: Verdict, now: Instant) -> Action {
        self.verdict.get_or_insert(verdict);
        self.phase = Phase::Stopping;
        self.deadline = now.checked_add(STOP_LIMIT);
        Action::Stop
    }
}

/// The monitor's word for an ending in the words of the creator.
fn describe(ending: machine::Ending) -> Ending {
    match ending {
        machine::Ending::Stopped => Ending::Forced,
        machine::Ending::Reset => Ending::Reset,
        machine::Ending::TripleFault => Ending::TripleFault,
        machine::Ending::Panicked { message } => Ending::KernelPanic { message },
        machine::Ending::Failed { reason } => Ending::MonitorFailed { reason },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use microsandbox::protocol::{Failure, Stage};

    use super::*;
    use crate::vm::agent::AgentError;

    const READY: Ready = Ready {
        kernel_ns: 1,
        agent_ns: 2,
    };
    const SHUTDOWN: Event = Event::Creator(Command::Shutdown { grace_ms: 100 });

    fn booting() -> Supervisor {
        Supervisor::new(Instant::now(), Duration::from_secs(60))
    }

    fn running() -> Supervisor {
        let mut supervisor = booting();
        let control = Control::new(UnixStream::pair().unwrap().0);
        let action = tell(
            &mut supervisor,
            Event::Agent(AgentEvent::Ready(READY, control)),
        );
        assert!(matches!(action, Action::ReportReady(READY)), "{action:?}");
        supervisor
    }

    fn tell(supervisor: &mut Supervisor, event: Event) -> Action {
        supervisor.on_event(event, Instant::now())
    }

    fn goodbye() -> Event {
        Event::Agent(AgentEvent::Goodbye)
    }

    /// The verdict after the machine has ended so.
    fn finish(mut supervisor: Supervisor, ending: machine::Ending) -> Verdict {
        let action = tell(&mut supervisor, Event::Machine(ending));
        assert!(matches!(action, Action::Finish), "{action:?}");
        supervisor.into_verdict()
    }

    fn ended(verdict: Verdict) -> Ending {
        match verdict {
            Verdict::Ended(ending) => ending,
            Verdict::NotStarted(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn an_orderly_life() {
        let mut supervisor = running();
        assert_eq!(supervisor.deadline(), None);
        let action = tell(&mut supervisor, SHUTDOWN);
        assert!(
            matches!(action, Action::ShutDown { grace_ms: 100 }),
            "{action:?}"
        );
        assert!(matches!(tell(&mut supervisor, goodbye()), Action::Stop));
        assert_eq!(
            ended(finish(supervisor, machine::Ending::Stopped)),
            Ending::Clean
        );
    }

    #[test]
    fn a_goodbye_counts_when_the_guest_resets_itself_at_once() {
        let mut supervisor = running();
        tell(&mut supervisor, SHUTDOWN);
        tell(&mut supervisor, goodbye());
        assert_eq!(
            ended(finish(supervisor, machine::Ending::Reset)),
            Ending::Clean
        );
    }

    #[test]
    fn a_goodbye_that_nobody_asked_for_is_not_clean() {
        let mut supervisor = running();
        assert!(matches!(tell(&mut supervisor, goodbye()), Action::Wait));
        assert_eq!(
            ended(finish(supervisor, machine::Ending::Reset)),
            Ending::Reset
        );
    }

    #[test]
    fn a_guest_that_does_not_obey_is_stopped() {
        let mut supervisor = running();
        tell(&mut supervisor, SHUTDOWN);
        assert!(supervisor.deadline().is_some());
        assert!(matches!(
            supervisor.on_deadline(Instant::now()),
            Action::Stop
        ));
        assert_eq!(
            ended(finish(supervisor, machine::Ending::Stopped)),
            Ending::Forced
        );
    }

    #[test]
    fn the_creator_takes_its_machine_along() {
        for mut supervisor in [booting(), running()] {
            assert!(matches!(
                tell(&mut supervisor, Event::CreatorGone),
                Action::Stop
            ));
            assert_eq!(
                ended(finish(supervisor, machine::Ending::Stopped)),
                Ending::Forced
            );
        }
    }

    #[test]
    fn every_way_to_end_is_told_apart() {
        let panicked = || machine::Ending::Panicked {
            message: "Oops".into(),
        };
        let failed = || machine::Ending::Failed {
            reason: "EIO".into(),
        };
        for (ending, expected) in [
            (machine::Ending::Reset, Ending::Reset),
            (machine::Ending::TripleFault, Ending::TripleFault),
            (
                panicked(),
                Ending::KernelPanic {
                    message: "Oops".into(),
                },
            ),
            (
                failed(),
                Ending::MonitorFailed {
                    reason: "EIO".into(),
                },
            ),
        ] {
            let mut supervisor = running();
            tell(
                &mut supervisor,
                Event::Agent(AgentEvent::Lost(AgentError::Closed)),
            );
            assert_eq!(ended(finish(supervisor, ending)), expected);
        }
        let verdict = finish(booting(), panicked());
        let Verdict::NotStarted(error) = verdict else {
            panic!("{verdict:?}")
        };
        assert!(error.to_string().contains("panicked: Oops"), "{error}");
    }

    #[test]
    fn a_guest_that_does_not_come_up_is_stopped() {
        let failure = Failure {
            stage: Stage::Root,
            errno: 2,
            message: "no root".into(),
        };
        for event in [
            Event::Agent(AgentEvent::Failed(failure)),
            Event::Agent(AgentEvent::Lost(AgentError::Closed)),
        ] {
            let mut supervisor = booting();
            assert!(matches!(tell(&mut supervisor, event), Action::Stop));
            let verdict = finish(supervisor, machine::Ending::Stopped);
            assert!(matches!(verdict, Verdict::NotStarted(_)), "{verdict:?}");
        }
        let mut supervisor = booting();
        assert!(matches!(
            supervisor.on_deadline(Instant::now()),
            Action::Stop
        ));
        let verdict = supervisor.into_verdict();
        assert!(
            matches!(verdict, Verdict::NotStarted(StartError::TooSlow { .. })),
            "{verdict:?}"
        );
    }

    #[test]
    fn a_machine_that_cannot_be_stopped_is_given_up() {
        let mut supervisor = running();
        tell(&mut supervisor, Event::CreatorGone);
        assert!(supervisor.deadline().is_some());
        assert!(matches!(
            supervisor.on_deadline(Instant::now()),
            Action::Finish
        ));
    }
}
