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
            let ended = match self.observe().await {
                // It was ephemeral.
                Err(
                    error @ (MicrosandboxError::SandboxNotFound { .. }
                    | MicrosandboxError::InvalidHandle { .. }),
                ) => {
                    // It may have ended since it is watched.
                    if told.is_none() && watching.is_some() {
                        told = self.wait_for_end(watching).await?;
                    }
                    Some(told.ok_or(error)?)
                }
                Err(error) => return Err(error),
                Ok(Observed { record, status }) => {
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

#[cfg(test)]
mod tests {
    use std::thread;

    use protocol::{FrameReader, FrameWriter, Hello};

    use super::*;
    use crate::control::{ControlReply, ControlRequest, Ended};
    use crate::home::Home;
    use crate::names::Name;
    use crate::run_directory::{Claim, RunDirectory};

    /// A machine that ends, and whose sandbox is forgotten, as soon as somebody watches.
    fn end_when_watched(claim: Claim) {
        let (stream, _) = claim.control.accept().unwrap();
        let mut reader = FrameReader::new(&stream);
        let mut writer = FrameWriter::new(&stream);
        let hello: Option<ControlRequest> = reader.read().unwrap();
        assert!(matches!(hello, Some(ControlRequest::Hello(_))));
        let hello = Hello::current("test");
        writer.write(&ControlReply::Hello(hello)).unwrap();
        let watch: Option<ControlRequest> = reader.read().unwrap();
        assert!(matches!(watch, Some(ControlRequest::Watch)));
        drop(claim);
        let ended = Ended {
            reason: StopReason::Completed,
            exit: None,
            detail: None,
            console: None,
            clean: true,
            at: 1,
        };
        let ended = ControlReply::Ended(Box::new(ended));
        writer.write(&ended).unwrap();
    }

    #[tokio::test]
    async fn who_watched_an_ephemeral_sandbox_is_told_how_it_ended_though_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        let name: Name = "job".parse().unwrap();
        let claim = RunDirectory::claim(&home, &name).unwrap();
        let machine = thread::spawn(move || end_when_watched(claim));
        let result = Machine::new(&home, &name).wait_until_stopped().await;
        assert_eq!(result.unwrap().reason, StopReason::Completed);
        machine.join().unwrap();
        // Who comes later is told that there is none.
        let result = Machine::new(&home, &name).wait_until_stopped().await;
        assert!(matches!(
            result,
            Err(MicrosandboxError::SandboxNotFound { .. })
        ));
    }
}
