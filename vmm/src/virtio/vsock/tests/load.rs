//! Many connections, a full table, and queues that stand still.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

use super::super::packet::{HEADER_LEN, Op};
use super::super::switchboard::Limits;
use super::super::token::Token;
use super::super::{QUEUE_RX, QUEUE_TX};
use super::conversations::noise;
use super::guest::Guest;
use super::machine::{BUFFER, from_guest, to_guest};
use crate::virtio::Executor;

#[test]
fn a_busy_connection_does_not_hold_up_the_others() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    guest.connect(1, 100);
    let mut busy_host = accepted.try_recv().unwrap();
    let mut hosts = Vec::new();
    for port in 101..111 {
        guest.connect(1, port);
        hosts.push(accepted.try_recv().unwrap());
    }
    // The driver gives no buffers until all of them have something to say, the busy one in the middle.
    guest.starve();
    let (before, after) = hosts.split_at_mut(5);
    for host in before {
        host.write_all(b"a word").unwrap();
    }
    guest.rest();
    busy_host.set_nonblocking(true).unwrap();
    while busy_host.write(&noise(9, 10_000)).is_ok() {}
    guest.rest();
    for host in after {
        host.write_all(b"a word").unwrap();
    }
    guest.rest();
    guest.arrivals.clear();
    guest.machine.offer_receive_buffers(24);
    guest.rest();
    assert_eq!(guest.arrivals.len(), 24);
    let of_others = guest
        .arrivals
        .iter()
        .take(12)
        .filter(|&&port| port != 100)
        .count();
    assert!(of_others >= 10, "the busy one got {:?}", guest.arrivals);
}

#[test]
fn packets_of_the_guest_are_taken_while_it_takes_none() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    guest.starve();
    guest.send(ports, &noise(10, 100_000));
    guest.rest();
    let mut bytes = vec![0; 100_000];
    host.read_exact(&mut bytes).unwrap();
    assert!(bytes == noise(10, 100_000));
}

#[test]
fn answers_that_the_guest_does_not_take_stop_its_packets() {
    let limits = Limits {
        resets: 16,
        ..Limits::DEVICE
    };
    let mut guest = Guest::with_limits(vec![], limits);
    guest.starve();
    let mut requests = 0;
    while guest.executor().ready(QUEUE_TX) {
        guest.request(9, 1000 + requests);
        guest.machine.run(Duration::ZERO);
        requests += 1;
        assert!(requests <= 16);
    }
    assert!(guest.executor().ready(QUEUE_RX));
    // A few more wait in the queue, and all are answered when the guest takes packets again.
    for _ in 0..10 {
        guest.request(9, 1000 + requests);
        requests += 1;
    }
    guest.feed(&[BUFFER]);
    guest.wait("all resets", |guest| {
        guest.sockets.values().all(|socket| socket.reset)
    });
    assert!(guest.executor().ready(QUEUE_TX));
}

#[test]
fn a_full_table_refuses_the_guest_and_keeps_the_host_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let (outwards, accepted) = from_guest(1);
    let (inwards, path) = to_guest(&directory, 7);
    let limits = Limits {
        connections: 3,
        ..Limits::DEVICE
    };
    let mut guest = Guest::with_limits(vec![outwards, inwards], limits);
    guest.listening.push(7);
    let ports: Vec<_> = (0..3).map(|port| guest.connect(1, port)).collect();
    assert_eq!(accepted.try_iter().count(), 3);

    let refused = guest.request(1, 99);
    guest.wait("a reset", |guest| guest.sockets[&refused].reset);
    assert_eq!(
        accepted.try_iter().count(),
        0,
        "the host heard of a refused connection"
    );
    let mut host = UnixStream::connect(path).unwrap();
    host.write_all(b"patience").unwrap();
    guest.rest();
    assert!(!guest.sockets.keys().any(|ports| ports.guest == 7));

    guest.close(ports[1]);
    guest.wait("the waiting connection", |guest| {
        guest
            .sockets
            .values()
            .any(|socket| socket.received == b"patience")
    });
    assert_eq!(guest.connections(), 3);
}

#[test]
fn the_event_queue_keeps_its_buffers() {
    let mut guest = Guest::new(vec![]);
    assert!(!guest.executor().ready(2));
}

#[test]
fn an_idle_device_sleeps() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    guest.send(ports, &noise(11, 50_000));
    guest.rest();
    let wakeups = guest.machine.wakeups;
    // The host reads: nobody has to know, because nothing waits for room.
    host.read_exact(&mut vec![0; 50_000]).unwrap();
    guest.step(Duration::from_millis(50));
    assert_eq!(guest.machine.wakeups, wakeups);
}

#[test]
fn a_late_event_does_not_hit_the_next_connection() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let first = guest.connect(1, 5000);
    let table = guest.executor().switchboard().connections();
    let place = table.find(first).unwrap();
    let token = Token::Connection(table.occupant(place).unwrap()).encode();
    guest.say(first, Op::Reset);
    guest.rest();
    let next = guest.connect(1, 5001);
    assert_eq!(
        guest.executor().switchboard().connections().find(next),
        Some(place)
    );

    guest.executor().event(token, EventSet::HANG_UP).unwrap();
    guest.send(next, b"fine");
    guest.rest();
    let mut host = accepted.try_iter().last().unwrap();
    host.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn a_socket_that_is_empty_after_all_costs_one_harmless_packet() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    // A read that fills the buffer cannot tell that nothing follows.
    host.write_all(&noise(13, BUFFER - HEADER_LEN)).unwrap();
    guest.rest();
    assert_eq!(guest.socket(ports).received.len(), BUFFER - HEADER_LEN);
    assert_eq!(guest.socket(ports).count(Op::CreditUpdate), 1);
    assert_eq!(guest.machine.receive_buffers(), 64);
}

#[test]
fn a_connection_that_the_guest_forgot_gets_no_packets() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let empty = guest.connect(1, 5000);
    let mut empty_host = accepted.try_recv().unwrap();
    let closed = guest.connect(1, 5001);
    let mut closed_host = accepted.try_recv().unwrap();
    while guest.backlog(closed) == 0 {
        guest.send_some(closed, &noise(14, 60_000));
        guest.rest();
    }
    guest.starve();
    empty_host
        .write_all(&noise(13, BUFFER - HEADER_LEN))
        .unwrap();
    guest.rest();
    guest.machine.offer_receive_buffers(1);
    guest.rest();
    assert!(!guest.sockets[&empty].received.is_empty());
    // Both wait for their turn: one is empty, the other lingers when its turn comes.
    closed_host.write_all(b"too late").unwrap();
    guest.rest();
    guest.close(closed);
    guest.rest();
    guest.feed(&[BUFFER]);
    guest.rest();
    assert!(guest.sockets[&closed].reset);
    assert!(guest.sockets[&closed].received.is_empty());
}
