//! How a machine ends: the first terminal event decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The host stopped it.
    Stopped,
    /// The guest asked for a reset through the keyboard controller.
    Reset,
    /// The guest halted its processors for ever, which is how it powers off a machine that has no switch for that.
    Halted,
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

/// What is told of a machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A terminal event.
    Ending(Ending),
    /// No line can interrupt a processor any more.
    Isolated,
}

/// Hands a terminal event to the machine; any thread has one.
#[derive(Debug, Clone)]
pub(crate) struct EndingReporter {
    sender: Sender<News>,
    /// That the processors are isolated was told, and not taken: a guest that does it again and again fills no queue.
    isolated: Arc<AtomicBool>,
}

/// Where terminal events arrive.
#[derive(Debug)]
pub(crate) struct Endings {
    receiver: Receiver<News>,
    isolated: Arc<AtomicBool>,
}

impl EndingReporter {
    /// A reporter and the place where the first report arrives.
    pub(crate) fn new() -> (EndingReporter, Endings) {
        let (sender, receiver) = channel();
        let isolated = Arc::<AtomicBool>::default();
        let endings = Endings {
            receiver,
            isolated: Arc::clone(&isolated),
        };
        (EndingReporter { sender, isolated }, endings)
    }

    /// Reports `ending`. A machine that is gone needs no report.
    pub(crate) fn report(&self, ending: Ending) {
        let _ = self.sender.send(News::Ending(ending));
    }

    /// Reports a failure of the monitor.
    pub(crate) fn failed(&self, reason: String) {
        self.report(Ending::Failed { reason });
    }

    /// Reports that the guest has masked all lines.
    pub(crate) fn isolated(&self) {
        if !self.isolated.swap(true, Ordering::SeqCst) {
            let _ = self.sender.send(News::Isolated);
        }
    }
}

impl Endings {
    /// The next news; `None` when `deadline` came first.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Option<News> {
        let news = match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.receiver.recv_timeout(left)
            }
            None => self.receiver.recv().map_err(RecvTimeoutError::from),
        };
        match news {
            Ok(news) => {
                if news == News::Isolated {
                    self.isolated.store(false, Ordering::SeqCst);
                }
                Some(news)
            }
            Err(RecvTimeoutError::Timeout) => None,
            // Nobody is left who could report.
            Err(RecvTimeoutError::Disconnected) => Some(News::Ending(Ending::Stopped)),
        }
    }

    /// The ending, if it has come.
    pub(crate) fn try_recv(&self) -> Result<Ending, TryRecvError> {
        loop {
            if let News::Ending(ending) = self.receiver.try_recv()? {
                return Ok(ending);
            }
        }
    }

    /// The ending, if it comes within `limit`.
    pub(crate) fn recv_timeout(&self, limit: Duration) -> Result<Ending, RecvTimeoutError> {
        let deadline = Instant::now().checked_add(limit);
        loop {
            match self.next(deadline) {
                Some(News::Ending(ending)) => return Ok(ending),
                Some(News::Isolated) => {}
                None => return Err(RecvTimeoutError::Timeout),
            }
        }
    }
}
