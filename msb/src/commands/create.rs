//! `msb create`

use clap::Args;
use microsandbox::Sandbox;

use super::Format;
use super::advice::advise;
use super::list::SandboxView;
use super::runtime::block_on;
use super::sandbox::{SandboxArguments, name_or_new};
use crate::{logging, output};

/// Makes a sandbox, starts it, and prints its name
///
/// It runs by itself until it is stopped, and stays until it is removed: `msb start` starts it again, with the files that it
/// had. With a command, that is its own process, with whose end it stops; `msb attach` comes to it.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when its guest is up, 1 otherwise

Examples:
  msb create --name web ./rootfs                  A sandbox that waits for commands
  msb exec web uname -a
  msb create --name db -v db:/var/lib/db ./rootfs -- /usr/bin/server
  msb create --name box -m 2G -c 2 --init auto ./debian
  msb create --name web --from-snapshot base      With what another sandbox has left
  msb create --name web --replace ./rootfs        In the place of the one that was")]
pub(super) struct Arguments {
    #[command(flatten)]
    sandbox: SandboxArguments,

    /// Gives the sandbox's own process a terminal
    #[arg(short, long)]
    tty: bool,

    /// Removes the sandbox when it has ended
    #[arg(long)]
    rm: bool,

    /// How to print; JSON is what `msb ls` says of it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Makes it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    logging::start(arguments.sandbox.log_level());
    let plan = arguments.sandbox.resolve()?;
    let name = name_or_new(plan.name.clone())?;
    // Until the sandbox's record does.
    let _held = plan.held_image();
    let mut config = plan.configuration(&name)?;
    config.detached = true;
    config.tty = arguments.tty;
    config.ephemeral = arguments.rm;
    block_on(async {
        let told = async {
            let sandbox = Sandbox::create(config).await?;
            Ok(match arguments.format {
                Format::Text => None,
                Format::Json => Some(SandboxView::of(&Sandbox::get(sandbox.name()).await?)),
            })
        };
        match told.await {
            Ok(None) => output::print(&format!("{name}\n")),
            Ok(Some(view)) => output::print(&output::json(&view)?),
            Err(error) => Err(advise(error).await),
        }
    })?;
    Ok(0)
}
