//! A command that runs.

use std::time::Duration;

use bytes::Bytes;
use protocol::{Exit, ExitStatus, HostMessage, Started, TerminalSize};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::OPEN_LIMIT;
use super::channel::{Channel, ChannelError, Event, Opening, Sender};
use super::connection::Connection;
use super::options::{ExecOptions, Stdin};
use super::refusal::refused;
use super::stdin::StdinWriter;
use crate::control::ControlSession;
use crate::error::MicrosandboxError;
use crate::sandbox::machine::Machine;

/// How long an agent may say nothing about a command whose time is over. It kills the command by itself, so one that does not is in
/// a guest that hangs, or stands still.
const SILENCE: Duration = Duration::from_secs(5);

/// What comes from a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs. Comes first, unless one comes [back](crate::Sandbox::reattach) to it.
    Started {
        /// Its process id in the guest.
        pid: u32,
        /// Number of its session.
        session: u64,
    },
    /// A part of its standard output, or of what its terminal shows.
    Stdout(Bytes),
    /// A part of its standard error.
    Stderr(Bytes),
    /// It ended, and all of its output has come. The last event.
    Exited(ExecExit),
}

/// How a command ended: with an exit code, or by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecExit {
    /// Its exit code, 0 to 255.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

impl ExecExit {
    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl From<Exit> for ExecExit {
    fn from(exit: Exit) -> ExecExit {
        let (code, signal) = match exit.status {
            ExitStatus::Code(code) => (Some(code.into()), None),
            ExitStatus::Signal(signal) => (None, Some(signal.into())),
        };
        ExecExit {
            code,
            signal,
            timed_out: exit.timed_out,
        }
    }
}

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// All of its standard output, or of what its terminal showed.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: ExecExit,
}

impl ExecOutput {
    /// Its standard output as text; what is no UTF-8 is replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text; what is no UTF-8 is replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.exit.success()
    }
}

/// A command that runs in a sandbox.
///
/// Its output waits here in bounded memory until it is taken with [`recv`](Self::recv). Who takes nothing stops the command
/// at last, and nothing else. Dropping the value ends the command: SIGHUP, and SIGKILL two seconds later. One that was begun
/// with [`exec_detached`](crate::Sandbox::exec_detached) goes on, and one can come [back](crate::Sandbox::reattach) to it.
#[derive(Debug)]
pub struct Execution {
    channel: Channel,
    machine: Machine,
    session: u64,
    pid: Option<u32>,
    has_terminal: bool,
    /// Comes first.
    started: Option<Started>,
    stdin: Option<StdinWriter>,
    /// Writes input that was given as bytes.
    feeding: Option<JoinHandle<()>>,
    timeout: Option<Duration>,
    /// When its time is over.
    over: Option<Instant>,
    exit: Option<ExecExit>,
    /// Bytes of output that came before what this value gives, as far as is known.
    position: u64,
    /// Bytes of output before `position` that were not kept.
    missed: u64,
}

impl Execution {
    /// Waits until the command of a fresh session runs.
    ///
    /// # Errors
    /// [`MicrosandboxError::ExecFailed`], [`MicrosandboxError::SandboxDraining`], [`MicrosandboxError::SandboxEnded`];
    /// [`MicrosandboxError::Timeout`] if its time is limited and it does not come to run.
    pub(crate) async fn begin(
        mut channel: Channel,
        machine: Machine,
        options: ExecOptions,
    ) -> Result<Execution, MicrosandboxError> {
        let limit = options.timeout.map(|_| Instant::now() + OPEN_LIMIT);
        let Some(first) = next_until(&mut channel, limit).await else {
            return Err(MicrosandboxError::Timeout {
                what: format!(
                    "The start of a command in the sandbox {:?}",
                    machine.name().as_str()
                ),
                after: OPEN_LIMIT,
            });
        };
        let started = match first {
            Ok(Some(Event::Started(started))) => started,
            Ok(Some(Event::Failed(failure))) => {
                return Err(refused(machine.name().as_str(), failure));
            }
            Ok(_) => return Err(lost(ChannelError::Unexpected)),
            Err(error) => return Err(machine.session_error(error).await),
        };
        let mut stdin = Some(StdinWriter::new(channel.sender().clone()));
        let mut feeding = None;
        match options.stdin {
            Stdin::Null if options.tty.is_none() => stdin = None,
            Stdin::Null | Stdin::Pipe => {}
            Stdin::Bytes(input) => feeding = stdin.take().map(|stdin| feed(stdin, input)),
        }
        Ok(Execution {
            stdin,
            channel,
            machine,
            session: started.session,
            pid: Some(started.pid),
            has_terminal: options.tty.is_some(),
            started: Some(started),
            feeding,
            timeout: options.timeout,
            over: options
                .timeout
                .and_then(|timeout| Instant::now().checked_add(timeout)),
            exit: None,
            position: 0,
            missed: 0,
        })
    }

    /// A command that the machine keeps.
    ///
    /// # Errors
    /// None but for a lack of descriptors.
    pub(crate) fn resume(
        kept: ControlSession,
        machine: Machine,
    ) -> Result<Execution, MicrosandboxError> {
        let ControlSession {
            opened,
            stream,
            decoder,
        } = kept;
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream));
        let stream = stream.map_err(|error| lost(ChannelError::Frame(error.into())))?;
        let channel = Channel::open(Connection::with(stream, decoder), Opening::Machine);
        Ok(Execution {
            stdin: Some(StdinWriter::new(channel.sender().clone())),
            channel,
            machine,
            session: opened.session,
            pid: None,
            has_terminal: opened.terminal,
            started: None,
            feeding: None,
            timeout: None,
            over: None,
            exit: None,
            position: opened.position,
            missed: opened.missed,
        })
    }

    /// Number of its session, by which one can come [back](crate::Sandbox::reattach) to it if it was begun detached.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Its process id in the guest; `None` if one came back to it.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Position of the first byte of output that this value gives, counted from the start of the command: standard output
    /// and standard error together.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of output that were not kept, before [`position`](Self::position).
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Waits for the next event; `None` after [`ExecEvent::Exited`]. What is given up while it waits is not lost.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxEnded`] when the sandbox ends before the command; [`MicrosandboxError::ExecTimeout`] when its
    /// time is over and its guest, which is to end it then, hangs; [`MicrosandboxError::Runtime`] when its agent cannot be
    /// understood.
    pub async fn recv(&mut self) -> Result<Option<ExecEvent>, MicrosandboxError> {
        if self.exit.is_some() {
            return Ok(None);
        }
        if let Some(Started { pid, session, .. }) = self.started.take() {
            return Ok(Some(ExecEvent::Started { pid, session }));
        }
        // What has come already is told first, however late somebody takes it.
        let limit = self.over.map(|over| over.max(Instant::now()) + SILENCE);
        let event = match next_until(&mut self.channel, limit).await {
            Some(Ok(event)) => event,
            Some(Err(error)) => return Err(self.machine.session_error(error).await),
            None => {
                return Err(MicrosandboxError::ExecTimeout {
                    timeout: self.timeout.unwrap_or_default(),
                });
            }
        };
        let event = match event {
            Some(Event::Stdout(data)) => ExecEvent::Stdout(data),
            Some(Event::Stderr(data)) => ExecEvent::Stderr(data),
            Some(Event::Exited(exit)) => {
                let exit = ExecExit::from(exit);
                self.exit = Some(exit);
                ExecEvent::Exited(exit)
            }
            Some(Event::Started(Started { pid, session, .. })) => {
                self.pid = Some(pid);
                ExecEvent::Started { pid, session }
            }
            Some(Event::Failed(failure)) => {
                return Err(refused(self.machine.name().as_str(), failure));
            }
            // It was told before.
            None => return Err(self.machine.session_error(ChannelError::Disconnected).await),
        };
        Ok(Some(event))
    }

    /// The writer of its standard input, once: for a command with [`Stdin::Pipe`] or a terminal, and for one that one came
    /// back to, which must have been begun so.
    pub fn stdin(&mut self) -> Option<StdinWriter> {
        self.stdin.take()
    }

    /// Sends a signal to its process group, 1 to 64.
    ///
    /// # Errors
    /// [`MicrosandboxError::InvalidConfig`] for other numbers.
    pub async fn signal(&self, signal: i32) -> Result<(), MicrosandboxError> {
        self.controls().signal(signal).await
    }

    /// Sets the size of its terminal in characters.
    ///
    /// # Errors
    /// [`MicrosandboxError::Unsupported`] when it has none.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), MicrosandboxError> {
        self.controls().resize(rows, columns).await
    }

    /// Ends its process group at once, with SIGKILL.
    ///
    /// # Errors
    /// None today.
    pub async fn kill(&self) -> Result<(), MicrosandboxError> {
        self.signal(libc::SIGKILL).await
    }

    /// Sends signals and sizes, also while somebody else waits for events.
    pub fn controls(&self) -> ExecControls {
        ExecControls {
            sender: self.channel.sender().clone(),
            has_terminal: self.has_terminal,
        }
    }

    /// Waits until the command has ended. Output that nobody has taken is dropped.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn wait(&mut self) -> Result<ExecExit, MicrosandboxError> {
        loop {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            self.recv().await?;
        }
    }

    /// Waits until the command has ended, and keeps all output that nobody has taken: without a limit, so a command that
    /// writes without end fills the memory. Use [`recv`](Self::recv) for such.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); [`MicrosandboxError::ExecTimeout`] if its time was over.
    pub async fn collect(mut self) -> Result<ExecOutput, MicrosandboxError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(event) = self.recv().await? {
            match event {
                ExecEvent::Stdout(data) => stdout.extend_from_slice(&data),
                ExecEvent::Stderr(data) => stderr.extend_from_slice(&data),
                ExecEvent::Started { .. } | ExecEvent::Exited(_) => {}
            }
        }
        let exit = self.wait().await?;
        match (exit.timed_out, self.timeout) {
            (true, timeout) => Err(MicrosandboxError::ExecTimeout {
                timeout: timeout.unwrap_or_default(),
            }),
            (false, _) => Ok(ExecOutput {
                stdout,
                stderr,
                exit,
            }),
        }
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if let Some(feeding) = &self.feeding {
            feeding.abort();
        }
    }
}

/// The next event; `None` if there is none until `limit`.
async fn next_until(
    channel: &mut Channel,
    limit: Option<Instant>,
) -> Option<Result<Option<Event>, ChannelError>> {
    match limit {
        Some(limit) => timeout_at(limit, channel.next()).await.ok(),
        None => Some(channel.next().await),
    }
}

/// Writes `input` as standard input, and then the end, while the command runs.
fn feed(mut stdin: StdinWriter, input: Vec<u8>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // A command need not read all of its input.
        if stdin.write_all(&input).await.is_ok() {
            let _ = stdin.close().await;
        }
    })
}

/// Sends signals and terminal sizes to a command.
#[derive(Debug, Clone)]
pub struct ExecControls {
    sender: Sender,
    has_terminal: bool,
}

impl ExecControls {
    /// As [`Execution::signal`].
    ///
    /// # Errors
    /// [`MicrosandboxError::InvalidConfig`] for numbers that are no signal.
    pub async fn signal(&self, signal: i32) -> Result<(), MicrosandboxError> {
        if !(1..=64).contains(&signal) {
            let reason = format!("{signal} is not between 1 and 64");
            return Err(MicrosandboxError::invalid("signal", reason));
        }
        self.send(&HostMessage::Signal(signal)).await
    }

    /// As [`Execution::resize`].
    ///
    /// # Errors
    /// As there.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), MicrosandboxError> {
        // The agent takes it for a breach of the protocol, which ends the command.
        if !self.has_terminal {
            return Err(MicrosandboxError::Unsupported {
                message: "The command has no terminal whose size could be set".to_owned(),
            });
        }
        let size = TerminalSize { rows, columns };
        self.send(&HostMessage::Resize(size)).await
    }

    async fn send(&self, message: &HostMessage<'_>) -> Result<(), MicrosandboxError> {
        let sent = self.sender.send(message).await;
        sent.map_err(|error| lost(error.into()))
    }
}

/// A session that cannot be understood.
pub(crate) fn lost(error: ChannelError) -> MicrosandboxError {
    MicrosandboxError::Runtime {
        message: "The session with the sandbox failed".to_owned(),
        source: Some(Box::new(error)),
    }
}
