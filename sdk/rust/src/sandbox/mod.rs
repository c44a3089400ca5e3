//! Sandboxes: created, started, used, stopped, and found again by name.

mod builder;
mod commit;
mod config;
mod ending;
mod exec;
mod filter;
mod fs;
mod handle;
mod image;
mod logs;
mod machine;
mod metrics;
mod mount;
mod patch;
mod pidfd;
mod readiness;
mod reaper;
mod removal;
mod resolve;
mod rlimit;
mod running;
mod snapshot;
mod start;
mod status;
mod stop_signal;
mod stopped;
mod upper;
mod validate;
mod watching;

use std::time::Duration;

pub use self::image::{
    image_command, image_environment, image_init, image_name, image_patches, image_stop_signal,
    image_user, root_disk, working_directory,
};
pub use crate::control::StopReason;
pub use builder::SandboxBuilder;
pub use commit::CommitOptions;
pub use config::{
    DEFAULT_CPUS, DEFAULT_MEMORY_MIB, DEFAULT_UPPER_MIB, DiskCache, InitConfig, LogLevel,
    RootAccessConfig, SandboxConfig, SecurityProfile,
};
pub use exec::{
    AttachEnd, ExecControls, ExecEvent, ExecExit, ExecOptions, ExecOutput, Execution, Stdin,
    StdinWriter,
};
pub use filter::{SandboxFilter, SandboxListing};
pub use fs::{
    CopyOptions, CopyReport, FsEntry, FsEntryKind, FsMetadata, FsReadStream, FsWriteStream,
    SandboxFs, Skipped,
};
pub use handle::SandboxHandle;
pub use metrics::{MetricsStream, SandboxMetrics};
pub use mount::{BindCache, MountConfig, MountKind, NamedMode, NamedStorage};
pub use patch::{PatchConfig, check_patchable, launch_patches};
pub use rlimit::{Rlimit, RlimitResource};
pub use running::Sandbox;
pub use status::{SandboxStatus, SandboxStopResult};
pub use stop_signal::{NoSignal, StopSignal};

pub(crate) use machine::blocking;
pub(crate) use start::start;
pub(crate) use stopped::StoppedSandbox;

use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::registry::Registry;

/// Time between SIGTERM and SIGKILL when a sandbox is stopped, unless given.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a machine may take to end when it is killed, before its process is.
pub const DEFAULT_KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The sandbox of this name.
pub(crate) async fn get(home: Home, name: &str) -> Result<SandboxHandle, MicrosandboxError> {
    let name = validate::parse_name(name)?;
    blocking(move || {
        let observed = Registry::open(&home)?.get(&name)?;
        Ok(SandboxHandle::new(&home, observed))
    })
    .await
}

/// The sandboxes that are wanted, newest first, as far as their records can be read.
pub(crate) async fn list(
    home: Home,
    filter: SandboxFilter,
) -> Result<SandboxListing, MicrosandboxError> {
    blocking(move || {
        let listing = Registry::open(&home)?.list(filter.labels())?;
        let observed = listing.observed.into_iter();
        let handle = |observed| SandboxHandle::new(&home, observed);
        let unreadable = listing.unreadable.into_iter();
        Ok(SandboxListing {
            sandboxes: observed.map(handle).collect(),
            unreadable: unreadable.map(MicrosandboxError::from).collect(),
        })
    })
    .await
}

/// Forgets the sandbox of this name.
pub(crate) async fn remove(home: Home, name: &str) -> Result<(), MicrosandboxError> {
    removal::remove(home, validate::parse_name(name)?, None).await
}
