//! A running sandbox.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::machine::Machine;
use super::{SandboxBuilder, SandboxConfig, SandboxFilter, SandboxHandle, SandboxListing, reaper};
use crate::control::ControlRequest;
use crate::error::{MicrosandboxError, failed};
use crate::launch::{MachineProcess, Startup};
use crate::microsandbox::Microsandbox;

/// A running sandbox. It can be used by any number of tasks at a time.
///
/// One that is *attached*, as it is if nothing else is asked for, ends with this value and with this process, in whatever way
/// that ends. One that is *detached* goes on.
///
/// When another sandbox has taken its name, calls fail with [`MicrosandboxError::InvalidHandle`]; nothing reaches the other one.
///
/// ```no_run
/// use microsandbox::Sandbox;
///
/// # async fn example() -> Result<(), microsandbox::MicrosandboxError> {
/// let sandbox = Sandbox::builder("worker")
///     .image("./rootfs")
///     .memory(256)
///     .label("user.id", "alice")
///     .create()
///     .await?;
/// println!("{:?}", sandbox.metrics().await?);
/// sandbox.stop().await?;
/// println!("{:?}", sandbox.wait_until_stopped().await?.reason);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sandbox {
    config: SandboxConfig,
    machine: Machine,
    logs: PathBuf,
    startup: Option<Startup>,
    /// Whether this value is of the one who started it.
    started: bool,
    /// The machine's process, if it ends with this value.
    owned: Mutex<Option<MachineProcess>>,
}

impl Sandbox {
    pub(super) fn started(
        config: SandboxConfig,
        machine: Machine,
        logs: PathBuf,
        startup: Startup,
        owned: Option<MachineProcess>,
    ) -> Sandbox {
        Sandbox {
            config,
            machine,
            logs,
            startup: Some(startup),
            started: true,
            owned: Mutex::new(owned),
        }
    }

    pub(super) fn connected(config: SandboxConfig, machine: Machine, logs: PathBuf) -> Sandbox {
        Sandbox {
            config,
            machine,
            logs,
            startup: None,
            started: false,
            owned: Mutex::new(None),
        }
    }

    /// Begins to make a sandbox in the home that the environment names: [`create`](SandboxBuilder::create) at the end starts
    /// it.
    pub fn builder(name: impl Into<String>) -> SandboxBuilder {
        SandboxBuilder::new(name.into())
    }

    /// Creates a sandbox and waits until its guest is up.
    ///
    /// # Errors
    /// As [`SandboxBuilder::create`].
    pub async fn create(config: SandboxConfig) -> Result<Sandbox, MicrosandboxError> {
        Microsandbox::from_environment()?.create(config).await
    }

    /// The sandbox of this name, running or not.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`].
    pub async fn get(name: &str) -> Result<SandboxHandle, MicrosandboxError> {
        Microsandbox::from_environment()?.get(name).await
    }

    /// All sandboxes, newest first.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list() -> Result<Vec<SandboxHandle>, MicrosandboxError> {
        Sandbox::list_with(SandboxFilter::new()).await
    }

    /// The sandboxes that are wanted, newest first.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list_with(filter: SandboxFilter) -> Result<Vec<SandboxHandle>, MicrosandboxError> {
        Microsandbox::from_environment()?.list_with(filter).await
    }

    /// As [`list_with`](Self::list_with), but a sandbox whose record cannot be read, because somebody damaged it, keeps none of
    /// the others from being listed.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list_readable(filter: SandboxFilter) -> Result<SandboxListing, MicrosandboxError> {
        Microsandbox::from_environment()?
            .list_readable(filter)
            .await
    }

    /// Starts a sandbox that is stopped, as it is recorded. It ends with the value that is returned, and with this process.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`], [`MicrosandboxError::SandboxRunning`], [`MicrosandboxError::BootFailed`].
    pub async fn start(name: &str) -> Result<Sandbox, MicrosandboxError> {
        Microsandbox::from_environment()?.start(name).await
    }

    /// As [`start`](Self::start), but it outlives this process.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_detached(name: &str) -> Result<Sandbox, MicrosandboxError> {
        Microsandbox::from_environment()?.start_detached(name).await
    }

    /// Forgets a sandbox and removes what it kept.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`]; [`MicrosandboxError::SandboxRunning`] unless it is stopped.
    pub async fn remove(name: &str) -> Result<(), MicrosandboxError> {
        Microsandbox::from_environment()?.remove(name).await
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it was created with.
    pub fn config(&self) -> &SandboxConfig {
        &self.config
    }

    /// When the steps of its start happened, if this value is of the one who started it.
    pub fn startup(&self) -> Option<&Startup> {
        self.startup.as_ref()
    }

    /// Where what its processes write is logged.
    pub fn log_directory(&self) -> &Path {
        &self.logs
    }

    /// Its machine, as others reach it, too.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// A fresh connection to the agent in the guest, for [`session`](crate::session): one connection is one session.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`].
    pub async fn connect_agent(&self) -> Result<UnixStream, MicrosandboxError> {
        let stream = self.machine.connect_agent().await?;
        let blocking = stream.into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        blocking.map_err(failed("connect to", self.machine.directory().path()))
    }

    /// Whether it ends with this value.
    pub fn owns_lifecycle(&self) -> bool {
        self.owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Lets the sandbox go on without this value and this process.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`] if it has ended, also if somebody has started it again.
    pub async fn detach(self) -> Result<(), MicrosandboxError> {
        if self.owns_lifecycle() {
            // A run that somebody else began is not this value's to give away.
            self.machine.check_run().await?;
            self.machine.request(ControlRequest::Release).await?;
        }
        if let Some(process) = self.take_owned() {
            reaper::adopt(process);
        }
        Ok(())
    }

    /// Stops the sandbox if this value is of the one who started it, attached or detached; otherwise lets go of it. A run that
    /// somebody began since goes on.
    ///
    /// # Errors
    /// When it cannot be stopped, or its end cannot be recorded; that it has ended is none.
    pub async fn close(self) -> Result<(), MicrosandboxError> {
        if !self.started {
            return Ok(());
        }
        let stopping = async {
            self.machine.check_run().await?;
            self.stop().await
        };
        let stopped = match stopping.await {
            Err(
                MicrosandboxError::SandboxNotRunning { .. }
                | MicrosandboxError::SandboxNotFound { .. }
                | MicrosandboxError::InvalidHandle { .. },
            ) => Ok(()),
            result => result,
        };
        if let Some(process) = self.take_owned() {
            reaper::stop(process).await;
        }
        stopped
    }

    fn take_owned(&self) -> Option<MachineProcess> {
        self.owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(process) = self.take_owned() {
            let machine = &self.machine;
            reaper::end(process, machine.directory().clone(), machine.name().clone());
        }
    }
}
