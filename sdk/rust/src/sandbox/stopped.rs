//! Sandboxes that do not run, for whoever works on what they keep.

use super::SandboxConfig;
use super::start::{let_go, try_claim};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::names::Name;
use crate::registry::{Record, Registry, SandboxDirectory};
use crate::run_directory::Claim;

/// A sandbox that does not run. As long as this lives, nobody starts, replaces or removes it.
#[derive(Debug)]
pub(crate) struct StoppedSandbox {
    record: Record,
    config: SandboxConfig,
    directory: SandboxDirectory,
    _held: Held,
}

/// The name, which is let go of in the end.
#[derive(Debug)]
struct Held(Option<Claim>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(claim) = self.0.take() {
            let_go(claim);
        }
    }
}

impl StoppedSandbox {
    /// The sandbox of this name.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`], [`MicrosandboxError::SandboxRunning`].
    pub(crate) fn hold(home: &Home, name: &Name) -> Result<StoppedSandbox, MicrosandboxError> {
        let registry = Registry::open(home)?;
        registry.get(name)?;
        let Some(claim) = try_claim(home, name)? else {
            // Somebody who removes it has the name, too.
            registry.get(name)?;
            return Err(MicrosandboxError::SandboxRunning {
                name: name.to_string(),
            });
        };
        let held = Held(Some(claim));
        let record = registry.stopped(name)?;
        let config = serde_json::from_str(&record.config)
            .map_err(|error| MicrosandboxError::invalid("config", error))?;
        Ok(StoppedSandbox {
            config,
            directory: registry.directory(&record),
            record,
            _held: held,
        })
    }

    pub(crate) fn name(&self) -> &Name {
        &self.record.name
    }

    /// As it was recorded.
    pub(crate) fn config(&self) -> &SandboxConfig {
        &self.config
    }

    /// What it keeps.
    pub(crate) fn directory(&self) -> &SandboxDirectory {
        &self.directory
    }
}
