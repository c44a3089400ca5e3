//! The process of a session, from its start to its last byte of output.

use std::fs::File;
use std::io;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags as Flags;
use nix::unistd::Pid;
use protocol::{
    Exit, ExitStatus, Failure, FrameDecoder, GuestMessage, HostMessage, MAX_DATA, Stage, Started,
};

use crate::boot::Guest;
use crate::failure::failure;
use crate::input::{Input, Notice};
use crate::output::Output;
use crate::poller::{Poller, Source, Token, Watched};
use crate::session::violation;
use crate::task::Task;
use crate::{children, process, terminal};

/// A process and agentd's side of its streams.
#[derive(Debug)]
pub(crate) struct Running {
    /// Number of its session for clients; 0 for one that serves files.
    number: u64,
    pid: Pid,
    launch: Launch,
    input: Option<Input>,
    stdout: Output,
    stderr: Option<Output>,
    /// Whose turn it is, if both have output.
    stderr_is_next: bool,
    terminal: Option<File>,
    /// When its time is over.
    deadline: Option<Instant>,
    timed_out: bool,
    /// The signal that asks it to end, if that is not SIGTERM to its group.
    stop_signal: Option<i32>,
    /// How it ended; then it has been reaped, and its number may be somebody else's.
    exit: Option<ExitStatus>,
}

/// How far the process is on its way to its program.
#[derive(Debug)]
enum Launch {
    /// It has not executed the program yet.
    Pending(Watched<File>),
    /// It has, and the client does not know.
    Done,
    /// It could not.
    Failed(Failure),
    /// The client knows.
    Told,
}

impl Running {
    /// Starts the process for `task`, for the session `id`.
    pub(crate) fn start(
        id: u64,
        task: &Task,
        guest: &Guest,
        poller: &Poller,
    ) -> Result<Self, Failure> {
        let spawned = process::spawn(task, guest)?;
        let deadline = task
            .timeout()
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let watched = |file, source| {
            Watched::new(
                file,
                poller,
                Token {
                    session: id,
                    source,
                },
            )
        };
        let is_terminal = spawned.terminal.is_some();
        Ok(Self {
            number: if task.has_number() { id } else { 0 },
            pid: spawned.pid,
            launch: Launch::Pending(watched(spawned.launch, Source::Launch)),
            input: spawned
                .stdin
                .map(|file| Input::new(watched(file, Source::Input), is_terminal)),
            stdout: Output::new(watched(spawned.stdout, Source::Output), is_terminal),
            stderr: spawned
                .stderr
                .map(|file| Output::new(watched(file, Source::Errors), false)),
            stderr_is_next: false,
            terminal: spawned.terminal,
            deadline,
            timed_out: false,
            stop_signal: task.stop_signal(),
            exit: None,
        })
    }

    /// The process, if it has not been reaped.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.exit.is_none().then_some(self.pid)
    }

    /// Sends `signal` to the process group, unless the process has been reaped.
    pub(crate) fn signal(&self, signal: i32) {
        if let Some(pid) = self.pid() {
            children::signal_group(pid, signal);
        }
    }

    /// Whether the process lives and has a way of its own to be asked to end.
    pub(crate) fn has_own_end(&self) -> bool {
        self.stop_signal.is_some() && self.exit.is_none()
    }

    /// Asks the process to end in its own way: what it has started is its business.
    pub(crate) fn ask_to_end(&self) {
        if let (Some(pid), Some(signal)) = (self.pid(), self.stop_signal) {
            children::signal_process(pid, signal);
        }
        // If it is stopped, it would not notice.
        self.signal(libc::SIGCONT);
    }

    /// Tells the process that its client is gone.
    pub(crate) fn hang_up(&mut self) {
        self.signal(libc::SIGHUP);
        self.signal(libc::SIGCONT);
        self.launch = Launch::Told;
        self.input = None;
        if self.terminal.take().is_some() {
            // The kernel hangs up what is in the foreground, too.
            self.stdout.close();
        }
        for output in self.outputs() {
            // It stays open, though nobody reads it any more: whoever cleans up after SIGHUP and
            // says so should not die of SIGPIPE.
            let _ = output.watch(false);
        }
    }

    /// When [`kill_for_time`](Self::kill_for_time) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The process's time is over.
    pub(crate) fn kill_for_time(&mut self) {
        self.deadline = None;
        self.timed_out = self.pid().is_some();
        self.signal(libc::SIGKILL);
    }

    /// The process has ended and has been reaped.
    pub(crate) fn on_exit(&mut self, status: ExitStatus) {
        self.exit = Some(status);
        self.deadline = None;
        self.resolve_launch();
        for output in self.outputs() {
            output.finish();
        }
    }

    /// Something happened to one of the streams. Output is read by
    /// [`next_message`](Self::next_message), when the client can take it.
    pub(crate) fn on_event(&mut self, source: Source, flags: Flags) {
        match (source, &mut self.input) {
            (Source::Launch, _) => self.resolve_launch(),
            (Source::Input, Some(input)) => {
                if flags.intersects(Flags::EPOLLERR | Flags::EPOLLHUP) {
                    input.close_by_process();
                } else {
                    input.pump();
                }
            }
            (Source::Output, _) => self.stdout.on_event(),
            (Source::Errors, _) => {
                if let Some(stderr) = &mut self.stderr {
                    stderr.on_event();
                }
            }
            _ => {}
        }
    }

    /// Carries out what the client says.
    pub(crate) fn handle(&mut self, message: HostMessage) -> Result<(), Failure> {
        match message {
            HostMessage::Stdin(data) => self.input()?.accept(data),
            HostMessage::StdinEnd => self.input()?.end(),
            HostMessage::Resize(size) => {
                let Some(master) = &self.terminal else {
                    return Err(violation("There is no terminal to resize"));
                };
                // Without a process it is of no interest.
                let _ = terminal::resize(master, size);
                Ok(())
            }
            HostMessage::Signal(signal) => {
                if !(1..=children::MAX_SIGNAL).contains(&signal) {
                    return Err(violation(format!("There is no signal {signal}")));
                }
                self.signal(signal);
                Ok(())
            }
            HostMessage::Hello(_)
            | HostMessage::Boot(_)
            | HostMessage::Exec(_)
            | HostMessage::Files(_)
            | HostMessage::Shutdown(_)
            | HostMessage::Drain
            | HostMessage::Measure
            | HostMessage::SetClock(_) => Err(violation(
                "A running session takes Stdin, StdinEnd, Resize and Signal only",
            )),
        }
    }

    fn input(&mut self) -> Result<&mut Input, Failure> {
        self.input
            .as_mut()
            .ok_or_else(|| violation("The session has no standard input"))
    }

    /// The next thing that the client should hear, if there is one now. `scratch` takes the data
    /// of output. After `Failed` and `Exited` there is nothing more.
    pub(crate) fn next_message<'a>(&mut self, scratch: &'a mut [u8]) -> Option<GuestMessage<'a>> {
        match std::mem::replace(&mut self.launch, Launch::Told) {
            pending @ Launch::Pending(_) => {
                self.launch = pending;
                return None;
            }
            Launch::Done => {
                let pid = self.pid.as_raw().cast_unsigned();
                return Some(GuestMessage::Started(Started {
                    pid,
                    session: self.number,
                    terminal: self.terminal.is_some(),
                }));
            }
            Launch::Failed(failure) => return Some(GuestMessage::Failed(failure)),
            Launch::Told => {}
        }
        match self.input.as_mut().and_then(Input::take_notice) {
            Some(Notice::Credit(more)) => return Some(GuestMessage::StdinCredit(more)),
            Some(Notice::Closed) => return Some(GuestMessage::StdinClosed),
            None => {}
        }
        self.next_output(scratch)
    }

    fn next_output<'a>(&mut self, scratch: &'a mut [u8]) -> Option<GuestMessage<'a>> {
        let length = scratch.len().min(MAX_DATA);
        let data = scratch.get_mut(..length)?;
        // In turns, so that neither stream waits for the end of the other.
        for is_stderr in [self.stderr_is_next, !self.stderr_is_next] {
            let output = if is_stderr {
                self.stderr.as_mut()
            } else {
                Some(&mut self.stdout)
            };
            if let Some(count) = output.and_then(|output| output.read(data)) {
                self.stderr_is_next = !is_stderr;
                if let Some(input) = &mut self.input {
                    input.repeat_end();
                }
                let data = data.get(..count)?;
                let message = if is_stderr {
                    GuestMessage::Stderr
                } else {
                    GuestMessage::Stdout
                };
                return Some(message(data));
            }
        }
        let status = self.exit?;
        let killed = status == ExitStatus::Signal(libc::SIGKILL as u8);
        Some(GuestMessage::Exited(Exit {
            status,
            timed_out: self.timed_out && killed,
        }))
    }

    /// Whether the process has ended, and what it left is being read without waiting for it.
    pub(crate) fn is_draining(&self) -> bool {
        self.exit.is_some() && matches!(self.launch, Launch::Told)
    }

    /// Waits for what can be handled: output only if the client can take it.
    pub(crate) fn watch(&mut self, can_send: bool) -> io::Result<()> {
        if let Launch::Pending(pipe) = &mut self.launch {
            pipe.watch(Some(Flags::EPOLLIN))?;
        }
        if let Some(input) = &mut self.input {
            input.watch()?;
        }
        let wanted = can_send && matches!(self.launch, Launch::Told);
        for output in self.outputs() {
            output.watch(wanted)?;
        }
        Ok(())
    }

    fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        std::iter::once(&mut self.stdout).chain(&mut self.stderr)
    }

    /// Reads how the process fared on its way to its program, if that is decided.
    fn resolve_launch(&mut self) {
        let Launch::Pending(pipe) = &mut self.launch else {
            return;
        };
        // The frame is shorter than what a pipe takes in one piece, see pipe(7).
        let mut decoder = FrameDecoder::new();
        match decoder.read_from(&mut **pipe) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) => self.launch = Launch::Done,
            _ => {
                self.launch = Launch::Failed(match decoder.next_frame::<GuestMessage>() {
                    Ok(Some(GuestMessage::Failed(failure))) => failure,
                    _ => failure(Stage::Spawn, Errno::EIO, "A new process is lost"),
                });
            }
        }
    }
}
