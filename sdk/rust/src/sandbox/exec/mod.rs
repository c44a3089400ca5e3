//! Running commands in a sandbox.

mod attach;
pub(crate) mod channel;
pub(crate) mod connection;
mod execution;
mod options;
mod refusal;
mod stdin;
mod terminal;
#[cfg(test)]
mod tests;

pub use attach::AttachEnd;
pub use execution::{ExecControls, ExecEvent, ExecExit, ExecOutput, Execution};
pub use options::{ExecOptions, Stdin};
pub use stdin::StdinWriter;

pub(crate) use execution::lost;
pub(crate) use refusal::refused;

use std::net::Shutdown;
use std::time::Duration;

use protocol::{Hello, HostMessage, Stage};
use tokio::net::UnixStream;

use self::channel::{Channel, ChannelError, Opening};
use self::connection::{Connection, encoded};
use super::Sandbox;
use crate::control::{ControlClient, ControlError, ControlRequest, ControlSession, RefusalKind};
use crate::error::MicrosandboxError;
use crate::launch::BOOT_TIMEOUT_MS;

/// How long a machine may take to open a session: it may have to wait for its guest to come up.
const OPEN_LIMIT: Duration = Duration::from_millis(BOOT_TIMEOUT_MS as u64);

impl Sandbox {
    /// Runs a program with arguments, without input, and waits until it has ended. Its output is kept without a limit.
    ///
    /// ```no_run
    /// # async fn example(sandbox: microsandbox::Sandbox) -> Result<(), microsandbox::MicrosandboxError> {
    /// let output = sandbox.exec("python3", ["-c", "print(6 * 7)"]).await?;
    /// assert_eq!((output.stdout_text().as_str(), output.exit.code), ("42\n", Some(0)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MicrosandboxError::ExecFailed`] when it could not be started, [`MicrosandboxError::SandboxDraining`],
    /// [`MicrosandboxError::SandboxNotRunning`], [`MicrosandboxError::SandboxEnded`] when the sandbox ends before the command.
    /// That it fails is none: see [`ExecOutput::exit`]. In a sandbox that is starting, it is run as soon as the guest is up.
    pub async fn exec(
        &self,
        program: &str,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<ExecOutput, MicrosandboxError> {
        self.exec_with(program, ExecOptions::new().args(args)).await
    }

    /// Runs a program and waits until it has ended. Its output is kept without a limit.
    ///
    /// # Errors
    /// As [`exec`](Self::exec); [`MicrosandboxError::ExecTimeout`] when its time was over,
    /// [`MicrosandboxError::InvalidConfig`] for options that no process can have. [`Stdin::Pipe`] is one: there is nobody who
    /// could write.
    pub async fn exec_with(
        &self,
        program: &str,
        options: ExecOptions,
    ) -> Result<ExecOutput, MicrosandboxError> {
        if options.stdin == Stdin::Pipe {
            let reason = "a pipe needs somebody who writes to it: use exec_stream";
            return Err(MicrosandboxError::invalid("stdin", reason));
        }
        self.exec_stream(program, options).await?.collect().await
    }

    /// Begins to run a program.
    ///
    /// ```no_run
    /// # use microsandbox::sandbox::{ExecEvent, ExecOptions};
    /// # async fn example(sandbox: microsandbox::Sandbox) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut sort = sandbox.exec_stream("sort", ExecOptions::new().stdin_pipe()).await?;
    /// if let Some(mut stdin) = sort.stdin() {
    ///     stdin.write_all(b"b\na\n").await?;
    ///     stdin.close().await?;
    /// }
    /// while let Some(event) = sort.recv().await? {
    ///     match event {
    ///         ExecEvent::Stdout(data) => println!("{}", String::from_utf8_lossy(&data)),
    ///         ExecEvent::Exited(exit) => println!("{exit:?}"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`exec`](Self::exec); [`MicrosandboxError::InvalidConfig`] for options that no process can have.
    pub async fn exec_stream(
        &self,
        program: &str,
        options: ExecOptions,
    ) -> Result<Execution, MicrosandboxError> {
        let exec = options.request(self.config(), program)?;
        let request = HostMessage::Exec(Box::new(exec));
        let stream = self.machine().connect_agent().await?;
        let channel = ask_agent(stream, &request).await?;
        Execution::begin(channel, self.machine().clone(), options).await
    }

    /// Runs a program that goes on when this process ends. Returns the number of its session, by which any process can come
    /// [back](Self::reattach) to it. Of its output the last MiB is kept.
    ///
    /// # Errors
    /// As [`exec_stream`](Self::exec_stream). Input that was given as bytes is refused: nobody might be left to write it.
    pub async fn exec_detached(
        &self,
        program: &str,
        options: ExecOptions,
    ) -> Result<u64, MicrosandboxError> {
        if matches!(options.stdin, Stdin::Bytes(_)) {
            let reason = "bytes are written by this process, and the command is to outlive it";
            return Err(MicrosandboxError::invalid("stdin", reason));
        }
        let exec = options.request(self.config(), program)?;
        self.machine().check_awake()?;
        match self.open_kept(ControlRequest::Run(Box::new(exec))).await? {
            Some(session) => {
                // Closing the socket would do, but not while a child of another thread still has it, between fork(2) and
                // execve(2). Fails when the machine is gone already.
                let _ = session.stream.shutdown(Shutdown::Both);
                Ok(session.opened.session)
            }
            None => Err(lost(ChannelError::Unexpected)),
        }
    }

    /// Comes back to a command that was begun with [`exec_detached`](Self::exec_detached), or with `None` to the sandbox's
    /// own process: its output from byte `seen` on, as far as it was kept, and what comes then. Dropping the value leaves it
    /// running. Also one that has ended can be come back to, for some time.
    ///
    /// # Errors
    /// [`MicrosandboxError::SessionNotFound`], [`MicrosandboxError::SessionInUse`].
    pub async fn reattach(
        &self,
        session: impl Into<Option<u64>>,
        seen: u64,
    ) -> Result<Execution, MicrosandboxError> {
        let session = session.into();
        let request = ControlRequest::Attach { session, seen };
        let Some(kept) = self.open_kept(request).await? else {
            return Err(MicrosandboxError::SessionNotFound {
                name: self.name().to_owned(),
                session: session.unwrap_or(0),
            });
        };
        Execution::resume(kept, self.machine().clone())
    }

    /// Runs a script in the sandbox's shell, and waits until it has ended. Its output is kept without a limit.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub async fn shell(&self, script: &str) -> Result<ExecOutput, MicrosandboxError> {
        self.shell_stream(script).await?.collect().await
    }

    /// Begins to run a script in the sandbox's shell.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub async fn shell_stream(&self, script: &str) -> Result<Execution, MicrosandboxError> {
        let options = ExecOptions::new().args(["-c", script]);
        self.exec_stream(options::shell(self.config()), options)
            .await
    }

    /// Runs a program on a terminal that is joined to the one of this process, which is in raw mode meanwhile. Returns its exit
    /// code; 128 and the number of a signal that ended it.
    ///
    /// # Errors
    /// As [`exec`](Self::exec); [`MicrosandboxError::Unsupported`] when this process has no terminal.
    pub async fn attach(
        &self,
        program: &str,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<i32, MicrosandboxError> {
        let size = terminal::size()?;
        let options = ExecOptions::new().args(args).tty(size.rows, size.columns);
        let execution = self.exec_stream(program, options).await?;
        Ok(match execution.join_terminal(None).await? {
            AttachEnd::Exited(exit) => exit.code.or(exit.signal.map(|n| n + 128)).unwrap_or(255),
            AttachEnd::Detached => 0,
        })
    }

    /// As [`attach`](Self::attach), with the sandbox's shell.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub async fn attach_shell(&self) -> Result<i32, MicrosandboxError> {
        self.attach(options::shell(self.config()), [""; 0]).await
    }

    /// Asks the machine for a session that it keeps; `None` if there is no such.
    async fn open_kept(
        &self,
        request: ControlRequest,
    ) -> Result<Option<ControlSession>, MicrosandboxError> {
        let open = move |client: ControlClient| match client.open_session(&request, OPEN_LIMIT) {
            Err(ControlError::Refused(refusal)) if refusal.kind == RefusalKind::NoSession => {
                Ok(Kept::NoSession)
            }
            Err(ControlError::Exec(failure)) if failure.stage == Stage::Protocol => Ok(Kept::Lost),
            result => result.map(Kept::Session),
        };
        match self.machine().control(open).await? {
            Kept::Session(session) => Ok(Some(session)),
            Kept::NoSession => Ok(None),
            Kept::Lost => {
                let error = ChannelError::Disconnected;
                Err(self.machine().session_error(error).await)
            }
        }
    }
}

/// What came of opening a session that the machine's process keeps.
enum Kept {
    Session(ControlSession),
    NoSession,
    /// The guest closed the connection instead of an answer.
    Lost,
}

/// Begins a session with the agent.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`] when the request does not fit into a frame.
pub(crate) async fn ask_agent(
    stream: UnixStream,
    request: &HostMessage<'_>,
) -> Result<Channel, MicrosandboxError> {
    let hello = HostMessage::Hello(Hello::current(env!("CARGO_PKG_VERSION")));
    let mut frames = encoded(&hello).map_err(|error| lost(error.into()))?;
    protocol::encode(request, &mut frames).map_err(|error| {
        let reason = format!("the command and its environment are too long: {error}");
        MicrosandboxError::invalid("args", reason)
    })?;
    let connection = Connection::new(stream);
    // If it is gone already, reading says so, and perhaps why.
    let _ = connection.send(&frames).await;
    Ok(Channel::open(connection, Opening::Agent))
}
