//! How long the processes of a sandbox that is stopped have.

use std::time::Duration;

use clap::Args;

use crate::options::parse_grace;

/// Time to end by themselves.
#[derive(Debug, Args)]
pub(super) struct Grace {
    /// Time between SIGTERM and SIGKILL; a bare number counts seconds, 0 ends the sandbox at once
    #[arg(short, long, visible_alias = "time", value_name = "DURATION", default_value = "10s", value_parser = parse_grace)]
    pub(super) timeout: Duration,
}
