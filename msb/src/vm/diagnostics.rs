//! Where this process says what it has to say: with its creator, to the creator's standard error; on its own, to the file
//! `machine.log` of the sandbox.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::unistd::dup2_stderr;

/// Name of the file in the sandbox's directory.
const FILE: &str = "machine.log";

/// Lets go of the creator's standard error, which may be a pipe that somebody reads to its end, or a terminal. `state` is
/// the sandbox's directory; without one, or if nothing can be written there, nothing is said any more.
///
/// # Errors
/// When /dev/null cannot be opened.
pub(super) fn leave_creator(state: Option<&Path>) -> io::Result<()> {
    let file = state.and_then(|directory| {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join(FILE))
            .ok()
    });
    let file = match file {
        Some(file) => file,
        None => File::options().write(true).open("/dev/null")?,
    };
    Ok(dup2_stderr(file)?)
}
