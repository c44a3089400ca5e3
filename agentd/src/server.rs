//! The event loop: one thread that waits for everything and is never held up by anyone.

mod control;
mod stopping;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags as Flags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::{Failure, MAX_DATA, Stage};

use self::stopping::Stop;
use crate::boot::Guest;
use crate::children::{self, Children};
use crate::connection::Connection;
use crate::failure::failure;
use crate::kernel_log;
use crate::poller::{Event, Poller, Source, Token, Watched};
use crate::session::{Session, Surroundings};
use crate::vsock::accept_from;

/// Sessions at a time.
const MAX_SESSIONS: usize = 1024;

/// Sessions beyond that which are told so; clients beyond these find the connection closed.
const MAX_REFUSALS: usize = 64;

/// Number of the guest itself among the sessions.
const GUEST: u64 = 0;

/// Accepts sessions and serves them, until the host says that the guest shall stop.
pub(crate) struct Server {
    poller: Poller,
    control: Watched<Connection>,
    /// `None` when no more sessions are accepted.
    listener: Option<Watched<OwnedFd>>,
    signals: Watched<SignalFd>,
    guest: Guest,
    sessions: BTreeMap<u64, Session>,
    last_session: u64,
    scratch: Vec<u8>,
    drain: Option<Drain>,
    stop: Option<Stop>,
}

/// New sessions are refused.
#[derive(Debug)]
struct Drain {
    /// The sessions whose end the host waits for.
    left: BTreeSet<u64>,
    /// The host has not heard yet that there are none.
    wanted: bool,
}

impl Server {
    /// Serves `control`, which is past the boot message, and accepts sessions from `listener`.
    /// Neither may block.
    pub(crate) fn new(control: Connection, listener: OwnedFd, guest: Guest) -> io::Result<Self> {
        let poller = Poller::new()?;
        let signals = SigSet::from(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let token = |source| Token {
            session: GUEST,
            source,
        };
        let mut server = Self {
            control: Watched::new(control, &poller, token(Source::Connection)),
            listener: Some(Watched::new(listener, &poller, token(Source::Listener))),
            signals: Watched::new(signals, &poller, token(Source::Signals)),
            poller,
            guest,
            sessions: BTreeMap::new(),
            last_session: GUEST,
            scratch: vec![0; MAX_DATA],
            drain: None,
            stop: None,
        };
        server.watch_control()?;
        server.signals.watch(Some(Flags::EPOLLIN))?;
        server.set_accepting(true)?;
        Ok(server)
    }

    /// Runs until every process has ended, or could not be made to. Returns the control connection
    /// if the host waits for an answer on it, and the guest.
    pub(crate) fn run(mut self) -> io::Result<(Option<Watched<Connection>>, Guest)> {
        loop {
            for event in self.poller.wait(self.next_deadline())? {
                self.dispatch(event)?;
            }
            self.expire(Instant::now());
            self.sessions.retain(|_, session| !session.is_over());
            self.finish_drain();
            if let Some(stop) = self.stop
                && self.is_stopped(stop)
                && !self.await_init(stop)
            {
                return Ok((stop.wanted.then_some(self.control), self.guest));
            }
        }
    }

    fn dispatch(&mut self, event: Event) -> io::Result<()> {
        if event.token.source != Source::Listener {
            self.set_accepting(true)?;
        }
        match event.token {
            Token {
                session: GUEST,
                source: Source::Connection,
            } => self.on_control(),
            Token {
                session: GUEST,
                source: Source::Listener,
            } => self.accept()?,
            Token { session: GUEST, .. } => self.on_child_signal(),
            Token { session, .. } => {
                self.with_session(session, |session, around| session.on_event(event, around));
            }
        }
        Ok(())
    }

    fn with_session(&mut self, id: u64, act: impl FnOnce(&mut Session, &mut Surroundings)) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let around = &mut Surroundings {
                poller: &self.poller,
                guest: &self.guest,
                scratch: &mut self.scratch,
            };
            act(session, around);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let sessions = self.sessions.values().filter_map(Session::deadline);
        sessions.chain(self.stop.map(|stop| stop.deadline)).min()
    }

    fn expire(&mut self, now: Instant) {
        let is_due = |session: &Session| session.deadline().is_some_and(|deadline| deadline <= now);
        let due: Vec<u64> = self
            .sessions
            .values()
            .filter(|s| is_due(s))
            .map(Session::id)
            .collect();
        for id in due {
            self.with_session(id, |session, around| session.on_deadline(around));
        }
        self.advance_stop(now);
    }

    /// Waits for new sessions, or leaves them waiting.
    fn set_accepting(&mut self, accepting: bool) -> io::Result<()> {
        match &mut self.listener {
            Some(listener) => listener.watch(accepting.then_some(Flags::EPOLLIN)),
            None => Ok(()),
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        match accept_from(listener) {
            Ok(socket) => self.open_session(Connection::new(socket)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                kernel_log::debug(format_args!("no session: {error}"));
                if is_shortage(&error) {
                    // It would only be the same again until something else has happened.
                    self.set_accepting(false)?;
                }
            }
        }
        Ok(())
    }

    fn open_session(&mut self, connection: Connection) {
        if self.sessions.len() >= MAX_SESSIONS + MAX_REFUSALS {
            return;
        }
        self.last_session += 1;
        let mut session = Session::new(self.last_session, connection, &self.poller);
        if self.sessions.len() >= MAX_SESSIONS {
            let message = format!("There are {MAX_SESSIONS} sessions already");
            session.refuse(failure(Stage::Spawn, Errno::EAGAIN, message));
        } else if self.drain.is_some() {
            session.refuse(draining());
        }
        self.sessions.insert(self.last_session, session);
    }

    /// Reaps everyone who has ended: sessions' processes and orphans, which PID 1 inherits.
    fn on_child_signal(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Children::Ended(pid) = children::look() {
            let owner = self.sessions.values().find(|session| session.owns(pid));
            let owner = owner.map(|session| {
                session.before_reaping();
                session.id()
            });
            if let (Some(status), Some(id)) = (children::reap(pid), owner) {
                self.with_session(id, |session, around| session.on_exit(status, around));
            }
        }
    }

    /// Refuses the sessions that have not asked for anything yet, and those that will come.
    fn refuse_new(&mut self) {
        for session in self.sessions.values_mut() {
            if session.is_in_handshake() {
                session.refuse(draining());
            }
        }
    }
}

/// Why there are no new sessions.
fn draining() -> Failure {
    let message = "The sandbox takes no new commands, because it is being stopped";
    failure(Stage::Draining, Errno::ESHUTDOWN, message)
}

/// Whether `error` says that memory or descriptors are short.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error
        .raw_os_error()
        .is_some_and(|error| shortages.contains(&error))
}
