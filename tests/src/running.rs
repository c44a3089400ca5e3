//! A running `msb`, and what is left when it has ended.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::LIMIT;
use crate::processes;
use crate::transcript::Transcript;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// `None` if it is no pipe, or has been closed.
    stdin: Option<ChildStdin>,
    /// What came out of standard output, if that is a pipe of ours.
    pub stdout: Transcript,
    /// Likewise for standard error.
    pub stderr: Transcript,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// All that came out of standard output.
    pub stdout: Vec<u8>,
    /// All that came out of standard error.
    pub stderr: Vec<u8>,
}

impl Running {
    /// Starts `command` with standard streams as it says; those it says nothing about are pipes.
    pub fn start(command: &mut Command) -> Running {
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running {
            stdin: child.stdin.take(),
            stdout: child
                .stdout
                .take()
                .map_or_else(Transcript::empty, Transcript::of),
            stderr: child
                .stderr
                .take()
                .map_or_else(Transcript::empty, Transcript::of),
            child,
        }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Writes to its standard input.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdin
            .as_mut()
            .expect("standard input is a pipe")
            .write_all(bytes.as_ref())
            .unwrap();
    }

    /// Its standard input, to be written elsewhere.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("standard input is a pipe")
    }

    /// Closes its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for its end, with standard input closed.
    ///
    /// # Panics
    /// When it does not come within [`LIMIT`].
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        self.end_input();
        if !processes::wait_for_end(self.pid(), LIMIT) {
            let (stdout, stderr) = (self.stdout.so_far(), self.stderr.so_far());
            let activity = processes::activity();
            panic!(
                "it did not end; standard output: {stdout:?}, standard error: {stderr:?}; threads:\n{activity}"
            );
        }
        let status = self.child.wait().unwrap();
        Finished {
            status,
            stdout: self.stdout.to_end(),
            stderr: self.stderr.to_end(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a process that has ended and been waited for, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Its exit status.
    ///
    /// # Panics
    /// When a signal ended it: no signal should ever end `msb`, but SIGKILL.
    #[track_caller]
    pub fn code(&self) -> i32 {
        let code = self.status.code();
        code.unwrap_or_else(|| panic!("signal {:?} ended it: {self}", self.status.signal()))
    }

    /// Its standard output as text.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn text(&self) -> &str {
        str::from_utf8(&self.stdout).expect("standard output is text")
    }

    /// Its standard error as text.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn errors(&self) -> &str {
        str::from_utf8(&self.stderr).expect("standard error is text")
    }

    /// The lines of its standard output.
    ///
    /// # Panics
    /// When it failed or said anything on standard error: then the lines mean nothing.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        assert!(self.code() == 0 && self.stderr.is_empty(), "{self}");
        self.text().lines().collect()
    }

    /// Asserts that it ended with `code` after one error that names `what`, and gave a hint.
    #[track_caller]
    pub fn assert_error(&self, code: i32, what: &str) {
        assert_eq!(self.code(), code, "{self}");
        let errors = self.errors();
        let count = |label| {
            errors
                .lines()
                .filter(|line| line.starts_with(label))
                .count()
        };
        assert_eq!(count("error: "), 1, "{self}");
        assert!(count("  hint: ") >= 1, "{self}");
        assert!(errors.contains(what), "{what:?} is not in {self}");
    }
}

/// For messages: all of it.
impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        write!(
            f,
            "{}\nstandard output: {}",
            self.status,
            text(&self.stdout)
        )?;
        write!(f, "\nstandard error: {}", text(&self.stderr))
    }
}

/// A `Command` whose three standard streams are pipes to the test.
pub fn piped(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}
