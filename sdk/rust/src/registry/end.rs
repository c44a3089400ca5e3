//! How a run ended, and who says so.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::control::{Ended, StopReason};

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    #[serde(flatten)]
    pub(crate) ended: Ended,
    pub(crate) source: EndSource,
}

/// Who says how a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndSource {
    /// The machine's process.
    Machine,
    /// Whoever noticed that this process was gone without a word.
    Host,
}

impl EndSource {
    pub(crate) fn name(self) -> &'static str {
        match self {
            EndSource::Machine => "machine",
            EndSource::Host => "host",
        }
    }
}

impl End {
    /// As the machine's process said.
    pub(crate) fn told(ended: Ended) -> End {
        End {
            ended,
            source: EndSource::Machine,
        }
    }

    /// Of a machine whose process left no word, for a reason that is known or presumed.
    pub(crate) fn untold(reason: StopReason) -> End {
        let detail = (reason == StopReason::Crashed).then(|| {
            "The machine's process ended without a word, as it does when it is killed.".to_owned()
        });
        End::presumed(reason, detail, SystemTime::now())
    }

    /// Of a run whose end was recorded at this time, in words that make no sense.
    pub(crate) fn unreadable(at: SystemTime, error: &serde_json::Error) -> End {
        let detail = format!("What the database says about the end cannot be read: {error}.");
        End::presumed(StopReason::Crashed, Some(detail), at)
    }

    fn presumed(reason: StopReason, detail: Option<String>, at: SystemTime) -> End {
        let since_1970 = at.duration_since(UNIX_EPOCH);
        let at = since_1970.unwrap_or_default().as_millis();
        let ended = Ended {
            reason,
            exit: None,
            detail,
            console: None,
            clean: false,
            at: u64::try_from(at).unwrap_or(u64::MAX),
        };
        End {
            ended,
            source: EndSource::Host,
        }
    }
}
