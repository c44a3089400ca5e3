//! Waiting for the end of a machine.

use super::ANSWER;
use super::Machine;
use crate::control::Change;
use crate::error::{MicrosandboxError, failed};
use crate::registry::{End, Observed};
use crate::sandbox::ending::result_of;
use crate::sandbox::watching::Watching;
use crate::sandbox::{SandboxStopResult, StopReason};

impl Machine {
    /// Waits until the sandbox has ended, and tells how.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`], also if it was ephemeral and is forgotten already, with the reason of its end.
    pub(in crate::sandbox) async fn wait_until_stopped(
        &self,
    ) -> Result<SandboxStopResult, MicrosandboxError> {
        let name = self.name.as_str();
        let mut told = None;
        loop {
            // Watched before it is looked at: of what is alive then, the end is told, and nothing of an ephemeral one tells
            // it later.
            let watching = self.watch().await?;
            let observed = match self.observe().await {
                // It was ephemeral.
                Err(
                    MicrosandboxError::SandboxNotFound { .. }
                    | MicrosandboxError::InvalidHandle { .. },
                ) if told.is_some() => None,
                result => Some(result?),
            };
            let ended = match observed {
                None => told.take(),
                Some(Observed { record, status }) => {
                    if status.is_alive() && !self.is_over(&record) {
                        match self.wait_for_end(watching).await {
                            // Its creator takes its time.
                            Err(MicrosandboxError::Timeout { .. }) => {}
                            result => told = result?,
                        }
                        continue;
                    }
                    record.ended
                }
            };
            return Ok(result_of(
                name,
                ended.unwrap_or_else(|| End::untold(StopReason::Crashed)),
            ));
        }
    }

    /// Begins to watch the machine; `None` if there is none, or none that answers.
    async fn watch(&self) -> Result<Option<Watching>, MicrosandboxError> {
        let watch = match self.try_control(|machine| machine.watch(ANSWER)).await {
            Err(
                MicrosandboxError::SandboxNotFound { .. } | MicrosandboxError::InvalidHandle { .. },
            ) => return Ok(None),
            result => result?,
        };
        let watching = watch.ok().map(Watching::new).transpose();
        watching.map_err(failed("watch", self.directory.path()))
    }

    /// Waits until the machine's process is gone; returns what it said last, if it was watched.
    async fn wait_for_end(
        &self,
        watching: Option<Watching>,
    ) -> Result<Option<End>, MicrosandboxError> {
        let mut told = None;
        if let Some(mut watching) = watching {
            loop {
                match watching.next().await {
                    Ok(Change::State(_)) => {}
                    Ok(Change::Ended(ended)) => told = Some(End::told(*ended)),
                    Ok(Change::Gone) => {
                        told = told.or_else(|| Some(End::untold(StopReason::Crashed)));
                        break;
                    }
                    // It ends already, or cannot be understood.
                    Err(_) => break,
                }
            }
        }
        // One that does not answer is waited for, too.
        if let Some(process) = self.process().await? {
            let gone = process.gone().await;
            gone.map_err(failed("wait for", self.directory.path()))?;
        }
        Ok(told)
    }
}
