//! All connections together with what is due for them: events of their sockets, deadlines, and resets for the guest.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use disk::Buffers;
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Fate, Ports};
use super::connections::Connections;
use super::credit::receive_window;
use super::deadline::Timer;
use super::packet::{Header, Op};
use super::token::{Occupant, Token};
use super::turns::Turns;
use crate::virtio::{DeviceFailure, Events};

/// Bounds of what a guest can make the device hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time, at most 65,536. Each has a file descriptor.
    pub(super) connections: usize,
    /// Resets for the guest that may wait for its receive buffers. At the bound its packets wait, as section 5.10.6.1
    /// allows. Linux stops at 256 on its side; both would have to be at their bound to block each other. The end of a
    /// connection by the host may add to them, at most one for each place of the table.
    pub(super) resets: usize,
    /// How long the guest may take to confirm the end of a connection; Linux waits 8 s for us, too
    /// (`VSOCK_CLOSE_TIMEOUT`).
    pub(super) closing: Duration,
    /// How long a connection that was granted room may leave it unused while others wait for theirs. What is on its way
    /// arrives far earlier, and a connection that fell silent delays the others once.
    pub(super) turn: Duration,
}

impl Limits {
    /// The bounds of a real device.
    pub(super) const DEVICE: Limits = Limits {
        connections: 1023,
        resets: 1024,
        closing: Duration::from_secs(8),
        turn: Duration::from_millis(20),
    };
}

/// The connections of the device, and what the guest has to be told.
pub(super) struct Switchboard {
    limits: Limits,
    connections: Connections,
    /// Resets that belong to no connection any more. They go first: a new connection with the same ports may follow.
    resets: VecDeque<Header>,
    timer: Timer,
    turns: Turns,
    /// A place of the table became free.
    vacated: bool,
    /// There from `start` to `reset`.
    events: Option<Events>,
}

impl Switchboard {
    /// A switchboard without connections.
    pub(super) fn new(timer: Timer, limits: Limits) -> Switchboard {
        Switchboard {
            limits,
            connections: Connections::new(limits.connections),
            resets: VecDeque::new(),
            timer,
            turns: Turns::new(limits.turn),
            vacated: false,
            events: None,
        }
    }

    /// Takes the event loop into use.
    ///
    /// # Errors
    /// When the timer cannot be watched.
    pub(super) fn start(&mut self, events: &Events) -> Result<(), DeviceFailure> {
        let interest = EventSet::IN | EventSet::EDGE_TRIGGERED;
        events
            .add(self.timer.as_fd(), Token::Timer.encode(), interest)
            .map_err(|error| DeviceFailure {
                reason: format!("Cannot watch the timer of the vsock device: {error}"),
            })?;
        self.events = Some(events.clone());
        Ok(())
    }

    /// Drops all connections and the event loop, which is returned.
    pub(super) fn reset(&mut self) -> Option<Events> {
        for connection in self.connections.drain() {
            self.unwatch(&connection);
        }
        self.resets.clear();
        self.turns.clear();
        self.timer.restart(None);
        self.vacated = false;
        let events = self.events.take()?;
        // Nothing is left to be done when it was not watched.
        let _ = events.remove(self.timer.as_fd());
        Some(events)
    }

    /// Whether there is no place for another connection.
    pub(super) fn is_full(&self) -> bool {
        self.connections.is_full()
    }

    /// Whether a place became free since the last call.
    pub(super) fn take_vacated(&mut self) -> bool {
        std::mem::take(&mut self.vacated)
    }

    /// The receive buffer for a new connection in bytes.
    pub(super) fn window(&self) -> u32 {
        receive_window(self.connections.len())
    }

    /// A port of the host for a new connection to a port of the guest.
    pub(super) fn choose_port(&mut self, guest: u32) -> Ports {
        self.connections.choose_port(guest)
    }

    /// The connection between two ports.
    pub(super) fn find(&self, ports: Ports) -> Option<u16> {
        self.connections.find(ports)
    }

    /// Adds a connection; drops it and returns false when that is not possible.
    pub(super) fn open(&mut self, connection: Connection) -> bool {
        let Some(place) = self.connections.insert(connection) else {
            return false;
        };
        if let Err(error) = self.watch(place) {
            tracing::debug!(%error, "cannot watch the socket of a connection");
            self.connections.remove(place);
            return false;
        }
        self.settle(place, Fate::Alive);
        true
    }

    fn watch(&mut self, place: u16) -> io::Result<()> {
        let occupant = self.connections.occupant(place);
        let (Some(events), Some(occupant), Some(connection)) =
            (&self.events, occupant, self.connections.get_mut(place))
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let host = connection.host();
        events.add(
            host.fd(),
            Token::Connection(occupant).encode(),
            host.interest(),
        )
    }

    /// A packet of the guest for the connection at `place`; `payload` is what follows the header.
    pub(super) fn on_packet(
        &mut self,
        place: u16,
        op: Option<Op>,
        header: &Header,
        payload: &Buffers<'_>,
    ) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let len = match op {
            Some(Op::ReadWrite) => u64::from(header.len),
            _ => 0,
        };
        let data = payload.part(0, len);
        let fate = match op {
            // A header may claim more than the chain holds (CVE-2019-18960).
            Some(op) if data.len() == len => connection.on_packet(op, header, &data),
            _ => Fate::Broken,
        };
        self.settle(place, fate);
    }

    /// The socket of a connection is ready.
    pub(super) fn on_ready(&mut self, occupant: Occupant, ready: EventSet) {
        if self.connections.occupant(occupant.place) == Some(occupant)
            && let Some(connection) = self.connections.get_mut(occupant.place)
        {
            let fate = connection.on_ready(ready);
            self.settle(occupant.place, fate);
        }
    }

    /// An observer has room again: asks all taps that stalled their connections.
    pub(super) fn on_resumption(&mut self) {
        self.resume(|_| true);
    }

    /// Asks the taps again whose time to be asked is `due`.
    fn resume(&mut self, due: impl Fn(Instant) -> bool) {
        let stalled: Vec<u16> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.host().stalled_until().is_some_and(&due))
            .map(|(place, _)| place)
            .collect();
        for place in stalled {
            if let Some(connection) = self.connections.get_mut(place) {
                let fate = connection.on_resumption();
                self.settle(place, fate);
            }
        }
    }

    /// The timer is ready: ends the connections whose deadline is over, and asks taps that need not wait any longer.
    pub(super) fn on_timer(&mut self) {
        let now = Instant::now();
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let over: Vec<(u16, Fate)> = self
            .connections
            .iter()
            .filter(|(_, connection)| is_over(connection.deadline()))
            .map(|(place, connection)| (place, connection.on_deadline()))
            .collect();
        for (place, fate) in over {
            self.settle(place, fate);
        }
        self.resume(|until| until <= now);
        self.turns.expire(now);
        self.pass_turns();
        let next = self.connections.iter().flat_map(|(_, connection)| {
            let stalled = connection.host().stalled_until();
            connection.deadline().into_iter().chain(stalled)
        });
        self.timer.restart(next.chain(self.turns.deadline()).min());
    }

    /// Answers a packet of no connection. A reset is never answered, or two ends would answer each other for ever.
    pub(super) fn refuse(&mut self, header: &Header) {
        if Op::from_number(header.op) != Some(Op::Reset) {
            self.resets.push_back(header.reset());
        }
    }

    /// Whether another packet of the guest may be looked at.
    pub(super) fn has_room_for_resets(&self) -> bool {
        self.resets.len() < self.limits.resets
    }

    /// Whether there is something for the guest.
    pub(super) fn has_output(&mut self) -> bool {
        !self.resets.is_empty() || self.connections.has_output()
    }

    /// The next packet for the guest; its payload goes to the start of `data`.
    pub(super) fn next_packet(&mut self, data: &Buffers<'_>) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        let mut idle = None;
        for _ in 0..self.connections.waiting() {
            let place = self.connections.dequeue()?;
            let Some(connection) = self.connections.get_mut(place) else {
                continue;
            };
            let packet = connection.next_packet(data);
            if connection.is_open() {
                idle = Some(place);
            }
            self.settle(place, Fate::Alive);
            if packet.is_some() {
                return packet;
            }
        }
        // The sockets were empty after all, which the last read of each could not know. The chain has to go back with a
        // packet, and this one is always welcome.
        self.connections
            .get_mut(idle?)
            .map(Connection::credit_update)
    }

    /// Draws the consequences of what happened to the connection at `place`.
    fn settle(&mut self, place: u16, fate: Fate) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if matches!(fate, Fate::Finished | Fate::Broken) {
            self.resets.push_back(connection.reset());
        }
        let stays = match fate {
            Fate::Alive => true,
            Fate::Ended | Fate::Finished => connection.linger(),
            Fate::Broken => false,
        };
        if fate != Fate::Alive {
            self.connections.release_ports(place);
            self.turns.leave(place);
        }
        if stays {
            self.follow_up(place);
        } else if let Some(connection) = self.connections.remove(place) {
            self.unwatch(&connection);
            self.vacated = true;
        }
        self.pass_turns();
    }

    /// Arranges what the connection at `place` waits for now.
    fn follow_up(&mut self, place: u16) {
        let Some(occupant) = self.connections.occupant(place) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if let Some(interest) = connection.changed_interest()
            && let Some(events) = &self.events
        {
            let token = Token::Connection(occupant).encode();
            // Fails only without kernel memory, and then the host program waits until the guest or it says more.
            if let Err(error) = events.modify(connection.host().fd(), token, interest) {
                tracing::warn!(%error, "cannot watch the socket of a connection");
            }
        }
        if connection.awaits_end() {
            let deadline = connection.set_deadline(self.limits.closing);
            self.timer.not_later_than(deadline);
        }
        self.timer.not_later_than(connection.host().stalled_until());
        if connection.asks_for_turn() {
            self.turns.ask(place);
        }
        if connection.has_output() {
            self.connections.enqueue(place);
        }
    }

    /// Lets connections tell the guest of their room, one after the other.
    fn pass_turns(&mut self) {
        while let Some((place, credit)) = self.turns.pass() {
            if let Some(connection) = self.connections.get_mut(place) {
                connection.take_turn(credit);
                self.connections.enqueue(place);
            }
        }
        self.timer.not_later_than(self.turns.deadline());
    }

    /// Closing the socket would not do if the monitor kept a duplicate of it elsewhere.
    fn unwatch(&self, connection: &Connection) {
        if let Some(events) = &self.events {
            // Nothing is left to be done when it was not watched.
            let _ = events.remove(connection.host().fd());
        }
    }
}

#[cfg(test)]
impl Switchboard {
    /// The table.
    pub(super) fn connections(&mut self) -> &mut Connections {
        &mut self.connections
    }

    /// How many connections wait to be granted room.
    pub(super) fn waiting_for_turns(&self) -> usize {
        self.turns.waiting()
    }

    /// How many resets wait for the guest.
    pub(super) fn resets(&self) -> usize {
        self.resets.len()
    }
}
