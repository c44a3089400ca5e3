//! What `msb` itself has to say, on standard output and standard error.

use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;

use anyhow::Context;
use serde::Serialize;

/// What `--format json` prints of `value`.
///
/// # Errors
/// When it cannot be written as JSON.
pub(crate) fn json(value: &(impl Serialize + ?Sized)) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints `text`. A reader that has seen enough (`msb help | head -1`) is no error.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let _ = stream(text)?;
    Ok(())
}

/// Prints `text`, which others follow; breaks off when nobody reads any more.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(crate) fn stream(text: &str) -> anyhow::Result<ControlFlow<()>> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// Tells whoever sits there something on standard error; without standard error there is nobody to tell. (`eprint!` panics then,
/// and takes the exit status of a command with it.)
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// What anybody may have written, a guest or the maker of an image, without anything that moves the cursor.
pub(crate) fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}
