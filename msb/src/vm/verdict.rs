//! How a sandbox's machine ended, in the words of those who want to know.

use microsandbox::control::{Ended, Exit, StopReason};
use microsandbox::launch::{Ending, Report};
use vmm::machine;

use super::attendant::milliseconds_now;
use super::start::StartError;

/// How it all ended.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Whether it had begun, and how it ended.
    pub(super) outcome: Outcome,
    /// Why.
    pub(super) reason: StopReason,
    /// More about that.
    pub(super) detail: Option<String>,
    /// How the sandbox's own process ended.
    pub(super) exit: Option<Exit>,
}

/// Whether a machine had begun, and how it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The guest never came up.
    NotStarted(StartError),
    /// It did, and ended so.
    Ended(Ending),
}

impl Verdict {
    /// The guest never came up.
    pub(super) fn not_started(error: StartError) -> Verdict {
        Verdict {
            detail: Some(error.to_string()),
            outcome: Outcome::NotStarted(error),
            reason: StopReason::StartFailed,
            exit: None,
        }
    }

    /// The machine ended.
    pub(super) fn ended(ending: Ending, reason: StopReason, detail: Option<String>) -> Verdict {
        Verdict {
            outcome: Outcome::Ended(ending),
            reason,
            detail,
            exit: None,
        }
    }

    /// What is recorded. `console` is the end of the kernel's log.
    pub(super) fn to_ended(&self, console: &[u8]) -> Ended {
        let crashed = matches!(self.reason, StopReason::Crashed | StopReason::StartFailed);
        Ended {
            reason: self.reason,
            exit: self.exit,
            detail: self.detail.clone(),
            console: (crashed && !console.is_empty())
                .then(|| String::from_utf8_lossy(console).replace("\r\n", "\n")),
            clean: matches!(self.outcome, Outcome::Ended(Ending::Clean)),
            at: milliseconds_now(),
        }
    }

    /// What the creator is told, whether the machine had begun.
    pub(super) fn to_report(&self, console: Vec<u8>) -> Report {
        match &self.outcome {
            Outcome::NotStarted(error) => Report::Failed(error.to_failure(console)),
            Outcome::Ended(how) => Report::Ended {
                how: how.clone(),
                console,
            },
        }
    }
}

/// The monitor's word for an ending in the words of the creator.
pub(super) fn describe(ending: machine::Ending) -> Ending {
    match ending {
        machine::Ending::Stopped => Ending::Forced,
        machine::Ending::Reset => Ending::Reset,
        machine::Ending::Halted => Ending::Halted,
        machine::Ending::TripleFault => Ending::TripleFault,
        machine::Ending::Panicked { message } => Ending::KernelPanic { message },
        machine::Ending::Failed { reason } => Ending::MonitorFailed { reason },
    }
}
