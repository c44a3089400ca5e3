//! What is asked of a command besides its program.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::{Bytes, Exec, TerminalSize};

use crate::error::MicrosandboxError;
use crate::milliseconds::milliseconds;
use crate::sandbox::{Rlimit, SandboxConfig};

/// The shell of a sandbox that names none.
const DEFAULT_SHELL: &str = "/bin/sh";

/// How a command is run. What is not said is as the sandbox's configuration says.
///
/// ```
/// use std::time::Duration;
/// use microsandbox::sandbox::ExecOptions;
///
/// let options = ExecOptions::new()
///     .args(["-c", "echo $GREETING"])
///     .env("GREETING", "hello")
///     .cwd("/tmp")
///     .timeout(Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Arguments after the program.
    pub args: Vec<String>,
    /// Working directory in the guest.
    pub cwd: Option<String>,
    /// Environment, which adds to that of the sandbox; these win.
    pub env: BTreeMap<String, String>,
    /// A name or a UID, with a group after `:` if wanted.
    pub user: Option<String>,
    /// A terminal of this size instead of three pipes. Standard error then is in standard output.
    pub tty: Option<TerminalSize>,
    /// Resource limits; they add to those of the sandbox, and win.
    pub rlimits: Vec<Rlimit>,
    /// After which time the guest's agent kills the command. Who waits for the command is told so a few seconds later also if the
    /// guest hangs or is paused.
    pub timeout: Option<Duration>,
    /// Standard input.
    pub stdin: Stdin,
}

/// Standard input of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`, or a terminal on which nobody types.
    #[default]
    Null,
    /// What the caller writes with [`Execution::stdin`](super::Execution::stdin).
    Pipe,
    /// These bytes, and then the end.
    Bytes(Vec<u8>),
}

impl ExecOptions {
    /// Everything as the sandbox's configuration says, without input.
    pub fn new() -> ExecOptions {
        ExecOptions::default()
    }

    /// Arguments after the program.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> ExecOptions {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Working directory in the guest.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<String>) -> ExecOptions {
        self.cwd = Some(directory.into());
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> ExecOptions {
        self.env.insert(name.into(), value.into());
        self
    }

    /// A name or a UID, with a group after `:` if wanted.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> ExecOptions {
        self.user = Some(user.into());
        self
    }

    /// A terminal of this size in characters instead of three pipes.
    #[must_use]
    pub fn tty(mut self, rows: u16, columns: u16) -> ExecOptions {
        self.tty = Some(TerminalSize { rows, columns });
        self
    }

    /// A resource limit.
    #[must_use]
    pub fn rlimit(mut self, limit: Rlimit) -> ExecOptions {
        self.rlimits.push(limit);
        self
    }

    /// After which time the guest's agent kills the command. Who waits for the command is told so a few seconds later also if the
    /// guest hangs or is paused.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> ExecOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Standard input from [`Execution::stdin`](super::Execution::stdin).
    #[must_use]
    pub fn stdin_pipe(mut self) -> ExecOptions {
        self.stdin = Stdin::Pipe;
        self
    }

    /// Standard input of these bytes.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> ExecOptions {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// The request to the guest's agent for `program` in a sandbox of this configuration.
    ///
    /// # Errors
    /// [`MicrosandboxError::InvalidConfig`] for what no process can be given.
    pub(crate) fn request(
        &self,
        config: &SandboxConfig,
        program: &str,
    ) -> Result<Exec, MicrosandboxError> {
        let mut env = config.env.clone();
        env.extend(self.env.clone());
        for name in env.keys() {
            if name.is_empty() || name.contains('=') {
                let reason = format!("{name:?} is no name of a variable");
                return Err(MicrosandboxError::invalid("env", reason));
            }
        }
        let mut rlimits = config.rlimits.clone();
        for limit in &self.rlimits {
            rlimits.retain(|other| other.resource != limit.resource);
            rlimits.push(*limit);
        }
        let args = [program]
            .into_iter()
            .chain(self.args.iter().map(String::as_str));
        Ok(Exec {
            args: args
                .map(|arg| bytes("args", arg))
                .collect::<Result<_, _>>()?,
            env: env
                .iter()
                .map(|(name, value)| Ok((bytes("env", name)?, bytes("env", value)?)))
                .collect::<Result<_, MicrosandboxError>>()?,
            cwd: match self.cwd.as_ref().or(config.workdir.as_ref()) {
                Some(directory) => Some(bytes("cwd", directory)?),
                None => None,
            },
            user: self.user.clone().or_else(|| config.user.clone()),
            rlimits: rlimits.into_iter().map(Into::into).collect(),
            terminal: self.tty,
            stdin: self.stdin != Stdin::Null,
            timeout_ms: self.timeout.map(milliseconds),
            stop_signal: None,
        })
    }
}

/// The shell of a sandbox.
pub(crate) fn shell(config: &SandboxConfig) -> &str {
    config.shell.as_deref().unwrap_or(DEFAULT_SHELL)
}

/// Text without zero bytes.
fn bytes(field: &str, text: &str) -> Result<Bytes, MicrosandboxError> {
    match text.contains('\0') {
        true => Err(MicrosandboxError::invalid(field, "it contains a zero byte")),
        false => Ok(Bytes(text.as_bytes().to_vec())),
    }
}
