//! Sessions that survive their clients: how they begin, who is attached to them, what they tell.

use std::io;
use std::time::Instant;

use microsandbox::control::{ControlReply, MachineState, RefusalKind};
use microsandbox::protocol::{Exec, Failure, FrameError, HostMessage, Stage};

use super::ClientId;
use super::client::{Client, Gone, Phase};
use super::server::Server;
use crate::vm::kept::{KeptSession, News, SessionKey};
use crate::vm::supervisor::Event;

/// Most reads of one client in a turn, so that others have theirs.
const MAX_READS: usize = 16;

/// Why a session cannot begin.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    /// The agent cannot be connected to.
    #[error("The agent in the guest cannot be reached: {0}")]
    Connect(#[from] io::Error),
    /// The command is too long.
    #[error("The command cannot be sent to the guest: {0}")]
    Request(#[from] FrameError),
}

impl Server {
    /// Starts a process for a client, as soon as the guest is up.
    pub(super) fn run_session(
        &mut self,
        id: ClientId,
        exec: Box<Exec>,
        now: Instant,
    ) -> Result<(), Gone> {
        self.kept.forget(now);
        let refusal = match self.state {
            MachineState::Starting | MachineState::Running | MachineState::Paused => {
                let full = (RefusalKind::Limit, "The machine keeps too many sessions");
                (!self.kept.has_room()).then_some(full)
            }
            MachineState::Draining => Some((RefusalKind::State, "The machine is draining")),
            MachineState::Stopping => Some((RefusalKind::State, "The machine is stopping")),
        };
        let opened = match refusal {
            None => self
                .open(exec)
                .map_err(|error| (RefusalKind::Host, error.to_string())),
            Some((kind, message)) => Err((kind, message.to_owned())),
        };
        let key = opened.map(|session| self.kept.insert(session));
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        match key {
            Ok(key) => client.phase = Phase::Opening(key),
            Err((kind, message)) => client.refuse(kind, &message, Phase::Idle, now),
        }
        client.flush()
    }

    /// Starts the sandbox's own process.
    pub(super) fn start_main(&mut self, exec: Box<Exec>) {
        match self.open(exec) {
            Ok(session) => self.kept.insert_main(session),
            Err(error) => self.tell(Event::MainFailed(lost(error.to_string()))),
        }
    }

    fn open(&self, exec: Box<Exec>) -> Result<KeptSession, OpenError> {
        let stream = self.machine.directory.connect_at_once()?;
        Ok(KeptSession::open(stream, exec)?)
    }

    /// Brings a client back to a process; to the sandbox's own as soon as there is one.
    pub(super) fn attach(
        &mut self,
        id: ClientId,
        number: Option<u64>,
        seen: u64,
        now: Instant,
    ) -> Result<(), Gone> {
        self.tell(Event::Used);
        self.kept.forget(now);
        let key = self.kept.find(number);
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        if let Some(key) = key
            && let Some(session) = self.kept.get_mut(key)
        {
            join(client, id, session, key, seen, now);
        } else if number.is_none() && self.machine.has_main && self.state == MachineState::Starting
        {
            client.phase = Phase::AwaitingMain(seen);
        } else {
            let message = match number {
                Some(number) => format!("There is no session {number} to come back to"),
                None => "The sandbox has no process of its own".to_owned(),
            };
            client.refuse(RefusalKind::NoSession, &message, Phase::Idle, now);
        }
        client.flush()
    }

    /// Passes on what an attached client says. One that hung up has said all that it will, and is heard to the end.
    pub(super) fn pass_on(&mut self, id: ClientId, hung_up: bool) -> Result<(), Gone> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        let key = client.session().ok_or(Gone)?;
        let session = self.kept.get_mut(key).ok_or(Gone)?;
        let mut reads = 0;
        while hung_up || (session.takes_input() && reads < MAX_READS) {
            let message = client.next::<HostMessage<'_>>().map_err(|_| Gone)?;
            if let Some(message) = message {
                session.pass_on(&message).map_err(|_| Gone)?;
            } else if !client.read()? {
                break;
            }
            reads += 1;
        }
        if hung_up { Err(Gone) } else { Ok(()) }
    }

    /// Takes what the guest has said, and gives attached clients their share.
    pub(super) fn settle_sessions(&mut self, now: Instant) {
        for key in self.kept.keys() {
            while let Some(news) = self.kept.get_mut(key).and_then(KeptSession::advance) {
                self.on_news(key, news, now);
            }
            let Some(session) = self.kept.get_mut(key) else {
                continue;
            };
            session.flush();
            if let Some(id) = session.client()
                && let Some(client) = self.clients.get_mut(&id)
            {
                let delivered = client.deliver(session, now);
                if client.session().is_none() {
                    session.detach();
                }
                if delivered.is_err() {
                    self.remove(id);
                }
            }
        }
    }

    fn on_news(&mut self, key: SessionKey, news: News, now: Instant) {
        let is_main = self.kept.is_main(key);
        match news {
            News::Started => {
                if is_main {
                    self.tell(Event::MainStarted);
                }
                self.on_started(key, now);
            }
            News::Failed(failure) => self.on_failed(key, failure, now),
            News::Ended(exit) => {
                let started = self.kept.get(key).is_some_and(|it| it.number().is_some());
                if !started {
                    let message = "The guest closed the connection".to_owned();
                    return self.on_failed(key, lost(message), now);
                }
                if is_main && let Some(exit) = exit {
                    self.tell(Event::MainEnded(exit.status.into()));
                }
                self.kept.forget(now);
            }
        }
    }

    /// Attaches who waited for it.
    fn on_started(&mut self, key: SessionKey, now: Instant) {
        let is_main = self.kept.is_main(key);
        let Some(session) = self.kept.get_mut(key) else {
            return;
        };
        for (&id, client) in &mut self.clients {
            match client.phase {
                Phase::Opening(awaited) if awaited == key => {
                    join(client, id, session, key, 0, now);
                }
                Phase::AwaitingMain(seen) if is_main => join(client, id, session, key, seen, now),
                _ => {}
            }
        }
    }

    /// Tells who waited for it.
    fn on_failed(&mut self, key: SessionKey, failure: Failure, now: Instant) {
        let is_main = self.kept.is_main(key);
        self.kept.remove(key);
        let reply = ControlReply::Failed(failure.clone());
        for client in self.clients.values_mut() {
            match client.phase {
                Phase::Opening(awaited) if awaited == key => client.say(&reply, Phase::Idle, now),
                Phase::AwaitingMain(_) if is_main => client.say(&reply, Phase::Idle, now),
                _ => {}
            }
        }
        if is_main {
            self.tell(Event::MainFailed(failure));
        }
    }
}

/// Attaches a client to a session, unless somebody else is.
fn join(
    client: &mut Client,
    id: ClientId,
    session: &mut KeptSession,
    key: SessionKey,
    seen: u64,
    now: Instant,
) {
    if session.client().is_some() {
        let message = "Another client is attached to the session";
        return client.refuse(RefusalKind::SessionInUse, message, Phase::Idle, now);
    }
    match session.attach(id, seen) {
        Some(opened) => client.say(&ControlReply::Session(opened), Phase::Attached(key), now),
        None => client.refuse(
            RefusalKind::Protocol,
            "The session has not written so much yet",
            Phase::Idle,
            now,
        ),
    }
}

/// What is told when the guest says nothing.
fn lost(message: String) -> Failure {
    Failure {
        stage: Stage::Protocol,
        errno: 0,
        message,
    }
}
