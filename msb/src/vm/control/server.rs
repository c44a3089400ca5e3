//! The loop: who can be served, and what they are told.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use microsandbox::control::{ControlReply, Ended, MachineState, RefusalKind};
use microsandbox::run_directory::RunDirectory;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::client::{Client, Gone, Phase};
use super::{ClientId, Notice};
use crate::vm::kept::{Kept, KeptSession, SessionKey};
use crate::vm::supervisor::Event;

/// Most clients at a time. One more is told so.
pub(super) const MAX_CLIENTS: usize = 256;

/// How long nobody is let in after the system had no descriptor for one.
const EXHAUSTED: Duration = Duration::from_secs(1);

/// What the thread works with.
pub(super) struct Server {
    /// `None` when nobody is let in any more.
    listener: Option<UnixListener>,
    /// When clients are let in again, if they are not now.
    closed_until: Option<Instant>,
    wake: Arc<EventFd>,
    notices: Receiver<Notice>,
    pub(super) machine: Machine,
    pub(super) clients: BTreeMap<ClientId, Client>,
    next_client: u64,
    pub(super) kept: Kept,
    pub(super) state: MachineState,
}

/// What the thread knows of the machine.
pub(super) struct Machine {
    /// Where its agent is reached.
    pub(super) directory: RunDirectory,
    /// Whether the sandbox has a process of its own.
    pub(super) has_main: bool,
    /// Where its supervisor is reached. Without one the machine is ending, and tells so itself.
    pub(super) events: Sender<Event>,
}

/// Somebody who can be served.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Notices,
    Listener,
    Client(ClientId),
    Session(SessionKey),
}

impl Server {
    pub(super) fn new(
        listener: UnixListener,
        wake: Arc<EventFd>,
        notices: Receiver<Notice>,
        machine: Machine,
    ) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        Ok(Server {
            listener: Some(listener),
            closed_until: None,
            wake,
            notices,
            machine,
            clients: BTreeMap::new(),
            next_client: 0,
            kept: Kept::default(),
            state: MachineState::Starting,
        })
    }

    /// Serves until the machine has ended and everybody knows.
    pub(super) fn run(mut self) {
        while self.listener.is_some() || !self.clients.is_empty() {
            let ready = self.wait();
            let now = Instant::now();
            for (ready, hung_up) in ready {
                match ready {
                    Ready::Notices => self.take_notices(now),
                    Ready::Listener => self.accept(now),
                    Ready::Client(id) => self.serve(id, hung_up, now),
                    Ready::Session(key) => {
                        if let Some(session) = self.kept.get_mut(key) {
                            session.exchange(hung_up);
                        }
                    }
                }
            }
            self.settle_sessions(now);
            self.settle_clients(now);
        }
    }

    /// Waits until somebody can be served, or a deadline comes. Says of each whether it hung up, too.
    fn wait(&self) -> Vec<(Ready, bool)> {
        let mut timeout = self.timeout();
        let mut who = vec![Ready::Notices];
        let mut descriptors = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        for key in self.kept.keys() {
            if let Some((stream, flags)) = self.kept.get(key).and_then(KeptSession::interest) {
                who.push(Ready::Session(key));
                descriptors.push(PollFd::new(stream, flags));
            }
        }
        // Those who were not heard to the end in the last turn: their sockets need not have anything more.
        let mut unheard = Vec::new();
        for (&id, client) in &self.clients {
            let session = client.session().and_then(|key| self.kept.get(key));
            if session.is_some_and(KeptSession::takes_input) && client.has_said() {
                unheard.push(id);
                timeout = PollTimeout::ZERO;
            }
            who.push(Ready::Client(id));
            descriptors.push(PollFd::new(client.as_fd(), client.interest(session)));
        }
        // Last, when those who left have made room.
        if let (Some(listener), None) = (&self.listener, self.closed_until) {
            who.push(Ready::Listener);
            descriptors.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        // After an interruption nobody is ready, and the next turn looks again.
        if poll(&mut descriptors, timeout).is_err() {
            return Vec::new();
        }
        let hang_up = PollFlags::POLLHUP | PollFlags::POLLERR;
        let mut ready: Vec<_> = who
            .into_iter()
            .zip(&descriptors)
            .filter_map(|(who, descriptor)| Some((who, descriptor.revents()?)))
            .filter(|(who, events)| {
                let is_unheard = matches!(who, Ready::Client(id) if unheard.contains(id));
                !events.is_empty() || is_unheard
            })
            .map(|(who, events)| (who, events.intersects(hang_up)))
            .collect();
        // Those who leave first: what they were attached to is free for those who come.
        ready.sort_by_key(|&(who, hung_up)| !(hung_up && matches!(who, Ready::Client(_))));
        ready
    }

    fn timeout(&self) -> PollTimeout {
        let deadlines = self.clients.values().filter_map(|client| client.deadline);
        let Some(first) = deadlines.chain(self.closed_until).min() else {
            return PollTimeout::NONE;
        };
        // Rounded up: a turn before the deadline would be for nothing.
        let left = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn take_notices(&mut self, now: Instant) {
        // The counter is only there to be polled; an error means that it is zero already.
        let _ = self.wake.read();
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Reply(id, reply) => {
                    // Who asked may be gone.
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.say(&reply, Phase::Idle, now);
                    }
                }
                Notice::State(state) => self.state = state,
                Notice::StartMain(exec) => self.start_main(exec),
                Notice::Ended(ended) => self.end(&ended, now),
            }
        }
    }

    /// Lets in one who waits; the next turn lets in the next.
    fn accept(&mut self, now: Instant) {
        let Some(listener) = &self.listener else {
            return;
        };
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) =>
            {
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "no client can be let in");
                self.closed_until = now.checked_add(EXHAUSTED);
                return;
            }
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut client = Client::new(stream, now);
        if self.clients.len() >= MAX_CLIENTS {
            client.refuse(
                RefusalKind::Limit,
                "The machine has too many clients",
                Phase::Leaving,
                now,
            );
            // Into the empty buffer of a fresh socket: it need not wait.
            let _ = client.flush();
            return;
        }
        self.clients.insert(ClientId(self.next_client), client);
        self.next_client = self.next_client.wrapping_add(1);
    }

    /// Writes what a client has to get and hears what it says.
    fn serve(&mut self, id: ClientId, hung_up: bool, now: Instant) {
        if self.exchange(id, hung_up, now).is_err() {
            self.remove(id);
        }
    }

    fn exchange(&mut self, id: ClientId, hung_up: bool, now: Instant) -> Result<(), Gone> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        if client.session().is_some() {
            return self.pass_on(id, hung_up);
        }
        client.flush()?;
        if client.is_heard() {
            // One that hung up may have said something before.
            client.read()?;
            self.hear(id, now)
        } else if hung_up {
            Err(Gone)
        } else {
            Ok(())
        }
    }

    /// Forgets a client.
    pub(super) fn remove(&mut self, id: ClientId) {
        let client = self.clients.remove(&id);
        if let Some(key) = client.and_then(|client| client.session())
            && let Some(session) = self.kept.get_mut(key)
        {
            session.detach();
        }
    }

    /// Replies, states and deadlines: all that follows from what happened in this turn.
    fn settle_clients(&mut self, now: Instant) {
        if self.closed_until.is_some_and(|until| until <= now) {
            self.closed_until = None;
        }
        let ids: Vec<ClientId> = self.clients.keys().copied().collect();
        for id in ids {
            if self.settle_client(id, now).is_err() {
                self.remove(id);
            }
        }
    }

    /// Sends first, and what it adds at once: of a client that has taken all that it was sent, and is to get more or to be
    /// heard, the next turn would not know.
    fn settle_client(&mut self, id: ClientId, now: Instant) -> Result<(), Gone> {
        if let Some(client) = self.clients.get_mut(&id) {
            client.flush()?;
        }
        // What it said at once with what was answered just now has arrived already.
        self.hear(id, now)?;
        let (state, has_ended) = (self.state, self.listener.is_none());
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        if client.tell_state(state, now) {
            client.flush()?;
        }
        if has_ended && client.phase == Phase::Idle {
            client.phase = Phase::Leaving;
            client.hurry(now);
            client.flush()?;
        }
        match client.deadline {
            Some(deadline) if deadline <= now => Err(Gone),
            _ => Ok(()),
        }
    }

    /// Tells watchers how the machine ended. Who waits for something else waits in vain.
    fn end(&mut self, ended: &Ended, now: Instant) {
        self.listener = None;
        for client in self.clients.values_mut() {
            match client.phase {
                Phase::Watching(_) => {
                    let ended = ControlReply::Ended(Box::new(ended.clone()));
                    client.say(&ended, Phase::Leaving, now);
                }
                Phase::Leaving => {}
                Phase::Attached(_) | Phase::Opening(_) => client.hurry(now),
                Phase::Greeting | Phase::Idle | Phase::Asked | Phase::AwaitingMain(_) => {
                    client.refuse(
                        RefusalKind::State,
                        "The machine has ended",
                        Phase::Leaving,
                        now,
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;

    use nix::sys::eventfd::EfdFlags;

    use super::*;

    /// Nothing else wakes the thread for it: the state does not change any more, and there is nothing left to send.
    #[test]
    fn a_watcher_that_has_just_taken_everything_is_told_what_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let (_notices, received) = channel();
        let (events, _events) = channel();
        let machine = Machine {
            directory: RunDirectory::at(directory.path().to_owned()),
            has_main: false,
            events,
        };
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let mut server = Server::new(listener, Arc::new(wake), received, machine).unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (id, now) = (ClientId(0), Instant::now());
        let mut client = Client::new(ours.try_clone().unwrap(), now);
        while ours.write(&[0; 4096]).is_ok() {}
        client.phase = Phase::Watching(None);
        client.tell_state(MachineState::Running, now);
        client.flush().unwrap();
        assert!(client.interest(None).contains(PollFlags::POLLOUT));
        server.clients.insert(id, client);

        server.state = MachineState::Stopping;
        let _ = theirs.read_to_end(&mut Vec::new());
        server.settle_client(id, now).unwrap();
        let told = Phase::Watching(Some(MachineState::Stopping));
        assert_eq!(server.clients[&id].phase, told);
    }
}
