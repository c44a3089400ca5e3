//! One session with the agent of a guest: a process there and its standard streams here.
//!
//! [`Session::attach`] joins the connection to three descriptors with two threads. The *input* thread
//! is the only one that writes to the connection: standard input as far as the agent gave credit for
//! it, and signals and terminal sizes as they come. The *output* thread is the only one that reads:
//! it writes output where it belongs and learns how the process ended. A slow reader of the output
//! thus stops nothing but its own process, by back-pressure along the connection.

mod input;
mod output;
mod remote;

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use protocol::{
    Exec, Exit, Failure, FilesRequest, FrameDecoder, FrameError, Hello, HelloError, HostMessage,
    INITIAL_STDIN_CREDIT,
};

use crate::control::ControlSession;
use crate::launch::Moment;
pub use remote::Remote;

/// Where the standard streams of a session's process lead.
#[derive(Debug)]
pub struct Streams {
    /// Standard input; `None` when the process gets none.
    pub input: Option<File>,
    /// Standard output, and everything that a terminal shows.
    pub output: File,
    /// Standard error.
    pub error: File,
}

/// What is asked of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To run a process.
    Exec(Box<Exec>),
    /// To serve files, by requests in standard input and replies in standard output.
    Files(FilesRequest),
}

impl From<Exec> for Request {
    fn from(exec: Exec) -> Request {
        Request::Exec(Box::new(exec))
    }
}

impl From<FilesRequest> for Request {
    fn from(request: FilesRequest) -> Request {
        Request::Files(request)
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The process ended and all of its output is written.
    Exited(Exit),
    /// The agent could not run the process.
    Refused(Failure),
    /// Nobody reads the output any more (EPIPE).
    OutputClosed,
    /// The guest is gone.
    Disconnected,
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Program, arguments and environment do not fit into a frame.
    #[error("The command and its environment are too long")]
    Request(#[source] FrameError),
    /// Threads or pipes could not be had.
    #[error("Failed to set up a session")]
    Setup(#[source] io::Error),
    /// The agent is of another release.
    #[error("The agent in the guest cannot be talked to")]
    Hello(#[from] HelloError),
    /// The connection failed, or something came over it that cannot be understood.
    #[error("Failed to understand the agent in the guest")]
    Frame(#[from] FrameError),
    /// A message came that means nothing at this point.
    #[error("The agent in the guest sent {message} out of turn")]
    Unexpected {
        /// Kind of the message.
        message: &'static str,
    },
    /// Output could not be written.
    #[error("Failed to write the output")]
    Output(#[source] io::Error),
    /// A thread panicked.
    #[error("A thread of the session panicked")]
    Panicked,
}

/// A running session. When the value is dropped, the connection ends, and with it the process.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    remote: Arc<Remote>,
    /// Hangs up when the output thread ends.
    finished: OwnedFd,
    output: Option<JoinHandle<Result<SessionEnd, SessionError>>>,
    first_output: Arc<OnceLock<Moment>>,
}

/// Checks that `exec` fits into the one frame that asks for it. No more can be known of it without a guest.
///
/// # Errors
/// [`SessionError::Request`] when it does not.
pub fn check(exec: &Exec) -> Result<(), SessionError> {
    frames(exec.clone().into()).map(drop)
}

/// The frames that open a session.
fn frames(request: Request) -> Result<Vec<u8>, SessionError> {
    let mut frames = Vec::new();
    let hello = HostMessage::Hello(Hello::current(env!("CARGO_PKG_VERSION")));
    protocol::encode(&hello, &mut frames).map_err(SessionError::Request)?;
    let request = match request {
        Request::Exec(exec) => HostMessage::Exec(exec),
        Request::Files(request) => HostMessage::Files(request),
    };
    protocol::encode(&request, &mut frames).map_err(SessionError::Request)?;
    Ok(frames)
}

impl Session {
    /// Asks for a process over a fresh connection and joins it to `streams`. Returns at once; nothing is
    /// known of the process until the session has [ended](Self::end).
    ///
    /// An [`Exec`] should say by `stdin` whether there is an input.
    ///
    /// # Errors
    /// When the request is too long, or threads cannot be made.
    pub fn attach(
        stream: UnixStream,
        request: impl Into<Request>,
        streams: Streams,
    ) -> Result<Session, SessionError> {
        let request = frames(request.into())?;
        // The agent gives the first credit with the session.
        Session::join(stream, request, None, INITIAL_STDIN_CREDIT, streams)
    }

    /// Joins a session that somebody comes back to, see [`ControlClient::open_session`], to `streams`. Returns at once.
    /// Dropping the session leaves its process alone.
    ///
    /// [`ControlClient::open_session`]: crate::control::ControlClient::open_session
    ///
    /// # Errors
    /// When threads cannot be made.
    pub fn resume(session: ControlSession, streams: Streams) -> Result<Session, SessionError> {
        let ControlSession {
            stream, decoder, ..
        } = session;
        stream
            .set_read_timeout(None)
            .and_then(|()| stream.set_write_timeout(None))
            .map_err(SessionError::Setup)?;
        Session::join(stream, Vec::new(), Some(decoder), 0, streams)
    }

    fn join(
        stream: UnixStream,
        request: Vec<u8>,
        greeted: Option<FrameDecoder>,
        credit: u32,
        streams: Streams,
    ) -> Result<Session, SessionError> {
        let remote = Arc::new(Remote::new(credit).map_err(SessionError::Setup)?);
        let (finished, finished_writer) =
            pipe2(OFlag::O_CLOEXEC).map_err(|error| SessionError::Setup(error.into()))?;
        let mut session = Session {
            stream: stream.try_clone().map_err(SessionError::Setup)?,
            remote: Arc::clone(&remote),
            finished,
            output: None,
            first_output: Arc::default(),
        };
        let writer = stream.try_clone().map_err(SessionError::Setup)?;
        let input = input::Input {
            request,
            stream: writer,
            source: streams.input,
            remote,
        };
        // Nobody waits for this thread: it may sit in a read that only another process can end.
        thread::Builder::new()
            .name("session-in".to_owned())
            .spawn(move || input.run())
            .map_err(SessionError::Setup)?;
        let output = output::Output {
            stream,
            greeted,
            output: streams.output,
            error: streams.error,
            remote: Arc::clone(&session.remote),
            first: Arc::clone(&session.first_output),
        };
        let thread = thread::Builder::new()
            .name("session-out".to_owned())
            .spawn(move || {
                let _finished = finished_writer;
                output.run()
            })
            .map_err(SessionError::Setup)?;
        session.output = Some(thread);
        Ok(session)
    }

    /// Signals and terminal sizes go through here.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// When the first byte of output came, if one has come.
    pub fn first_output(&self) -> Option<Moment> {
        self.first_output.get().copied()
    }

    /// Readable (hung up) when the session has ended, so that [`end`](Self::end) does not wait.
    pub fn finished(&self) -> BorrowedFd<'_> {
        self.finished.as_fd()
    }

    /// Waits for the end of the session and tells how it ended.
    ///
    /// # Errors
    /// When the agent cannot be understood or output cannot be written.
    pub fn end(mut self) -> Result<SessionEnd, SessionError> {
        self.wait()
    }

    /// As [`end`](Self::end), once.
    pub(crate) fn wait(&mut self) -> Result<SessionEnd, SessionError> {
        match self.output.take().map(JoinHandle::join) {
            Some(Ok(end)) => end,
            Some(Err(_)) | None => Err(SessionError::Panicked),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.remote.finish();
        // Fails when the guest is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests;
