//! Serves the queues and the listeners.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use disk::Buffers;
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Ports};
use super::observer::Observer;
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, TYPE_STREAM};
use super::switchboard::Switchboard;
use super::token::Token;
use super::{Accept, QUEUE_RX, QUEUE_SIZE, QUEUE_TX};
use crate::virtio::halves::Halves;
use crate::virtio::{Chain, Completion, DeviceFailure, Events, Executor, GuestMemory};

/// Bytes of a packet before its payload.
const HEADER_SIZE: u64 = HEADER_LEN as u64;

/// A nonblocking Unix listener whose connections go to a port of the guest.
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    pub(super) port: u32,
    /// There may be connections in its backlog.
    pub(super) pending: bool,
    /// Who watches the connections.
    pub(super) observer: Option<Box<dyn Observer>>,
}

impl Listener {
    fn watch(&self, index: u16, events: &Events) -> io::Result<()> {
        let interest = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let token = Token::Listener(index).encode();
        events.add(self.socket.as_fd(), token, interest)?;
        if let Some(observer) = &self.observer {
            let token = Token::Observer(index).encode();
            events.add(observer.resumption(), token, interest)?;
        }
        Ok(())
    }

    /// Whether its connections are taken now.
    fn admits(&self) -> bool {
        self.observer
            .as_ref()
            .is_none_or(|observer| observer.admits())
    }

    /// Nothing is left to be done for what was not watched.
    fn unwatch(&self, events: &Events) {
        let _ = events.remove(self.socket.as_fd());
        if let Some(observer) = &self.observer {
            let _ = events.remove(observer.resumption());
        }
    }
}

/// The executor of the device.
pub(super) struct VsockExecutor {
    guest_cid: u64,
    accepts: HashMap<u32, Accept>,
    listeners: Vec<Listener>,
    switchboard: Switchboard,
}

impl VsockExecutor {
    /// An executor for the guest with this address.
    pub(super) fn new(
        guest_cid: u64,
        accepts: HashMap<u32, Accept>,
        listeners: Vec<Listener>,
        switchboard: Switchboard,
    ) -> VsockExecutor {
        VsockExecutor {
            guest_cid,
            accepts,
            listeners,
            switchboard,
        }
    }

    /// A packet of the guest. What is not from it or not for the host is dropped, and so is what has no whole header.
    fn take_packet(&mut self, packet: &Buffers<'_>) {
        let mut bytes = [0; HEADER_LEN];
        if packet.part(0, HEADER_SIZE).copy_to(&mut bytes).is_err() {
            return;
        }
        let header = Header::decode(bytes);
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        if header.socket_type != TYPE_STREAM {
            return self.switchboard.refuse(&header);
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let op = Op::from_number(header.op);
        match self.switchboard.find(ports) {
            Some(place) => {
                let payload = packet.part(HEADER_SIZE, u64::MAX);
                self.switchboard.on_packet(place, op, &header, &payload);
            }
            None if op == Some(Op::Request) => self.accept(&header),
            None => self.switchboard.refuse(&header),
        }
    }

    /// The guest asks for a connection.
    fn accept(&mut self, request: &Header) {
        let port = request.dst_port;
        let Some(accept) = self.accepts.get_mut(&port) else {
            return self.switchboard.refuse(request);
        };
        if self.switchboard.is_full() {
            tracing::debug!(
                port,
                "refused a connection of the guest: there are too many"
            );
            return self.switchboard.refuse(request);
        }
        match accept() {
            Ok(socket) => {
                let window = self.switchboard.window();
                if !self
                    .switchboard
                    .open(Connection::accepted(request, socket, window))
                {
                    self.switchboard.refuse(request);
                }
            }
            Err(error) => {
                tracing::debug!(port, %error, "refused a connection of the guest");
                self.switchboard.refuse(request);
            }
        }
    }

    /// Takes connections of host programs, as many as there are places. The others stay in the backlogs until a
    /// connection ends.
    fn accept_pending(&mut self) {
        for listener in self
            .listeners
            .iter_mut()
            .filter(|listener| listener.pending)
        {
            while !self.switchboard.is_full() && listener.admits() {
                match listener.socket.accept() {
                    Ok((socket, _)) => {
                        let ports = self.switchboard.choose_port(listener.port);
                        let window = self.switchboard.window();
                        let tap = listener.observer.as_mut().map(|it| it.connected());
                        let wanted = Connection::wanted(self.guest_cid, ports, socket, tap, window);
                        // When that fails, the host program finds its socket closed.
                        self.switchboard.open(wanted);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.pending = false;
                        break;
                    }
                    // Most likely file descriptors ran out: tried again when a connection ends or another one comes.
                    Err(error) => {
                        tracing::debug!(port = listener.port, %error, "cannot accept a connection");
                        break;
                    }
                }
            }
        }
    }

    /// Fills a chain of the guest with the next packet and returns its length; 0 when the chain is too small for any.
    fn fill_chain(&mut self, chain: &Buffers<'_>) -> u32 {
        let front = chain.part(0, HEADER_SIZE);
        if front.len() < HEADER_SIZE {
            return 0;
        }
        let data = chain.part(HEADER_SIZE, u64::MAX);
        let Some(header) = self.switchboard.next_packet(&data) else {
            return 0;
        };
        match front.copy_from(&header.encode()) {
            Ok(()) => header.packet_len(),
            Err(_) => 0,
        }
    }
}

#[cfg(test)]
impl VsockExecutor {
    /// What the device holds.
    pub(super) fn switchboard(&mut self) -> &mut Switchboard {
        &mut self.switchboard
    }
}

impl Executor for VsockExecutor {
    fn start(
        &mut self,
        _memory: &Arc<GuestMemory>,
        _features: u64,
        events: &Events,
    ) -> Result<(), DeviceFailure> {
        self.switchboard.start(events)?;
        for (index, listener) in (0..=u16::MAX).zip(&self.listeners) {
            listener.watch(index, events).map_err(|error| {
                let port = listener.port;
                let reason = format!("Cannot watch the listener for vsock port {port}: {error}");
                DeviceFailure { reason }
            })?;
        }
        Ok(())
    }

    fn ready(&mut self, queue: usize) -> bool {
        match queue {
            QUEUE_RX => self.switchboard.has_output(),
            QUEUE_TX => self.switchboard.has_room_for_resets(),
            // The event queue: only a restored snapshot has events to tell.
            _ => false,
        }
    }

    fn execute(
        &mut self,
        memory: &GuestMemory,
        queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure> {
        let mut written = 0;
        let halves = Halves::of(memory, chain, usize::from(QUEUE_SIZE));
        match queue {
            QUEUE_RX if halves.sound => written = self.fill_chain(&halves.writable),
            QUEUE_TX if halves.sound => self.take_packet(&halves.readable),
            _ => {}
        }
        if self.switchboard.take_vacated() {
            self.accept_pending();
        }
        Ok(Completion::Done(written))
    }

    fn event(&mut self, token: u32, ready: EventSet) -> Result<(), DeviceFailure> {
        match Token::decode(token) {
            Token::Timer => self.switchboard.on_timer(),
            Token::Connection(occupant) => self.switchboard.on_ready(occupant, ready),
            Token::Listener(index) => {
                if let Some(listener) = self.listeners.get_mut(usize::from(index)) {
                    listener.pending = true;
                    self.accept_pending();
                }
            }
            Token::Observer(_) => {
                self.switchboard.on_resumption();
                self.accept_pending();
            }
        }
        if self.switchboard.take_vacated() {
            self.accept_pending();
        }
        Ok(())
    }

    fn reset(&mut self) {
        let Some(events) = self.switchboard.reset() else {
            return;
        };
        for listener in &mut self.listeners {
            listener.pending = false;
            listener.unwatch(&events);
        }
    }
}
