//! What the event loop waits for.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{
    Epoll, EpollCreateFlags, EpollEvent, EpollFlags as Flags, EpollTimeout as Timeout,
};

/// What a descriptor is to its session. The guest itself, with its control connection, is the
/// session 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The connection to the client or, of the guest, the control connection.
    Connection,
    /// Standard input of the process.
    Input,
    /// Standard output of the process, or its terminal.
    Output,
    /// Standard error of the process.
    Errors,
    /// The pipe that tells how a new process fares until it executes its program.
    Launch,
    /// Where sessions are accepted.
    Listener,
    /// SIGCHLD.
    Signals,
}

impl Source {
    const ALL: [Self; 7] = [
        Self::Connection,
        Self::Input,
        Self::Output,
        Self::Errors,
        Self::Launch,
        Self::Listener,
        Self::Signals,
    ];
    /// Room for the number of a source in a token.
    const BITS: u32 = 3;
}

/// Names a descriptor in an event. Session numbers are never used twice, so that an event that
/// comes late finds nobody instead of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) session: u64,
    pub(crate) source: Source,
}

impl Token {
    fn encode(self) -> u64 {
        self.session << Source::BITS | self.source as u64
    }

    fn decode(data: u64) -> Option<Self> {
        let source = usize::try_from(data & ((1 << Source::BITS) - 1)).ok()?;
        Some(Self {
            session: data >> Source::BITS,
            source: *Source::ALL.get(source)?,
        })
    }
}

/// Something that happened to a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) token: Token,
    pub(crate) flags: Flags,
}

/// The epoll instance of the event loop; clones are the same instance.
#[derive(Debug, Clone)]
pub(crate) struct Poller(Rc<Epoll>);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)))
    }

    /// Waits for events, at most until `deadline`.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<Event>> {
        let mut events = [EpollEvent::empty(); 32];
        let count = match self.0.wait(&mut events, timeout_until(deadline)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let happened = events.iter().take(count).filter_map(|event| {
            Some(Event {
                token: Token::decode(event.data())?,
                flags: event.events(),
            })
        });
        Ok(happened.collect())
    }
}

/// The time until `deadline`, rounded up to the milliseconds of epoll_wait(2), so that the
/// deadline has passed when it is over.
fn timeout_until(deadline: Option<Instant>) -> Timeout {
    let Some(deadline) = deadline else {
        return Timeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    Timeout::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(Timeout::MAX)
}

/// A descriptor that the event loop can wait for. It leaves the loop when it is dropped, also if
/// a process that is about to execute its program holds a copy of it for a moment.
#[derive(Debug)]
pub(crate) struct Watched<T: AsFd> {
    inner: T,
    poller: Poller,
    token: Token,
    registered: Option<Flags>,
}

impl<T: AsFd> Watched<T> {
    /// Does not wait for anything until told so.
    pub(crate) fn new(inner: T, poller: &Poller, token: Token) -> Self {
        Self {
            inner,
            poller: poller.clone(),
            token,
            registered: None,
        }
    }

    /// Waits for `flags` from now on; for errors and hang-ups only if it is empty, for nothing at
    /// all if it is `None`. Level-triggered.
    pub(crate) fn watch(&mut self, flags: Option<Flags>) -> io::Result<()> {
        if flags == self.registered {
            return Ok(());
        }
        let epoll = &self.poller.0;
        let data = self.token.encode();
        match (self.registered, flags) {
            (None, Some(flags)) => epoll.add(&self.inner, EpollEvent::new(flags, data))?,
            (Some(_), Some(flags)) => {
                epoll.modify(&self.inner, &mut EpollEvent::new(flags, data))?
            }
            (_, None) => epoll.delete(&self.inner)?,
        }
        self.registered = flags;
        Ok(())
    }
}

impl<T: AsFd> Drop for Watched<T> {
    fn drop(&mut self) {
        let _ = self.watch(None);
    }
}

impl<T: AsFd> Deref for Watched<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: AsFd> DerefMut for Watched<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Makes reads and writes return at once, as everything in an event loop must.
pub(crate) fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for source in Source::ALL {
            for session in [0, 1, u64::MAX >> Source::BITS] {
                let token = Token { session, source };
                assert_eq!(Token::decode(token.encode()), Some(token));
            }
        }
        assert_eq!(Token::decode(7), None);
    }

    #[test]
    fn a_deadline_has_passed_when_the_wait_is_over() {
        let poller = Poller::new().unwrap();
        let deadline = Instant::now() + Duration::from_micros(2500);
        assert!(poller.wait(Some(deadline)).unwrap().is_empty());
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn a_dropped_descriptor_stays_silent_though_a_copy_lives() {
        let poller = Poller::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let copy = far.try_clone().unwrap();
        let token = Token {
            session: 5,
            source: Source::Input,
        };
        let mut watched = Watched::new(far, &poller, token);
        watched.watch(Some(Flags::EPOLLIN)).unwrap();
        near.write_all(b"x").unwrap();
        assert_eq!(
            poller.wait(None).unwrap(),
            [Event {
                token,
                flags: Flags::EPOLLIN
            }]
        );
        drop(watched);
        assert!(poller.wait(Some(Instant::now())).unwrap().is_empty());
        drop(copy);
    }
}
