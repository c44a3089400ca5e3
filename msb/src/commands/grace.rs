//! How long the processes of a sandbox that is stopped have.

use std::time::Duration;

use clap::Args;
use microsandbox::MicrosandboxError;
use microsandbox::sandbox::SandboxHandle;

use crate::options::parse_grace;

/// Time to end by themselves.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Grace {
    /// Time between SIGTERM and SIGKILL; a bare number counts seconds, 0 ends the sandbox at once
    #[arg(short, long, visible_alias = "time", value_name = "DURATION", default_value = "10s", value_parser = parse_grace)]
    timeout: Duration,

    /// Ends the sandbox at once, as `msb kill` does
    #[arg(short, long, conflicts_with = "timeout")]
    force: bool,
}

impl Grace {
    /// Stops a sandbox.
    ///
    /// # Errors
    /// When it does not run, or cannot be stopped.
    pub(super) async fn stop(self, sandbox: &SandboxHandle) -> Result<(), MicrosandboxError> {
        match self.force {
            true => sandbox.kill().await,
            false => sandbox.stop_with_timeout(self.timeout).await,
        }
    }
}
