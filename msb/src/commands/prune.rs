//! `msb prune`

use clap::Args;
use microsandbox::sandbox::SandboxHandle;

use super::advice::advise;
use super::confirmation::is_to_go;
use super::done::{Done, DoneArguments, Named};
use super::records;
use super::runtime::block_on;
use super::selection::has_all;
use crate::failure::{self, FAILED};
use crate::options::Label;

/// Removes all sandboxes that do not run, with all that they have written, and prints their names
///
/// Named volumes, and folders and disks of the host, stay as they are.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them are removed, 1 otherwise

Examples:
  msb prune
  msb prune -f --label tier=batch")]
pub(super) struct Arguments {
    /// Only those with this label; given again, with all of them
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,

    /// Does not ask
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    done: DoneArguments,
}

/// Removes them.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    block_on(async {
        let (all, mut status) = records::all().await?;
        let is_wanted = |sandbox: &SandboxHandle| {
            !sandbox.status().is_alive() && has_all(sandbox, &arguments.label)
        };
        let wanted: Vec<_> = all.into_iter().filter(is_wanted).collect();
        let is_to_be = wanted.is_empty() || arguments.force || confirm(&wanted)?;
        let mut done = Done::new(arguments.done);
        for sandbox in wanted.iter().filter(|_| is_to_be) {
            match sandbox.remove().await {
                Ok(()) => done.add(Named::new(sandbox.name()))?,
                Err(error) => {
                    failure::report(&advise(error).await);
                    status = FAILED;
                }
            }
        }
        done.finish()?;
        Ok(status)
    })
}

fn confirm(sandboxes: &[SandboxHandle]) -> anyhow::Result<bool> {
    let names: Vec<_> = sandboxes.iter().map(SandboxHandle::name).collect();
    is_to_go(&names.join(", "))
}
