//! `msb version`

use clap::Args;
use microsandbox::protocol;
use serde::Serialize;

use super::Format;
use crate::output;

/// Tells the version of msb and of the protocol that it speaks
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb version
  msb version --format json")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    protocol: u16,
    target: &'static str,
}

/// Prints the versions.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        protocol: protocol::VERSION,
        target: "x86_64-linux",
    };
    let text = match arguments.format {
        Format::Text => format!(
            "msb {} ({}, protocol {})\n",
            version.version, version.target, version.protocol
        ),
        Format::Json => output::json(&version)?,
    };
    output::print(&text)?;
    Ok(0)
}
