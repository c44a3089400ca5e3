//! Every type of request, and every way to get one wrong.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{ALL_FEATURES, BUFFERS, Guest, INDIRECT, MEMORY, NEXT, Reply, WRITE};
use super::driver::{header, raw, segment};
use super::*;

/// Each of these with both engines.
macro_rules! with_both_engines {
    ($($name:ident)*) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name(super::Engine::IoUring) })*
        }
        mod thread {
            $(#[test] fn $name() { super::$name(super::Engine::Thread) })*
        }
    };
}

with_both_engines! {
    what_was_written_is_read_and_lies_in_the_image
    many_requests_at_once_all_come_back
    a_request_may_be_divided_in_any_way
    the_serial_number_is_padded_and_needs_its_room
    discarded_and_zeroed_ranges_read_as_zeros_and_give_their_storage_back
    ranges_against_the_rules_are_refused_and_nothing_is_touched
    transfers_beyond_the_end_or_of_broken_sectors_fail
    types_that_do_not_exist_are_not_supported
    a_read_only_disk_refuses_every_change
    what_was_not_negotiated_is_not_supported
    chains_against_the_rules_come_back_once_and_change_nothing
    a_request_longer_than_the_limit_fails
    an_empty_slot_fails_requests_until_an_image_comes
    a_disk_that_grows_has_room_for_more
    a_device_works_again_after_a_reset
}

const READ: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Sectors of the test's disk; each is filled with its number.
const SECTORS: usize = 4096;

fn file() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..SECTORS)
        .flat_map(|sector| [sector as u8; 512])
        .collect();
    file.write_all(&bytes).unwrap();
    file
}

fn guest(engine: Engine) -> (Guest, NamedTempFile) {
    let file = file();
    (Guest::new(engine, Some(raw(file.path(), false))), file)
}

fn reply(status: u8, data: &[u8], used: u32) -> Reply {
    Reply {
        status,
        data: data.to_vec(),
        used,
    }
}

fn what_was_written_is_read_and_lies_in_the_image(engine: Engine) {
    let (mut guest, file) = guest(engine);
    assert_eq!(
        guest.request(READ, 3, &[], 512),
        reply(DONE, &[3; 512], 513)
    );
    let bytes: Vec<u8> = (0..64 * 1024u32).map(|at| (at / 7) as u8).collect();
    assert_eq!(guest.request(OUT, 100, &bytes, 0), reply(DONE, &[], 1));
    let read = guest.request(READ, 99, &[], 512 + bytes.len());
    assert_eq!((read.status, read.used), (DONE, 513 + bytes.len() as u32));
    assert_eq!(read.data[..512], [99; 512]);
    assert_eq!(read.data[512..], bytes);
    assert_eq!(guest.traffic.read(), 1024 + bytes.len() as u64);
    assert_eq!(guest.traffic.written(), bytes.len() as u64);
    assert_eq!(guest.request(FLUSH, 0, &[], 0), reply(DONE, &[], 1));
    let image = fs::read(file.path()).unwrap();
    assert_eq!(image[100 * 512..][..bytes.len()], bytes);
    assert_eq!(image[99 * 512..][..512], [99; 512]);
}

fn many_requests_at_once_all_come_back(engine: Engine) {
    let (mut guest, _file) = guest(engine);
    let mut expected = std::collections::HashMap::new();
    for sector in 0..64u8 {
        let request = guest.put(&header(READ, sector.into()));
        let answer = guest.room(513);
        let head = guest.offer(&[(request, 16, false), (answer, 513, true)]);
        expected.insert(u32::from(head), (answer, sector));
    }
    guest.kick();
    while !expected.is_empty() {
        let (head, used) = guest.wait();
        let (answer, sector) = expected.remove(&head).expect("each comes back once");
        assert_eq!(used, 513);
        let mut bytes = vec![sector; 512];
        bytes.push(DONE);
        assert_eq!(guest.get(answer, 513), bytes);
    }
}

fn a_request_may_be_divided_in_any_way(engine: Engine) {
    let (mut guest, _file) = guest(engine);
    let request = guest.put(&[header(OUT, 8), vec![0x5a; 1024]].concat());
    let answer = guest.room(1);
    // The header in three pieces, the last of which holds data, too.
    let used = guest.run(&[
        (request, 3, false),
        (request + 3, 0, false),
        (request + 3, 9, false),
        (request + 12, 100, false),
        (request + 112, 16 + 1024 - 112, false),
        (answer, 1, true),
    ]);
    assert_eq!((used, guest.get(answer, 1)), (1, vec![DONE]));
    // The status shares a piece with data, and pieces are no whole sectors.
    let request = guest.put(&header(READ, 8));
    let answer = guest.room(1025);
    let pieces = [
        (request, 16, false),
        (answer, 100, true),
        (answer + 100, 0, true),
        (answer + 100, 925, true),
    ];
    let head = guest.offer_indirect(&pieces);
    guest.kick();
    assert_eq!(guest.wait(), (head.into(), 1025));
    let mut bytes = vec![0x5a; 1024];
    bytes.push(DONE);
    assert_eq!(guest.get(answer, 1025), bytes);
}

fn the_serial_number_is_padded_and_needs_its_room(engine: Engine) {
    let (mut guest, _file) = guest(engine);
    let serial = b"serial-of-a-test\0\0\0\0";
    assert_eq!(guest.request(GET_ID, 0, &[], 20), reply(DONE, serial, 21));
    let long = guest.request(GET_ID, 0, &[], 30);
    assert_eq!((long.status, long.used), (DONE, 20));
    assert_eq!(guest.request(GET_ID, 0, &[], 19).status, FAILED);
    assert_eq!(guest.request(GET_ID, 0, &[], 0).status, FAILED);
}

fn discarded_and_zeroed_ranges_read_as_zeros_and_give_their_storage_back(engine: Engine) {
    use std::os::unix::fs::MetadataExt;
    let (mut guest, file) = guest(engine);
    let before = file.as_file().metadata().unwrap().blocks();
    let ranges = [segment(8, 1024, 0), segment(2048, 8, 0)].concat();
    assert_eq!(guest.request(DISCARD, 0, &ranges, 0), reply(DONE, &[], 1));
    assert!(file.as_file().metadata().unwrap().blocks() <= before - 1024);
    assert_eq!(guest.request(READ, 1031, &[], 512).data, [0; 512]);
    assert_eq!(guest.request(READ, 1032, &[], 512).data, [8; 512]);
    for flags in [0, 1] {
        let sector = 3000 + u64::from(flags) * 10;
        let range = segment(sector, 3, flags);
        assert_eq!(guest.request(ZEROES, 0, &range, 0), reply(DONE, &[], 1));
        let read = guest.request(READ, sector - 1, &[], 5 * 512).data;
        assert_ne!(read[..512], [0; 512]);
        assert_eq!(read[512..4 * 512], [0; 3 * 512]);
        assert_ne!(read[4 * 512..], [0; 512]);
    }
}

fn ranges_against_the_rules_are_refused_and_nothing_is_touched(engine: Engine) {
    let (mut guest, file) = guest(engine);
    let before = fs::read(file.path()).unwrap();
    let good = segment(0, 8, 0);
    for (kind, ranges, status) in [
        (DISCARD, segment(0, 8, 1), UNSUPPORTED),
        (DISCARD, segment(0, 8, 2), UNSUPPORTED),
        (ZEROES, segment(0, 8, 2), UNSUPPORTED),
        (ZEROES, segment(0, 8, 0x8000_0001), UNSUPPORTED),
        (
            DISCARD,
            [good.clone(), segment(0, 8, 4)].concat(),
            UNSUPPORTED,
        ),
        (
            DISCARD,
            [good.clone(), segment(4095, 2, 0)].concat(),
            FAILED,
        ),
        (DISCARD, segment(u64::MAX, 1, 0), FAILED),
        (DISCARD, segment(u64::MAX / 512, u32::MAX, 0), FAILED),
        (DISCARD, segment(1 << 55, 8, 0), FAILED),
        (DISCARD, Vec::new(), FAILED),
        (DISCARD, good[..15].to_vec(), FAILED),
        (DISCARD, [&good[..], &[0]].concat(), FAILED),
        (DISCARD, good.repeat(33), FAILED),
        (ZEROES, good.repeat(2), FAILED),
        (ZEROES, segment(0, 0xffff_ffff, 0), FAILED),
    ] {
        let answer = guest.request(kind, 0, &ranges, 0);
        assert_eq!(answer, reply(status, &[], 1), "{kind} {ranges:?}");
    }
    assert!(fs::read(file.path()).unwrap() == before);
}

fn transfers_beyond_the_end_or_of_broken_sectors_fail(engine: Engine) {
    let (mut guest, file) = guest(engine);
    let before = fs::read(file.path()).unwrap();
    let end = SECTORS as u64;
    for (sector, length) in [
        (end, 512),
        (end - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (1 << 55, 512),
        (0, 511),
        (0, 513),
        (0, 1),
    ] {
        let read = guest.request(READ, sector, &[], length);
        assert_eq!(
            read,
            reply(FAILED, &vec![0xaa; length], 0),
            "{sector} {length}"
        );
        let write = guest.request(OUT, sector, &vec![1; length], 0);
        assert_eq!(write, reply(FAILED, &[], 1), "{sector} {length}");
    }
    assert!(fs::read(file.path()).unwrap() == before);
    assert_eq!(guest.request(READ, end - 1, &[], 512).status, DONE);
}

fn types_that_do_not_exist_are_not_supported(engine: Engine) {
    let (mut guest, _file) = guest(engine);
    for kind in [2, 3, 5, 6, 7, 9, 10, 12, 14, 99, u32::MAX] {
        assert_eq!(guest.request(kind, 0, &[], 512).status, UNSUPPORTED);
    }
}

fn a_read_only_disk_refuses_every_change(engine: Engine) {
    let file = file();
    let before = fs::read(file.path()).unwrap();
    let mut guest = Guest::new(engine, Some(raw(file.path(), true)));
    assert_eq!(guest.request(OUT, 0, &[1; 512], 0).status, FAILED);
    for kind in [DISCARD, ZEROES] {
        assert_eq!(guest.request(kind, 0, &segment(0, 8, 0), 0).status, FAILED);
    }
    assert_eq!(
        guest.request(READ, 5, &[], 512),
        reply(DONE, &[5; 512], 513)
    );
    assert_eq!(guest.request(FLUSH, 0, &[], 0).status, DONE);
    assert!(fs::read(file.path()).unwrap() == before);
}

fn what_was_not_negotiated_is_not_supported(engine: Engine) {
    let file = file();
    let mut guest = Guest::stopped(engine, Some(raw(file.path(), false)));
    guest.start(0);
    for kind in [DISCARD, ZEROES] {
        let answer = guest.request(kind, 0, &segment(0, 8, 0), 0);
        assert_eq!(answer.status, UNSUPPORTED);
    }
    // Written through, which cannot be seen here; but it works.
    assert_eq!(guest.request(OUT, 0, &[7; 512], 0).status, DONE);
    assert_eq!(guest.request(READ, 0, &[], 512).data, [7; 512]);
}

fn chains_against_the_rules_come_back_once_and_change_nothing(engine: Engine) {
    let (mut guest, file) = guest(engine);
    let before = fs::read(file.path()).unwrap();
    let request = guest.put(&[header(OUT, 0), vec![1; 512]].concat());
    let answer = guest.put(&[0xaa; 512]);
    let outside = MEMORY - 8;
    // No place for a status, or one that nobody can find: nothing is written.
    for pieces in [
        vec![(request, 528, false)],
        vec![(request, 528, false), (answer, 0, true)],
        vec![(request, 528, false), (outside, 9, true)],
        vec![(request, 528, false), (u64::MAX, 2, true)],
        vec![(request, 528, false), (answer, u32::MAX, true)],
    ] {
        assert_eq!(guest.run(&pieces), 0, "{pieces:x?}");
    }
    assert_eq!(guest.get(answer, 512), [0xaa; 512]);
    // The status says that it failed.
    let status = (answer, 1, true);
    let written_before = vec![
        (request, 16, false),
        status,
        (request + 16, 512, false),
        status,
    ];
    for (pieces, used) in [
        (vec![status], 1),
        (vec![(request, 15, false), status], 1),
        (vec![(outside, 16, false), status], 0),
        (vec![(request, 16, false), (outside, 512, false), status], 0),
        (written_before, 0),
    ] {
        let place = GuestAddress(answer);
        guest.memory.write_obj(0xaau8, place).unwrap();
        assert_eq!(guest.run(&pieces), used, "{pieces:x?}");
        assert_eq!(guest.get(answer, 1), [FAILED], "{pieces:x?}");
    }
    // A chain that does not end, one that leads nowhere, tables that are none.
    for (buffer, flags, next) in [
        ((request, 528), NEXT, 0),
        ((request, 528), NEXT, 999),
        ((BUFFERS, 15), INDIRECT, 0),
        ((BUFFERS, 0), INDIRECT, 0),
        ((MEMORY, 32), INDIRECT, 0),
        ((answer, 1), WRITE | NEXT, 500),
    ] {
        let head = guest.offer_descriptor(buffer, flags, next);
        guest.kick();
        assert_eq!(guest.wait(), (head.into(), 0));
    }
    let many: Vec<_> = (0..300).map(|_| (request, 16, false)).collect();
    let head = guest.offer_indirect(&[&many[..], &[(answer, 1, true)]].concat());
    guest.kick();
    assert_eq!(guest.wait(), (head.into(), 0));
    assert!(fs::read(file.path()).unwrap() == before);
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
}

fn a_request_longer_than_the_limit_fails(engine: Engine) {
    let (mut guest, _file) = guest(engine);
    let request = guest.put(&header(READ, 0));
    // The same 8 MiB several times.
    let buffer = BUFFERS + (1 << 20);
    let mut pieces = vec![(request, 16, false)];
    pieces.extend([(buffer, 8 << 20, true); 8]);
    pieces.push((request, 1, true));
    assert_eq!(guest.run(&pieces), 0);
    assert_eq!(guest.get(request, 1), [FAILED]);
}

fn an_empty_slot_fails_requests_until_an_image_comes(engine: Engine) {
    let file = file();
    let mut guest = Guest::new(engine, None);
    assert_eq!(guest.request(READ, 0, &[], 512).status, FAILED);
    assert_eq!(guest.request(OUT, 0, &[0; 512], 0).status, FAILED);
    assert_eq!(guest.request(FLUSH, 0, &[], 0).status, FAILED);
    assert_eq!(
        guest.request(DISCARD, 0, &segment(0, 8, 0), 0).status,
        FAILED
    );
    assert_eq!(guest.request(GET_ID, 0, &[], 20).status, DONE);
    assert!(matches!(guest.handle.detach(), Err(HandleError::Empty)));

    guest.handle.attach(raw(file.path(), false)).unwrap();
    assert_eq!(guest.request(READ, 9, &[], 512).data, [9; 512]);
    let other = self::file();
    let again = guest.handle.attach(raw(other.path(), false));
    assert!(matches!(again, Err(HandleError::Occupied)));

    let image = guest.handle.detach().unwrap();
    assert_eq!(Arc::strong_count(&image), 1, "nobody uses it any more");
    assert_eq!(guest.request(READ, 9, &[], 512).status, FAILED);
}

fn a_disk_that_grows_has_room_for_more(engine: Engine) {
    let (mut guest, _file) = guest(engine);
    let end = SECTORS as u64;
    assert_eq!(guest.request(OUT, end, &[1; 512], 0).status, FAILED);
    guest.handle.resize((end + 8) * 512).unwrap();
    assert_eq!(guest.request(OUT, end, &[1; 512], 0).status, DONE);
    assert!(matches!(
        guest.handle.resize(512),
        Err(HandleError::Shrinks { .. })
    ));
    assert!(guest.handle.resize((end + 9) * 512 + 1).is_err());
}

fn a_device_works_again_after_a_reset(engine: Engine) {
    let (mut guest, _file) = guest(engine);
    for _ in 0..3 {
        for _ in 0..10 {
            let request = guest.put(&header(READ, 1));
            let answer = guest.room(513);
            guest.offer(&[(request, 16, false), (answer, 513, true)]);
        }
        guest.kick();
        guest.reset();
        let used = guest.used_index();
        guest.start(ALL_FEATURES);
        assert_eq!(guest.request(READ, 2, &[], 512).data, [2; 512]);
        assert!(used <= 11);
    }
}

#[test]
fn what_does_not_fit_a_device_is_refused() {
    let config = |serial: &str, queues| BlkConfig {
        image: None,
        read_only: false,
        serial: serial.to_owned(),
        queues,
    };
    assert!(blk_device(config("01234567890123456789", 1)).is_ok());
    for (serial, queues) in [("012345678901234567890", 1), ("a\0b", 1), ("", 0), ("", 33)] {
        assert!(blk_device(config(serial, queues)).is_err());
    }
}
