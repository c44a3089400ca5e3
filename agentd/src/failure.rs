//! Errors with the step they belong to, as the protocol reports them.

use std::io;

use nix::errno::Errno;
use protocol::{Failure, Stage};

/// Turns an operating system error into a [`Failure`] of a step.
pub(crate) trait OrFailed<T> {
    /// `message` is one sentence without the text of the error number.
    fn or_failed(self, stage: Stage, message: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> OrFailed<T> for Result<T, E> {
    fn or_failed(self, stage: Stage, message: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().unwrap_or(0);
            Failure {
                stage,
                errno,
                message: message(),
            }
        })
    }
}

/// A [`Failure`] that agentd itself found.
pub(crate) fn failure(stage: Stage, errno: Errno, message: impl Into<String>) -> Failure {
    Failure {
        stage,
        errno: errno as i32,
        message: message.into(),
    }
}

/// Bytes from the guest or a client, for a message to people.
pub(crate) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
