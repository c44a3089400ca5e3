//! What becomes of what clients say.

use std::time::Instant;

use microsandbox::control::{ControlReply, ControlRequest, RefusalKind};
use microsandbox::protocol::Hello;

use super::ClientId;
use super::client::{Client, Gone, Phase};
use super::server::Server;
use crate::vm::supervisor::Event;

impl Server {
    /// Takes what a client has said, as far as it is its turn.
    ///
    /// # Errors
    /// When it cannot be understood at all.
    pub(super) fn hear(&mut self, id: ClientId, now: Instant) -> Result<(), Gone> {
        while let Some(client) = self.clients.get_mut(&id)
            && client.is_heard()
        {
            match client.next::<ControlRequest>() {
                Ok(Some(request)) => self.answer(id, request, now)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let message = format!("The request cannot be understood: {error}");
                    client.refuse(RefusalKind::Protocol, &message, Phase::Leaving, now);
                    return client.flush();
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, id: ClientId, request: ControlRequest, now: Instant) -> Result<(), Gone> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        match (client.phase, request) {
            (Phase::Greeting, ControlRequest::Hello(hello)) => greet(client, &hello, now),
            (Phase::Greeting, _) | (_, ControlRequest::Hello(_)) => client.refuse(
                RefusalKind::Protocol,
                "A connection begins with one greeting",
                Phase::Leaving,
                now,
            ),
            (_, ControlRequest::Watch) => {
                client.phase = Phase::Watching(None);
                client.tell_state(self.state, now);
            }
            (_, ControlRequest::Run(exec)) => return self.run_session(id, exec, now),
            (_, ControlRequest::Attach { session, seen }) => {
                return self.attach(id, session, seen, now);
            }
            (_, request) => {
                client.phase = Phase::Asked;
                self.tell(Event::Request(id, request));
                return Ok(());
            }
        }
        client.flush()
    }

    /// Tells the supervisor.
    pub(super) fn tell(&self, event: Event) {
        let _ = self.machine.events.send(event);
    }
}

fn greet(client: &mut Client, hello: &Hello, now: Instant) {
    match hello.check() {
        Ok(()) => {
            let own = Hello::current(env!("CARGO_PKG_VERSION"));
            client.say(&ControlReply::Hello(own), Phase::Idle, now);
        }
        Err(error) => client.refuse(
            RefusalKind::Protocol,
            &error.to_string(),
            Phase::Leaving,
            now,
        ),
    }
}
