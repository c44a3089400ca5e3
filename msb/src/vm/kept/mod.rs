//! Processes in the guest that survive whoever started them ("kept" sessions).
//!
//! This process is their client: it always reads what they write, keeps the end of it, and passes it on to whoever is
//! attached. All of it happens on the control thread; [`Kept`] and what is in it only say what is to be done.

mod backlog;
mod session;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(super) use session::{Delivery, KeptSession, News};

/// Most sessions at a time that have not ended.
pub(super) const MAX_SESSIONS: usize = 256;

/// Most ended sessions that are remembered.
const MAX_ENDED: usize = 64;

/// How long an ended session is remembered.
const MEMORY: Duration = Duration::from_secs(3600);

/// A kept session in this process; no number is given twice. It has one before the guest gives it another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey(u64);

/// All kept sessions.
#[derive(Debug, Default)]
pub(super) struct Kept {
    sessions: BTreeMap<SessionKey, KeptSession>,
    next: u64,
    main: Option<SessionKey>,
}

impl Kept {
    /// Whether there can be one more.
    pub(super) fn has_room(&self) -> bool {
        let living = self
            .sessions
            .values()
            .filter(|session| session.ended_at().is_none());
        living.count() < MAX_SESSIONS
    }

    /// Takes a session in.
    pub(super) fn insert(&mut self, session: KeptSession) -> SessionKey {
        let key = SessionKey(self.next);
        self.next = self.next.wrapping_add(1);
        self.sessions.insert(key, session);
        key
    }

    /// Takes in the session of the sandbox's own process.
    pub(super) fn insert_main(&mut self, session: KeptSession) {
        self.main = Some(self.insert(session));
    }

    /// Whether this is the sandbox's own process.
    pub(super) fn is_main(&self, key: SessionKey) -> bool {
        self.main == Some(key)
    }

    /// The session with this number in the guest, or the sandbox's own, if it has started.
    pub(super) fn find(&self, number: Option<u64>) -> Option<SessionKey> {
        let Some(number) = number else {
            return self
                .main
                .filter(|key| self.get(*key).is_some_and(|main| main.number().is_some()));
        };
        let mut sessions = self.sessions.iter();
        sessions
            .find(|(_, session)| session.number() == Some(number))
            .map(|(&key, _)| key)
    }

    /// A session.
    pub(super) fn get(&self, key: SessionKey) -> Option<&KeptSession> {
        self.sessions.get(&key)
    }

    /// A session, to be worked with.
    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut KeptSession> {
        self.sessions.get_mut(&key)
    }

    /// All of them, oldest first.
    pub(super) fn keys(&self) -> Vec<SessionKey> {
        self.sessions.keys().copied().collect()
    }

    /// Forgets a session that never began.
    pub(super) fn remove(&mut self, key: SessionKey) {
        self.sessions.remove(&key);
    }

    /// Forgets sessions that ended long ago, and the oldest when there are too many. Neither the sandbox's own nor one with a
    /// client.
    pub(super) fn forget(&mut self, now: Instant) {
        let mut ended: Vec<(Instant, SessionKey)> = self
            .sessions
            .iter()
            .filter(|&(&key, session)| self.main != Some(key) && session.client().is_none())
            .filter_map(|(&key, session)| Some((session.ended_at()?, key)))
            .collect();
        ended.sort_unstable();
        let excess = ended.len().saturating_sub(MAX_ENDED);
        for (index, (at, key)) in ended.into_iter().enumerate() {
            if index < excess || now.saturating_duration_since(at) >= MEMORY {
                self.sessions.remove(&key);
            }
        }
    }
}
