//! The host's end of a connection: a Unix stream socket, and the bytes of the guest that it did not take yet.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown as Direction;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use disk::Buffers;
use vmm_sys_util::epoll::EventSet;

use super::observer::{Observation, Tap};
use super::socket;

/// What the host had to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes.
    Data(usize),
    /// Nothing for now.
    Nothing,
    /// It sends nothing more.
    End,
}

/// The host's end of a connection.
///
/// It is watched edge-triggered, and what the edges told is kept here. So a socket that has data while the guest grants no
/// credit costs nothing, and reading needs no call to epoll_ctl(2). Room to write is watched for only while there is a
/// backlog; otherwise every read of the host program would wake the monitor.
#[derive(Debug)]
pub(super) struct HostEnd {
    socket: UnixStream,
    backlog: VecDeque<u8>,
    /// Who sees the bytes of the guest before the host does. All of them pass through the backlog then.
    observation: Option<Observation>,
    /// Bytes of the guest that need no room any more: the host took them, or nobody ever will.
    released: usize,
    /// There may be something to read.
    readable: bool,
    /// The peer closed its sending side; the end of the stream will be found by reading.
    finishing: bool,
    /// The end of the stream was read.
    finished: bool,
    /// The peer receives nothing more.
    deaf: bool,
    /// The guest sends nothing more; the peer hears of it when the backlog is empty.
    finish_after_backlog: bool,
}

impl HostEnd {
    /// The end of a connection that nothing was sent on yet. `tap` sees what the guest sends.
    pub(super) fn new(socket: UnixStream, tap: Option<Box<dyn Tap>>) -> HostEnd {
        HostEnd {
            socket,
            backlog: VecDeque::new(),
            observation: tap.map(Observation::new),
            released: 0,
            readable: false,
            finishing: false,
            finished: false,
            deaf: false,
            finish_after_backlog: false,
        }
    }

    /// The socket, to be watched for `interest()`.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What the socket has to be watched for.
    pub(super) fn interest(&self) -> EventSet {
        let reading = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        if self.sendable() == 0 {
            reading
        } else {
            reading | EventSet::OUT
        }
    }

    /// Bytes of the guest that the host did not take yet.
    pub(super) fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// When the tap, which stalled the connection, is asked again at the latest.
    pub(super) fn stalled_until(&self) -> Option<Instant> {
        self.observation.as_ref()?.stalled_until()
    }

    /// Asks the tap again.
    pub(super) fn resume(&mut self) {
        if let Some(observation) = &mut self.observation {
            observation.resume();
            self.flush();
        }
    }

    /// Bytes of the guest that need no room any more, since the last call.
    pub(super) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// Whether there may be something to read, the end of the stream included.
    pub(super) fn is_readable(&self) -> bool {
        self.readable && !self.finished
    }

    /// Whether the host sends nothing more.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the host receives nothing more.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// The socket became ready.
    pub(super) fn on_ready(&mut self, ready: EventSet) {
        let gone = EventSet::HANG_UP | EventSet::ERROR;
        if ready.intersects(gone | EventSet::READ_HANG_UP) {
            self.finishing = true;
        }
        if ready.intersects(gone | EventSet::READ_HANG_UP | EventSet::IN) {
            self.readable = true;
        }
        if ready.intersects(gone) {
            self.lose();
        } else {
            self.flush();
        }
    }

    /// Gives data of the guest to the host; what its socket does not take is kept.
    pub(super) fn deliver(&mut self, data: &Buffers<'_>) {
        if self.observation.is_some() && !self.deaf {
            self.keep(data);
            return self.flush();
        }
        let mut sent = 0;
        while self.backlog.is_empty() && !self.deaf && sent < data.len() {
            match socket::send(self.fd(), &data.part(sent, u64::MAX)) {
                Ok(transfer) => {
                    sent = sent.saturating_add(transfer.bytes as u64);
                    self.release(transfer.bytes);
                    if !transfer.complete {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.lose(),
            }
        }
        let rest = data.part(sent, u64::MAX);
        if self.deaf {
            self.release(usize::try_from(rest.len()).unwrap_or(usize::MAX));
        } else {
            self.keep(&rest);
        }
    }

    /// Reads at most `limit` bytes, more than 0, into the start of `buffers`, which are not empty.
    ///
    /// A read that got less than it asked for emptied the socket, and the next byte will make an edge. (Only file
    /// descriptors that the peer passes along could cut a read short; no peer of a byte stream has a reason to.)
    pub(super) fn receive(&mut self, buffers: &Buffers<'_>, limit: usize) -> Received {
        match socket::receive(self.fd(), buffers, limit) {
            Ok(received) if received.bytes > 0 => {
                // The edge of the end of the stream may be behind us already.
                self.readable = received.complete || self.finishing;
                Received::Data(received.bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Received::Nothing
            }
            Ok(_) => {
                self.finished = true;
                Received::End
            }
            // The peer closed its socket with unread data in it: it is gone altogether.
            Err(_) => {
                self.finished = true;
                self.lose();
                Received::End
            }
        }
    }

    /// The guest sends nothing more: the host reads the end of the stream after the backlog.
    pub(super) fn finish(&mut self) {
        self.finish_after_backlog = true;
        self.finish_if_due();
    }

    /// The guest receives nothing more: writes of the host fail from now on.
    pub(super) fn refuse_input(&mut self) {
        self.finished = true;
        // Fails only when the peer is gone already.
        let _ = self.socket.shutdown(Direction::Read);
    }

    fn finish_if_due(&mut self) {
        if self.finish_after_backlog && self.backlog.is_empty() {
            self.finish_after_backlog = false;
            // Fails only when the peer is gone already.
            let _ = self.socket.shutdown(Direction::Write);
        }
    }

    fn release(&mut self, bytes: usize) {
        self.released = self.released.saturating_add(bytes);
    }

    /// Nobody will read any more.
    fn lose(&mut self) {
        self.deaf = true;
        let backlog = std::mem::take(&mut self.backlog);
        if let Some(observation) = &mut self.observation {
            observation.clear();
        }
        self.release(backlog.len());
    }

    /// Bytes at the front of the backlog that may go to the host.
    fn sendable(&self) -> usize {
        self.observation
            .as_ref()
            .map_or(self.backlog.len(), Observation::passed)
    }

    /// Writes as much of the backlog as the tap lets pass and the socket takes.
    fn flush(&mut self) {
        if let Some(observation) = &mut self.observation {
            observation.show(&self.backlog);
        }
        while self.sendable() > 0 {
            match socket::send_bytes(self.fd(), &self.backlog, self.sendable()) {
                Ok(sent) => {
                    self.backlog.drain(..sent.min(self.backlog.len()));
                    if let Some(observation) = &mut self.observation {
                        observation.consume(sent);
                    }
                    self.release(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.lose(),
            }
        }
        if self.backlog.is_empty() {
            // The memory of a backlog is needed rarely; a thousand idle connections must not keep it.
            self.backlog = VecDeque::new();
            self.finish_if_due();
        }
    }

    /// Appends `data` to the backlog.
    fn keep(&mut self, data: &Buffers<'_>) {
        let bytes = data.to_vec();
        if self.backlog.is_empty() {
            self.backlog = bytes.into();
        } else {
            self.backlog.extend(bytes);
        }
    }
}
