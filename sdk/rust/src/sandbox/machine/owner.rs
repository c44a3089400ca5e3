//! Whose machine it is that has a name, and which of its runs.

use super::Machine;
use crate::control::MachineStatus;
use crate::error::MicrosandboxError;
use crate::registry::{Observed, Record};
use crate::sandbox::SandboxStatus;

impl Machine {
    /// Whether the machine that says this is this sandbox's, and not that of another which has its name since; `None` if it has
    /// not said whose it is.
    pub(super) fn is_own(&self, status: Option<&MachineStatus>) -> Option<bool> {
        let Some((id, _)) = &self.of else {
            return Some(true);
        };
        let sandbox = status?.sandbox.as_deref()?;
        Some(sandbox == id.as_str())
    }

    /// That the machine that has just answered, and says this, is this sandbox's. May wait for the database.
    ///
    /// # Errors
    /// [`MicrosandboxError::InvalidHandle`] if it is not.
    pub(super) fn check_own(
        &self,
        status: Option<&MachineStatus>,
    ) -> Result<(), MicrosandboxError> {
        match self.is_own(status) {
            Some(true) => Ok(()),
            Some(false) => Err(MicrosandboxError::InvalidHandle {
                name: self.name.to_string(),
            }),
            // It comes up or ends just now; whoever has the name is recorded before the one and after the other.
            None => match self.look() {
                Ok(_) | Err(MicrosandboxError::SandboxNotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    /// Whether the run that this stands for is over, and another has begun.
    pub(super) fn is_over(&self, record: &Record) -> bool {
        self.of.as_ref().is_some_and(|(_, run)| *run < record.run)
    }

    /// That the run that this stands for is not over.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`], also if another run has begun since.
    pub(in crate::sandbox) async fn check_run(&self) -> Result<(), MicrosandboxError> {
        let Observed { record, .. } = self.observe_alive().await?;
        if !self.is_over(&record) {
            return Ok(());
        }
        let end = record.ended.map(|end| end.ended.reason);
        Err(MicrosandboxError::SandboxNotRunning {
            name: self.name.to_string(),
            status: end.map_or(SandboxStatus::Stopped, SandboxStatus::after),
        })
    }
}
