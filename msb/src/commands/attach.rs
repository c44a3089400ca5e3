//! `msb attach`

use anyhow::Context;
use clap::Args;
use microsandbox::names::Name;

use super::kept;
use super::running::RunningSandbox;
use crate::options::DetachKeys;
use crate::signals::Signals;

/// Comes back to a sandbox's own process
///
/// First comes what it has written so far, at most its last MiB, whether somebody saw it or not. Standard input, signals and the
/// exit status become those of msb, until the process ends or the keys leave it alone.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  that of the process; 128+N when signal N ended it; 0 when the keys left it alone; 125 for errors of msb

Examples:
  msb attach web
  msb attach --detach-keys ctrl-] web")]
pub(super) struct Arguments {
    /// Name of the sandbox
    #[arg(value_name = "NAME")]
    name: Name,

    /// Keys that leave the process alone
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
}

/// Comes back and returns the exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    // Before the first thread.
    let signals = Signals::take_over().context("cannot take over signals")?;
    let sandbox = RunningSandbox::find(arguments.name)?;
    kept::attach(&sandbox, None, &arguments.detach_keys, &signals)
}
