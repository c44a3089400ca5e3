//! What to do about errors of sandboxes.

use microsandbox::sandbox::SandboxStatus;
use microsandbox::{CommitObstacle, MicrosandboxError, Sandbox};

use super::boot_advice;
use super::image::advice as image_advice;
use super::snapshot::advice as snapshot_advice;
use super::volume::advice::{self as volume_advice, database};
use crate::failure::with_hint;

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

fn hint(error: &MicrosandboxError) -> Option<String> {
    Some(match error {
        MicrosandboxError::SandboxAlreadyExists { name } => format!(
            "start it with `msb start {name}`, run something in it with `msb exec {name}`, or make a new one of that name with --replace"
        ),
        MicrosandboxError::SandboxRunning { name } => format!(
            "`msb exec {name} COMMAND` runs something in it; `msb stop {name}` stops it, `msb rm -f {name}` removes it as it is"
        ),
        MicrosandboxError::SandboxNotRunning { name, status } => match status {
            SandboxStatus::Paused => format!("`msb unpause {name}` lets it go on"),
            SandboxStatus::Stopping => format!("`msb wait {name}` waits until it has stopped"),
            _ => format!("start it with `msb start {name}`"),
        },
        MicrosandboxError::SandboxDraining { name } => {
            format!("`msb wait {name}` waits until it has stopped; then `msb start {name}`")
        }
        MicrosandboxError::SandboxEnded { name, .. } => {
            format!("`msb inspect {name}` and `msb logs {name}` tell how")
        }
        MicrosandboxError::InvalidConfig { .. } => {
            "`msb create --help` describes the options".to_owned()
        }
        MicrosandboxError::SessionNotFound { name, .. } => {
            format!("`msb exec -d {name} COMMAND` prints the number of the session that it begins")
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
