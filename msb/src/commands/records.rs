//! What is recorded of sandboxes, where some of it may be damaged.

use anyhow::anyhow;
use microsandbox::sandbox::{SandboxFilter, SandboxHandle};
use microsandbox::{MicrosandboxError, Sandbox};
use serde_json::Value;

use super::advice::advise;
use crate::failure::{self, FAILED, with_hint};
use crate::operand::operand;

/// All sandboxes whose records can be read, and the exit status: of the others it is reported why not.
///
/// # Errors
/// When the database cannot be used.
pub(super) async fn all() -> anyhow::Result<(Vec<SandboxHandle>, u8)> {
    let (all, unreadable) = all_or_why_not().await?;
    let mut status = 0;
    for error in unreadable {
        failure::report(&advise(error).await);
        status = FAILED;
    }
    Ok((all, status))
}

/// All sandboxes whose records can be read, and what is the matter with the others.
///
/// # Errors
/// When the database cannot be used.
pub(super) async fn all_or_why_not() -> anyhow::Result<(Vec<SandboxHandle>, Vec<MicrosandboxError>)>
{
    match Sandbox::list_readable(SandboxFilter::new()).await {
        Ok(listing) => Ok((listing.sandboxes, listing.unreadable)),
        Err(error) => Err(advise(error).await),
    }
}

/// The configuration of a sandbox, whichever release recorded it.
///
/// # Errors
/// When it is damaged.
pub(super) fn configuration(sandbox: &SandboxHandle) -> anyhow::Result<Value> {
    serde_json::from_str(sandbox.config_json()).map_err(|error| {
        let name = sandbox.name();
        let error = anyhow!(error)
            .context("what the database says of it is no JSON")
            .context(format!(
                "the configuration of the sandbox {name:?} cannot be read"
            ));
        with_hint(
            error,
            format!(
                "put a backup of the database back, or remove the sandbox with `msb rm -f {}`",
                operand(name)
            ),
        )
    })
}
