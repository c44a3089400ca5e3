//! Neither side sends more than the other has room for, and waiting costs nothing.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::connection::Ports;
use super::super::packet::{Header, Op};
use super::super::switchboard::Limits;
use super::super::turns::SHARE;
use super::conversations::noise;
use super::guest::Guest;
use super::machine::from_guest;

/// Sends until there is no room at all, and returns how much that was.
fn fill_window(guest: &mut Guest, ports: Ports, data: &[u8]) -> usize {
    let mut sent = 0;
    while guest.socket(ports).credit() > 0 {
        sent += guest.send_some(ports, &data[sent..]);
        guest.say(ports, Op::CreditRequest);
        guest.rest();
    }
    sent
}

#[test]
fn the_host_waits_for_a_guest_that_does_not_read() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    guest.greedy = false;
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    host.set_nonblocking(true).unwrap();

    let data = noise(2, 1 << 20);
    let mut written = 0;
    let mut fill = |guest: &mut Guest| {
        while written < data.len() {
            match host.write(&data[written..]) {
                Ok(len) => written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            guest.step(Duration::ZERO);
        }
        written
    };
    fill(&mut guest);
    guest.rest();
    let window = guest.socket(ports).buf_alloc;
    assert_eq!(guest.socket(ports).received.len(), window as usize);
    assert_eq!(guest.socket(ports).count(Op::CreditRequest), 1);

    // A full socket and a full window: the worker sleeps.
    let wakeups = guest.machine.wakeups;
    guest.step(Duration::from_millis(100));
    assert_eq!(guest.machine.wakeups, wakeups);

    let mut received = Vec::new();
    while received.len() < data.len() {
        received.extend(guest.read(ports));
        guest.say(ports, Op::CreditUpdate);
        guest.rest();
        fill(&mut guest);
    }
    assert!(received == data);
}

#[test]
fn the_guest_can_send_its_window_to_a_host_that_does_not_read() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    let window = guest.socket(ports).credit() as usize;

    let data = noise(3, 4 << 20);
    let sent = fill_window(&mut guest, ports, &data);
    assert!(sent > window, "the socket took nothing");
    assert_eq!(guest.backlog(ports), window);

    // The host reads again, so the guest hears of room, in steps of half a window.
    let before = guest.socket(ports).count(Op::CreditUpdate);
    let mut received = vec![0; sent];
    let (first, rest) = received.split_at_mut(64 << 10);
    host.read_exact(first).unwrap();
    guest.rest();
    host.set_nonblocking(true).unwrap();
    let mut filled = 0;
    while filled < rest.len() {
        match host.read(&mut rest[filled..]) {
            Ok(len) => filled += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => guest.rest(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(received == data[..sent]);
    guest.wait("credit", |guest| {
        guest.sockets[&ports].credit() as usize > window / 2
    });
    assert!(guest.socket(ports).count(Op::CreditUpdate) - before <= sent / (window / 2));
    assert_eq!(guest.backlog(ports), 0);
}

#[test]
fn a_question_for_credit_is_answered() {
    let (route, _accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    guest.say(ports, Op::CreditRequest);
    guest.wait("an answer", |guest| {
        guest.sockets[&ports].count(Op::CreditUpdate) == 1
    });
}

#[test]
fn no_packet_exceeds_a_small_window() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    guest.greedy = false;
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    guest.socket(ports).buf_alloc = 10;
    guest.say(ports, Op::CreditUpdate);
    guest.rest();

    host.write_all(b"twenty-one characters").unwrap();
    guest.rest();
    assert_eq!(guest.read(ports), b"twenty-one");
    guest.say(ports, Op::CreditUpdate);
    guest.rest();
    assert_eq!(guest.read(ports), b" character");
    guest.say(ports, Op::CreditUpdate);
    guest.rest();
    assert_eq!(guest.read(ports), b"s");
}

#[test]
fn a_guest_that_sends_more_than_its_window_is_reset() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    let data = noise(4, 1 << 20);
    fill_window(&mut guest, ports, &data);
    let header = guest.header(ports, Op::ReadWrite);
    guest.transmit(&header, b"x");
    guest.wait("a reset", |guest| guest.sockets[&ports].reset);
    assert_eq!(guest.connections(), 0);
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).unwrap();
}

#[test]
fn absurd_counters_grant_nothing() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    guest.greedy = false;
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    guest.socket(ports).buf_alloc = 100;
    let update = guest.header(ports, Op::CreditUpdate);
    // The guest claims to have read what nobody sent.
    guest.transmit(
        &Header {
            fwd_cnt: 5_000,
            ..update
        },
        &[],
    );
    guest.rest();
    host.write_all(&noise(5, 1_000)).unwrap();
    guest.rest();
    assert_eq!(guest.socket(ports).received.len(), 100);
}

/// Connections that have used up their windows, and of which the host has read everything.
struct Streams {
    guest: Guest,
    ports: Vec<Ports>,
    hosts: Vec<UnixStream>,
}

impl Streams {
    /// So many; a turn that is not used lasts for `turn`.
    fn new(count: u32, turn: Duration) -> Streams {
        let (route, accepted) = from_guest(1);
        let limits = Limits {
            turn,
            ..Limits::DEVICE
        };
        let mut guest = Guest::with_limits(vec![route], limits);
        let ports: Vec<_> = (0..count).map(|port| guest.connect(1, port)).collect();
        let hosts: Vec<_> = accepted.try_iter().collect();
        let mut streams = Streams {
            guest,
            ports,
            hosts,
        };
        let window = streams.credits()[0];
        for index in 0..streams.ports.len() {
            streams.send(index, window);
        }
        streams
    }

    /// The guest sends so many bytes, and the host reads them.
    fn send(&mut self, index: usize, count: u32) {
        let mut left = noise(6, count as usize);
        while !left.is_empty() {
            let sent = self.guest.send_some(self.ports[index], &left);
            assert!(sent > 0, "there is no credit");
            self.guest.step(Duration::ZERO);
            self.hosts[index].read_exact(&mut left[..sent]).unwrap();
            left.drain(..sent);
            self.guest.step(Duration::ZERO);
        }
        self.guest.rest();
    }

    fn credits(&self) -> Vec<u32> {
        let credit = |ports| self.guest.sockets[ports].credit();
        self.ports.iter().map(credit).collect()
    }
}

/// Longer than any test takes.
const FOR_EVER: Duration = Duration::from_secs(3600);

#[test]
fn connections_that_stream_are_granted_room_one_after_the_other() {
    let mut streams = Streams::new(3, FOR_EVER);
    let window = streams.guest.sockets[&streams.ports[0]].buf_alloc;
    // The first one was alone when it had used half of its window: that much it was granted.
    streams.send(0, streams.credits()[0]);
    for turn in 1..9 {
        let mut expected = vec![0; 3];
        expected[turn % 3] = SHARE;
        assert_eq!(streams.credits(), expected, "turn {turn}");
        streams.send(turn % 3, SHARE / 2);
        expected[turn % 3] = SHARE / 2;
        expected[(turn + 1) % 3] = SHARE;
        assert_eq!(streams.credits(), expected, "turn {turn}");
        streams.send(turn % 3, SHARE / 2);
    }
    // Who is left alone gets all its room.
    streams.guest.close(streams.ports[0]);
    streams.guest.close(streams.ports[1]);
    streams.guest.rest();
    streams.send(2, streams.credits()[2]);
    assert_eq!(streams.credits()[2], window);
}

#[test]
fn a_connection_that_does_not_use_its_room_holds_nobody_up() {
    let mut streams = Streams::new(3, Duration::from_millis(20));
    let ports = streams.ports.clone();
    streams.guest.wait("room for all", |guest| {
        ports.iter().all(|port| guest.sockets[port].credit() > 0)
    });
}

#[test]
fn a_connection_that_ends_gives_its_turn_away() {
    let mut streams = Streams::new(2, FOR_EVER);
    assert_eq!(streams.credits()[1], 0);
    streams.guest.close(streams.ports[0]);
    streams.guest.rest();
    let window = streams.guest.sockets[&streams.ports[1]].buf_alloc;
    assert_eq!(streams.credits()[1], window);
}
