//! A guest that does not keep to the specification harms its own connections only.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;

use super::super::connection::Ports;
use super::super::packet::{HEADER_LEN, Header, Op, Shutdown};
use super::super::switchboard::Limits;
use super::conversations::noise;
use super::guest::Guest;
use super::machine::{BUFFER, from_guest, to_guest};

fn connected() -> (Guest, Ports, UnixStream) {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let host = accepted.try_recv().unwrap();
    (guest, ports, host)
}

/// The packet resets its connection, and the host finds its socket closed.
fn resets(change: impl Fn(Header) -> Header, payload: &[u8]) {
    let (mut guest, ports, mut host) = connected();
    let header = change(guest.header(ports, Op::ReadWrite));
    assert!(guest.machine.transmit(&header, payload, BUFFER));
    guest.wait("a reset", |guest| guest.sockets[&ports].reset);
    assert_eq!(guest.connections(), 0);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

/// The packet is dropped, and its connection works as before.
fn is_dropped(change: impl Fn(Header) -> Header) {
    let (mut guest, ports, mut host) = connected();
    let header = change(guest.header(ports, Op::Reset));
    assert!(guest.machine.transmit(&header, &[], BUFFER));
    guest.rest();
    assert!(guest.stray_resets.is_empty());
    guest.send(ports, b"fine");
    guest.rest();
    let mut bytes = [0; 4];
    host.read_exact(&mut bytes).unwrap();
}

#[test]
fn data_that_is_shorter_than_its_header_says_resets_the_connection() {
    resets(|header| Header { len: 6, ..header }, b"short");
}

#[test]
fn four_gigabytes_in_a_header_reset_the_connection() {
    resets(
        |header| Header {
            len: u32::MAX,
            ..header
        },
        &[0; 1000],
    );
}

#[test]
fn an_unknown_operation_resets_the_connection() {
    for op in [0, 8, u16::MAX] {
        resets(|header| Header { op, ..header }, b"");
    }
}

#[test]
fn operations_out_of_place_reset_the_connection() {
    for op in [Op::Request, Op::Response] {
        resets(
            |header| Header {
                op: op.number(),
                ..header
            },
            b"",
        );
    }
}

#[test]
fn data_after_the_end_of_the_stream_resets_the_connection() {
    let (mut guest, ports, _host) = connected();
    guest.shutdown(
        ports,
        Shutdown {
            receive: false,
            send: true,
        },
    );
    let header = guest.header(ports, Op::ReadWrite);
    guest.transmit(&header, b"one more thing");
    guest.wait("a reset", |guest| guest.sockets[&ports].reset);
}

#[test]
fn packets_of_somebody_else_are_dropped() {
    for src_cid in [0, 1, 2, 4, u64::MAX, 3 | 1 << 32] {
        is_dropped(|header| Header { src_cid, ..header });
    }
}

#[test]
fn packets_for_somebody_else_are_dropped() {
    for dst_cid in [0, 1, 3, 4, u64::from(u32::MAX), 2 | 1 << 32] {
        is_dropped(|header| Header { dst_cid, ..header });
    }
}

#[test]
fn an_unknown_type_of_socket_is_reset_under_its_type() {
    let (mut guest, ports, _host) = connected();
    let header = guest.header(Ports { host: 1, guest: 77 }, Op::Request);
    guest.transmit(
        &Header {
            socket_type: 2,
            ..header
        },
        &[],
    );
    guest.wait("a reset", |guest| !guest.stray_resets.is_empty());
    assert_eq!(guest.stray_resets[0].socket_type, 2);
    assert_eq!(guest.stray_resets[0].dst_port, 77);
    assert!(!guest.sockets[&ports].reset);
}

#[test]
fn packets_of_unknown_connections_are_reset_unless_they_are_resets() {
    let mut guest = Guest::new(vec![]);
    let ports = Ports { host: 5, guest: 6 };
    for op in 0..9 {
        let header = guest.header(ports, Op::Reset);
        guest.transmit(&Header { op, ..header }, &[]);
    }
    guest.rest();
    assert_eq!(guest.stray_resets.len(), 8);
}

#[test]
fn an_answer_to_a_question_that_was_not_asked_yet_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (route, path) = to_guest(&directory, 7);
    let mut guest = Guest::new(vec![route]);
    guest.starve();
    let mut host = UnixStream::connect(path).unwrap();
    guest.rest();
    assert_eq!(guest.connections(), 1);
    // The guest guesses the first port.
    let header = guest.header(
        Ports {
            host: 1024,
            guest: 7,
        },
        Op::Response,
    );
    guest.transmit(&header, &[]);
    guest.rest();
    assert_eq!(guest.connections(), 0);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn chains_without_a_whole_header_come_back() {
    let (mut guest, ports, mut host) = connected();
    for len in 1..HEADER_LEN {
        assert!(guest.machine.transmit_bytes(&vec![0xff; len], BUFFER));
        guest.rest();
    }
    guest.send(ports, b"fine");
    guest.rest();
    host.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn receive_buffers_that_are_too_small_come_back_and_lose_nothing() {
    let (route, accepted) = from_guest(1);
    let mut guest = Guest::new(vec![route]);
    let ports = guest.connect(1, 5000);
    let mut host = accepted.try_recv().unwrap();
    guest.starve();
    host.write_all(b"patience").unwrap();
    guest.feed(&[HEADER_LEN - 1]);
    for _ in 0..100 {
        guest.machine.run(Duration::ZERO);
        guest.machine.discard_received();
    }
    guest.machine.set_receive_layout(vec![HEADER_LEN]);
    for _ in 0..100 {
        guest.machine.run(Duration::ZERO);
        guest.machine.discard_received();
    }
    guest.machine.set_receive_layout(vec![HEADER_LEN + 3]);
    guest.machine.discard_received();
    guest.wait("data", |guest| {
        guest.sockets[&ports].received == b"patience"
    });
}

/// A packet that is likely to mean something: mostly of few ports and known operations.
fn packets() -> impl Strategy<Value = (Header, Vec<u8>, usize)> {
    let port = prop_oneof![9 => 0_u32..4, 1 => any::<u32>()];
    let cid = prop_oneof![9 => Just(3_u64), 1 => any::<u64>()];
    let op = prop_oneof![9 => 1_u16..8, 1 => any::<u16>()];
    let len = prop_oneof![6 => Just(None), 1 => any::<u32>().prop_map(Some)];
    let counters = (any::<u32>(), any::<u32>());
    let payload = (0_usize..20_000).prop_map(|len| noise(12, len));
    let kind = prop_oneof![9 => Just(1_u16), 1 => any::<u16>()];
    (
        cid,
        port.clone(),
        1024_u32..1028,
        op,
        len,
        counters,
        payload,
        kind,
        1_usize..4096,
    )
        .prop_map(
            |(src_cid, guest, host, op, len, (buf_alloc, fwd_cnt), payload, socket_type, piece)| {
                let header = Header {
                    src_cid,
                    dst_cid: 2,
                    src_port: guest,
                    dst_port: host,
                    len: len.unwrap_or(payload.len() as u32),
                    socket_type,
                    op,
                    flags: fwd_cnt % 5,
                    buf_alloc,
                    fwd_cnt,
                };
                (header, payload, piece)
            },
        )
}

/// What happens besides the packets.
#[derive(Clone, Debug)]
enum Deed {
    Packet(Box<(Header, Vec<u8>, usize)>),
    HostConnects,
    HostWrites(usize),
    HostReads,
    HostCloses,
    GuestTakes,
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        12 => packets().prop_map(|packet| Deed::Packet(Box::new(packet))),
        1 => Just(Deed::HostConnects),
        2 => (1_usize..50_000).prop_map(Deed::HostWrites),
        2 => Just(Deed::HostReads),
        1 => Just(Deed::HostCloses),
        2 => Just(Deed::GuestTakes),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_packets_breaks_the_bounds(deeds in proptest::collection::vec(deeds(), 1..60)) {
        let limits = Limits { connections: 8, resets: 8, closing: Duration::from_millis(1), turn: Duration::from_millis(1) };
        let directory = tempfile::tempdir().unwrap();
        let (inwards, path) = to_guest(&directory, 2);
        let mut routes = vec![inwards];
        let mut accepted = Vec::new();
        for port in 1024..1027 {
            let (route, receiver) = from_guest(port);
            routes.push(route);
            accepted.push(receiver);
        }
        let mut guest = Guest::with_limits(routes, limits);
        let mut hosts: Vec<UnixStream> = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Packet(packet) => {
                    let (header, payload, piece) = *packet;
                    let piece = piece.max(payload.len() / 40 + 2);
                    guest.machine.transmit(&header, &payload, piece);
                }
                Deed::HostConnects => hosts.extend(UnixStream::connect(&path)),
                Deed::HostWrites(len) => {
                    if let Some(host) = hosts.first_mut() {
                        let _ = host.write(&vec![7; len]);
                    }
                }
                Deed::HostReads => {
                    if let Some(host) = hosts.last_mut() {
                        let _ = host.read(&mut [0; 100_000]);
                    }
                }
                Deed::HostCloses => {
                    if !hosts.is_empty() {
                        hosts.rotate_left(1);
                        hosts.pop();
                    }
                }
                Deed::GuestTakes => guest.machine.discard_received(),
            }
            guest.machine.run(Duration::ZERO);
            for receiver in &accepted {
                hosts.extend(receiver.try_iter());
            }
            for host in &hosts {
                host.set_nonblocking(true).unwrap();
            }
            guest.check_bounds(limits);
        }
        // Whatever happened, the device still serves a guest that behaves.
        guest.restart();
        let ports = guest.connect(1026, 9_999);
        let mut host = accepted[2].try_iter().last().unwrap();
        guest.send(ports, b"alive");
        guest.rest();
        let mut bytes = [0; 5];
        host.read_exact(&mut bytes).unwrap();
        prop_assert_eq!(&bytes, b"alive");
    }

    #[test]
    fn no_bytes_in_the_transmit_queue_break_the_device(
        packets in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 1..200), 1_usize..60), 1..50),
    ) {
        let mut guest = Guest::new(vec![]);
        for (bytes, piece) in packets {
            guest.machine.transmit_bytes(&bytes, piece.max(4));
            guest.machine.run(Duration::ZERO);
        }
    }
}
