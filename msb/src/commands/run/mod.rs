//! `msb run`

mod attend;
mod machine;
mod mounts;
mod named_volumes;
mod outcome;
mod plan;
mod root;
mod timings;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use microsandbox::home::Home;
use microsandbox::names::{self, Name};
use microsandbox::protocol::ResourceLimit;

use crate::failure::Hint;
use crate::logging::{self, LogLevel};
use crate::options::{GuestPath, Variable, os_value, parse_duration, parse_rlimit, parse_size};
use crate::signals::Signals;
use attend::Attendance;
use mounts::MountArguments;
use plan::Plan;
use root::RootArguments;
use timings::{Timings, TimingsFormat};

/// Runs a command in a microVM, with a folder or a disk image as its root file system
///
/// The command's standard streams, its signals and its exit status become those of msb. Changes of a folder
/// go to a private layer in the guest's memory and are gone afterwards, unless --root-rw is given; a disk
/// image takes them, unless --root-ro or --root-overlay is given.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  that of the command; 128+N when signal N ended it; 124 when --timeout ended it;
  125 for errors of msb; 126 when the command cannot be executed, 127 when it is not found

Examples:
  msb run ./rootfs                                A shell
  msb run ./rootfs ls -l /                        One command
  msb run ./rootfs -- sh -c 'echo $HOME'          The same, with -- before the command
  tar c . | msb run ./rootfs tar t                Standard input is passed
  msb run -v .:/work:ro -w /work ./rootfs make    A folder of the host, read-only
  msb run -v cache:/var/cache ./rootfs make       A named volume, made at its first use
  msb run --mount-file ~/.netrc:/root/.netrc:ro ./rootfs make
  msb run --root-overlay 1G disk.qcow2            A disk image that stays as it is
  msb run --mount-disk data.img:/data ./rootfs ls /data
  msb run -m 2G -c 4 --timeout 10m ./rootfs make -j4")]
pub(super) struct Arguments {
    #[command(flatten)]
    root: RootArguments,

    /// Command and its arguments [default: the user's shell]
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,

    /// Name of the sandbox [default: msb- and 8 digits]
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,

    /// Virtual processors, 1 to 32
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=32))]
    cpus: u8,

    /// Memory of the guest, 64M to 64G; a bare number counts MiB
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    memory: u64,

    /// Variable for the command's environment; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = os_value(Variable::parse))]
    env: Vec<Variable>,

    /// Directory in which the command starts [default: /]
    #[arg(short, long, value_name = "PATH", value_parser = os_value(GuestPath::parse))]
    workdir: Option<GuestPath>,

    /// User that the command runs as: NAME, UID, NAME:GROUP or UID:GID [default: root]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Host name of the guest [default: the name of the sandbox]
    #[arg(short = 'H', long, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,

    #[command(flatten)]
    mounts: MountArguments,

    /// Gives the command a terminal [default: when standard input and output are terminals]
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,

    /// Gives the command no terminal
    #[arg(long)]
    no_tty: bool,

    /// Passes standard input, which is always done
    #[arg(short, long)]
    interactive: bool,

    /// Removes the sandbox at its end, which is always done
    #[arg(long)]
    rm: bool,

    /// Ends the command after so long: ms, s, m or h; a bare number counts seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Resource limit of the command, such as nofile=1024:4096
    #[arg(long, value_name = "RESOURCE=SOFT[:HARD]", value_parser = parse_rlimit)]
    rlimit: Vec<ResourceLimit>,

    /// The guest's kernel [default: $MSB_KERNEL, else vmlinux beside msb or in $MSB_HOME/kernel]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The guest's initramfs [default: as the kernel: $MSB_INITRAMFS, initramfs.cpio]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// Additional arguments for the guest's kernel
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    cmdline: Option<String>,

    /// Writes the guest kernel's log to a file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,

    /// Prints how long each phase took, to standard error at the end
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "table")]
    timings: Option<TimingsFormat>,

    /// Prints errors only
    #[arg(short, long, conflicts_with = "log_level")]
    quiet: bool,

    /// Least severe log lines to print
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Warn)]
    log_level: LogLevel,
}

/// Runs the command and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let timings = Timings::start();
    logging::start(arguments.log_level());
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    let console = arguments.console.as_deref().map(open_console).transpose()?;
    let plan = Plan::from_arguments(arguments, &home)?;
    // Before the first thread.
    let signals = Signals::take_over().context("cannot take over signals")?;
    let attendance = Attendance::start(plan, &home, console, signals, timings)?;
    attendance.attend()
}

impl Arguments {
    fn log_level(&self) -> LogLevel {
        if self.quiet {
            LogLevel::Error
        } else {
            self.log_level
        }
    }
}

/// Opened here and not by the machine's process, so that `/dev/stderr` and the like mean what they
/// mean to the caller.
fn open_console(path: &Path) -> anyhow::Result<File> {
    File::create(path)
        .with_context(|| format!("cannot write the guest kernel's log to {}", path.display()))
        .hint("--console names a file that can be written")
}

fn hostname(text: &str) -> Result<String, names::HostnameError> {
    names::check_hostname(text).map(|()| text.to_owned())
}
