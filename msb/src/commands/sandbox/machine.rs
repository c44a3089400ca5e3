//! What the machine of a sandbox is made of.

use std::path::PathBuf;

use clap::Args;

use crate::host::host_memory;
use crate::logging::LogLevel;
use crate::options::{check_memory, parse_whole_mebibytes};

/// Processors, memory, and what is booted.
#[derive(Debug, Args)]
pub(in crate::commands) struct MachineArguments {
    /// Virtual processors, 1 to 32
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) cpus: u8,

    /// Memory of the guest, 64M to 64G; a bare number counts MiB
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = parse_whole_mebibytes)]
    pub(super) memory: u32,

    /// The guest's kernel [default: $MSB_KERNEL, else vmlinux beside msb or in $MSB_HOME/kernel]
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,

    /// The guest's initramfs [default: as the kernel: $MSB_INITRAMFS, initramfs.cpio]
    #[arg(long, value_name = "FILE")]
    pub(super) initramfs: Option<PathBuf>,

    /// Additional arguments for the guest's kernel
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub(super) cmdline: Option<String>,

    /// Prints errors only
    #[arg(short, long, conflicts_with = "log_level")]
    quiet: bool,

    /// Least severe log lines to print
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Warn)]
    log_level: LogLevel,
}

impl MachineArguments {
    /// Least severe log lines to print.
    pub(in crate::commands) fn log_level(&self) -> LogLevel {
        if self.quiet {
            LogLevel::Error
        } else {
            self.log_level
        }
    }

    /// Checks the numbers against this machine.
    ///
    /// # Errors
    /// The first that it cannot do.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_memory(u64::from(self.memory) << 20, host_memory())
    }
}
