//! Whether something is to be removed.

use std::io::{self, IsTerminal};

use anyhow::{Context, anyhow};

use crate::failure::with_hint;
use crate::output;

/// Asks whoever sits at the terminal whether `what` is to be removed.
///
/// # Errors
/// When nobody sits there, who could say --force instead.
pub(super) fn is_to_go(what: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(with_hint(
            anyhow!("there is nobody to ask whether {what} may go"),
            "--force does not ask",
        ));
    }
    output::tell(&format!("Remove {what}? [y/N] "));
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
