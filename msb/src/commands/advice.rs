//! What to do about errors of sandboxes.

use std::fmt;

use microsandbox::sandbox::SandboxStatus;
use microsandbox::{CommitObstacle, MicrosandboxError, Sandbox};

use super::boot_advice;
use super::image::advice as image_advice;
use super::snapshot::advice as snapshot_advice;
use super::volume::advice::{self as volume_advice, database};
use crate::failure::with_hint;
use crate::operand::operand;

/// How alike a name must be to be suggested: 1 is the same.
const ALIKE: f64 = 0.8;

/// Adds to an error what to do about it.
pub(super) async fn advise(error: MicrosandboxError) -> anyhow::Error {
    let hint = match error {
        MicrosandboxError::Volume(error) => return volume_advice::advise(error),
        MicrosandboxError::Image(error) => return image_advice::advise(error),
        MicrosandboxError::Snapshot(error) => return snapshot_advice::advise(error),
        MicrosandboxError::BootFailed(failure) => return boot_advice::explain(*failure),
        MicrosandboxError::SandboxNotFound { ref name } => not_found(name).await,
        _ => hint(&error),
    };
    match hint {
        Some(hint) => with_hint(error, hint),
        None => error.into(),
    }
}

/// A name that was probably meant.
async fn not_found(name: &str) -> Option<String> {
    let known = Sandbox::list().await.unwrap_or_default();
    let nearest = known
        .iter()
        // One of this name has come just now.
        .filter(|sandbox| sandbox.name() != name)
        .map(|sandbox| (strsim::jaro_winkler(name, sandbox.name()), sandbox.name()))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    Some(match nearest {
        Some((_, nearest)) => format!("did you mean {nearest:?}? `msb ls` lists the sandboxes"),
        None => "`msb ls` lists the sandboxes, `msb create` makes one".to_owned(),
    })
}

/// What to do about a sandbox that has ended.
pub(super) fn tells_how(name: impl fmt::Display) -> String {
    let name = operand(name);
    format!("`msb inspect {name}` and `msb logs {name}` tell how")
}

fn hint(error: &MicrosandboxError) -> Option<String> {
    Some(match error {
        MicrosandboxError::SandboxAlreadyExists { name } => {
            let name = operand(name);
            format!(
                "start it with `msb start {name}`, run something in it with `msb exec {name}`, or make a new one of that name with --replace"
            )
        }
        MicrosandboxError::SandboxRunning { name } => {
            let name = operand(name);
            format!(
                "`msb exec {name} COMMAND` runs something in it; `msb stop {name}` stops it, `msb rm -f {name}` removes it as it is"
            )
        }
        MicrosandboxError::SandboxNotRunning { name, status } => {
            let name = operand(name);
            match status {
                SandboxStatus::Paused => format!("`msb unpause {name}` lets it go on"),
                SandboxStatus::Stopping => format!("`msb wait {name}` waits until it has stopped"),
                _ => format!("start it with `msb start {name}`"),
            }
        }
        MicrosandboxError::SandboxDraining { name } => {
            let name = operand(name);
            format!("`msb wait {name}` waits until it has stopped; then `msb start {name}`")
        }
        MicrosandboxError::SandboxEnded { name, .. } => tells_how(name),
        MicrosandboxError::InvalidConfig { .. } => {
            "`msb create --help` describes the options".to_owned()
        }
        MicrosandboxError::SessionNotFound { name, .. } => {
            format!(
                "`msb exec -d {} COMMAND` prints the number of the session that it begins",
                operand(name)
            )
        }
        MicrosandboxError::SessionInUse { .. } => {
            "one client at a time: end the other one, or wait for it".to_owned()
        }
        MicrosandboxError::PathNotFound { .. } => {
            "paths in a sandbox are absolute, and looked for in the guest".to_owned()
        }
        MicrosandboxError::NotCommittable { reason, .. } => match reason {
            CommitObstacle::NoImage => {
                "load an image of it with `msb image load`, and create the sandbox of that"
            }
            CommitObstacle::InMemory | CommitObstacle::NoLayer => {
                "create it without --root-ro, or with --root-upper and a size: its changes are kept on a disk then"
            }
        }
        .to_owned(),
        MicrosandboxError::Database(error) => database(error),
        MicrosandboxError::NoHome(_) => "set MSB_HOME to a directory of yours".to_owned(),
        MicrosandboxError::NotInstalled(_) => "`msb doctor` tells what is missing".to_owned(),
        MicrosandboxError::Io { .. } => {
            "look at the permissions and the free room there".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_hints_can_be_pasted_whatever_the_name() {
        let name = || "my $box".to_owned();
        let not_running = |status| MicrosandboxError::SandboxNotRunning {
            name: name(),
            status,
        };
        let errors = [
            MicrosandboxError::SandboxAlreadyExists { name: name() },
            MicrosandboxError::SandboxRunning { name: name() },
            not_running(SandboxStatus::Paused),
            not_running(SandboxStatus::Stopping),
            not_running(SandboxStatus::Stopped),
            MicrosandboxError::SandboxDraining { name: name() },
            MicrosandboxError::SandboxEnded {
                name: name(),
                end: None,
            },
            MicrosandboxError::SessionNotFound {
                name: name(),
                session: 7,
            },
        ];
        for error in errors {
            let hint = hint(&error).unwrap();
            let all = hint.matches("my $box").count();
            assert_eq!(hint.matches("'my $box'").count(), all, "{hint}");
            assert!(all > 0, "{hint}");
        }
    }
}
