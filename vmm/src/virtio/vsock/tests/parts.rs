//! The parts by themselves: headers, counters, the table.

use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::super::connection::{Connection, Ports};
use super::super::connections::Connections;
use super::super::credit::{ReceiveCredit, SendCredit, receive_window};
use super::super::packet::Header;
use super::super::token::{Occupant, Token};
use super::super::{Route, VsockConfig, VsockError, vsock_device};
use super::machine::from_guest;
use crate::virtio::Interrupt;
use std::sync::Arc;

#[test]
fn a_header_lies_in_memory_as_the_specification_says() {
    let header = Header {
        src_cid: 0x0102_0304_0506_0708,
        dst_cid: 2,
        src_port: 0x1112_1314,
        dst_port: 0x2122_2324,
        len: 0x3132_3334,
        socket_type: 0x4142,
        op: 0x5152,
        flags: 0x6162_6364,
        buf_alloc: 0x7172_7374,
        fwd_cnt: 0x8182_8384,
    };
    let bytes = [
        8, 7, 6, 5, 4, 3, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22,
        0x21, 0x34, 0x33, 0x32, 0x31, 0x42, 0x41, 0x52, 0x51, 0x64, 0x63, 0x62, 0x61, 0x74, 0x73,
        0x72, 0x71, 0x84, 0x83, 0x82, 0x81,
    ];
    assert_eq!(header.encode(), bytes);
    assert_eq!(Header::decode(bytes), header);
}

#[test]
fn the_description_has_the_address_and_three_queues() {
    let device = vsock_device(VsockConfig {
        guest_cid: 0x1234,
        routes: vec![],
    })
    .unwrap();
    assert_eq!(device.device_type, 19);
    let interrupt = Arc::new(Interrupt::of_lone_device().unwrap());
    device.config.connect(Arc::clone(&interrupt));
    let mut config = [0; 10];
    interrupt.registers().read(0x100, &mut config);
    assert_eq!(config, [0x34, 0x12, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(device.workers.len(), 1);
    assert_eq!(device.workers[0].queue_sizes.len(), 3);
}

#[test]
fn reserved_addresses_and_ambiguous_ports_are_refused() {
    let device = |guest_cid, ports: &[u32]| {
        let routes = ports
            .iter()
            .map(|&port| from_guest(port).0)
            .collect::<Vec<Route>>();
        vsock_device(VsockConfig { guest_cid, routes }).err()
    };
    for cid in [0, 1, 2, 0xffff_ffff, 1 << 32, u64::MAX] {
        assert!(matches!(
            device(cid, &[]),
            Some(VsockError::ReservedCid { .. })
        ));
    }
    assert!(device(0xffff_fffe, &[1, 2]).is_none());
    assert!(matches!(
        device(3, &[1, 2, 1]),
        Some(VsockError::DuplicatePort { port: 1 })
    ));
    assert!(matches!(
        device(3, &[u32::MAX]),
        Some(VsockError::ReservedPort { .. })
    ));
}

#[test]
fn a_full_table_of_windows_stays_small() {
    let total: u64 = (0..1023)
        .map(|existing| u64::from(receive_window(existing)))
        .sum();
    assert!(total < 50 << 20);
}

#[test]
fn tokens_survive_the_event_loop() {
    let tokens = [
        Token::Timer,
        Token::Listener(0),
        Token::Listener(u16::MAX),
        Token::Connection(Occupant {
            place: 0,
            generation: 0,
        }),
        Token::Connection(Occupant {
            place: u16::MAX,
            generation: 0x7fff,
        }),
    ];
    for token in tokens {
        assert_eq!(Token::decode(token.encode()), token);
    }
}

fn connection(ports: Ports) -> Connection {
    Connection::wanted(3, ports, UnixStream::pair().unwrap().0, None, 1000)
}

#[test]
fn a_place_waits_once_however_often_it_changes_hands() {
    let mut table = Connections::new(2);
    for guest in 0..10 {
        let place = table.insert(connection(Ports { host: 1, guest })).unwrap();
        table.enqueue(place);
        table.remove(place);
    }
    assert_eq!(table.waiting(), 1);
    assert!(!table.has_output());
}

#[test]
fn a_later_connection_at_a_place_is_told_from_an_earlier_one() {
    let mut table = Connections::new(1);
    let ports = Ports { host: 1, guest: 1 };
    let place = table.insert(connection(ports)).unwrap();
    let first = table.occupant(place);
    table.remove(place);
    assert_eq!(table.occupant(place), None);
    assert_eq!(table.insert(connection(ports)), Some(place));
    assert_ne!(table.occupant(place), first);
}

#[test]
fn ports_of_the_host_go_round_and_leave_out_those_in_use() {
    let mut table = Connections::new(10);
    let first = table.choose_port(7);
    assert_eq!(
        first,
        Ports {
            host: 1024,
            guest: 7
        }
    );
    table.insert(connection(first));
    table.insert(connection(Ports {
        host: 1026,
        guest: 7,
    }));
    assert_eq!(table.choose_port(7).host, 1025);
    assert_eq!(table.choose_port(7).host, 1027);
    table.skip_to_last_port();
    assert_eq!(table.choose_port(7).host, u32::MAX - 1);
    assert_eq!(table.choose_port(7).host, 1025);
}

proptest! {
    /// Against counters that do not wrap.
    #[test]
    fn send_credit_counts_through_the_wrap(
        window in 1_u32..1 << 20,
        steps in proptest::collection::vec((any::<u32>(), any::<u32>()), 1..200),
    ) {
        let mut credit = SendCredit::new();
        credit.update(window, 0);
        let (mut sent, mut read) = (0_u64, 0_u64);
        // Close to the wrap, as after 4 GiB.
        for _ in 0..4096 {
            let room = credit.available().min(1 << 20);
            credit.spend(room);
            sent += u64::from(room);
            read = sent;
            credit.update(window, read as u32);
        }
        for (send, take) in steps {
            let send = send % (credit.available() + 1);
            credit.spend(send);
            sent += u64::from(send);
            let before = read;
            read += u64::from(take) % (sent - read + 1);
            credit.update(window, read as u32);
            prop_assert_eq!(u64::from(credit.available()), u64::from(window) - (sent - read));
            // An older packet comes late: it takes nothing back.
            credit.update(window, before as u32);
            prop_assert_eq!(u64::from(credit.available()), u64::from(window) - (sent - read));
        }
    }

    #[test]
    fn whatever_the_guest_claims_credit_is_no_more_than_its_window(
        claims in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..100),
    ) {
        let mut credit = SendCredit::new();
        for (window, counter, send) in claims {
            credit.update(window, counter);
            prop_assert!(credit.available() <= window);
            credit.spend(send.min(credit.available()));
        }
    }

    #[test]
    fn a_guest_without_known_room_is_granted_room(forwards in proptest::collection::vec(1_usize..5_000, 1..100)) {
        let window = 10_000;
        let mut credit = ReceiveCredit::new(window);
        let (mut silent, mut all) = (0, 0);
        for bytes in forwards {
            credit.receive(bytes);
            all += bytes as u32;
            credit.forward(bytes);
            silent += bytes;
            prop_assert_eq!(credit.is_grant_due(), silent >= 5_000);
            if credit.is_grant_due() {
                credit.grant(window);
                prop_assert_eq!(credit.announcement(), (window, all));
                silent = 0;
            }
        }
    }

    #[test]
    fn what_was_granted_stays_and_is_room(
        steps in proptest::collection::vec((0_usize..4_000, 0_usize..4_000, 0_u32..20_000), 1..100),
    ) {
        let window = 10_000_u32;
        let mut credit = ReceiveCredit::new(window);
        let (mut received, mut buffered) = (0_u32, 0);
        let may_send = |credit: &ReceiveCredit, received: u32| credit.announcement().1 + window - received;
        for (sent, read, grant) in steps {
            let sent = sent.min(may_send(&credit, received) as usize);
            credit.receive(sent);
            received += sent as u32;
            buffered += sent;
            let read = read.min(buffered);
            credit.forward(read);
            buffered -= read;
            let before = may_send(&credit, received);
            credit.grant(grant);
            let after = may_send(&credit, received);
            let free = window - buffered as u32;
            prop_assert_eq!(after, before.max(grant.min(free)));
        }
    }
}
