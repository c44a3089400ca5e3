//! What it means that the guest's agent refuses a session.

use protocol::{Failure, Stage};

use crate::error::MicrosandboxError;

/// The error that the agent of `sandbox` has found.
pub(crate) fn refused(sandbox: &str, failure: Failure) -> MicrosandboxError {
    match failure.stage {
        Stage::Draining => MicrosandboxError::SandboxDraining {
            name: sandbox.to_owned(),
        },
        stage => MicrosandboxError::ExecFailed {
            stage,
            errno: failure.errno,
            message: failure.message,
        },
    }
}
