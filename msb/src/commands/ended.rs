//! Sandboxes that end by themselves before a command can end them.

use microsandbox::{ErrorKind, MicrosandboxError};

/// Whether a sandbox that ran when it was looked up could not be ended because it has ended meanwhile, which is as good.
pub(super) fn has_ended(error: &MicrosandboxError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::SandboxNotRunning | ErrorKind::SandboxNotFound
    )
}

#[cfg(test)]
mod tests {
    use microsandbox::sandbox::SandboxStatus;

    use super::*;

    #[test]
    fn who_has_ended_need_not_be_ended() {
        let name = || "web".to_owned();
        assert!(has_ended(&MicrosandboxError::SandboxNotRunning {
            name: name(),
            status: SandboxStatus::Stopped,
        }));
        assert!(has_ended(&MicrosandboxError::SandboxNotFound {
            name: name()
        }));
        // Another one has the name.
        assert!(!has_ended(&MicrosandboxError::InvalidHandle {
            name: name()
        }));
    }
}
