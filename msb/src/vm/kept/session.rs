//! One process in the guest whose client is this process, and whoever is attached to it.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use microsandbox::control::SessionOpened;
use microsandbox::protocol::{
    Exec, Exit, Failure, FrameDecoder, FrameError, GuestMessage, Hello, HostMessage,
    INITIAL_STDIN_CREDIT, MAX_DATA, Started,
};
use nix::poll::PollFlags;

use super::backlog::{Backlog, CAPACITY, Source};
use crate::vm::control::{ClientId, Outgoing};

/// Bytes for the guest that wait here before the attached client has to.
const MAX_WAITING: usize = 2 * MAX_DATA;

/// A process in the guest that survives its clients.
#[derive(Debug)]
pub(in crate::vm) struct KeptSession {
    /// `None` when the session is over.
    stream: Option<UnixStream>,
    /// The guest closed its end; what it sent before may still have to be read.
    hung_up: bool,
    decoder: FrameDecoder,
    /// What goes to the guest.
    out: Outgoing,
    process: Process,
    end: Option<End>,
    attached: Option<Attachment>,
}

/// What the guest has told of the process.
#[derive(Debug)]
struct Process {
    greeted: bool,
    started: Option<Started>,
    backlog: Backlog,
    /// Bytes of standard input that it takes.
    credit: u64,
    /// It takes no more input.
    input_closed: bool,
}

/// How a session ended, and when.
#[derive(Debug, Clone, Copy)]
struct End {
    /// `None` when the guest did not tell.
    exit: Option<Exit>,
    at: Instant,
}

/// A client that is attached, and what it was told.
#[derive(Debug)]
struct Attachment {
    client: ClientId,
    /// Position in the output of what it gets next.
    position: u64,
    /// Bytes of standard input that it may send.
    credit: u64,
    knows_start: bool,
    knows_input_closed: bool,
}

/// Something happened that is not for the attached client alone.
#[derive(Debug)]
pub(in crate::vm) enum News {
    /// The process runs.
    Started,
    /// It could not be started.
    Failed(Failure),
    /// It ended, or the guest went before it did.
    Ended(Option<Exit>),
}

/// How much a client has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vm) enum Delivery {
    /// All that there is.
    Waiting,
    /// All that there will ever be.
    Finished,
}

/// A client broke the rules of a session.
#[derive(Debug)]
pub(in crate::vm) struct Violation;

impl KeptSession {
    /// Asks for `exec` over a fresh connection to the agent, which does not wait.
    ///
    /// # Errors
    /// When the request is too long.
    pub(in crate::vm) fn open(
        stream: UnixStream,
        exec: Box<Exec>,
    ) -> Result<KeptSession, FrameError> {
        let takes_input = exec.stdin || exec.terminal.is_some();
        let mut out = Outgoing::default();
        out.push(&HostMessage::Hello(Hello::current(env!(
            "CARGO_PKG_VERSION"
        ))))?;
        out.push(&HostMessage::Exec(exec))?;
        Ok(KeptSession {
            stream: Some(stream),
            hung_up: false,
            decoder: FrameDecoder::new(),
            out,
            process: Process {
                greeted: false,
                started: None,
                backlog: Backlog::default(),
                credit: INITIAL_STDIN_CREDIT.into(),
                input_closed: !takes_input,
            },
            end: None,
            attached: None,
        })
    }

    /// Number of the session in the guest, once it has started.
    pub(in crate::vm) fn number(&self) -> Option<u64> {
        self.process.started.map(|started| started.session)
    }

    /// When it ended.
    pub(in crate::vm) fn ended_at(&self) -> Option<Instant> {
        self.end.map(|end| end.at)
    }

    /// Who is attached.
    pub(in crate::vm) fn client(&self) -> Option<ClientId> {
        self.attached.as_ref().map(|attached| attached.client)
    }

    /// Attaches a client that has seen the first `seen` bytes of output. `None` when it cannot have.
    pub(in crate::vm) fn attach(&mut self, client: ClientId, seen: u64) -> Option<SessionOpened> {
        let started = self.process.started?;
        if seen > self.process.backlog.end() {
            return None;
        }
        let position = seen.max(self.process.backlog.start());
        self.attached = Some(Attachment {
            client,
            position,
            credit: 0,
            knows_start: false,
            knows_input_closed: false,
        });
        Some(SessionOpened {
            session: started.session,
            missed: position.saturating_sub(seen),
            position,
            terminal: started.terminal,
        })
    }

    /// The client is gone; the process goes on.
    pub(in crate::vm) fn detach(&mut self) {
        self.attached = None;
    }

    /// The connection and what to wait for on it; `None` when nothing can come of it now.
    pub(in crate::vm) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let stream = self.stream.as_ref()?;
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.has_room());
        flags.set(PollFlags::POLLOUT, !self.out.is_empty() && !self.hung_up);
        // A connection that hung up is always ready (poll(2)).
        (!flags.is_empty() || !self.hung_up).then(|| (stream.as_fd(), flags))
    }

    /// The connection is ready: writes and reads what can be.
    pub(in crate::vm) fn exchange(&mut self, hung_up: bool) {
        self.hung_up |= hung_up;
        self.flush();
        if !self.has_room() {
            return;
        }
        let Some(stream) = &self.stream else {
            return;
        };
        match self.decoder.read_from(&mut &*stream) {
            Ok(1..) => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Ok(0) | Err(_) => self.stream = None,
        }
    }

    /// Sends what waits for the guest.
    pub(in crate::vm) fn flush(&mut self) {
        if let Some(stream) = &self.stream
            && self.out.flush(stream).is_err()
        {
            // What it has said before is still to be read.
            self.hung_up = true;
            self.out = Outgoing::default();
        }
    }

    /// Takes what the guest has said, as far as there is room, up to the next news.
    pub(in crate::vm) fn advance(&mut self) -> Option<News> {
        while self.end.is_none() && self.has_room() {
            let outcome = match self.decoder.next_frame() {
                Ok(Some(message)) => self.process.take(message),
                Ok(None) if self.stream.is_some() => return None,
                Ok(None) | Err(_) => Some(News::Ended(None)),
            };
            let Some(news) = outcome else {
                continue;
            };
            if let News::Ended(exit) = news {
                self.stream = None;
                self.end = Some(End {
                    exit,
                    at: Instant::now(),
                });
            }
            return Some(news);
        }
        None
    }

    /// Whether the attached client may go on sending.
    pub(in crate::vm) fn takes_input(&self) -> bool {
        self.stream.is_none() || self.out.len() < MAX_WAITING
    }

    /// Passes on what the attached client says.
    ///
    /// # Errors
    /// When it says something that clients of a session do not say, or more than it was given credit for.
    pub(in crate::vm) fn pass_on(&mut self, message: &HostMessage<'_>) -> Result<(), Violation> {
        match message {
            HostMessage::Stdin(data) => {
                let length = data.len() as u64;
                let attached = self.attached.as_mut().ok_or(Violation)?;
                attached.credit = attached.credit.checked_sub(length).ok_or(Violation)?;
                if data.len() > MAX_DATA {
                    return Err(Violation);
                }
                self.process.credit = self.process.credit.saturating_sub(length);
                if self.process.input_closed {
                    return Ok(());
                }
            }
            // A process has one end of its input, however many clients come and go.
            HostMessage::StdinEnd if self.process.input_closed => return Ok(()),
            HostMessage::StdinEnd => self.process.input_closed = true,
            HostMessage::Resize(_) | HostMessage::Signal(_) => {}
            _ => return Err(Violation),
        }
        if self.stream.is_some() && !self.hung_up {
            self.out.push(message).map_err(|_| Violation)?;
        }
        Ok(())
    }

    /// Whether the attached client has not got everything.
    pub(in crate::vm) fn has_more(&self) -> bool {
        self.attached.as_ref().is_some_and(|attached| {
            self.end.is_some()
                || attached.position < self.process.backlog.end()
                || (!self.process.input_closed && attached.credit < self.process.credit)
                || self.process.input_closed != attached.knows_input_closed
        })
    }

    /// Puts what the attached client has not got yet into `out`, as much as a frame takes.
    ///
    /// # Errors
    /// When a message is too long, which none is.
    pub(in crate::vm) fn deliver(&mut self, out: &mut Outgoing) -> Result<Delivery, FrameError> {
        let (Some(attached), Some(started)) = (&mut self.attached, self.process.started) else {
            return Ok(Delivery::Waiting);
        };
        if !attached.knows_start {
            attached.knows_start = true;
            out.push(&GuestMessage::Started(started))?;
        }
        if self.process.input_closed && !attached.knows_input_closed {
            attached.knows_input_closed = true;
            out.push(&GuestMessage::StdinClosed)?;
        }
        let credit = self.process.credit.saturating_sub(attached.credit);
        if credit > 0 && !self.process.input_closed {
            let credit = u32::try_from(credit).unwrap_or(u32::MAX);
            attached.credit = attached.credit.saturating_add(credit.into());
            out.push(&GuestMessage::StdinCredit(credit))?;
        }
        while out.len() < MAX_DATA {
            let Some((source, data)) = self.process.backlog.read(attached.position, MAX_DATA)
            else {
                let Some(end) = self.end else {
                    return Ok(Delivery::Waiting);
                };
                if let Some(exit) = end.exit {
                    out.push(&GuestMessage::Exited(exit))?;
                }
                return Ok(Delivery::Finished);
            };
            attached.position = attached.position.saturating_add(data.len() as u64);
            match source {
                Source::Output => out.push(&GuestMessage::Stdout(data))?,
                Source::Error => out.push(&GuestMessage::Stderr(data))?,
            }
        }
        Ok(Delivery::Waiting)
    }

    /// Whether output can be taken without forgetting what the attached client has not got: it slows its process down. Without
    /// a client nothing does.
    fn has_room(&self) -> bool {
        self.attached.as_ref().is_none_or(|attached| {
            let waiting = self.process.backlog.end().saturating_sub(attached.position);
            waiting <= (CAPACITY - MAX_DATA) as u64
        })
    }
}

impl Process {
    /// Takes one message of the guest, which can say anything at any time.
    fn take(&mut self, message: GuestMessage<'_>) -> Option<News> {
        match (message, self.started) {
            (GuestMessage::Hello(hello), None) if !self.greeted && hello.check().is_ok() => {
                self.greeted = true;
            }
            (GuestMessage::Failed(failure), None) => return Some(News::Failed(failure)),
            (GuestMessage::Started(started), None) if self.greeted => {
                self.started = Some(started);
                return Some(News::Started);
            }
            (GuestMessage::Stdout(data), Some(_)) if data.len() <= MAX_DATA => {
                self.backlog.push(Source::Output, data);
            }
            (GuestMessage::Stderr(data), Some(_)) if data.len() <= MAX_DATA => {
                self.backlog.push(Source::Error, data);
            }
            (GuestMessage::StdinCredit(bytes), Some(_)) => {
                self.credit = self.credit.saturating_add(bytes.into());
            }
            (GuestMessage::StdinClosed, Some(_)) => self.input_closed = true,
            (GuestMessage::Exited(exit), Some(_)) => return Some(News::Ended(Some(exit))),
            _ => return Some(News::Ended(None)),
        }
        None
    }
}
