//! What a new process does after fork: it executes a program, or serves files.
//!
//! agentd has one thread, so its child may do whatever a program may: allocate, read files, wait
//! for a slow file system. All that the guest can delay or break happens here, where it holds up
//! one session and not agentd.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use files::{Files, FilesError};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchown, setgroups, setresgid, setresuid,
    setsid,
};
use protocol::{Failure, GuestMessage, ResourceLimit, Stage};

use crate::command::Command;
use crate::failure::{OrFailed, failure, shown};
use crate::profile::Profile;
use crate::program::execute;
use crate::task::Task;
use crate::users::{self, Identity};
use crate::{limits, terminal};

/// Longest message of a failure, so that it fits the launch pipe in one piece.
const MAX_MESSAGE: usize = 1024;

/// Signals whose disposition cannot be set (signal(7)).
const UNCHANGEABLE: [Signal; 2] = [Signal::SIGKILL, Signal::SIGSTOP];

/// The three standard streams of the process.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Standard input is the client's, not `/dev/null`.
    pub(crate) own_stdin: bool,
}

/// Does what `task` asks for in the calling process, just forked. If it cannot be begun, the reason goes into the pipe
/// `launch` as a `Failed` frame; else that is closed.
pub(crate) fn run(task: &Task, profile: Profile, streams: &Streams, launch: OwnedFd) -> ! {
    let ready = set_up(task, profile, streams, launch.as_raw_fd());
    let begun = ready.and_then(|()| match task {
        Task::Program(command) => {
            let Err(failure) = become_program(command, profile, streams);
            Err(failure)
        }
        Task::Files(directory) => open_files(directory),
    });
    let code = match begun {
        Ok(files) => {
            drop(launch);
            serve(&files)
        }
        Err(failure) => {
            report(failure, launch);
            127
        }
    };
    // SAFETY: _exit(2) ends the process without running what agentd has registered for its end.
    unsafe { libc::_exit(code) }
}

fn open_files(directory: &Path) -> Result<Files, Failure> {
    // All of the guest is what a process there sees of it.
    let opened = match directory == Path::new("/") {
        true => Files::open_as_root(directory),
        false => Files::open(directory),
    };
    opened.map_err(|error| {
        let errno = match &error {
            FilesError::NotFound { .. } => libc::ENOENT,
            FilesError::Io { source, .. } => source.raw_os_error().unwrap_or(0),
            _ => 0,
        };
        let directory = directory.display();
        Failure {
            stage: Stage::WorkingDirectory,
            errno,
            message: format!("The directory {directory} cannot be opened"),
        }
    })
}

/// Serves the client, and returns the exit code.
fn serve(files: &Files) -> i32 {
    match crate::files::serve(files) {
        Ok(()) => 0,
        Err(error) => {
            // Who does not read it does not want to know.
            let _ = writeln!(io::stderr(), "{error}");
            1
        }
    }
}

/// What every task needs. Each step can be answered to the client, so their order is also the order of the answers.
fn set_up(task: &Task, profile: Profile, streams: &Streams, launch: RawFd) -> Result<(), Failure> {
    // First of all let go of the other sessions' descriptors: while this process holds a copy of
    // a pipe, the pipe's reader does not see its end.
    take_streams(streams, launch).or_failed(Stage::Stdio, || {
        "The standard streams cannot be put in their places".into()
    })?;
    lead_session(task)?;
    reset_inherited_state()
        .and_then(|()| profile.restrict_process())
        .or_failed(Stage::Spawn, || "The process cannot be set up".into())
}

fn become_program(
    command: &Command,
    profile: Profile,
    streams: &Streams,
) -> Result<Infallible, Failure> {
    let identity = find_identity(command)?;
    own_streams(&identity, streams);
    let variables = command.environment(&identity, profile);
    let path = variables.iter().find(|(name, _)| name == b"PATH");
    let path = path.map(|(_, value)| value.clone()).unwrap_or_default();
    let env = environment_strings(variables)?;
    let args = match command.args.as_slice() {
        [] => vec![c_string(identity.shell.clone())?],
        args => args.to_vec(),
    };
    for limit in &command.limits {
        set_limit(limit)?;
    }
    take_identity(&identity).or_failed(Stage::User, || {
        format!("The process cannot become {identity}")
    })?;
    // As the user: what the user may not enter is no working directory.
    chdir(command.directory.as_c_str()).or_failed(Stage::WorkingDirectory, || {
        let directory = shown(command.directory.to_bytes());
        format!("The working directory {directory} cannot be entered")
    })?;
    Err(execute(&args, &env, &path))
}

/// Puts the streams on the descriptors 0, 1 and 2 and closes all others but `launch`.
fn take_streams(streams: &Streams, launch: RawFd) -> io::Result<()> {
    // All of them are above 2, where agentd's own standard streams are.
    dup2_stdin(&streams.stdin)?;
    dup2_stdout(&streams.stdout)?;
    dup2_stderr(&streams.stderr)?;
    let launch = launch.cast_unsigned();
    for (first, last) in [
        (3, launch.saturating_sub(1)),
        (launch.saturating_add(1), u32::MAX),
    ] {
        if first <= last {
            // SAFETY: nobody in this process uses these descriptors again: it either executes
            // another program or ends with _exit(2), which drops nothing.
            Errno::result(unsafe { libc::close_range(first, last, 0) })?;
        }
    }
    Ok(())
}

/// Makes the process the leader of a session and a group, and its terminal the controlling one.
fn lead_session(task: &Task) -> Result<(), Failure> {
    setsid().or_failed(Stage::Spawn, || {
        "The process cannot have a session of its own".into()
    })?;
    if task.terminal().is_some() {
        terminal::control_from_stdin().or_failed(Stage::Stdio, || {
            "The terminal cannot become the controlling one".into()
        })?;
    }
    Ok(())
}

/// Undoes what agentd has set up for itself and what exec does not undo.
pub(crate) fn reset_inherited_state() -> io::Result<()> {
    // Ignored signals stay ignored across exec: the Rust runtime ignores SIGPIPE, and whoever
    // started agentd may have ignored others.
    for number in Signal::iterator().filter(|number| !UNCHANGEABLE.contains(number)) {
        // SAFETY: no handler is installed, so there is nothing that could run.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    limits::reset_for_child()?;
    Ok(())
}

fn find_identity(command: &Command) -> Result<Identity, Failure> {
    let read = |path| {
        users::read(path).or_failed(Stage::User, || format!("The file {path} cannot be read"))
    };
    users::resolve(&command.user, &read(users::PASSWD)?, &read(users::GROUP)?)
}

/// Gives the streams to the user, who could not open `/dev/stdout` or the terminal by its name
/// otherwise. It does not matter if that fails: the descriptors work all the same.
fn own_streams(identity: &Identity, streams: &Streams) {
    let owner = Some(Uid::from_raw(identity.uid));
    if streams.own_stdin {
        let _ = fchown(io::stdin().as_fd(), owner, None);
    }
    let _ = fchown(io::stdout().as_fd(), owner, None);
    let _ = fchown(io::stderr().as_fd(), owner, None);
}

fn environment_strings(variables: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<CString>, Failure> {
    variables
        .into_iter()
        .map(|(name, value)| c_string([name, value].join(&b'=')))
        .collect()
}

/// For strings that are the client's, which are checked already, or come from the passwd file.
fn c_string(bytes: Vec<u8>) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| {
        failure(
            Stage::User,
            Errno::EINVAL,
            "The passwd entry of the user holds a zero byte",
        )
    })
}

fn set_limit(limit: &ResourceLimit) -> Result<(), Failure> {
    let value = libc::rlimit {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: the pointer is to a limit that setrlimit only reads; the kernel checks the number
    // of the resource.
    let result = Errno::result(unsafe { libc::setrlimit(limit.resource, &value) });
    result.map(drop).or_failed(Stage::ResourceLimit, || {
        let ResourceLimit {
            resource,
            soft,
            hard,
        } = limit;
        format!("The resource limit {resource} cannot be set to {soft}, at most {hard}")
    })
}

fn take_identity(identity: &Identity) -> io::Result<()> {
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Sends the failure to agentd.
fn report(mut failure: Failure, launch: OwnedFd) {
    let end = failure.message.floor_char_boundary(MAX_MESSAGE);
    failure.message.truncate(end);
    let mut frame = Vec::new();
    if protocol::encode(&GuestMessage::Failed(failure), &mut frame).is_ok() {
        let _ = std::fs::File::from(launch).write_all(&frame);
    }
}
