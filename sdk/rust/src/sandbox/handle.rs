//! A sandbox, as it is recorded.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::machine::Machine;
use super::{
    DEFAULT_KILL_TIMEOUT, DEFAULT_STOP_TIMEOUT, MetricsStream, Sandbox, SandboxConfig,
    SandboxMetrics, SandboxStatus, SandboxStopResult, removal, start,
};
use crate::control::ControlRequest;
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::registry::{Observed, SandboxDirectory};

/// A sandbox as it was when it was looked up, running or not. What is asked of it is asked of the sandbox as it is now.
///
/// ```no_run
/// use microsandbox::Sandbox;
///
/// # async fn example() -> Result<(), microsandbox::MicrosandboxError> {
/// for handle in Sandbox::list().await? {
///     println!("{}: {}", handle.name(), handle.status());
/// }
/// let handle = Sandbox::get("worker").await?;
/// if !handle.status().is_alive() {
///     handle.start_detached().await?;
/// }
/// let sandbox = handle.connect().await?;
/// sandbox.shell("sync").await?;
/// handle.stop().await?;
/// handle.remove().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SandboxHandle {
    home: Home,
    observed: Observed,
}

impl SandboxHandle {
    pub(super) fn new(home: &Home, observed: Observed) -> SandboxHandle {
        SandboxHandle {
            home: home.clone(),
            observed,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.observed.record.name.as_str()
    }

    /// What it did when it was looked up.
    pub fn status(&self) -> SandboxStatus {
        self.observed.status
    }

    /// Its configuration in JSON, as it is recorded.
    pub fn config_json(&self) -> &str {
        &self.observed.record.config
    }

    /// Its configuration.
    ///
    /// # Errors
    /// [`MicrosandboxError::InvalidConfig`] when it was recorded by a release that knows more of it.
    pub fn config(&self) -> Result<SandboxConfig, MicrosandboxError> {
        serde_json::from_str(self.config_json())
            .map_err(|error| MicrosandboxError::invalid("config", error))
    }

    /// When it was created.
    pub fn created_at(&self) -> SystemTime {
        self.observed.record.created_at
    }

    /// When it was last created, started or seen to have ended.
    pub fn updated_at(&self) -> SystemTime {
        self.observed.record.updated_at
    }

    /// How its last run ended, if one has. While it runs, that is the run before.
    pub fn last_stop(&self) -> Option<SandboxStopResult> {
        let end = self.observed.record.ended.clone()?;
        Some(super::ending::result_of(self.name(), end))
    }

    /// Whether nothing of it remains when it has ended.
    pub fn is_ephemeral(&self) -> bool {
        self.observed.record.ephemeral
    }

    /// Where it keeps its log and its private layer.
    pub fn directory(&self) -> PathBuf {
        SandboxDirectory::of(&self.home, &self.observed.record.id)
            .path()
            .to_owned()
    }

    /// Where what its processes write is logged.
    pub fn log_directory(&self) -> PathBuf {
        SandboxDirectory::of(&self.home, &self.observed.record.id).logs()
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::of(&self.home, &self.observed.record)
    }

    /// The sandbox as it is now.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`]; [`MicrosandboxError::InvalidHandle`] if another sandbox has its name.
    pub async fn refresh(&self) -> Result<SandboxHandle, MicrosandboxError> {
        let observed = self.machine().observe().await?;
        Ok(SandboxHandle::new(&self.home, observed))
    }

    /// The running sandbox, which ends neither with the value that is returned nor with this process.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`].
    pub async fn connect(&self) -> Result<Sandbox, MicrosandboxError> {
        let fresh = self.refresh().await?;
        if !fresh.status().is_alive() {
            return Err(MicrosandboxError::SandboxNotRunning {
                name: fresh.name().to_owned(),
                status: fresh.status(),
            });
        }
        let config = fresh.config()?;
        Ok(Sandbox::connected(
            config,
            fresh.machine(),
            fresh.log_directory(),
        ))
    }

    /// Starts it. It ends with the value that is returned, and with this process.
    ///
    /// # Errors
    /// As [`Sandbox::start`]; [`MicrosandboxError::InvalidHandle`] if another sandbox has its name.
    pub async fn start(&self) -> Result<Sandbox, MicrosandboxError> {
        self.start_as(false).await
    }

    /// Starts it. It outlives this process.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_detached(&self) -> Result<Sandbox, MicrosandboxError> {
        self.start_as(true).await
    }

    async fn start_as(&self, detached: bool) -> Result<Sandbox, MicrosandboxError> {
        let record = &self.observed.record;
        start::start(
            self.home.clone(),
            record.name.as_str(),
            Some(record.id.clone()),
            detached,
        )
        .await
    }

    /// Forgets it and removes what it kept.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxRunning`] unless it is stopped.
    pub async fn remove(&self) -> Result<(), MicrosandboxError> {
        let record = &self.observed.record;
        removal::remove(
            self.home.clone(),
            record.name.clone(),
            Some(record.id.clone()),
        )
        .await
    }
}

/// What can be asked of a running sandbox, of both kinds of values that stand for one.
macro_rules! lifecycle {
    ($type:ty) => {
        impl $type {
            /// Stops the sandbox in good order, and waits until it has stopped: its processes have 10 s between SIGTERM and
            /// SIGKILL, then everything is synced and unmounted. A guest that does not react is killed.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn stop(&self) -> Result<(), MicrosandboxError> {
                self.stop_with_timeout(DEFAULT_STOP_TIMEOUT).await
            }

            /// As [`stop`](Self::stop), with so much time between SIGTERM and SIGKILL; zero skips SIGTERM.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn stop_with_timeout(
                &self,
                timeout: Duration,
            ) -> Result<(), MicrosandboxError> {
                self.machine().stop(timeout).await
            }

            /// Asks the sandbox to stop in good order, with 10 s between SIGTERM and SIGKILL, and returns when that is heard.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn request_stop(&self) -> Result<(), MicrosandboxError> {
                let grace_ms = u32::try_from(DEFAULT_STOP_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
                self.machine()
                    .request(ControlRequest::Stop { grace_ms })
                    .await
            }

            /// Ends the sandbox at once, and waits until it has ended. What its processes have not synced may be lost.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn kill(&self) -> Result<(), MicrosandboxError> {
                self.kill_with_timeout(DEFAULT_KILL_TIMEOUT).await
            }

            /// As [`kill`](Self::kill). If the machine has not ended after `timeout`, its process is killed.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn kill_with_timeout(
                &self,
                timeout: Duration,
            ) -> Result<(), MicrosandboxError> {
                self.machine().kill(timeout).await
            }

            /// Asks the sandbox to end at once, and returns when that is heard.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn request_kill(&self) -> Result<(), MicrosandboxError> {
                self.machine().request(ControlRequest::Kill).await
            }

            /// Asks the sandbox to take no new commands and to stop when those that run have ended; returns when that is
            /// heard.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn request_drain(&self) -> Result<(), MicrosandboxError> {
                self.machine().request(ControlRequest::Drain).await
            }

            /// Halts its processors, until it is resumed.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn pause(&self) -> Result<(), MicrosandboxError> {
                self.machine().request(ControlRequest::Pause).await
            }

            /// Lets its processors go on.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn resume(&self) -> Result<(), MicrosandboxError> {
                self.machine().request(ControlRequest::Resume).await
            }

            /// Waits until the sandbox has ended, for whatever reason, and tells how. Of one that does not run, it tells how
            /// the last run ended.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotFound`] if it was removed, as an ephemeral one is at its end: how that was is
            /// told to those who wait already.
            pub async fn wait_until_stopped(&self) -> Result<SandboxStopResult, MicrosandboxError> {
                self.machine().wait_until_stopped().await
            }

            /// What it uses now.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn metrics(&self) -> Result<SandboxMetrics, MicrosandboxError> {
                self.machine().metrics().await
            }

            /// What it uses, read again and again with `interval` between, which is 1 ms at least.
            ///
            /// # Errors
            /// [`MicrosandboxError::SandboxNotRunning`].
            pub async fn metrics_stream(
                &self,
                interval: Duration,
            ) -> Result<MetricsStream, MicrosandboxError> {
                MetricsStream::new(self.machine().clone(), interval).await
            }
        }
    };
}

lifecycle!(SandboxHandle);
lifecycle!(Sandbox);
