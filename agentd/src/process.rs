//! Starting a process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use protocol::{Failure, Stage, TerminalSize};

use crate::boot::Guest;
use crate::child::{self, Streams};
use crate::devices::Devices;
use crate::failure::OrFailed;
use crate::poller::set_nonblocking;
use crate::task::Task;
use crate::terminal;

/// A process that is on its way to its program, and agentd's ends of its streams. None of them
/// blocks.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    /// Ends empty when the program is executed or files are served, else holds one `Failed` frame.
    pub(crate) launch: File,
    pub(crate) stdin: Option<File>,
    pub(crate) stdout: File,
    /// A terminal has none.
    pub(crate) stderr: Option<File>,
    /// For changes of the size.
    pub(crate) terminal: Option<File>,
}

/// Agentd's ends of the streams.
struct Ends {
    stdin: Option<File>,
    stdout: File,
    stderr: Option<File>,
    terminal: Option<File>,
}

/// Starts a process for `task`. Whether that can be done turns out later, through `launch`.
pub(crate) fn spawn(task: &Task, guest: &Guest) -> Result<Spawned, Failure> {
    let devices = &guest.devices;
    let (ends, streams) = match task.terminal() {
        Some(size) => open_terminal(devices, size)
            .or_failed(Stage::Stdio, || "A terminal cannot be opened".into())?,
        None => open_pipes(devices, task.has_input())
            .or_failed(Stage::Stdio, || "The pipes cannot be opened".into())?,
    };
    let (launch, child_launch) = output_pipe().or_failed(Stage::Spawn, || {
        "The pipe to a new process cannot be opened".into()
    })?;
    // SAFETY: agentd has one thread, so the child finds all locks free and every data structure
    // whole; it leaves through exec or _exit.
    let fork = unsafe { fork() }.or_failed(Stage::Spawn, || "A process cannot be made".into())?;
    match fork {
        ForkResult::Child => child::run(task, guest.profile, &streams, child_launch),
        ForkResult::Parent { child } => {
            let Ends {
                stdin,
                stdout,
                stderr,
                terminal,
            } = ends;
            Ok(Spawned {
                pid: child,
                launch,
                stdin,
                stdout,
                stderr,
                terminal,
            })
        }
    }
}

fn open_terminal(devices: &Devices, size: TerminalSize) -> io::Result<(Ends, Streams)> {
    let (master, slave) = terminal::open(&devices.terminals, size)?;
    let streams = Streams {
        stdin: slave.try_clone()?,
        stdout: slave.try_clone()?,
        stderr: slave,
        own_stdin: true,
    };
    let ends = Ends {
        stdin: Some(master.try_clone()?),
        stdout: master.try_clone()?,
        stderr: None,
        terminal: Some(master),
    };
    Ok((ends, streams))
}

fn open_pipes(devices: &Devices, with_stdin: bool) -> io::Result<(Ends, Streams)> {
    let (stdin, child_stdin) = match with_stdin {
        true => {
            let (child_stdin, stdin) = pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(&stdin)?;
            (Some(File::from(stdin)), child_stdin)
        }
        false => (None, devices.null.try_clone()?),
    };
    let (stdout, child_stdout) = output_pipe()?;
    let (stderr, child_stderr) = output_pipe()?;
    let streams = Streams {
        stdin: child_stdin,
        stdout: child_stdout,
        stderr: child_stderr,
        own_stdin: with_stdin,
    };
    Ok((
        Ends {
            stdin,
            stdout,
            stderr: Some(stderr),
            terminal: None,
        },
        streams,
    ))
}

/// A pipe whose reading end is agentd's.
fn output_pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&reader)?;
    Ok((File::from(reader), writer))
}
