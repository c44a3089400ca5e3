//! Requests that take long: what goes on meanwhile, and what waits for them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use disk::{Access, Buffers, Image, Place};
use vm_memory::{Bytes, GuestAddress};

use super::driver::{ALL_FEATURES, Guest, header};
use super::*;

const READ: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const DONE: u8 = 0;

/// Long enough for a thread to do what it should not.
const MEANWHILE: Duration = Duration::from_millis(50);

/// A disk whose first sector arrives through a pipe, while the others are there, and whose flushes need permission.
#[derive(Debug)]
struct Slow {
    pipe: OwnedFd,
    file: File,
    flushes: Mutex<Receiver<()>>,
}

/// Lets it go on.
struct Pace {
    sector: File,
    flush: Sender<()>,
}

impl Slow {
    fn new() -> (Arc<Slow>, Pace) {
        let (pipe, sector) = nix::unistd::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let (flush, flushes) = channel();
        let slow = Slow {
            pipe,
            file,
            flushes: Mutex::new(flushes),
        };
        let pace = Pace {
            sector: sector.into(),
            flush,
        };
        (Arc::new(slow), pace)
    }
}

impl Image for Slow {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, _offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        buffers.fill_with_zeros();
        Ok(())
    }

    fn write(&self, _offset: u64, _buffers: &Buffers<'_>) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        let permission = self.flushes.lock().unwrap().recv();
        permission.map_err(io::Error::other)
    }

    fn place(&self, offset: u64, length: u64, _access: Access) -> Option<Place<'_>> {
        let (file, length) = if offset < 512 {
            (self.pipe.as_fd(), length.min(512 - offset))
        } else {
            (self.file.as_fd(), length)
        };
        Some(Place {
            file,
            offset,
            length,
        })
    }

    fn resize(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// Offers a read of `sectors` from 0 on; returns the head and where its bytes go.
fn offer_read(guest: &mut Guest, sector: u64, sectors: u32) -> (u16, u64) {
    let length = sectors * 512;
    let request = guest.put(&header(READ, sector));
    let answer = guest.put(&vec![0xaa; length as usize + 1]);
    let head = guest.offer(&[(request, 16, false), (answer, length + 1, true)]);
    guest.kick();
    (head, answer)
}

#[test]
fn a_transfer_that_takes_long_is_overtaken_and_goes_on_where_it_stopped() {
    let (image, mut pace) = Slow::new();
    let mut guest = Guest::new(Engine::IoUring, Some(image));
    let (slow, answer) = offer_read(&mut guest, 0, 2);
    let (fast, _) = offer_read(&mut guest, 1, 1);
    assert_eq!(guest.wait(), (fast.into(), 513));
    // In two pieces; the second half of the request is in the file.
    pace.sector.write_all(&[1; 200]).unwrap();
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
    pace.sector.write_all(&[2; 312]).unwrap();
    assert_eq!(guest.wait(), (slow.into(), 1025));
    let expected = [&[1; 200][..], &[2; 312], &[0; 512], &[DONE]].concat();
    assert_eq!(guest.get(answer, 1025), expected);
}

#[test]
fn a_reset_waits_until_no_buffer_is_used_any_more() {
    let (image, mut pace) = Slow::new();
    let mut guest = Guest::new(Engine::IoUring, Some(image));
    let (_, answer) = offer_read(&mut guest, 0, 1);
    // It is under way when the one behind it is over.
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
    let used = guest.used_index();
    thread::scope(|scope| {
        let reset = scope.spawn(|| guest.reset());
        thread::sleep(MEANWHILE);
        assert!(!reset.is_finished(), "the kernel still writes there");
        pace.sector.write_all(&[7; 512]).unwrap();
    });
    assert_eq!(guest.get(answer, 513), [&[7; 512][..], &[0xaa]].concat());
    assert_eq!(guest.used_index(), used, "it does not come back");
    guest.start(ALL_FEATURES);
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
}

#[test]
fn a_device_that_goes_away_waits_as_well() {
    let (image, mut pace) = Slow::new();
    let mut guest = Guest::new(Engine::IoUring, Some(image));
    let memory = Arc::clone(&guest.memory);
    let (_, answer) = offer_read(&mut guest, 0, 1);
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
    let gone = thread::spawn(|| drop(guest));
    thread::sleep(MEANWHILE);
    assert!(!gone.is_finished(), "the kernel still writes there");
    pace.sector.write_all(&[7; 512]).unwrap();
    gone.join().unwrap();
    let mut bytes = [0; 512];
    memory.read_slice(&mut bytes, GuestAddress(answer)).unwrap();
    assert_eq!(bytes, [7; 512]);
}

#[test]
fn an_image_is_taken_away_when_no_request_works_on_it() {
    let (image, mut pace) = Slow::new();
    let mut guest = Guest::new(Engine::IoUring, Some(image));
    let (slow, _) = offer_read(&mut guest, 0, 1);
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
    let handle = guest.handle.clone();
    let detached = thread::spawn(move || handle.detach().unwrap());
    thread::sleep(MEANWHILE);
    assert!(!detached.is_finished());
    pace.sector.write_all(&[7; 512]).unwrap();
    assert_eq!(Arc::strong_count(&detached.join().unwrap()), 1);
    assert_eq!(guest.wait(), (slow.into(), 513));
    assert_ne!(guest.request(READ, 5, &[], 512).status, DONE);
}

#[test]
fn an_image_can_be_taken_away_from_a_device_that_failed() {
    let (image, mut pace) = Slow::new();
    let mut guest = Guest::new(Engine::IoUring, Some(image));
    offer_read(&mut guest, 0, 1);
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
    guest.break_ring();
    pace.sector.write_all(&[7; 512]).unwrap();
    guest.handle.detach().unwrap();
}

/// With both engines.
fn flushes_stall_nothing(engine: Engine) {
    let (image, pace) = Slow::new();
    let mut guest = Guest::new(engine, Some(image));
    let request = guest.put(&header(FLUSH, 0));
    let answer = guest.put(&[0xaa]);
    let flush = guest.offer(&[(request, 16, false), (answer, 1, true)]);
    guest.kick();
    assert_eq!(guest.request(READ, 5, &[], 512).status, DONE);
    assert_eq!(guest.request(OUT, 5, &[1; 512], 0).status, DONE);
    assert_eq!(guest.get(answer, 1), [0xaa], "it is not over");
    pace.flush.send(()).unwrap();
    assert_eq!(guest.wait(), (flush.into(), 1));
    assert_eq!(guest.get(answer, 1), [DONE]);
}

#[test]
fn a_flush_stalls_no_other_request_of_the_ring() {
    flushes_stall_nothing(Engine::IoUring);
}

#[test]
fn a_flush_stalls_no_other_request_of_the_thread() {
    flushes_stall_nothing(Engine::Thread);
}

#[test]
fn a_driver_that_cannot_flush_has_each_write_flushed() {
    let (image, pace) = Slow::new();
    let mut guest = Guest::stopped(Engine::IoUring, Some(image));
    guest.start(0);
    pace.flush.send(()).unwrap();
    assert_eq!(guest.request(OUT, 5, &[1; 512], 0).status, DONE);
    // Without permission, it fails.
    drop(pace.flush);
    assert_ne!(guest.request(OUT, 5, &[1; 512], 0).status, DONE);
}

#[test]
fn more_requests_than_the_ring_has_places_all_come_back() {
    let (image, mut pace) = Slow::new();
    let mut guest = Guest::new(Engine::IoUring, Some(image));
    let count = 128;
    for _ in 0..count {
        // Two parts each: 256 of them fill the ring, and half of them wait for the pipe.
        offer_read(&mut guest, 0, 2);
    }
    pace.sector.write_all(&vec![3; count * 512]).unwrap();
    for _ in 0..count {
        assert_eq!(guest.wait().1, 1025);
    }
}
