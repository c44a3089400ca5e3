//! The sandboxes of a home.

use std::collections::BTreeMap;
use std::process::Stdio;

use tokio::task::JoinSet;

use crate::error::{MicrosandboxError, NotInstalled};
use crate::home::Home;
use crate::launch::{INITRAMFS, KERNEL, Program};
use crate::sandbox::{
    Sandbox, SandboxBuilder, SandboxConfig, SandboxFilter, SandboxHandle, SandboxListing,
    SandboxMetrics, SandboxStatus,
};

/// The sandboxes of one home. [`Sandbox`] has the same calls for the home that the environment names.
///
/// ```no_run
/// use microsandbox::Microsandbox;
/// use microsandbox::home::Home;
///
/// # async fn example() -> Result<(), microsandbox::MicrosandboxError> {
/// let microsandbox = Microsandbox::at(Home::at("/var/lib/ci/microsandbox"));
/// for sandbox in microsandbox.list().await? {
///     println!("{} is {}", sandbox.name(), sandbox.status());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Microsandbox {
    home: Home,
}

impl Microsandbox {
    /// Of this home.
    pub fn at(home: Home) -> Microsandbox {
        Microsandbox { home }
    }

    /// Of the home that the environment names, see [`Home::from_environment`].
    ///
    /// # Errors
    /// When it names none.
    pub fn from_environment() -> Result<Microsandbox, MicrosandboxError> {
        Ok(Microsandbox::at(Home::from_environment()?))
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Begins to make a sandbox.
    pub fn builder(&self, name: impl Into<String>) -> SandboxBuilder {
        Sandbox::builder(name).home(self.home.clone())
    }

    /// See [`Sandbox::create`].
    ///
    /// # Errors
    /// As [`SandboxBuilder::create`].
    pub async fn create(&self, config: SandboxConfig) -> Result<Sandbox, MicrosandboxError> {
        self.builder("").with_config(config).create().await
    }

    /// See [`Sandbox::get`].
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`].
    pub async fn get(&self, name: &str) -> Result<SandboxHandle, MicrosandboxError> {
        crate::sandbox::get(self.home.clone(), name).await
    }

    /// See [`Sandbox::list`].
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list(&self) -> Result<Vec<SandboxHandle>, MicrosandboxError> {
        self.list_with(SandboxFilter::new()).await
    }

    /// See [`Sandbox::list_with`].
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list_with(
        &self,
        filter: SandboxFilter,
    ) -> Result<Vec<SandboxHandle>, MicrosandboxError> {
        self.list_readable(filter).await?.complete()
    }

    /// See [`Sandbox::list_readable`].
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn list_readable(
        &self,
        filter: SandboxFilter,
    ) -> Result<SandboxListing, MicrosandboxError> {
        crate::sandbox::list(self.home.clone(), filter).await
    }

    /// See [`Sandbox::start`].
    ///
    /// # Errors
    /// As [`Sandbox::start`].
    pub async fn start(&self, name: &str) -> Result<Sandbox, MicrosandboxError> {
        crate::sandbox::start(self.home.clone(), name, None, false).await
    }

    /// See [`Sandbox::start_detached`].
    ///
    /// # Errors
    /// As [`Sandbox::start`].
    pub async fn start_detached(&self, name: &str) -> Result<Sandbox, MicrosandboxError> {
        crate::sandbox::start(self.home.clone(), name, None, true).await
    }

    /// See [`Sandbox::remove`].
    ///
    /// # Errors
    /// As [`Sandbox::remove`].
    pub async fn remove(&self, name: &str) -> Result<(), MicrosandboxError> {
        crate::sandbox::remove(self.home.clone(), name).await
    }

    /// See [`all_sandbox_metrics`].
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn all_sandbox_metrics(
        &self,
    ) -> Result<BTreeMap<String, SandboxMetrics>, MicrosandboxError> {
        let mut readings = JoinSet::new();
        for sandbox in self.list().await? {
            let serves = matches!(
                sandbox.status(),
                SandboxStatus::Running | SandboxStatus::Draining
            );
            if serves {
                readings.spawn(async move {
                    let metrics = sandbox.metrics().await;
                    (sandbox.name().to_owned(), metrics)
                });
            }
        }
        let mut all = BTreeMap::new();
        while let Some(reading) = readings.join_next().await {
            // One that ended meanwhile has none.
            if let Ok((name, Ok(metrics))) = reading {
                all.insert(name, metrics);
            }
        }
        Ok(all)
    }

    /// See [`is_installed`].
    pub fn is_installed(&self) -> bool {
        self.ensure_installed().is_ok()
    }

    /// See [`ensure_installed`].
    ///
    /// # Errors
    /// As [`ensure_installed`].
    pub fn ensure_installed(&self) -> Result<(), MicrosandboxError> {
        let program = Program::find(&self.home)?;
        KERNEL.find(None, &program, &self.home)?;
        INITRAMFS.find(None, &program, &self.home)?;
        let (release, wanted) = (release_of(&program)?, sdk_version());
        if release == wanted {
            return Ok(());
        }
        Err(MicrosandboxError::NotInstalled(
            NotInstalled::OtherRelease {
                path: program.path().to_owned(),
                release,
                wanted,
            },
        ))
    }

    /// See [`runtime_version`].
    ///
    /// # Errors
    /// [`MicrosandboxError::NotInstalled`]; [`MicrosandboxError::Runtime`] if the program does not tell.
    pub async fn runtime_version(&self) -> Result<String, MicrosandboxError> {
        let home = self.home.clone();
        crate::sandbox::blocking(move || release_of(&Program::find(&home)?)).await
    }
}

/// Asks a program `msb` for its release.
fn release_of(program: &Program) -> Result<String, MicrosandboxError> {
    let output = std::process::Command::new(program.path())
        .args(["version", "--format", "json"])
        .stdin(Stdio::null())
        .output()
        .map_err(crate::error::failed("run", program.path()))?;
    let version = serde_json::from_slice::<RuntimeVersion>(&output.stdout);
    let version = version.map_err(MicrosandboxError::runtime(
        "The program msb does not tell its version",
    ))?;
    Ok(version.version)
}

/// What `msb version --format json` prints, as far as it matters.
#[derive(serde::Deserialize)]
struct RuntimeVersion {
    version: String,
}

/// What each sandbox uses that is running or draining, by name.
///
/// # Errors
/// When the database cannot be used.
pub async fn all_sandbox_metrics() -> Result<BTreeMap<String, SandboxMetrics>, MicrosandboxError> {
    Microsandbox::from_environment()?
        .all_sandbox_metrics()
        .await
}

/// Whether `msb` of this library's release, the guest's kernel and its initramfs are here: `msb` is asked, which takes some
/// milliseconds. Nothing is downloaded.
pub fn is_installed() -> bool {
    Microsandbox::from_environment().is_ok_and(|microsandbox| microsandbox.is_installed())
}

/// As [`is_installed`], with what is missing.
///
/// # Errors
/// [`MicrosandboxError::NotInstalled`], with what is missing and where it was looked for; [`MicrosandboxError::Runtime`] if the
/// program does not tell its release.
pub fn ensure_installed() -> Result<(), MicrosandboxError> {
    Microsandbox::from_environment()?.ensure_installed()
}

/// Release of this library.
pub fn sdk_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Release of the `msb` that sandboxes are started with.
///
/// # Errors
/// [`MicrosandboxError::NotInstalled`]; [`MicrosandboxError::Runtime`] if the program does not tell.
pub async fn runtime_version() -> Result<String, MicrosandboxError> {
    Microsandbox::from_environment()?.runtime_version().await
}
