//! Sandboxes: created, started, used, stopped, and found again by name.

mod builder;
mod config;
mod exec;
mod filter;
mod fs;
mod handle;
mod machine;
mod mount;
mod rlimit;
mod status;

pub use crate::control::StopReason;
pub use builder::SandboxBuilder;
pub use config::{
    DEFAULT_CPUS, DEFAULT_MEMORY_MIB, DEFAULT_UPPER_MIB, DiskCache, InitConfig, LogLevel,
    RootAccessConfig, SandboxConfig, SecurityProfile,
};
pub use exec::{
    AttachEnd, ExecControls, ExecEvent, ExecExit, ExecOptions, ExecOutput, Execution, Stdin,
    StdinWriter,
};
pub use filter::SandboxFilter;
pub use fs::{
    CopyOptions, CopyReport, FsEntry, FsEntryKind, FsMetadata, FsReadStream, FsWriteStream,
    SandboxFs, Skipped,
};
pub use handle::SandboxHandle;
pub use mount::{BindCache, MountConfig, MountKind, NamedMode, NamedStorage};
pub use rlimit::{Rlimit, RlimitResource};
pub use status::{SandboxStatus, SandboxStopResult};

use machine::Machine;

/// A running sandbox. It can be used by any number of tasks at a time.
#[derive(Debug)]
pub struct Sandbox {
    config: SandboxConfig,
    machine: Machine,
}

impl Sandbox {
    /// Begins to make a sandbox: `.create()` at the end starts it.
    pub fn builder(name: impl Into<String>) -> SandboxBuilder {
        SandboxBuilder::new(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it was created with.
    pub fn config(&self) -> &SandboxConfig {
        &self.config
    }

    /// Its machine, as others reach it, too.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }
}
