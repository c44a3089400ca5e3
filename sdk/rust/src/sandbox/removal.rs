//! Removing what is recorded and kept of a sandbox.

use super::machine::{ANSWER, blocking};
use super::start::{let_go, try_claim};
use crate::control::{ControlClient, ControlError};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::identity::Id;
use crate::names::Name;
use crate::registry::Registry;
use crate::run_directory::{Claim, RunDirectory, RunDirectoryError};

/// How often who wants a name begins anew when others have had it meanwhile.
const MAX_ROUNDS: u32 = 8;

/// Forgets a sandbox that has no machine and removes what it kept. With an identity, it is that sandbox or none.
///
/// # Errors
/// [`MicrosandboxError::SandboxNotFound`], also if somebody else was faster; [`MicrosandboxError::SandboxRunning`].
pub(super) async fn remove(
    home: Home,
    name: Name,
    of: Option<Id>,
) -> Result<(), MicrosandboxError> {
    blocking(move || remove_and_wait(&home, &name, of.as_ref())).await
}

fn remove_and_wait(home: &Home, name: &Name, of: Option<&Id>) -> Result<(), MicrosandboxError> {
    let registry = Registry::open(home)?;
    let claim = claim(&registry, name, of)?;
    let removed = registry
        .get_of(name, of)
        .and_then(|observed| registry.forget(&observed.record));
    let_go(claim);
    removed
}

/// The lock of the name. Somebody who has it for a moment, and may be about to remove the same sandbox, is waited for.
fn claim(registry: &Registry, name: &Name, of: Option<&Id>) -> Result<Claim, MicrosandboxError> {
    let home = registry.home();
    for _ in 0..MAX_ROUNDS {
        if let Some(claim) = try_claim(home, name)? {
            return Ok(claim);
        }
        registry.get_of(name, of)?;
        // Only a machine greets its clients; the connections to others end when they let go of the name.
        match ControlClient::connect(&RunDirectory::of(home, name), name, ANSWER) {
            Err(
                ControlError::Gone | ControlError::Connect(RunDirectoryError::NotRunning { .. }),
            ) => {}
            _ => {
                registry.get_of(name, of)?;
                break;
            }
        }
    }
    Err(MicrosandboxError::SandboxRunning {
        name: name.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::fd::AsFd;
    use std::thread;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;
    use crate::ErrorKind;
    use crate::control::StopReason;
    use crate::registry::Record;

    #[test]
    fn of_two_who_remove_a_sandbox_the_later_one_finds_none() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        let registry = Registry::open(&home).unwrap();
        let name: Name = "web".parse().unwrap();
        let record = Record::new(Registry::new_id().unwrap(), &name, "{}".to_owned(), false);
        registry.create(&record, &BTreeMap::new()).unwrap();
        registry.set_ready(&record).unwrap();
        registry.directory(&record).make(&home).unwrap();
        registry.conclude_dead(&record, StopReason::Killed).unwrap();

        let first = RunDirectory::claim(&home, &name).unwrap();
        let later = thread::spawn({
            let (home, name) = (home.clone(), name.clone());
            move || remove_and_wait(&home, &name, None)
        });
        let mut waits = [PollFd::new(first.control.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut waits, 10_000_u16), Ok(1));
        registry.forget(&record).unwrap();
        let_go(first);
        let error = later.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxNotFound, "{error}");
        assert!(!RunDirectory::of(&home, &name).path().exists());
    }
}
