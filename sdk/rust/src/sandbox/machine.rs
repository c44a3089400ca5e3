//! The machine of a sandbox, as its clients reach it: by the sockets in its run directory.

use std::io;

use tokio::net::UnixStream;

use super::SandboxStatus;
use crate::error::{MicrosandboxError, failed};
use crate::home::Home;
use crate::names::Name;
use crate::run_directory::{AGENT_SOCKET, CONTROL_SOCKET, RunDirectory};
use crate::socket;

/// The machine of a sandbox. The value owns nothing.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    name: Name,
    home: Home,
    directory: RunDirectory,
}

impl Machine {
    pub(crate) fn new(home: &Home, name: &Name) -> Machine {
        Machine {
            name: name.clone(),
            home: home.clone(),
            directory: RunDirectory::of(home, name),
        }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// A fresh connection to the agent in the guest: one session.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`].
    pub(crate) async fn connect_agent(&self) -> Result<UnixStream, MicrosandboxError> {
        self.connect(AGENT_SOCKET)
    }

    /// A fresh connection to the machine itself; see [`control`](crate::control).
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`].
    pub(crate) async fn connect_control(&self) -> Result<UnixStream, MicrosandboxError> {
        self.connect(CONTROL_SOCKET)
    }

    /// Connecting to a socket of this machine does not wait, unless its queue is full.
    fn connect(&self, socket: &str) -> Result<UnixStream, MicrosandboxError> {
        let path = self.directory.path();
        let stream = socket::connect(path, socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => self.not_running(),
            _ => failed("connect to", &path.join(socket))(error),
        })?;
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream));
        stream.map_err(failed("connect to", &path.join(socket)))
    }

    fn not_running(&self) -> MicrosandboxError {
        MicrosandboxError::SandboxNotRunning {
            name: self.name.to_string(),
            status: SandboxStatus::Stopped,
        }
    }
}
