//! What sandboxes wrote.

use super::machine::blocking;
use super::{Sandbox, SandboxHandle};
use crate::error::MicrosandboxError;
use crate::logs::{LogEntry, LogOptions, LogStream, LogStreamOptions, read_logs};

/// What can be read of a sandbox's log, running or not, by both kinds of values that stand for one.
macro_rules! logs {
    ($type:ty) => {
        impl $type {
            /// What its processes wrote so far, as far as it has been kept. A sandbox with quiet logs has none.
            ///
            /// # Errors
            /// [`MicrosandboxError::Log`].
            pub async fn logs(
                &self,
                options: LogOptions,
            ) -> Result<Vec<LogEntry>, MicrosandboxError> {
                let directory = self.log_directory().to_owned();
                blocking(move || Ok(read_logs(&directory, &options)?)).await
            }

            /// What its processes wrote, entry by entry, and what they write from then on if that is asked for.
            ///
            /// # Errors
            /// [`MicrosandboxError::Log`].
            pub async fn log_stream(
                &self,
                options: LogStreamOptions,
            ) -> Result<LogStream, MicrosandboxError> {
                let directory = self.log_directory().to_owned();
                blocking(move || Ok(LogStream::open(&directory, options)?)).await
            }
        }
    };
}

logs!(SandboxHandle);
logs!(Sandbox);
