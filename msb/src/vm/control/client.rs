//! One client of the machine's process.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use microsandbox::control::{ControlReply, MachineState, Refusal, RefusalKind};
use microsandbox::protocol::{FrameDecoder, FrameError};
use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};

use super::outgoing::Outgoing;
use crate::vm::kept::{Delivery, KeptSession, SessionKey};

/// How long a client may take to greet, and to read its last reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client waits for, and what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has to greet.
    Greeting,
    /// It may ask.
    Idle,
    /// It asked something that others decide.
    Asked,
    /// It waits for the sandbox's own process, of whose output it has seen so much.
    AwaitingMain(u64),
    /// It waits for its process to start.
    Opening(SessionKey),
    /// It is attached to a process.
    Attached(SessionKey),
    /// It is told of each state; this one is told already.
    Watching(Option<MachineState>),
    /// It gets what is on its way to it, and is closed.
    Leaving,
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    decoder: FrameDecoder,
    out: Outgoing,
    pub(super) phase: Phase,
    /// When it has taken too long.
    pub(super) deadline: Option<Instant>,
}

/// A client is to be forgotten: it is gone, or cannot be understood.
#[derive(Debug)]
pub(super) struct Gone;

impl Client {
    /// A client at the other end of `stream`, which does not wait.
    pub(super) fn new(stream: UnixStream, now: Instant) -> Client {
        Client {
            stream,
            decoder: FrameDecoder::new(),
            out: Outgoing::default(),
            phase: Phase::Greeting,
            deadline: now.checked_add(PATIENCE),
        }
    }

    /// What to wait for; `session` is what it is attached to. A client that hangs up is always noticed (poll(2)).
    pub(super) fn interest(&self, session: Option<&KeptSession>) -> PollFlags {
        let mut flags = PollFlags::empty();
        let (heard, told) = match session {
            Some(session) => (session.takes_input(), session.has_more()),
            None => (self.is_heard(), false),
        };
        flags.set(PollFlags::POLLIN, heard);
        flags.set(PollFlags::POLLOUT, told || !self.out.is_empty());
        flags
    }

    /// The session that it is attached to.
    pub(super) fn session(&self) -> Option<SessionKey> {
        match self.phase {
            Phase::Attached(key) => Some(key),
            _ => None,
        }
    }

    /// Whether it may ask something now: one thing after the other, and whoever does not read its replies is not heard.
    pub(super) fn is_heard(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Idle) && self.out.is_empty()
    }

    /// Reads once; `false` when there is nothing now.
    ///
    /// # Errors
    /// When the client has closed its end.
    pub(super) fn read(&mut self) -> Result<bool, Gone> {
        loop {
            return match self.decoder.read_from(&mut &self.stream) {
                Ok(0) => Err(Gone),
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                Err(_) => Err(Gone),
            };
        }
    }

    /// Whether something that it said has arrived and was not taken yet; also what cannot be understood.
    pub(super) fn has_said(&self) -> bool {
        self.decoder.has_frame().unwrap_or(true)
    }

    /// What it said next, if it has arrived completely.
    ///
    /// # Errors
    /// When it cannot be understood.
    pub(super) fn next<'a, M: Deserialize<'a>>(&'a mut self) -> Result<Option<M>, FrameError> {
        self.decoder.next_frame()
    }

    /// Says something, and goes on in `phase`.
    pub(super) fn say<M: Serialize>(&mut self, message: &M, phase: Phase, now: Instant) {
        // Every reply is far below the limit.
        let pushed = self.out.push(message);
        self.phase = if pushed.is_ok() {
            phase
        } else {
            Phase::Leaving
        };
        self.deadline = match self.phase {
            Phase::Greeting | Phase::Leaving => now.checked_add(PATIENCE),
            _ => None,
        };
    }

    /// Says that something cannot be done, and goes on in `phase`.
    pub(super) fn refuse(&mut self, kind: RefusalKind, message: &str, phase: Phase, now: Instant) {
        let refusal = Refusal {
            kind,
            message: message.to_owned(),
        };
        self.say(&ControlReply::Refused(refusal), phase, now);
    }

    /// Tells a watcher the state, unless it knows it, or has still to read what it was told before: then it skips what
    /// was meanwhile. Returns whether there is something to send.
    pub(super) fn tell_state(&mut self, state: MachineState, now: Instant) -> bool {
        let news = matches!(self.phase, Phase::Watching(told) if told != Some(state))
            && self.out.is_empty();
        if news {
            let phase = Phase::Watching(Some(state));
            self.say(&ControlReply::State(state), phase, now);
        }
        news
    }

    /// Gives it what it has not got yet of the session that it is attached to.
    ///
    /// # Errors
    /// When the client is gone, or has got all that it will get.
    pub(super) fn deliver(&mut self, session: &mut KeptSession, now: Instant) -> Result<(), Gone> {
        if self.out.is_empty() {
            if session.deliver(&mut self.out).map_err(|_| Gone)? == Delivery::Finished {
                self.phase = Phase::Leaving;
                self.hurry(now);
            }
            // Where there is a deadline, the machine has ended: there is time as long as the client goes on reading.
            if self.deadline.is_some() && !self.out.is_empty() {
                self.hurry(now);
            }
        }
        self.flush()
    }

    /// The machine has ended: the client gets what there is, if it goes on reading.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.deadline = now.checked_add(PATIENCE);
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// When the client is gone, or has got all that it will get.
    pub(super) fn flush(&mut self) -> Result<(), Gone> {
        self.out.flush(&self.stream).map_err(|_| Gone)?;
        if self.phase == Phase::Leaving && self.out.is_empty() {
            return Err(Gone);
        }
        Ok(())
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
