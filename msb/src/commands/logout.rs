//! `msb logout`

use clap::Args;
use microsandbox::images;

use super::registry_advice::advise;
use crate::output;

/// Forgets the password for a registry, wherever `msb login` or `docker login` kept it
#[derive(Debug, Args)]
#[command(after_help = "Example:
  msb logout ghcr.io")]
pub(super) struct Arguments {
    /// Host and port of the registry
    #[arg(default_value = "docker.io")]
    registry: String,
}

/// Logs out.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let registry = &arguments.registry;
    let was_known = images::logout(registry).map_err(advise)?;
    output::print(&if was_known {
        format!("logged out at {registry}\n")
    } else {
        format!("nobody was logged in at {registry}\n")
    })?;
    Ok(0)
}
