//! Serves the queues: packets of the guest to the connections, packets of the connections to the guest.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::buffers::Buffers;
use super::connection::{Connection, Fate, Ports};
use super::connections::Connections;
use super::credit::receive_window;
use super::deadline::Timer;
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, TYPE_STREAM};
use super::{Accept, QUEUE_EVENT, QUEUE_RX, QUEUE_TX};
use crate::virtio::{Chain, DeviceFailure, Events, Executor, GuestMemory};

/// Bounds of what a guest can make the device hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time. Each needs a file descriptor: together with the rest of the monitor they stay near the usual
    /// soft limit of 1024, which the monitor raises.
    pub(super) connections: usize,
    /// Resets for the guest that may be waiting for its receive buffers. At the bound its packets wait, as section 5.10.6.4
    /// allows. Linux stops at 256 on its side; both would have to be at their bound to block each other.
    pub(super) resets: usize,
    /// How long the guest may take to confirm the end of a connection; Linux waits 8 s for us, too
    /// (`VSOCK_CLOSE_TIMEOUT`).
    pub(super) closing: Duration,
}

impl Limits {
    /// The bounds of a real device.
    pub(super) const DEVICE: Limits = Limits {
        connections: 1023,
        resets: 1024,
        closing: Duration::from_secs(8),
    };
}

/// A Unix listener whose connections go to a port of the guest.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    pub(super) port: u32,
    /// There may be connections in its backlog.
    pub(super) pending: bool,
}

/// The executor of the device.
pub(super) struct VsockExecutor {
    guest_cid: u64,
    limits: Limits,
    accepts: HashMap<u32, Accept>,
    listeners: Vec<Listener>,
    connections: Connections,
    /// Resets that belong to no connection any more. They go first: a new connection with the same ports may follow.
    resets: VecDeque<Header>,
    timer: Timer,
    /// There from `start` to `reset`.
    events: Option<Events>,
}

/// What a token of the event loop stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Timer,
    Listener(usize),
    Connection(usize),
}

impl Token {
    const LISTENERS: u32 = 1 << 30;
    const CONNECTIONS: u32 = 1 << 31;

    fn encode(self) -> u32 {
        // No index comes near 2^30: the table is limited, and every listener has a file descriptor.
        let number = |index| u32::try_from(index).unwrap_or(0);
        match self {
            Token::Timer => 0,
            Token::Listener(index) => Token::LISTENERS | number(index),
            Token::Connection(place) => Token::CONNECTIONS | number(place),
        }
    }

    fn decode(token: u32) -> Token {
        let index = |bit: u32| usize::try_from(token & !bit).unwrap_or(usize::MAX);
        if token & Token::CONNECTIONS != 0 {
            Token::Connection(index(Token::CONNECTIONS))
        } else if token & Token::LISTENERS != 0 {
            Token::Listener(index(Token::LISTENERS))
        } else {
            Token::Timer
        }
    }
}

impl VsockExecutor {
    /// An executor without connections.
    pub(super) fn new(
        guest_cid: u64,
        accepts: HashMap<u32, Accept>,
        listeners: Vec<Listener>,
        timer: Timer,
        limits: Limits,
    ) -> VsockExecutor {
        VsockExecutor {
            guest_cid,
            limits,
            accepts,
            listeners,
            connections: Connections::new(limits.connections),
            resets: VecDeque::new(),
            timer,
            events: None,
        }
    }

    /// The address of the guest.
    pub(super) fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// A packet of the guest.
    fn take_packet(&mut self, mut packet: Buffers<'_>) {
        let mut bytes = [0; HEADER_LEN];
        if packet.take_front(HEADER_LEN).copy_to(&mut bytes) < HEADER_LEN {
            return;
        }
        let header = Header::decode(bytes);
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let op = Op::from_number(header.op);
        if header.socket_type != TYPE_STREAM {
            return self.refuse(&header);
        }
        match (self.connections.find(ports), op) {
            (Some(place), Some(op)) => self.give_packet(place, op, &header, packet),
            (Some(place), None) => self.settle(place, Fate::Broken),
            (None, Some(Op::Request)) => self.accept(&header),
            (None, _) => self.refuse(&header),
        }
    }

    /// A packet of the guest for a connection.
    fn give_packet(&mut self, place: usize, op: Op, header: &Header, mut payload: Buffers<'_>) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let len = match op {
            Op::ReadWrite => usize::try_from(header.len).unwrap_or(usize::MAX),
            _ => 0,
        };
        let data = payload.take_front(len);
        // A header that claims more than the chain holds (CVE-2019-18960) breaks the connection like excess of credit.
        let fate = if data.len() == len {
            connection.on_packet(op, header, data)
        } else {
            Fate::Broken
        };
        self.settle(place, fate);
    }

    /// Answers a packet of no connection. A reset is never answered, or two ends would answer each other for ever.
    fn refuse(&mut self, header: &Header) {
        if Op::from_number(header.op) != Some(Op::Reset) {
            self.resets.push_back(header.reset());
        }
    }

    /// The guest asks for a connection.
    fn accept(&mut self, request: &Header) {
        if self.connections.is_full() {
            tracing::debug!(
                port = request.dst_port,
                "refused the guest: too many connections"
            );
            return self.refuse(request);
        }
        let Some(accept) = self.accepts.get_mut(&request.dst_port) else {
            return self.refuse(request);
        };
        match accept() {
            Ok(socket) => {
                let window = receive_window(self.connections.len());
                if !self.open(Connection::accepted(request, socket, window)) {
                    self.refuse(request);
                }
            }
            Err(error) => {
                tracing::debug!(port = request.dst_port, %error, "refused the guest");
                self.refuse(request);
            }
        }
    }

    /// Takes connections of host programs, as many as there are places.
    fn accept_pending(&mut self) {
        for index in 0..self.listeners.len() {
            while !self.connections.is_full() {
                let Some(listener) = self.listeners.get_mut(index).filter(|it| it.pending) else {
                    break;
                };
                match listener.socket.accept() {
                    Ok((socket, _)) => {
                        let port = listener.port;
                        self.connect(port, socket);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.pending = false;
                    }
                    // The client is gone already, or file descriptors ran out: the latter is tried again when a
                    // connection ends or another one comes.
                    Err(error) => {
                        tracing::debug!(port = listener.port, %error, "cannot accept a connection");
                        break;
                    }
                }
            }
        }
    }

    /// A host program asks for a connection to a port of the guest.
    fn connect(&mut self, port: u32, socket: UnixStream) {
        let ports = self.connections.choose_port(port);
        let window = receive_window(self.connections.len());
        // When it fails, the client finds its socket closed.
        self.open(Connection::wanted(self.guest_cid, ports, socket, window));
    }

    /// Puts a connection into the table and watches its socket; drops it when that fails.
    fn open(&mut self, connection: Connection) -> bool {
        let Some(events) = self.events.clone() else {
            return false;
        };
        let Some(place) = self.connections.insert(connection) else {
            return false;
        };
        let Some(connection) = self.connections.get_mut(place) else {
            return false;
        };
        let token = Token::Connection(place).encode();
        if let Err(error) = events.add(connection.host().fd(), token, connection.watched) {
            tracing::debug!(%error, "cannot watch the socket of a connection");
            self.connections.remove(place);
            return false;
        }
        self.settle(place, Fate::Alive);
        true
    }

    /// Draws the consequences of what happened to the connection at `place`.
    fn settle(&mut self, place: usize, fate: Fate) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if matches!(fate, Fate::Finished | Fate::Broken) {
            self.resets.push_back(connection.reset());
        }
        let stays = match fate {
            Fate::Alive => true,
            Fate::Ended | Fate::Finished => {
                let lingers = connection.linger();
                self.connections.release_ports(place);
                lingers
            }
            Fate::Broken => false,
        };
        if !stays {
            return self.remove(place);
        }
        self.watch(place);
        self.set_deadline(place);
        if self
            .connections
            .get_mut(place)
            .is_some_and(|connection| connection.has_output())
        {
            self.connections.enqueue(place);
        }
    }

    fn remove(&mut self, place: usize) {
        if let Some(connection) = self.connections.remove(place) {
            self.unwatch(&connection);
        }
        self.accept_pending();
    }

    /// Watches the socket for what its connection waits for now.
    fn watch(&mut self, place: usize) {
        let (Some(events), Some(connection)) = (&self.events, self.connections.get_mut(place))
        else {
            return;
        };
        let interest = connection.host().interest();
        if connection.watched == interest {
            return;
        }
        connection.watched = interest;
        let token = Token::Connection(place).encode();
        // Fails only without kernel memory, and then the host program waits until the guest or it says more.
        if let Err(error) = events.modify(connection.host().fd(), token, interest) {
            tracing::warn!(%error, "cannot watch the socket of a connection");
        }
    }

    /// Closing the descriptor would not do if the other side of the process kept a duplicate.
    fn unwatch(&self, connection: &Connection) {
        if let Some(events) = &self.events {
            // Nothing is left to be done when the socket was not watched.
            let _ = events.remove(connection.host().fd());
        }
    }

    fn set_deadline(&mut self, place: usize) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        if connection.awaits_end() && connection.deadline.is_none() {
            // Time does not reach its end.
            let deadline = Instant::now().checked_add(self.limits.closing);
            connection.deadline = deadline;
            self.timer.not_later_than(deadline);
        }
    }

    /// Ends the connections whose deadline is over.
    fn on_timer(&mut self) {
        let now = Instant::now();
        let over: Vec<(usize, Fate)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(place, connection)| (place, connection.on_deadline()))
            .collect();
        for (place, fate) in over {
            self.settle(place, fate);
        }
        let next = self
            .connections
            .iter()
            .filter_map(|(_, connection)| connection.deadline)
            .min();
        self.timer.restart(next);
    }

    /// Fills a chain of the guest with the next packet and returns its length, 0 when it is too small for any.
    fn give_chain(&mut self, mut chain: Buffers<'_>) -> u32 {
        let front = chain.take_front(HEADER_LEN);
        if front.len() < HEADER_LEN {
            return 0;
        }
        let Some(header) = self.resets.pop_front().or_else(|| self.next_packet(&chain)) else {
            return 0;
        };
        front.copy_from(&header.encode());
        const { assert!(HEADER_LEN < 64) };
        header.len.saturating_add(HEADER_LEN as u32)
    }

    /// The packet of the connection whose turn it is; its payload goes to the start of `data`.
    fn next_packet(&mut self, data: &Buffers<'_>) -> Option<Header> {
        let mut last = None;
        for _ in 0..self.connections.waiting() {
            let place = self.connections.dequeue()?;
            let Some(connection) = self.connections.get_mut(place) else {
                continue;
            };
            let packet = connection.next_packet(data);
            self.settle(place, Fate::Alive);
            if packet.is_some() {
                return packet;
            }
            last = Some(place);
        }
        // The sockets were empty after all, which the last read of each could not know. The chain has to go back with a
        // packet, and this one is always welcome.
        self.connections
            .get_mut(last?)
            .map(Connection::credit_update)
    }
}

impl Executor for VsockExecutor {
    fn start(
        &mut self,
        _memory: &Arc<GuestMemory>,
        _features: u64,
        events: &Events,
    ) -> Result<(), DeviceFailure> {
        let failed = |error| DeviceFailure {
            reason: format!("Cannot watch the sockets of the vsock device: {error}"),
        };
        let interest = EventSet::IN | EventSet::EDGE_TRIGGERED;
        events
            .add(self.timer.as_fd(), Token::Timer.encode(), interest)
            .map_err(failed)?;
        self.events = Some(events.clone());
        for (index, listener) in self.listeners.iter().enumerate() {
            let token = Token::Listener(index).encode();
            events
                .add(listener.socket.as_fd(), token, interest)
                .map_err(failed)?;
        }
        Ok(())
    }

    fn ready(&mut self, queue: usize) -> bool {
        match queue {
            QUEUE_RX => !self.resets.is_empty() || self.connections.has_output(),
            QUEUE_TX => self.resets.len() < self.limits.resets,
            // Only a snapshot has events to tell; its buffers stay with the device.
            QUEUE_EVENT => false,
            _ => false,
        }
    }

    fn execute(
        &mut self,
        memory: &GuestMemory,
        queue: usize,
        chain: Chain<'_>,
    ) -> Result<u32, DeviceFailure> {
        match queue {
            QUEUE_RX => {
                Ok(Buffers::writable(memory, chain).map_or(0, |chain| self.give_chain(chain)))
            }
            QUEUE_TX => {
                if let Ok(packet) = Buffers::readable(memory, chain) {
                    self.take_packet(packet);
                }
                Ok(0)
            }
            _ => Ok(0),
        }
    }

    fn event(&mut self, token: u32, ready: EventSet) -> Result<(), DeviceFailure> {
        match Token::decode(token) {
            Token::Timer => self.on_timer(),
            Token::Listener(index) => {
                if let Some(listener) = self.listeners.get_mut(index) {
                    listener.pending = true;
                }
                self.accept_pending();
            }
            // The event may be meant for an earlier connection at this place; then its reads find nothing.
            Token::Connection(place) => {
                if let Some(connection) = self.connections.get_mut(place) {
                    let fate = connection.on_ready(ready);
                    self.settle(place, fate);
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        for connection in self.connections.drain() {
            self.unwatch(&connection);
        }
        self.resets.clear();
        self.timer.restart(None);
        if let Some(events) = self.events.take() {
            // Nothing is left to be done for what was not watched.
            let _ = events.remove(self.timer.as_fd());
            for listener in &mut self.listeners {
                listener.pending = false;
                let _ = events.remove(listener.socket.as_fd());
            }
        }
    }
}
