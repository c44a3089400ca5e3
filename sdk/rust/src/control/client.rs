//! A connection to a machine's process, for callers who can wait.
//!
//! Each wait has a limit, because a machine's process can be stuck: stopped by a signal, starved, or on its way out.

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};
use protocol::{FrameDecoder, FrameError, Hello, HelloError};

use super::{
    ControlReply, ControlRequest, Ended, MachineMetrics, MachineState, Refusal, SessionOpened,
};
use crate::names::Name;
use crate::run_directory::{RunDirectory, RunDirectoryError};

/// Why a machine's process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is none, or it cannot be reached.
    #[error(transparent)]
    Connect(#[from] RunDirectoryError),
    /// It did not answer in time.
    #[error("The machine's process did not answer within {} ms", .limit.as_millis())]
    TimedOut {
        /// How long it was given.
        limit: Duration,
    },
    /// It is gone, or went before it answered.
    #[error("The machine's process ended")]
    Gone,
    /// It is of another release.
    #[error("The machine's process is of another release")]
    Hello(#[from] HelloError),
    /// The connection failed, or something came over it that cannot be understood.
    #[error("Failed to talk to the machine's process")]
    Frame(#[source] FrameError),
    /// It answered something that means nothing at this point.
    #[error("The machine's process answered out of turn")]
    Unexpected,
    /// It says that this cannot be done.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The guest could not start the process.
    #[error("{}", .0.message)]
    Exec(protocol::Failure),
}

/// A connection to a machine's process.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
    decoder: FrameDecoder,
    pid: i32,
}

impl ControlClient {
    /// Connects to the machine of the sandbox `name` and exchanges greetings, within `limit`.
    ///
    /// # Errors
    /// When nobody listens, or the machine's process does not answer or is of another release.
    pub fn connect(
        directory: &RunDirectory,
        name: &Name,
        limit: Duration,
    ) -> Result<ControlClient, ControlError> {
        let stream = directory.connect_control(name)?;
        ControlClient::greet(stream, limit)
    }

    /// Exchanges greetings over a fresh connection, within `limit`.
    ///
    /// # Errors
    /// When the machine's process does not answer or is of another release.
    pub fn greet(stream: UnixStream, limit: Duration) -> Result<ControlClient, ControlError> {
        let deadline = Deadline::after(limit);
        // SO_PEERCRED would name who listened first, which is the creator. The kernel vouches for the sender of a message
        // instead (unix(7), SCM_CREDENTIALS), and the machine's process says nothing before it is greeted.
        setsockopt(&stream, PassCred, &true).map_err(failed)?;
        let mut client = ControlClient {
            stream,
            decoder: FrameDecoder::new(),
            pid: 0,
        };
        client.send(
            &ControlRequest::Hello(Hello::current(env!("CARGO_PKG_VERSION"))),
            &deadline,
        )?;
        match client.receive(&deadline)? {
            ControlReply::Hello(hello) => hello.check()?,
            ControlReply::Refused(refusal) => return Err(ControlError::Refused(refusal)),
            _ => return Err(ControlError::Unexpected),
        }
        Ok(client)
    }

    /// Process id of the machine's process, which the kernel vouches for.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks for something that is answered by [`ControlReply::Done`], within `limit`.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when it cannot be done; others when there is no answer.
    pub fn ask(&mut self, request: &ControlRequest, limit: Duration) -> Result<(), ControlError> {
        match self.request(request, limit)? {
            ControlReply::Done => Ok(()),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// What the machine uses, within `limit`.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn metrics(&mut self, limit: Duration) -> Result<MachineMetrics, ControlError> {
        match self.request(&ControlRequest::Metrics, limit)? {
            ControlReply::Metrics(metrics) => Ok(*metrics),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Runs a process that survives its client, or comes back to one, as `request` says: [`ControlRequest::Run`] or
    /// [`ControlRequest::Attach`].
    ///
    /// # Errors
    /// [`ControlError::Exec`] when the guest cannot start the process; else as [`ask`](Self::ask).
    pub fn open_session(
        mut self,
        request: &ControlRequest,
        limit: Duration,
    ) -> Result<ControlSession, ControlError> {
        match self.request(request, limit)? {
            ControlReply::Session(opened) => Ok(ControlSession {
                opened,
                stream: self.stream,
                decoder: self.decoder,
            }),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Begins to be told of every change of state. The first change, which is the present state, is there at once.
    ///
    /// # Errors
    /// When the request cannot be sent within `limit`.
    pub fn watch(mut self, limit: Duration) -> Result<Watch, ControlError> {
        self.send(&ControlRequest::Watch, &Deadline::after(limit))?;
        Ok(Watch { client: self })
    }

    /// Sends `request` and waits for the reply, within `limit`.
    fn request(
        &mut self,
        request: &ControlRequest,
        limit: Duration,
    ) -> Result<ControlReply, ControlError> {
        let deadline = Deadline::after(limit);
        self.send(request, &deadline)?;
        match self.receive(&deadline)? {
            ControlReply::Refused(refusal) => Err(ControlError::Refused(refusal)),
            ControlReply::Failed(failure) => Err(ControlError::Exec(failure)),
            reply => Ok(reply),
        }
    }

    fn send(&mut self, request: &ControlRequest, deadline: &Deadline) -> Result<(), ControlError> {
        let mut frame = Vec::new();
        protocol::encode(request, &mut frame).map_err(ControlError::Frame)?;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            self.stream
                .set_write_timeout(Some(deadline.left()?))
                .map_err(failed)?;
            match self.stream.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(deadline.missed());
                }
                // A machine's process that refuses the connection says why before it closes it.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: &Deadline) -> Result<ControlReply, ControlError> {
        while !self.decoder.has_frame().map_err(ControlError::Frame)? {
            self.stream
                .set_read_timeout(Some(deadline.left()?))
                .map_err(failed)?;
            self.read(deadline)?;
        }
        self.next()?.ok_or(ControlError::Gone)
    }

    /// The next reply, if it has arrived completely.
    fn next(&mut self) -> Result<Option<ControlReply>, ControlError> {
        self.decoder.next_frame().map_err(ControlError::Frame)
    }

    /// Reads once.
    fn read(&mut self, deadline: &Deadline) -> Result<(), ControlError> {
        let mut source = Vouched {
            stream: &self.stream,
            pid: &mut self.pid,
        };
        match self.decoder.read_from(&mut source) {
            Ok(0) => Err(ControlError::Gone),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(deadline.missed()),
            // It ended with something of this side unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(ControlError::Gone),
            Err(error) => Err(failed(error)),
        }
    }
}

impl AsFd for ControlClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A connection that carries a session from here on: its [`GuestMessage`](protocol::GuestMessage)s come, its
/// [`HostMessage`](protocol::HostMessage)s go. Without credit no standard input may be sent; the first comes at once.
#[derive(Debug)]
pub struct ControlSession {
    /// Which session, and from where in its output on.
    pub opened: SessionOpened,
    /// The connection. Its timeouts are those of the last request.
    pub stream: UnixStream,
    /// What has been read from it already.
    pub decoder: FrameDecoder,
}

/// What a machine's process tells those who watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The machine is in this state.
    State(MachineState),
    /// The machine ended, and everything about it is recorded.
    Ended(Box<Ended>),
    /// Its process ended without a word.
    Gone,
}

/// A connection over which a machine's process tells of changes.
#[derive(Debug)]
pub struct Watch {
    client: ControlClient,
}

impl Watch {
    /// Waits for the next change, for `limit` if there is one. After [`Change::Ended`] and [`Change::Gone`] there is none.
    ///
    /// # Errors
    /// [`ControlError::TimedOut`] when nothing happened in time; others when the machine's process cannot be understood.
    pub fn next(&mut self, limit: Option<Duration>) -> Result<Change, ControlError> {
        let reply = match limit {
            Some(limit) => self.client.receive(&Deadline::after(limit)),
            None => self.wait(),
        };
        match reply {
            Ok(ControlReply::State(state)) => Ok(Change::State(state)),
            Ok(ControlReply::Ended(ended)) => Ok(Change::Ended(ended)),
            Ok(ControlReply::Refused(refusal)) => Err(ControlError::Refused(refusal)),
            Ok(_) => Err(ControlError::Unexpected),
            Err(ControlError::Gone) => Ok(Change::Gone),
            Err(error) => Err(error),
        }
    }

    fn wait(&mut self) -> Result<ControlReply, ControlError> {
        self.client.stream.set_read_timeout(None).map_err(failed)?;
        // Never missed.
        let deadline = Deadline::after(Duration::ZERO);
        loop {
            if let Some(reply) = self.client.next()? {
                return Ok(reply);
            }
            self.client.read(&deadline)?;
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

/// Reads from the connection and notes who wrote.
struct Vouched<'a> {
    stream: &'a UnixStream,
    pid: &'a mut i32,
}

impl io::Read for Vouched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = nix::cmsg_space!(UnixCredentials);
        let mut buffers = [IoSliceMut::new(buffer)];
        let message = recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut buffers,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmCredentials(credentials) = control {
                *self.pid = credentials.pid();
            }
        }
        Ok(message.bytes)
    }
}

/// When a wait is over.
struct Deadline {
    limit: Duration,
    end: Option<Instant>,
}

impl Deadline {
    fn after(limit: Duration) -> Deadline {
        Deadline {
            limit,
            end: Instant::now().checked_add(limit),
        }
    }

    /// What is left of the time, which is more than nothing.
    fn left(&self) -> Result<Duration, ControlError> {
        let Some(end) = self.end else {
            return Ok(self.limit);
        };
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(self.missed()),
            left => Ok(left),
        }
    }

    fn missed(&self) -> ControlError {
        ControlError::TimedOut { limit: self.limit }
    }
}

fn failed(error: impl Into<io::Error>) -> ControlError {
    ControlError::Frame(FrameError::Io(error.into()))
}
