//! `msb run`

mod attend;
mod ending;
mod machine;
mod plan;
mod recorded;
mod timings;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use microsandbox::home::Home;

use super::sandbox::SandboxArguments;
use crate::failure::Hint;
use crate::logging;
use crate::options::{DetachKeys, parse_duration};
use crate::signals::Signals;
use attend::Attendance;
use plan::Plan;
use timings::{Timings, TimingsFormat};

/// Runs a command in a microVM, with a folder or a disk image as its root file system
///
/// The command's standard streams, its signals and its exit status become those of msb; then the sandbox is stopped, and
/// without a name also removed. One with a name stays: `msb start` starts it again with the files that it had. Changes of a
/// folder go to a private layer, unless --root-rw is given: on a disk of the sandbox if it has a name or runs by itself, else in
/// the guest's memory. A disk image takes them itself, unless --root-ro or --root-upper is given.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  that of the command; 128+N when signal N ended it; 124 when --timeout ended it;
  125 for errors of msb; 126 when the command cannot be executed, 127 when it is not found

Examples:
  msb run ./rootfs                                A shell
  msb run ./rootfs ls -l /                        One command
  msb run ./rootfs -- sh -c 'echo $HOME'          The same, with -- before the command
  msb run -d --name web ./rootfs ./server         By itself; then msb attach, exec, logs, stop, start, rm
  msb run -dit --name box ./rootfs                A shell that waits for msb attach
  tar c . | msb run ./rootfs tar t                Standard input is passed
  msb run -v .:/work:ro -w /work ./rootfs make    A folder of the host, read-only
  msb run -v cache:/var/cache ./rootfs make       A named volume, made at its first use
  msb run --mount-file ~/.netrc:/root/.netrc:ro ./rootfs make
  msb run --root-upper tmpfs disk.qcow2           A disk image that stays as it is
  msb run --from-snapshot base -- ls -l           With what another sandbox has left
  msb run --mount-disk data.img:/data ./rootfs ls /data
  msb run --script 'up=apt-get update' ./rootfs up
  msb run --security restricted -u nobody ./rootfs ./untrusted
  msb run -m 2G -c 4 --timeout 10m ./rootfs make -j4")]
pub(super) struct Arguments {
    #[command(flatten)]
    sandbox: SandboxArguments,

    /// Gives the command a terminal [default: when standard input and output are terminals]
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,

    /// Gives the command no terminal
    #[arg(long)]
    no_tty: bool,

    /// Passes standard input, which is always done; with --detach it is for terminals (-dit)
    #[arg(short, long)]
    interactive: bool,

    /// Lets the sandbox run by itself, and prints its name
    #[arg(short, long, conflicts_with = "timeout")]
    detach: bool,

    /// Removes the sandbox when it has ended, which is done with one that has no name unless it is detached
    #[arg(long)]
    rm: bool,

    /// Keys that leave a command with a terminal alone in a sandbox with a name: it goes on, and `msb attach` comes back to it
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,

    /// Ends the command after so long: ms, s, m or h; a bare number counts seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Writes the guest kernel's log to a file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,

    /// Prints how long each phase took, to standard error at the end
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "table")]
    timings: Option<TimingsFormat>,
}

/// Runs the command and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let timings = Timings::start();
    logging::start(arguments.sandbox.log_level());
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    let console = arguments.console.as_deref().map(open_console).transpose()?;
    let plan = Plan::from_arguments(arguments)?;
    // Before the first thread.
    let signals = Signals::take_over().context("cannot take over signals")?;
    if !plan.unrecorded {
        return recorded::run(plan, console, &signals, timings);
    }
    let attendance = Attendance::start(plan, &home, console, signals, timings)?;
    attendance.attend()
}

/// Opened here and not by the machine's process, so that `/dev/stderr` and the like mean what they
/// mean to the caller.
fn open_console(path: &Path) -> anyhow::Result<File> {
    File::create(path)
        .with_context(|| format!("cannot write the guest kernel's log to {}", path.display()))
        .hint("--console names a file that can be written")
}
