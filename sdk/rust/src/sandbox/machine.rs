//! The machine of a sandbox, as everybody but its creator reaches it: by what is in its run directory.

mod owner;
mod waiting;

use std::time::Duration;
use std::{fmt, io};

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::exec::channel::ChannelError;
use super::exec::{lost, refused};
use super::pidfd::Pidfd;
use super::{SandboxMetrics, SandboxStatus, StopReason};
use crate::control::{
    ControlClient, ControlError, ControlRequest, MachineState, MachineStatus, Refusal, RefusalKind,
};
use crate::error::{MicrosandboxError, failed};
use crate::home::Home;
use crate::identity::Id;
use crate::milliseconds::milliseconds;
use crate::names::Name;
use crate::registry::{Observed, Record, Registry};
use crate::run_directory::{RunDirectory, RunDirectoryError};

/// How long a machine's process may take to answer. It does at once, unless it is stuck or its processor is taken.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How long a guest may take beyond the grace of its processes: it syncs and unmounts. The machine's process ends it by itself
/// before that.
pub(super) const SYNC: Duration = Duration::from_secs(20);

/// How long a machine's process may take to record its end when its guest is gone.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long the host may take to end a process that was killed, and to release its memory.
const RELEASE: Duration = Duration::from_secs(10);

/// The machine of a sandbox. The value owns nothing.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    name: Name,
    home: Home,
    directory: RunDirectory,
    /// Whose machine it is; `None` is whoever has the name.
    of: Option<(Id, i64)>,
}

impl Machine {
    /// Of whoever has the name.
    pub(super) fn new(home: &Home, name: &Name) -> Machine {
        Machine {
            name: name.clone(),
            home: home.clone(),
            directory: RunDirectory::of(home, name),
            of: None,
        }
    }

    /// Of this sandbox, in the run that it is in; if it is in none, in the next.
    pub(super) fn of(home: &Home, record: &Record) -> Machine {
        let run = match record.active {
            true => record.run,
            false => record.run.saturating_add(1),
        };
        Machine {
            of: Some((record.id.clone(), run)),
            ..Machine::new(home, &record.name)
        }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// A fresh connection to the agent in the guest: one session. As long as the guest is not up, the session waits for it.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`], also if it is paused; [`MicrosandboxError::InvalidHandle`] if another has its
    /// name.
    pub(crate) async fn connect_agent(&self) -> Result<UnixStream, MicrosandboxError> {
        let path = self.directory.path();
        match self.directory.connect_at_once() {
            Ok(stream) => {
                // Looked at when the connection is there: another cannot take the name in between.
                let status = self.directory.status()?;
                if self.is_own(status.as_ref()) != Some(true) {
                    let (machine, status) = (self.clone(), status.clone());
                    blocking(move || machine.check_own(status.as_ref())).await?;
                }
                self.check_not_paused(status.as_ref())?;
                UnixStream::from_std(stream).map_err(failed("connect to", path))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Err(self.not_running().await)
            }
            Err(error) => Err(failed("connect to", path)(error)),
        }
    }

    /// The guest of a paused machine answers nobody until it is resumed, which may be never.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`] if it is paused.
    pub(super) fn check_awake(&self) -> Result<(), MicrosandboxError> {
        self.check_not_paused(self.directory.status()?.as_ref())
    }

    fn check_not_paused(&self, status: Option<&MachineStatus>) -> Result<(), MicrosandboxError> {
        match status {
            Some(status) if status.state == MachineState::Paused => {
                Err(MicrosandboxError::SandboxNotRunning {
                    name: self.name.to_string(),
                    status: SandboxStatus::Paused,
                })
            }
            _ => Ok(()),
        }
    }

    /// As [`control`](Self::control), with the bare reason if it fails.
    async fn try_control<T: Send + 'static>(
        &self,
        work: impl FnOnce(ControlClient) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<Result<T, ControlError>, MicrosandboxError> {
        let machine = self.clone();
        blocking(move || {
            let client = match ControlClient::connect(&machine.directory, &machine.name, ANSWER) {
                Ok(client) => client,
                Err(error) => return Ok(Err(error)),
            };
            // As in `connect_agent`.
            machine.check_own(machine.directory.status()?.as_ref())?;
            Ok(work(client))
        })
        .await
    }

    /// Does `work` with a fresh connection to the machine itself, on a thread that may wait.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`]; [`MicrosandboxError::InvalidHandle`] if another has its name; those of `work`.
    pub(crate) async fn control<T: Send + 'static>(
        &self,
        work: impl FnOnce(ControlClient) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, MicrosandboxError> {
        match self.try_control(work).await? {
            Ok(result) => Ok(result),
            Err(error) => Err(self.control_error(error).await),
        }
    }

    /// What an error of the machine's process means.
    pub(super) async fn control_error(&self, error: ControlError) -> MicrosandboxError {
        let name = self.name.to_string();
        match error {
            ControlError::Connect(RunDirectoryError::NotRunning { .. }) | ControlError::Gone => {
                self.not_running().await
            }
            ControlError::Connect(error) => error.into(),
            ControlError::TimedOut { limit } => MicrosandboxError::Timeout {
                what: format!("The answer of the sandbox {name:?}"),
                after: limit,
            },
            ControlError::Refused(refusal) => match refusal.kind {
                RefusalKind::SessionInUse => MicrosandboxError::SessionInUse { name },
                RefusalKind::State => match self.observe().await {
                    Ok(Observed {
                        status: SandboxStatus::Draining,
                        ..
                    }) => MicrosandboxError::SandboxDraining { name },
                    _ => MicrosandboxError::Unsupported {
                        message: refusal.message,
                    },
                },
                RefusalKind::Protocol
                | RefusalKind::NoSession
                | RefusalKind::Limit
                | RefusalKind::Host => MicrosandboxError::Unsupported {
                    message: refusal.message,
                },
            },
            ControlError::Exec(failure) => refused(&name, failure),
            error
            @ (ControlError::Hello(_) | ControlError::Frame(_) | ControlError::Unexpected) => {
                MicrosandboxError::runtime("The machine's process cannot be understood")(error)
            }
        }
    }

    /// What it means that a session of the machine ended without its process.
    pub(crate) async fn session_error(&self, error: ChannelError) -> MicrosandboxError {
        if !matches!(error, ChannelError::Disconnected) {
            return lost(error);
        }
        let name = self.name.to_string();
        let ended = |end| MicrosandboxError::SandboxEnded { name, end };
        match timeout(LAST_WORDS, self.wait_until_stopped()).await {
            Ok(Ok(end)) => ended(Some(Box::new(end))),
            Ok(Err(
                MicrosandboxError::SandboxNotFound { .. } | MicrosandboxError::InvalidHandle { .. },
            )) => ended(None),
            Ok(Err(error)) => error,
            // A guest that shuts down closes the door first; one that goes on has closed this session only.
            Err(_) => match self.observe().await {
                Ok(Observed {
                    status: status @ SandboxStatus::Stopping,
                    ..
                }) => MicrosandboxError::SandboxNotRunning {
                    name: self.name.to_string(),
                    status,
                },
                _ => lost(error),
            },
        }
    }

    /// The sandbox and what it does.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`], and [`MicrosandboxError::InvalidHandle`] if another has its name.
    pub(super) async fn observe(&self) -> Result<Observed, MicrosandboxError> {
        let machine = self.clone();
        blocking(move || machine.look()).await
    }

    /// As [`observe`](Self::observe), on this thread.
    fn look(&self) -> Result<Observed, MicrosandboxError> {
        let of = self.of.as_ref().map(|(id, _)| id);
        Registry::open(&self.home)?.get_of(&self.name, of)
    }

    /// The error that it does not run.
    async fn not_running(&self) -> MicrosandboxError {
        let status = match self.observe().await {
            Ok(Observed { status, .. }) if !status.is_alive() => status,
            // It ends just now.
            Ok(_) => SandboxStatus::Stopping,
            Err(error) => return error,
        };
        MicrosandboxError::SandboxNotRunning {
            name: self.name.to_string(),
            status,
        }
    }

    /// As [`observe`](Self::observe), of a sandbox that has a machine.
    async fn observe_alive(&self) -> Result<Observed, MicrosandboxError> {
        let observed = self.observe().await?;
        if observed.status.is_alive() {
            return Ok(observed);
        }
        Err(MicrosandboxError::SandboxNotRunning {
            name: self.name.to_string(),
            status: observed.status,
        })
    }

    /// Asks for something and returns when it is heard.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`].
    pub(super) async fn request(&self, request: ControlRequest) -> Result<(), MicrosandboxError> {
        self.observe_alive().await?;
        self.control(move |mut machine| machine.ask(&request, ANSWER))
            .await
    }

    /// Stops the guest in good order, and waits until it has stopped. What does not stop is killed.
    pub(super) async fn stop(&self, grace: Duration) -> Result<(), MicrosandboxError> {
        let grace_ms = u32::try_from(milliseconds(grace)).unwrap_or(u32::MAX);
        self.end(
            ControlRequest::Stop { grace_ms },
            grace.saturating_add(SYNC),
        )
        .await
    }

    /// Ends the machine, and waits until it has ended. If it does not within `limit`, its process is killed.
    pub(super) async fn kill(&self, limit: Duration) -> Result<(), MicrosandboxError> {
        self.end(ControlRequest::Kill, limit).await
    }

    async fn end(&self, request: ControlRequest, limit: Duration) -> Result<(), MicrosandboxError> {
        let observed = self.observe_alive().await?;
        let Some(process) = self.process().await? else {
            return self.conclude(&observed.record).await;
        };
        let by_force = request == ControlRequest::Kill;
        let asked = self
            .try_control(move |mut machine| machine.ask(&request, ANSWER))
            .await?;
        let waiting = failed("wait for", self.directory.path());
        let ended = match asked {
            Err(ControlError::Refused(refusal)) if is_of_the_asker(&refusal) => {
                if !by_force {
                    return Err(self.cannot_stop(&refusal.message));
                }
                false
            }
            Err(ControlError::Hello(error)) if !by_force => return Err(self.cannot_stop(&error)),
            // It is stuck, or cannot be understood.
            Err(
                ControlError::TimedOut { .. }
                | ControlError::Hello(_)
                | ControlError::Frame(_)
                | ControlError::Unexpected,
            ) => false,
            // It ends already, or now.
            _ => match timeout(limit, process.gone()).await {
                Ok(result) => result.map(|()| true).map_err(waiting)?,
                Err(_) => false,
            },
        };
        if !ended {
            let killing = failed("kill the process of", self.directory.path());
            process.kill().map_err(killing)?;
            let gone = timeout(RELEASE, process.gone()).await;
            let gone = gone.map_err(|_| MicrosandboxError::Timeout {
                what: format!(
                    "The end of the killed process of the sandbox {:?}",
                    self.name.as_str()
                ),
                after: RELEASE,
            })?;
            gone.map_err(failed("wait for", self.directory.path()))?;
        }
        self.conclude(&observed.record).await
    }

    /// A machine that is in good order, but takes no requests of this program: to kill it is for whoever knows that its guest loses
    /// what it has not written.
    fn cannot_stop(&self, reason: &dyn fmt::Display) -> MicrosandboxError {
        MicrosandboxError::Unsupported {
            message: format!(
                "The sandbox {:?} cannot be asked to stop ({reason}), and what its guest has not written is lost when it is killed",
                self.name.as_str()
            ),
        }
    }

    /// Records the end of a machine that was asked to end, or killed because it did not.
    async fn conclude(&self, record: &Record) -> Result<(), MicrosandboxError> {
        let (home, record) = (self.home.clone(), record.clone());
        blocking(move || Registry::open(&home)?.conclude_dead(&record, StopReason::Killed)).await
    }

    /// The machine's process; `None` if there is none any more.
    ///
    /// # Errors
    /// [`MicrosandboxError::Timeout`] if there is none yet.
    async fn process(&self) -> Result<Option<Pidfd>, MicrosandboxError> {
        let machine = self.clone();
        blocking(move || {
            let Machine {
                directory, name, ..
            } = &machine;
            let status = directory.status()?;
            if machine.is_own(status.as_ref()) == Some(false) {
                return Ok(None);
            }
            let pid = match status {
                Some(status) => i32::try_from(status.pid).unwrap_or(0),
                // It is just being started: it answers when it is.
                None => match ControlClient::connect(directory, name, ANSWER) {
                    Ok(machine) => machine.pid(),
                    Err(_) if directory.is_locked()? => {
                        return Err(MicrosandboxError::Timeout {
                            what: format!("The start of the sandbox {:?}", name.as_str()),
                            after: ANSWER,
                        });
                    }
                    Err(_) => return Ok(None),
                },
            };
            let opening = failed("open the process of", directory.path());
            let process = Pidfd::open(pid).map_err(opening)?;
            // As long as the lock is held, the process is alive, and its number is its own.
            Ok(process.filter(|_| directory.is_locked().unwrap_or(false)))
        })
        .await
    }

    /// What the machine uses.
    pub(super) async fn metrics(&self) -> Result<SandboxMetrics, MicrosandboxError> {
        let metrics = self.control(|mut machine| machine.metrics(ANSWER)).await?;
        Ok(metrics.into())
    }
}

/// Whether a machine's process refuses whoever asks, and not what is asked: it is of another release, or has too many clients.
fn is_of_the_asker(refusal: &Refusal) -> bool {
    matches!(refusal.kind, RefusalKind::Protocol | RefusalKind::Limit)
}

/// Does `work` on a thread that may wait.
///
/// # Errors
/// Those of `work`.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MicrosandboxError> + Send + 'static,
) -> Result<T, MicrosandboxError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(MicrosandboxError::runtime("A thread of the library failed")(error)),
    }
}
