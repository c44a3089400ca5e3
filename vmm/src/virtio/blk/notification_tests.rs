//! When the driver is interrupted, and when it has to kick. The worker works by turns, so that batches are what the test
//! makes them.

use std::io::Write;

use super::Engine;
use super::driver::{ALL_FEATURES, Guest, header, raw};

const READ: u32 = 0;

/// "No interrupt", in the flags of the available ring (section 2.7.6).
const NO_INTERRUPT: u16 = 1;

fn guest(engine: Engine, event_idx: bool) -> (Guest, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 1 << 16]).unwrap();
    let mut guest = Guest::by_turns(engine, raw(file.path(), false));
    guest.start_with(ALL_FEATURES, event_idx);
    guest.turn();
    assert_eq!(guest.interrupts(), 0);
    (guest, file)
}

fn offer(guest: &mut Guest, count: u16) {
    for sector in 0..count {
        let request = guest.put(&header(READ, u64::from(sector % 128)));
        let answer = guest.room(513);
        guest.offer(&[(request, 16, false), (answer, 513, true)]);
    }
    guest.kick();
}

/// With what the page cache has, a ring is as fast as a thread: everything is over within the turn.
const ENGINES: [Engine; 2] = [Engine::Thread, Engine::IoUring];

#[test]
fn a_batch_takes_one_interrupt() {
    for engine in ENGINES {
        let (mut guest, _file) = guest(engine, false);
        for round in 1..=3 {
            offer(&mut guest, 100);
            guest.turn();
            assert_eq!(guest.used_index(), round * 100, "{engine:?}");
            assert_eq!(guest.interrupts(), 1, "{engine:?}");
        }
    }
}

#[test]
fn the_driver_says_after_which_buffer_it_wants_to_be_interrupted() {
    for engine in ENGINES {
        let (mut guest, _file) = guest(engine, true);
        // The flags do not count then (section 2.7.7).
        guest.set_flags(NO_INTERRUPT);
        guest.set_used_event(9);
        for index in 1..=20 {
            offer(&mut guest, 1);
            guest.turn();
            assert_eq!(guest.used_index(), index, "{engine:?}");
            let interrupts = u64::from(index == 10);
            assert_eq!(guest.interrupts(), interrupts, "{engine:?}: {index}");
            // The next buffer needs a kick, and none before.
            assert_eq!(guest.available_event(), index, "{engine:?}");
        }
        // In the middle of a batch it is one, too, and behind it none.
        guest.set_used_event(25);
        offer(&mut guest, 20);
        guest.turn();
        assert_eq!((guest.used_index(), guest.interrupts()), (40, 1));
        guest.set_used_event(60);
        offer(&mut guest, 20);
        guest.turn();
        assert_eq!((guest.used_index(), guest.interrupts()), (60, 0));
        assert_eq!(guest.available_event(), 60);
    }
}
