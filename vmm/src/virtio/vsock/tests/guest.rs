//! The guest's end: connections that keep to the specification, and that count what they are told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::super::packet::{HOST_CID, Header, Op, Shutdown, TYPE_STREAM};
use super::super::switchboard::Limits;
use super::super::{Route, VsockExecutor};
use super::machine::{BUFFER, GUEST, Machine};
use crate::virtio::vsock::connection::Ports;

/// One connection of the guest.
#[derive(Debug)]
pub(super) struct Socket {
    /// What arrived and was not read yet.
    pub(super) received: Vec<u8>,
    pub(super) open: bool,
    /// A reset arrived.
    pub(super) reset: bool,
    /// What the host told about its directions.
    pub(super) shutdown: Shutdown,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
    sent: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    /// Packets of each kind that arrived.
    pub(super) packets: HashMap<u16, usize>,
}

impl Socket {
    fn new(open: bool, buf_alloc: u32) -> Socket {
        Socket {
            received: Vec::new(),
            open,
            reset: false,
            shutdown: Shutdown::default(),
            buf_alloc,
            fwd_cnt: 0,
            sent: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            packets: HashMap::new(),
        }
    }

    /// Bytes that the host has room for.
    pub(super) fn credit(&self) -> u32 {
        self.peer_buf_alloc - self.sent.wrapping_sub(self.peer_fwd_cnt)
    }

    pub(super) fn count(&self, op: Op) -> usize {
        self.packets.get(&op.number()).copied().unwrap_or(0)
    }
}

/// A guest with its sockets.
pub(super) struct Guest {
    pub(super) machine: Machine,
    pub(super) sockets: HashMap<Ports, Socket>,
    /// Ports that somebody listens at.
    pub(super) listening: Vec<u32>,
    /// Resets that belong to no socket.
    pub(super) stray_resets: Vec<Header>,
    /// Ports of the guest in the order of the data packets that arrived.
    pub(super) arrivals: Vec<u32>,
    /// How the guest divides its packets.
    pub(super) piece: usize,
    /// Whether the guest reads what arrives at once, and says so when it read half of its buffer.
    pub(super) greedy: bool,
    /// The guest answers no requests.
    pub(super) mute: bool,
    /// Receive buffer of its new sockets.
    pub(super) window: u32,
}

impl Guest {
    pub(super) fn new(routes: Vec<Route>) -> Guest {
        Guest::with_limits(routes, Limits::DEVICE)
    }

    pub(super) fn with_limits(routes: Vec<Route>, limits: Limits) -> Guest {
        let mut machine = Machine::new(routes, limits);
        machine.offer_receive_buffers(usize::MAX);
        Guest {
            machine,
            sockets: HashMap::new(),
            listening: Vec::new(),
            stray_resets: Vec::new(),
            arrivals: Vec::new(),
            piece: BUFFER,
            greedy: true,
            mute: false,
            window: 256 << 10,
        }
    }

    pub(super) fn executor(&mut self) -> &mut VsockExecutor {
        &mut self.machine.executor
    }

    pub(super) fn socket(&mut self, ports: Ports) -> &mut Socket {
        self.sockets.get_mut(&ports).expect("no such socket")
    }

    /// A header of a connection.
    pub(super) fn header(&self, ports: Ports, op: Op) -> Header {
        let socket = self.sockets.get(&ports);
        Header {
            src_cid: GUEST,
            dst_cid: HOST_CID,
            src_port: ports.guest,
            dst_port: ports.host,
            len: 0,
            socket_type: TYPE_STREAM,
            op: op.number(),
            flags: 0,
            buf_alloc: socket.map_or(0, |socket| socket.buf_alloc),
            fwd_cnt: socket.map_or(0, |socket| socket.fwd_cnt),
        }
    }

    /// Sends a packet, after the device made room for it.
    pub(super) fn transmit(&mut self, header: &Header, payload: &[u8]) {
        let header = Header {
            len: payload.len() as u32,
            ..*header
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.machine.transmit(&header, payload, self.piece) {
            assert!(Instant::now() < deadline, "the transmit queue is stuck");
            self.step(Duration::from_millis(1));
        }
    }

    pub(super) fn say(&mut self, ports: Ports, op: Op) {
        let header = self.header(ports, op);
        self.transmit(&header, &[]);
    }

    /// Asks for a connection, and does not wait for the answer.
    pub(super) fn request(&mut self, host: u32, guest: u32) -> Ports {
        let ports = Ports { host, guest };
        self.sockets.insert(ports, Socket::new(false, self.window));
        self.say(ports, Op::Request);
        ports
    }

    /// Opens a connection.
    pub(super) fn connect(&mut self, host: u32, guest: u32) -> Ports {
        let ports = self.request(host, guest);
        self.wait("a connection", |guest| guest.sockets[&ports].open);
        ports
    }

    /// Sends all of `data` as credit allows.
    pub(super) fn send(&mut self, ports: Ports, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            self.wait("credit", |guest| guest.sockets[&ports].credit() > 0);
            rest = &rest[self.send_some(ports, rest)..];
        }
    }

    /// Sends one packet, as much of `data` as credit allows, and returns how much that was.
    pub(super) fn send_some(&mut self, ports: Ports, data: &[u8]) -> usize {
        let socket = self.socket(ports);
        let len = data.len().min(socket.credit() as usize).min(64 << 10);
        socket.sent = socket.sent.wrapping_add(len as u32);
        let header = self.header(ports, Op::ReadWrite);
        self.transmit(&header, &data[..len]);
        len
    }

    pub(super) fn shutdown(&mut self, ports: Ports, shutdown: Shutdown) {
        let header = self.header(ports, Op::Shutdown);
        self.transmit(
            &Header {
                flags: shutdown.flags(),
                ..header
            },
            &[],
        );
    }

    /// Ends both directions.
    pub(super) fn close(&mut self, ports: Ports) {
        self.shutdown(
            ports,
            Shutdown {
                receive: true,
                send: true,
            },
        );
    }

    /// Connections that the device has.
    pub(super) fn connections(&mut self) -> usize {
        self.machine.executor.switchboard().connections().len()
    }

    /// Bytes that the device holds for the host.
    pub(super) fn backlog(&mut self, ports: Ports) -> usize {
        let table = self.machine.executor.switchboard().connections();
        let place = table.find(ports).expect("no such connection");
        table.get_mut(place).unwrap().host().backlog_len()
    }

    /// The device holds no more than it may.
    pub(super) fn check_bounds(&mut self, limits: Limits) {
        let switchboard = self.machine.executor.switchboard();
        assert!(switchboard.resets() <= limits.resets + limits.connections);
        assert!(switchboard.waiting_for_turns() <= limits.connections);
        let table = switchboard.connections();
        assert!(table.len() <= limits.connections);
        assert!(table.waiting() <= limits.connections);
        assert!(
            table
                .iter()
                .all(|(_, connection)| connection.host().backlog_len() <= 256 << 10)
        );
    }

    /// Makes the device use up all receive buffers, and gives it no others.
    pub(super) fn starve(&mut self) {
        self.machine.refill = false;
        while self.machine.receive_buffers() > 0 {
            let header = self.header(Ports { host: 0, guest: 0 }, Op::Request);
            self.transmit(&header, &[]);
            self.rest();
        }
        self.stray_resets.clear();
    }

    /// Gives the device receive buffers again, divided like this.
    pub(super) fn feed(&mut self, layout: &[usize]) {
        self.machine.refill = true;
        self.machine.set_receive_layout(layout.to_vec());
        self.machine.offer_receive_buffers(usize::MAX);
    }

    /// The driver resets the device, and everything begins again.
    pub(super) fn restart(&mut self) {
        self.sockets.clear();
        self.stray_resets.clear();
        self.machine.restart();
        self.machine.offer_receive_buffers(usize::MAX);
    }

    /// The program of the guest reads what arrived.
    pub(super) fn read(&mut self, ports: Ports) -> Vec<u8> {
        let socket = self.socket(ports);
        let data = std::mem::take(&mut socket.received);
        socket.fwd_cnt = socket.fwd_cnt.wrapping_add(data.len() as u32);
        data
    }

    /// Lets the device work, then takes what it had to give.
    pub(super) fn step(&mut self, patience: Duration) {
        self.machine.run(patience);
        while let Some((header, payload)) = self.machine.receive() {
            self.take(header, &payload);
        }
        self.machine.run(Duration::ZERO);
    }

    /// Steps until `done`.
    pub(super) fn wait(&mut self, what: &str, done: impl Fn(&Guest) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        self.step(Duration::ZERO);
        while !done(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            self.step(Duration::from_millis(5));
        }
    }

    /// Steps until nothing happens any more.
    pub(super) fn rest(&mut self) {
        for _ in 0..3 {
            self.step(Duration::from_millis(2));
        }
    }

    fn take(&mut self, header: Header, payload: &[u8]) {
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, GUEST));
        let ports = Ports {
            host: header.src_port,
            guest: header.dst_port,
        };
        let op = Op::from_number(header.op).expect("an unknown operation of the device");
        if op == Op::Request {
            return self.answer_request(ports, &header);
        }
        let Some(socket) = self.sockets.get_mut(&ports).filter(|socket| !socket.reset) else {
            assert_eq!(op, Op::Reset, "a packet for no socket: {header:?}");
            return self.stray_resets.push(header);
        };
        *socket.packets.entry(header.op).or_default() += 1;
        socket.peer_buf_alloc = header.buf_alloc;
        socket.peer_fwd_cnt = header.fwd_cnt;
        match op {
            Op::Response => socket.open = true,
            Op::Reset => socket.reset = true,
            Op::Shutdown => {
                socket.shutdown = socket.shutdown.union(Shutdown::from_flags(header.flags));
            }
            Op::ReadWrite => self.take_data(ports, payload),
            Op::CreditRequest => self.say(ports, Op::CreditUpdate),
            Op::CreditUpdate | Op::Request => {}
        }
    }

    fn answer_request(&mut self, ports: Ports, header: &Header) {
        if self.mute {
            return;
        }
        if !self.listening.contains(&ports.guest) {
            return self.say(ports, Op::Reset);
        }
        let mut socket = Socket::new(true, self.window);
        socket.peer_buf_alloc = header.buf_alloc;
        socket.peer_fwd_cnt = header.fwd_cnt;
        self.sockets.insert(ports, socket);
        self.say(ports, Op::Response);
    }

    fn take_data(&mut self, ports: Ports, payload: &[u8]) {
        assert!(!payload.is_empty());
        self.arrivals.push(ports.guest);
        let greedy = self.greedy;
        let socket = self.socket(ports);
        assert!(!socket.shutdown.send, "data after the end of the stream");
        socket.received.extend(payload);
        if greedy {
            let fwd_cnt = socket.fwd_cnt.wrapping_add(payload.len() as u32);
            let due = fwd_cnt / (socket.buf_alloc / 2) != socket.fwd_cnt / (socket.buf_alloc / 2);
            socket.fwd_cnt = fwd_cnt;
            if due {
                self.say(ports, Op::CreditUpdate);
            }
        } else {
            assert!(
                socket.received.len() <= socket.buf_alloc as usize,
                "more than credit"
            );
        }
    }
}
