//! What programs on both sides see of ordinary connections.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use super::super::connection::Ports;
use super::guest::Guest;
use super::machine::{BUFFER, from_guest, to_guest};

/// Bytes that do not repeat for a while.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Answers everything on the socket with itself, then with the end of the stream.
pub(super) fn echo(mut socket: UnixStream) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let mut total = 0;
        let mut piece = vec![0; 10_000];
        loop {
            let len = socket.read(&mut piece).unwrap();
            if len == 0 {
                return total;
            }
            socket.write_all(&piece[..len]).unwrap();
            total += len;
        }
    })
}

fn answers_with_the_same_bytes(piece: usize, receive_layout: &[usize]) {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    guest.piece = piece;
    guest.starve();
    guest.feed(receive_layout);
    let ports = guest.connect(1, 5000);
    let echo = echo(accepted.try_recv().unwrap());

    let data = noise(1, 3 << 20);
    let mut rest = &data[..];
    let mut size = 1;
    while !rest.is_empty() {
        // From 1 byte to the whole window, in steps that hit no power of two.
        size = size * 7 % 65_521;
        let len = rest.len().min(size).min(60 * piece);
        guest.send(ports, &rest[..len]);
        rest = &rest[len..];
    }
    guest.wait("the echo", |guest| {
        guest.sockets[&ports].received.len() == data.len()
    });
    assert!(guest.sockets[&ports].received == data);

    guest.close(ports);
    guest.wait("the end", |guest| guest.sockets[&ports].reset);
    assert_eq!(echo.join().unwrap(), data.len());
}

#[test]
fn bytes_come_back_in_order_through_ordinary_buffers() {
    answers_with_the_same_bytes(BUFFER, &[BUFFER]);
}

#[test]
fn bytes_come_back_in_order_when_headers_and_data_have_descriptors_of_their_own() {
    answers_with_the_same_bytes(44, &[44, BUFFER]);
}

#[test]
fn bytes_come_back_in_order_when_headers_are_cut() {
    answers_with_the_same_bytes(1021, &[20, 30, 1, 999]);
}

#[test]
fn a_connection_of_the_host_reaches_the_program_that_listens() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    // The machine does not run yet: the connection waits in the backlog.
    let mut host = UnixStream::connect(path).unwrap();
    host.write_all(b"early").unwrap();

    let mut guest = Guest::new(vec![route]);
    guest.listening.push(7);
    guest.wait("a connection", |guest| !guest.sockets.is_empty());
    let ports = *guest.sockets.keys().next().unwrap();
    assert!(ports.host >= 1024);
    guest.wait("data", |guest| guest.sockets[&ports].received == b"early");

    guest.send(ports, b"answer");
    guest.rest();
    let mut bytes = [0; 6];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"answer");
}

#[test]
fn a_connection_to_a_port_without_a_route_is_refused() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.request(2, 5000);
    guest.wait("a reset", |guest| guest.sockets[&ports].reset);
    assert!(accepted.try_recv().is_err());
}

#[test]
fn a_connection_that_the_host_does_not_take_is_refused() {
    let (route, accepted) = from_guest(1);
    drop(accepted);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.request(1, 5000);
    guest.wait("a reset", |guest| guest.sockets[&ports].reset);
}

#[test]
fn a_host_program_is_hung_up_on_when_nobody_listens_in_the_guest() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    let mut guest = Guest::new(vec![route]);
    let mut host = UnixStream::connect(path).unwrap();
    guest.rest();
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.connections(), 0);
}

#[test]
fn many_connections_are_kept_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (outwards, accepted) = from_guest(1);
    let (inwards, path) = to_guest(&directory, 7);
    let mut guest = Guest::new(vec![outwards, inwards]);
    guest.listening.push(7);
    let mut echoes = Vec::new();
    let mut expected = Vec::new();
    for number in 0..100 {
        let ports = guest.connect(1, 10_000 + number);
        echoes.push(echo(accepted.try_recv().unwrap()));
        expected.push((ports, noise(u64::from(number), 5_000)));
    }
    for number in 100..200 {
        let before: Vec<Ports> = guest.sockets.keys().copied().collect();
        echoes.push(echo(UnixStream::connect(&path).unwrap()));
        guest.wait("a connection", |guest| guest.sockets.len() > before.len());
        let ports = *guest
            .sockets
            .keys()
            .find(|ports| !before.contains(ports))
            .unwrap();
        expected.push((ports, noise(number, 5_000)));
    }
    assert_eq!(guest.connections(), 200);
    // In turns, so that all of them are under way at a time.
    for part in 0..5 {
        for (ports, data) in &expected {
            guest.send(*ports, &data[part * 1_000..][..1_000]);
        }
    }
    for (ports, data) in &expected {
        guest.wait("an echo", |guest| {
            guest.sockets[ports].received.len() == data.len()
        });
        assert!(guest.sockets[ports].received == *data);
        guest.close(*ports);
    }
    guest.wait("the end", |guest| {
        guest.sockets.values().all(|socket| socket.reset)
    });
    assert_eq!(guest.connections(), 0);
    for echo in echoes {
        assert_eq!(echo.join().unwrap(), 5_000);
    }
}
