//! How connections end: in halves, at once, by force, and by not ending.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown as Direction;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::super::connection::Ports;
use super::super::packet::{Op, Shutdown};
use super::super::switchboard::Limits;
use super::conversations::noise;
use super::guest::Guest;
use super::machine::{from_guest, to_guest};

const SEND: Shutdown = Shutdown {
    receive: false,
    send: true,
};
const RECEIVE: Shutdown = Shutdown {
    receive: true,
    send: false,
};
const BOTH: Shutdown = Shutdown {
    receive: true,
    send: true,
};

fn connected() -> (Guest, Ports, UnixStream) {
    let (route, accepted) = from_guest(1);
    let limits = Limits {
        closing: Duration::from_millis(100),
        ..Limits::DEVICE
    };
    let mut guest = Guest::with_limits(vec![route], limits);
    let ports = guest.connect(1, 5000);
    let host = accepted.try_recv().unwrap();
    (guest, ports, host)
}

/// Fills the socket and part of the window; returns what was sent.
fn fill(guest: &mut Guest, ports: Ports) -> Vec<u8> {
    let data = noise(6, 4 << 20);
    let mut sent = 0;
    while guest.backlog(ports) < 100_000 {
        sent += guest.send_some(ports, &data[sent..][..50_000]);
        guest.rest();
    }
    data[..sent].to_vec()
}

/// Reads until the end of the stream, while the guest goes on.
fn read_to_end(guest: &mut Guest, host: &mut UnixStream) -> Vec<u8> {
    host.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    loop {
        match host.read_to_end(&mut all) {
            Ok(_) => {
                host.set_nonblocking(false).unwrap();
                return all;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => guest.rest(),
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "the stream does not end");
    }
}

#[test]
fn the_guest_ends_its_half_after_all_that_it_sent() {
    let (mut guest, ports, mut host) = connected();
    let sent = fill(&mut guest, ports);
    guest.shutdown(ports, SEND);
    guest.rest();
    assert!(read_to_end(&mut guest, &mut host) == sent);

    // The other half lives on, longer than an unfinished end may last.
    guest.step(Duration::from_millis(150));
    host.write_all(b"still here").unwrap();
    guest.wait("data", |guest| {
        guest.sockets[&ports].received == b"still here"
    });
    drop(host);
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == BOTH);
    guest.say(ports, Op::Reset);
    guest.rest();
    assert_eq!(guest.connections(), 0);
    assert!(guest.stray_resets.is_empty());
}

#[test]
fn the_host_ends_its_half_after_all_that_it_sent() {
    let (mut guest, ports, mut host) = connected();
    let data = noise(7, 100_000);
    host.write_all(&data).unwrap();
    host.shutdown(Direction::Write).unwrap();
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == SEND);
    assert!(guest.sockets[&ports].received == data);

    guest.step(Duration::from_millis(150));
    guest.send(ports, b"still here");
    guest.rest();
    let mut bytes = [0; 10];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
    guest.close(ports);
    guest.wait("the end", |guest| guest.sockets[&ports].reset);
    assert_eq!(host.read(&mut bytes).unwrap(), 0);
}

#[test]
fn both_halves_ended_one_by_one_end_the_connection() {
    let (mut guest, ports, mut host) = connected();
    host.shutdown(Direction::Write).unwrap();
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == SEND);
    guest.shutdown(ports, SEND);
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == BOTH);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    guest.say(ports, Op::Reset);
    guest.rest();
    assert_eq!(guest.connections(), 0);
}

#[test]
fn what_the_guest_sent_before_it_closed_reaches_a_slow_host() {
    let (route, accepted) = from_guest(1);
    let limits = Limits {
        closing: Duration::from_millis(100),
        ..Limits::DEVICE
    };
    let mut guest = Guest::with_limits(vec![route], limits);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    let sent = fill(&mut guest, ports);
    guest.close(ports);
    // The guest is done at once, and its ports with it, however long the host takes.
    guest.wait("a reset", |guest| guest.sockets[&ports].reset);
    guest.step(Duration::from_millis(150));
    assert_eq!(guest.connections(), 1);
    guest.connect(1, 5000);
    assert_eq!(guest.connections(), 2);

    assert!(read_to_end(&mut guest, &mut host) == sent);
    guest.rest();
    assert_eq!(guest.connections(), 1);
}

#[test]
fn a_lingering_connection_ends_with_its_host() {
    let (mut guest, ports, host) = connected();
    fill(&mut guest, ports);
    guest.close(ports);
    guest.rest();
    assert_eq!(guest.connections(), 1);
    drop(host);
    guest.rest();
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_reset_of_the_guest_hangs_up_on_the_host() {
    let (mut guest, ports, mut host) = connected();
    guest.send(ports, b"last words");
    guest.say(ports, Op::Reset);
    guest.rest();
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last words");
    assert!(!guest.sockets[&ports].reset, "a reset was answered");
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_host_that_closes_is_done_when_the_guest_has_everything() {
    let (mut guest, ports, mut host) = connected();
    let data = noise(8, 100_000);
    host.write_all(&data).unwrap();
    drop(host);
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == BOTH);
    assert!(guest.sockets[&ports].received == data);
    // What the guest sends meanwhile goes nowhere, and disturbs nobody.
    guest.send(ports, b"into the void");
    guest.say(ports, Op::Reset);
    guest.rest();
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_guest_that_does_not_confirm_the_end_is_reset() {
    let (mut guest, ports, host) = connected();
    drop(host);
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == BOTH);
    guest.wait("a reset", |guest| guest.sockets[&ports].reset);
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_host_that_stops_reading_for_good_tells_the_guest() {
    let (mut guest, ports, mut host) = connected();
    host.shutdown(Direction::Read).unwrap();
    guest.send(ports, b"unheard");
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == RECEIVE);
    host.write_all(b"but I can talk").unwrap();
    guest.wait("data", |guest| {
        guest.sockets[&ports].received == b"but I can talk"
    });
}

#[test]
fn a_guest_that_stops_reading_for_good_fails_writes_of_the_host() {
    let (mut guest, ports, mut host) = connected();
    guest.shutdown(ports, RECEIVE);
    guest.rest();
    assert_eq!(
        host.write(b"unheard").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    guest.send(ports, b"but I can talk");
    guest.rest();
    let mut bytes = [0; 14];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"but I can talk");
}

#[test]
fn a_host_that_gives_up_waiting_for_an_answer_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    let limits = Limits {
        closing: Duration::from_millis(50),
        ..Limits::DEVICE
    };
    let mut guest = Guest::with_limits(vec![route], limits);
    guest.mute = true;
    let host = UnixStream::connect(path).unwrap();
    guest.rest();
    guest.step(Duration::from_millis(100));
    assert_eq!(guest.connections(), 1, "a patient host may wait");
    drop(host);
    guest.wait("a reset", |guest| guest.stray_resets.len() == 1);
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_request_in_a_hurry_is_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    let mut guest = Guest::new(vec![route]);
    guest.listening.push(7);
    // Gone before the guest hears of it.
    UnixStream::connect(path)
        .unwrap()
        .write_all(b"fire and forget")
        .unwrap();
    guest.wait("the end", |guest| {
        guest.sockets.values().any(|socket| socket.shutdown == BOTH)
    });
    let socket = guest.sockets.values().next().unwrap();
    assert_eq!(socket.received, b"fire and forget");
}

#[test]
fn a_reset_of_the_device_drops_all_and_starts_afresh() {
    let directory = tempfile::tempdir().unwrap();
    let (outwards, accepted) = from_guest(1);
    let (inwards, path) = to_guest(&directory, 7);
    let mut guest = Guest::new(vec![outwards, inwards]);
    guest.listening.push(7);
    let ports = guest.connect(1, 5000);
    fill(&mut guest, ports);
    guest.restart();
    assert_eq!(guest.connections(), 0);
    let mut host = accepted.try_recv().unwrap();
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();

    let ports = guest.connect(1, 5000);
    guest.send(ports, b"again");
    guest.rest();
    let mut bytes = [0; 5];
    accepted.try_recv().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"again");
    let _host = UnixStream::connect(path).unwrap();
    guest.wait("a connection", |guest| guest.sockets.len() == 2);
}

#[test]
fn both_halves_end_the_connection_for_the_guest_while_the_host_still_reads() {
    let (mut guest, ports, mut host) = connected();
    let sent = fill(&mut guest, ports);
    host.shutdown(Direction::Write).unwrap();
    guest.rest();
    guest.shutdown(ports, SEND);
    guest.wait("the end", |guest| guest.sockets[&ports].shutdown == BOTH);
    assert!(guest.backlog(ports) > 0);
    guest.say(ports, Op::Reset);
    guest.rest();
    assert!(read_to_end(&mut guest, &mut host) == sent);
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_guest_that_never_heard_of_a_connection_does_not_hear_of_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    let limits = Limits {
        closing: Duration::from_millis(20),
        ..Limits::DEVICE
    };
    let mut guest = Guest::with_limits(vec![route], limits);
    guest.starve();
    drop(UnixStream::connect(path).unwrap());
    guest.wait("a connection", |guest| guest.machine.wakeups > 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    while guest.connections() > 0 {
        assert!(Instant::now() < deadline, "the connection does not end");
        guest.rest();
    }
    assert_eq!(guest.executor().switchboard().resets(), 0);
}

#[test]
fn what_a_host_left_behind_waits_for_a_guest_that_reads_late() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    let limits = Limits {
        closing: Duration::from_millis(50),
        ..Limits::DEVICE
    };
    let mut guest = Guest::with_limits(vec![route], limits);
    guest.listening.push(7);
    guest.greedy = false;
    guest.window = 10;
    UnixStream::connect(path)
        .unwrap()
        .write_all(b"more than ten bytes")
        .unwrap();
    guest.wait("data", |guest| {
        guest
            .sockets
            .values()
            .any(|socket| socket.received == b"more than ")
    });
    thread::sleep(Duration::from_millis(100));
    guest.rest();
    let ports = *guest.sockets.keys().next().unwrap();
    guest.read(ports);
    guest.say(ports, Op::CreditUpdate);
    guest.wait("the rest", |guest| {
        guest.sockets[&ports].received == b"ten bytes"
    });
}
