//! How a machine ends: the first terminal event decides.

use std::sync::mpsc::{Receiver, Sender, channel};

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The host stopped it.
    Stopped,
    /// The guest asked for a reset through the keyboard controller, which is how it powers off.
    Reset,
    /// The guest's processor shut down by a triple fault.
    TripleFault,
    /// The guest's kernel panicked.
    Panicked {
        /// What the kernel said after "Kernel panic - not syncing".
        message: String,
    },
    /// The monitor could not go on.
    Failed {
        /// What happened, as a sentence without a full stop.
        reason: String,
    },
}

/// Hands a terminal event to the machine; any thread has one.
#[derive(Debug, Clone)]
pub(crate) struct EndingReporter {
    sender: Sender<Ending>,
}

impl EndingReporter {
    /// A reporter and the place where the first report arrives.
    pub(crate) fn new() -> (EndingReporter, Receiver<Ending>) {
        let (sender, receiver) = channel();
        (EndingReporter { sender }, receiver)
    }

    /// Reports `ending`. A machine that is gone needs no report.
    pub(crate) fn report(&self, ending: Ending) {
        let _ = self.sender.send(ending);
    }

    /// Reports a failure of the monitor.
    pub(crate) fn failed(&self, reason: String) {
        self.report(Ending::Failed { reason });
    }
}
