//! What programs on both sides see.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::guest::Guest;
use super::machine::{from_guest, to_guest};

#[test]
fn a_connection_of_the_guest_carries_bytes_both_ways() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();

    guest.send(ports, b"ping");
    guest.rest();
    let mut bytes = [0; 4];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ping");

    host.write_all(b"pong").unwrap();
    guest.wait("an answer", |guest| {
        guest.sockets[&ports].received == b"pong"
    });
}

#[test]
fn a_connection_of_the_host_carries_bytes_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    let mut guest = Guest::new(vec![route]);
    guest.listening.push(7);

    let mut host = UnixStream::connect(path).unwrap();
    host.write_all(b"early").unwrap();
    guest.wait("a connection", |guest| !guest.sockets.is_empty());
    let ports = *guest.sockets.keys().next().unwrap();
    guest.wait("data", |guest| guest.sockets[&ports].received == b"early");

    guest.send(ports, b"answer");
    guest.rest();
    let mut bytes = [0; 6];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"answer");
}
