//! Standard output for what `msb` itself has to say.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Prints `text`. A reader that has seen enough (`msb help | head -1`) is no error.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
