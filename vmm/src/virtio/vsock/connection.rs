//! One connection: what its two ends told, what they still have to be told, and how much either may send.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use disk::Buffers;
use vmm_sys_util::epoll::EventSet;

use super::credit::{ReceiveCredit, SendCredit};
use super::host_end::{HostEnd, Received};
use super::observer::Tap;
use super::packet::{HOST_CID, Header, Op, Shutdown, TYPE_STREAM};

/// The two ports of a connection. There is one guest and one host, so they name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// What becomes of a connection after something happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Alive,
    /// The guest knows that it is over. What the guest sent still reaches the host.
    Ended,
    /// The guest is told that it is over. What the guest sent still reaches the host.
    Finished,
    /// The guest broke the rules: it is told that the connection is over, and everything is dropped.
    Broken,
}

/// How far a connection came.
///
/// | phase     | began with          | next                                           |
/// |-----------|---------------------|------------------------------------------------|
/// | Wanted    | a host program      | Requested, when the guest has our REQUEST      |
/// | Requested |                     | Open with the guest's RESPONSE, over with RST  |
/// | Accepted  | the guest's REQUEST | Open, when the guest has our RESPONSE          |
/// | Open      |                     | Lingering or over, see `Fate`                  |
/// | Lingering |                     | over, when the host has what the guest sent    |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Wanted,
    Requested,
    Accepted,
    Open,
    Lingering,
}

/// Whether the guest is to be granted room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Not now.
    Unneeded,
    /// When its turn comes.
    Awaited,
    /// With the next packet, so much that it can send so many bytes.
    Taken(u32),
}

/// A connection between the guest and a Unix socket of the host.
#[derive(Debug)]
pub(super) struct Connection {
    guest_cid: u64,
    ports: Ports,
    phase: Phase,
    host: HostEnd,
    from_guest: ReceiveCredit,
    to_guest: SendCredit,
    /// What the guest told about its directions.
    guest_shutdown: Shutdown,
    /// What the guest was told about ours.
    told_shutdown: Shutdown,
    /// The guest asked for our credit.
    credit_wanted: bool,
    turn: Turn,
    /// The guest was asked for its credit, and granted none since.
    credit_requested: bool,
    /// The host program closed its socket altogether.
    hung_up: bool,
    /// When an unfinished end of the connection is cut short.
    deadline: Option<Instant>,
    /// What the socket is watched for.
    watched: EventSet,
}

impl Connection {
    /// A connection that the guest opened with `request`, and that is accepted with a receive buffer of `window` bytes.
    pub(super) fn accepted(request: &Header, socket: UnixStream, window: u32) -> Connection {
        let ports = Ports {
            host: request.dst_port,
            guest: request.src_port,
        };
        let host = HostEnd::new(socket, None);
        let mut connection = Connection::new(request.src_cid, ports, Phase::Accepted, host, window);
        connection
            .to_guest
            .update(request.buf_alloc, request.fwd_cnt);
        connection
    }

    /// A connection that a host program opened, and that the guest has not heard of yet. `tap` sees what the guest sends.
    pub(super) fn wanted(
        guest_cid: u64,
        ports: Ports,
        socket: UnixStream,
        tap: Option<Box<dyn Tap>>,
        window: u32,
    ) -> Connection {
        let host = HostEnd::new(socket, tap);
        Connection::new(guest_cid, ports, Phase::Wanted, host, window)
    }

    fn new(guest_cid: u64, ports: Ports, phase: Phase, host: HostEnd, window: u32) -> Connection {
        let watched = host.interest();
        Connection {
            guest_cid,
            ports,
            phase,
            host,
            from_guest: ReceiveCredit::new(window),
            to_guest: SendCredit::new(),
            guest_shutdown: Shutdown::default(),
            told_shutdown: Shutdown::default(),
            credit_wanted: false,
            turn: Turn::Unneeded,
            credit_requested: false,
            hung_up: false,
            deadline: None,
            watched,
        }
    }

    /// The ports of the connection.
    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// The host's end.
    pub(super) fn host(&self) -> &HostEnd {
        &self.host
    }

    /// A packet of the guest for this connection arrived; `data` is its payload.
    pub(super) fn on_packet(&mut self, op: Op, header: &Header, data: &Buffers<'_>) -> Fate {
        self.to_guest.update(header.buf_alloc, header.fwd_cnt);
        match (self.phase, op) {
            (_, Op::Reset) => Fate::Ended,
            (Phase::Requested, Op::Response) => {
                self.phase = Phase::Open;
                // The host program may have gone, but what it left behind has all the time that the guest needs.
                self.deadline = None;
                Fate::Alive
            }
            // The guest may send before it knows whether we accepted: nothing forbids it.
            (Phase::Open | Phase::Accepted, op) => self.on_open_packet(op, header, data),
            _ => Fate::Broken,
        }
    }

    fn on_open_packet(&mut self, op: Op, header: &Header, data: &Buffers<'_>) -> Fate {
        match op {
            Op::ReadWrite => self.on_data(data),
            Op::Shutdown => self.on_shutdown(Shutdown::from_flags(header.flags)),
            Op::CreditUpdate => Fate::Alive,
            Op::CreditRequest => {
                self.credit_wanted = true;
                Fate::Alive
            }
            Op::Request | Op::Response | Op::Reset => Fate::Broken,
        }
    }

    fn on_data(&mut self, data: &Buffers<'_>) -> Fate {
        let window = usize::try_from(self.from_guest.window()).unwrap_or(usize::MAX);
        let free = window.saturating_sub(self.host.backlog_len());
        let length = usize::try_from(data.len()).unwrap_or(usize::MAX);
        if self.guest_shutdown.send || length > free {
            return Fate::Broken;
        }
        self.from_guest.receive(length);
        self.host.deliver(data);
        self.from_guest.forward(self.host.take_released());
        Fate::Alive
    }

    fn on_shutdown(&mut self, told: Shutdown) -> Fate {
        let before = self.guest_shutdown;
        self.guest_shutdown = before.union(told);
        if self.guest_shutdown.is_both() {
            return Fate::Finished;
        }
        if self.guest_shutdown.send && !before.send {
            self.host.finish();
        }
        if self.guest_shutdown.receive && !before.receive {
            self.host.refuse_input();
        }
        Fate::Alive
    }

    /// The host's socket became ready.
    pub(super) fn on_ready(&mut self, ready: EventSet) -> Fate {
        self.hung_up |= ready.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.host.on_ready(ready);
        self.after_flush()
    }

    /// The tap, which stalled the connection, may be asked again.
    pub(super) fn on_resumption(&mut self) -> Fate {
        self.host.resume();
        self.after_flush()
    }

    fn after_flush(&mut self) -> Fate {
        self.from_guest.forward(self.host.take_released());
        if self.phase == Phase::Lingering && self.host.backlog_len() == 0 {
            return Fate::Ended;
        }
        Fate::Alive
    }

    /// The time for the end of the connection is over.
    pub(super) fn on_deadline(&self) -> Fate {
        // A guest that never heard of the connection need not hear of its end.
        if self.phase == Phase::Wanted {
            Fate::Ended
        } else {
            Fate::Finished
        }
    }

    /// Whether the connection is as good as over and waits only for the guest to say so.
    pub(super) fn awaits_end(&self) -> bool {
        match self.phase {
            Phase::Wanted | Phase::Requested => self.hung_up,
            Phase::Accepted | Phase::Open => self.told_shutdown.is_both(),
            Phase::Lingering => false,
        }
    }

    /// When the wait for the end of the connection is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Bounds the wait for the end of the connection, from its beginning.
    pub(super) fn set_deadline(&mut self, wait: Duration) -> Option<Instant> {
        // Time does not reach its end: None is never seen.
        self.deadline = self.deadline.or_else(|| Instant::now().checked_add(wait));
        self.deadline
    }

    /// What the socket has to be watched for from now on, if that is news.
    pub(super) fn changed_interest(&mut self) -> Option<EventSet> {
        let interest = self.host.interest();
        let before = std::mem::replace(&mut self.watched, interest);
        (before != interest).then_some(interest)
    }

    /// The guest is done with the connection. Returns whether the host still has to take something.
    pub(super) fn linger(&mut self) -> bool {
        self.phase = Phase::Lingering;
        self.deadline = None;
        self.host.refuse_input();
        self.host.finish();
        self.host.backlog_len() > 0
    }

    /// Whether the connection has begun to wait for a turn. Says so once for each turn.
    pub(super) fn asks_for_turn(&mut self) -> bool {
        let due = !self.guest_shutdown.send && self.from_guest.is_grant_due();
        let asks =
            self.phase == Phase::Open && self.turn == Turn::Unneeded && (self.credit_wanted || due);
        if asks {
            self.turn = Turn::Awaited;
        }
        asks
    }

    /// It is the connection's turn: the guest is granted as much room as lets it send `credit` bytes.
    pub(super) fn take_turn(&mut self, credit: u32) {
        self.turn = Turn::Taken(credit);
    }

    /// Whether there is something for the guest.
    pub(super) fn has_output(&self) -> bool {
        match self.phase {
            Phase::Wanted | Phase::Accepted => true,
            Phase::Requested | Phase::Lingering => false,
            Phase::Open => {
                self.due_shutdown() != self.told_shutdown
                    || self.has_turn()
                    || self.host.is_readable()
                        && (self.to_guest.available() > 0 || !self.credit_requested)
            }
        }
    }

    /// The next packet for the guest, whose payload goes to the start of `data`. Nothing, when the socket turned out to be
    /// empty.
    pub(super) fn next_packet(&mut self, data: &Buffers<'_>) -> Option<Header> {
        match self.phase {
            Phase::Requested | Phase::Lingering => return None,
            Phase::Wanted => {
                self.phase = Phase::Requested;
                return Some(self.packet(Op::Request));
            }
            Phase::Accepted => {
                self.phase = Phase::Open;
                return Some(self.packet(Op::Response));
            }
            Phase::Open => {}
        }
        if let Some(len) = self.read_host(data) {
            let header = self.packet(Op::ReadWrite);
            return Some(Header { len, ..header });
        }
        let due = self.due_shutdown();
        if due != self.told_shutdown {
            self.told_shutdown = due;
            let header = self.packet(Op::Shutdown);
            return Some(Header {
                flags: due.flags(),
                ..header
            });
        }
        if self.host.is_readable() && self.to_guest.available() == 0 && !self.credit_requested {
            self.credit_requested = true;
            return Some(self.packet(Op::CreditRequest));
        }
        self.has_turn().then(|| self.packet(Op::CreditUpdate))
    }

    /// Whether both ends take packets.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// A packet that tells nothing but our credit, which an open connection always takes.
    pub(super) fn credit_update(&mut self) -> Header {
        self.packet(Op::CreditUpdate)
    }

    /// The packet that ends the connection.
    pub(super) fn reset(&mut self) -> Header {
        self.packet(Op::Reset)
    }

    fn read_host(&mut self, data: &Buffers<'_>) -> Option<u32> {
        let room = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let limit = room.min(self.to_guest.available());
        if limit == 0 || !self.host.is_readable() {
            return None;
        }
        let received = self
            .host
            .receive(data, usize::try_from(limit).unwrap_or(usize::MAX));
        self.from_guest.forward(self.host.take_released());
        match received {
            Received::Data(bytes) => {
                let bytes = u32::try_from(bytes).unwrap_or(limit);
                self.to_guest.spend(bytes);
                self.credit_requested = false;
                Some(bytes)
            }
            Received::Nothing | Received::End => None,
        }
    }

    /// What the guest should know about our directions. When nothing can flow either way any more it is told both, which
    /// asks it to end the connection.
    fn due_shutdown(&self) -> Shutdown {
        let send = self.host.is_finished();
        let receive = self.host.is_deaf() || send && self.guest_shutdown.send;
        Shutdown { receive, send }
    }

    fn has_turn(&self) -> bool {
        matches!(self.turn, Turn::Taken(_))
    }

    /// A header of this connection. Each one announces our credit, which grows with a turn only.
    fn packet(&mut self, op: Op) -> Header {
        if let Turn::Taken(credit) = self.turn {
            self.turn = Turn::Unneeded;
            self.credit_wanted = false;
            self.from_guest.grant(credit);
        }
        let (buf_alloc, fwd_cnt) = self.from_guest.announcement();
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            len: 0,
            socket_type: TYPE_STREAM,
            op: op.number(),
            flags: 0,
            buf_alloc,
            fwd_cnt,
        }
    }
}
