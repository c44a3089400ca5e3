//! `msb rm`

use clap::Args;
use microsandbox::ErrorKind;

use super::done::Named;
use super::ended::has_ended;
use super::runtime::block_on;
use super::selection::Selection;

/// Removes sandboxes with all that they have written, and prints their names
///
/// Named volumes, and folders and disks of the host, stay as they are.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them are removed, 1 otherwise

Examples:
  msb rm web
  msb rm -f web                             Also if it runs
  msb rm $(msb ls -q --stopped)")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,

    /// Ends those that run at once, and is content with those that do not exist
    #[arg(short, long)]
    force: bool,
}

/// Removes them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let force = arguments.force;
    block_on(
        arguments
            .selection
            .that_exist(force)
            .each("remove", move |sandbox| async move {
                if force && sandbox.status().is_alive() {
                    match sandbox.kill().await {
                        Err(error) if has_ended(&error) => {}
                        killed => killed?,
                    }
                }
                match sandbox.remove().await {
                    // One that is removed at its end is so by now.
                    Err(error) if force && error.kind() == ErrorKind::SandboxNotFound => {}
                    removed => removed?,
                }
                Ok(Named::new(sandbox.name()))
            }),
    )
}
