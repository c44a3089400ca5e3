//! What the process of a session is to do.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use protocol::{Exec, Failure, FilesRequest, TerminalSize};

use crate::command::Command;
use crate::session::violation;

/// What the process of a session is to do, checked.
#[derive(Debug)]
pub(crate) enum Task {
    /// Execute a program.
    Program(Command),
    /// Serve the files beneath this directory.
    Files(PathBuf),
}

impl Task {
    /// Checks what the protocol demands of an `Exec` message.
    pub(crate) fn program(exec: Exec) -> Result<Task, Failure> {
        Ok(Task::Program(Command::new(exec)?))
    }

    /// Checks what the protocol demands of a `Files` message.
    pub(crate) fn files(request: FilesRequest) -> Result<Task, Failure> {
        let directory = request.directory.0;
        if !directory.starts_with(b"/") || directory.contains(&0) {
            return Err(violation(
                "The path of a directory is absolute and has no zero byte",
            ));
        }
        Ok(Task::Files(PathBuf::from(OsString::from_vec(directory))))
    }

    /// The size of the terminal that it has instead of pipes.
    pub(crate) fn terminal(&self) -> Option<TerminalSize> {
        match self {
            Task::Program(command) => command.terminal,
            Task::Files(_) => None,
        }
    }

    /// Whether it is a process that others can come back to, and whose output is logged.
    pub(crate) fn has_number(&self) -> bool {
        matches!(self, Task::Program(_))
    }

    /// Whether standard input comes from the client.
    pub(crate) fn has_input(&self) -> bool {
        match self {
            Task::Program(command) => command.stdin,
            Task::Files(_) => true,
        }
    }

    /// The signal that asks it to end, if that is not SIGTERM to its group.
    pub(crate) fn stop_signal(&self) -> Option<i32> {
        match self {
            Task::Program(command) => command.stop_signal,
            Task::Files(_) => None,
        }
    }

    /// After which time it is killed.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match self {
            Task::Program(command) => command.timeout,
            Task::Files(_) => None,
        }
    }
}
