//! From a configuration to a machine whose guest is up.
//!
//! In this order, so that whoever dies in between leaves nothing: the lock of the name is taken; the record is added, which
//! decides who has the name; the directory is made; the machine's process is started, which keeps the lock; its guest comes
//! up; and that is recorded. Until then, a record whose lock is free is removed by the next reader.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::image::{provide_image, recorded, take_image};
use super::machine::{Machine, blocking};
use super::readiness::readable;
use super::resolve::{Circumstances, Layer, Resolved, check, make_absolute, resolve};
use super::snapshot::take_snapshot;
use super::validate::{parse_name, validate};
use super::{Sandbox, SandboxConfig, StopReason, reaper};
use crate::error::{BootFailure, MicrosandboxError, failed};
use crate::home::Home;
use crate::identity::Id;
use crate::images::RegistryAuth;
use crate::launch::{MachineProcess, Program, Report, Startup};
use crate::names::Name;
use crate::registry::{Record, Registry};
use crate::run_directory::{Claim, RunDirectory, RunDirectoryError};

/// Time between SIGTERM and SIGKILL for a sandbox that is replaced.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a creator stops those who have the name that it is to replace.
const MAX_REPLACED: u32 = 8;

/// Creates a sandbox and waits until its guest is up.
///
/// # Errors
/// See [`SandboxBuilder::create`](super::SandboxBuilder::create).
pub(super) async fn create(
    home: Home,
    mut config: SandboxConfig,
    console: Option<File>,
    auth: Option<RegistryAuth>,
) -> Result<Sandbox, MicrosandboxError> {
    let name = validate(&config)?;
    config.replace |= config.replace_timeout_ms.is_some();
    // The image stays until it is recorded that the sandbox is made of it.
    let provided = provide_image(&home, &config, auth).await?;
    let (claim, config, image, base) = blocking({
        let (home, name) = (home.clone(), name.clone());
        move || {
            let base = take_snapshot(&home, &mut config)?;
            let image =
                make_absolute(&mut config).and_then(|()| take_image(&home, &mut config, provided));
            let image = match &base {
                Some(base) => image.map_err(|error| base.explain(error))?,
                None => image?,
            };
            if config.replace {
                check(&config, &home)?;
            }
            Ok((try_claim(&home, &name)?, config, image, base))
        }
    })
    .await?;
    let claim = match claim {
        Some(claim) => claim,
        None if config.replace => take_over(&home, &name, config.replace_timeout_ms).await?,
        None => {
            return Err(MicrosandboxError::SandboxAlreadyExists {
                name: name.to_string(),
            });
        }
    };
    let starting = blocking(move || {
        let layer = base
            .as_ref()
            .map_or(Layer::New, |base| Layer::CopyOf(&base.upper));
        Starting::create(&home, name, config, claim, console, layer)
    })
    .await?;
    drop(image);
    starting.ready().await
}

/// Starts a sandbox that is recorded and has no machine, and waits until its guest is up. With an identity, it is that sandbox
/// or none.
///
/// # Errors
/// See [`Sandbox::start`].
pub(crate) async fn start(
    home: Home,
    name: &str,
    of: Option<Id>,
    detached: bool,
) -> Result<Sandbox, MicrosandboxError> {
    let name = parse_name(name)?;
    let starting = blocking(move || {
        let registry = Registry::open(&home)?;
        let Some(claim) = try_claim(&home, &name)? else {
            // Somebody who removes it has the name, too.
            registry.get_of(&name, of.as_ref())?;
            return Err(MicrosandboxError::SandboxRunning {
                name: name.to_string(),
            });
        };
        Starting::restart(registry, name, of, detached, claim)
    })
    .await?;
    starting.ready().await
}

/// The lock of the name; `None` if somebody has it.
pub(super) fn try_claim(home: &Home, name: &Name) -> Result<Option<Claim>, MicrosandboxError> {
    match RunDirectory::claim(home, name) {
        Ok(claim) => Ok(Some(claim)),
        Err(RunDirectoryError::NameInUse { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stops whoever has the name, and takes its lock.
async fn take_over(
    home: &Home,
    name: &Name,
    timeout_ms: Option<u64>,
) -> Result<Claim, MicrosandboxError> {
    let timeout = timeout_ms.map_or(REPLACE_TIMEOUT, Duration::from_millis);
    for _ in 0..MAX_REPLACED {
        let machine = Machine::new(home, name);
        let stopped = if timeout.is_zero() {
            machine.kill(timeout).await
        } else {
            machine.stop(timeout).await
        };
        match stopped {
            Ok(())
            | Err(
                MicrosandboxError::SandboxNotRunning { .. }
                | MicrosandboxError::SandboxNotFound { .. },
            ) => {}
            Err(error) => return Err(error),
        }
        let (home, name) = (home.clone(), name.clone());
        if let Some(claim) = blocking(move || try_claim(&home, &name)).await? {
            return Ok(claim);
        }
    }
    Err(MicrosandboxError::SandboxAlreadyExists {
        name: name.to_string(),
    })
}

/// A machine whose guest is not up yet. Dropping it takes everything back.
struct Starting {
    registry: Arc<Registry>,
    record: Record,
    config: SandboxConfig,
    detached: bool,
    /// Whether the sandbox is created, and not only started.
    created: bool,
    /// `None` when it is over.
    process: Option<MachineProcess>,
}

impl Starting {
    fn create(
        home: &Home,
        name: Name,
        config: SandboxConfig,
        claim: Claim,
        console: Option<File>,
        layer: Layer<'_>,
    ) -> Result<Starting, MicrosandboxError> {
        let directory = claim.directory.clone();
        let begin = || {
            let registry = Arc::new(Registry::open(home)?);
            registry.remove_orphans()?;
            let text = serde_json::to_string(&config)
                .map_err(|error| MicrosandboxError::invalid("image", error))?;
            let record = Record {
                image: recorded(&config)?,
                ..Record::new(Registry::new_id()?, &name, text, config.ephemeral)
            };
            if config.replace {
                registry.replace(&record, &config.labels)?;
            } else {
                registry.create(&record, &config.labels)?;
            }
            Ok((registry, record))
        };
        let (registry, record) = match begin() {
            Ok(begun) => begun,
            Err(error) => {
                let_go(claim);
                return Err(error);
            }
        };
        let detached = config.detached;
        let made = registry.directory(&record).make(home);
        let starting = made.and_then(|()| {
            Starting::spawn(&registry, &record, &config, claim, console, detached, layer)
        });
        let process = starting.inspect_err(|_| {
            // What cannot be taken back, the next reader does.
            let _ = registry.forget(&record);
            let _ = directory.remove_if_left_over();
        })?;
        Ok(Starting {
            registry,
            record,
            config,
            detached,
            created: true,
            process: Some(process),
        })
    }

    fn restart(
        registry: Registry,
        name: Name,
        of: Option<Id>,
        detached: bool,
        claim: Claim,
    ) -> Result<Starting, MicrosandboxError> {
        let registry = Arc::new(registry);
        let directory = claim.directory.clone();
        let begin = || {
            let observed = registry.get_of(&name, of.as_ref())?;
            let config = serde_json::from_str(&observed.record.config)
                .map_err(|error| MicrosandboxError::invalid("config", error))?;
            Ok((registry.begin_run(&name)?, config))
        };
        let (record, config): (Record, SandboxConfig) = match begin() {
            Ok(begun) => begun,
            Err(error) => {
                let_go(claim);
                return Err(error);
            }
        };
        let layer = Layer::Kept;
        let spawned = Starting::spawn(&registry, &record, &config, claim, None, detached, layer);
        let process = spawned.inspect_err(|_| {
            // What cannot be taken back, the next reader concludes.
            let _ = registry.cancel_run(&record);
            let _ = directory.remove_if_left_over();
        })?;
        Ok(Starting {
            registry,
            record,
            config,
            detached,
            created: false,
            process: Some(process),
        })
    }

    fn spawn(
        registry: &Registry,
        record: &Record,
        config: &SandboxConfig,
        claim: Claim,
        console: Option<File>,
        detached: bool,
        layer: Layer<'_>,
    ) -> Result<MachineProcess, MicrosandboxError> {
        let home = registry.home();
        let program = Program::find(home)?;
        let directory = registry.directory(record);
        let circumstances = Circumstances {
            home,
            program: &program,
            name: &record.name,
            directory: &directory,
            layer,
            detached,
        };
        let Resolved { launch, volumes } = resolve(config, circumstances)?;
        if layer.is_new() && !config.ephemeral {
            directory.sync()?;
        }
        claim.directory.set_config(config)?;
        let name = record.name.clone();
        Ok(MachineProcess::spawn(
            &program, name, claim, launch, volumes, console,
        )?)
    }

    /// Waits until the guest is up. If the caller does not wait for the end of this, everything is taken back.
    async fn ready(mut self) -> Result<Sandbox, MicrosandboxError> {
        let startup = self.wait_for_report().await?;
        let (registry, record) = (Arc::clone(&self.registry), self.record.clone());
        blocking(move || registry.set_ready(&record)).await?;
        let process = self.process.take();
        let owned = match process {
            Some(process) if self.detached => {
                reaper::adopt(process);
                None
            }
            process => process,
        };
        let machine = Machine::of(self.registry.home(), &self.record);
        let config = self.config.clone();
        let logs = self.registry.directory(&self.record).logs();
        Ok(Sandbox::started(config, machine, logs, startup, owned))
    }

    async fn wait_for_report(&mut self) -> Result<Startup, MicrosandboxError> {
        let name = self.record.name.to_string();
        let Some(process) = &mut self.process else {
            return Err(ended_early(name));
        };
        let waiting = |error| {
            failed(
                "wait for",
                RunDirectory::of(self.registry.home(), &self.record.name).path(),
            )(error)
        };
        let reports = readable(process.reports()).map_err(waiting)?;
        loop {
            // It reads until there is nothing left.
            let mut ready = reports.readable().await.map_err(waiting)?;
            match process.next_report()? {
                Some(Report::Ready(startup)) => return Ok(startup),
                Some(Report::Failed(failure)) => {
                    let failure = BootFailure::new(&name, failure);
                    return Err(MicrosandboxError::BootFailed(Box::new(failure)));
                }
                Some(Report::Ended { .. }) => return Err(ended_early(name)),
                None if process.has_ended() => return Err(ended_early(name)),
                None => ready.clear_ready(),
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        // Ends it, and waits for that.
        drop(process);
        // What cannot be recorded here, the next reader records.
        let _ = if self.created {
            self.registry.forget(&self.record)
        } else {
            self.registry
                .conclude_dead(&self.record, StopReason::StartFailed)
        };
    }
}

/// The process ended without a word, as it does when it is killed.
fn ended_early(name: String) -> MicrosandboxError {
    MicrosandboxError::BootFailed(Box::new(BootFailure {
        name,
        stage: None,
        errno: 0,
        message: "The machine's process ended before its guest was up".to_owned(),
        causes: Vec::new(),
        console: Vec::new(),
    }))
}

pub(super) fn let_go(claim: Claim) {
    // What cannot be removed, the next command removes.
    let _ = claim.directory.remove(claim.lock);
}
