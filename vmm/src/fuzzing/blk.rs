//! Arbitrary requests to a disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use disk::{Cache, Format, Image, OpenOptions};
use vm_memory::{Bytes, GuestAddress};

use super::choices::Choices;
use super::driver::{BUFFERS, Driver, Promises};
use super::witness::Executed;
use crate::virtio::{BlkConfig, BlkHandle, blk_device};

const QUEUE_SIZE: u16 = 16;
const SECTORS: u64 = 256;
const HEADER: usize = 16;
/// Where requests stand, and what they read.
const REQUEST: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1_0000;

/// Plays a script of block requests and arbitrary chains against a disk of 128 KiB that is made at `path`, while its image
/// comes and goes.
pub fn blk(path: &Path, script: &[u8]) {
    File::create(path).unwrap().set_len(SECTORS * 512).unwrap();
    let mut choices = Choices::new(script);
    let shape = choices.byte();
    let image = open(path, shape & 1 != 0);
    let (device, handle) = blk_device(BlkConfig {
        image: Some(Arc::clone(&image)),
        read_only: false,
        serial: "disk".to_owned(),
        queues: 1,
    })
    .unwrap();
    let mut worker = device.workers.into_iter().next().unwrap();
    let helper = std::thread::spawn(worker.helpers.remove(0).body);
    let promises = Promises {
        always_ready: true,
        exact: false,
    };
    let mut guest = Guest {
        driver: Driver::new(1, worker.executor, promises),
        handle,
        image,
        next: 0,
    };
    guest.driver.start(QUEUE_SIZE, shape & 2 != 0);
    while !choices.is_over() {
        let step = choices.byte();
        match step & 15 {
            0..8 => guest.request(step, &mut choices),
            8 | 9 => guest.driver.offer_any(0, &mut choices),
            10 => guest.driver.scribble(0, &mut choices),
            11 => guest.exchange(),
            12 => guest.driver.start(QUEUE_SIZE, step & 16 != 0),
            _ => {
                guest.settle();
                if guest.driver.needs_reset() {
                    guest.driver.start(QUEUE_SIZE, step & 16 != 0);
                }
            }
        }
    }
    guest.assert_alive();
    drop(guest);
    helper.join().unwrap();
}

fn open(path: &Path, read_only: bool) -> Arc<dyn Image> {
    let options = OpenOptions {
        format: Format::Raw,
        read_only,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    };
    disk::open(path, &options).unwrap().into()
}

struct Guest {
    driver: Driver,
    handle: BlkHandle,
    image: Arc<dyn Image>,
    next: u64,
}

impl Guest {
    /// A request that is right in part: such get further than random bytes.
    fn request(&mut self, step: u8, choices: &mut Choices<'_>) {
        let kind = match step >> 4 {
            0..15 => choices.one_of(&[0, 1, 4, 8, 11, 13]),
            _ => choices.word(),
        };
        let sector = match choices.byte() {
            255 => choices.long(),
            254 => u64::MAX / 512,
            small => u64::from(small) + 2,
        };
        let mut bytes = header(kind, sector);
        for _ in 0..choices.below(4) {
            // A range, which is data for a write.
            bytes.extend(u64::from(choices.byte()).to_le_bytes());
            bytes.extend(u32::from(choices.byte()).to_le_bytes());
            bytes.extend(u32::from(choices.byte() & 3).to_le_bytes());
        }
        if choices.rarely(2) {
            bytes.resize(HEADER + choices.below(4) * 512, 0x5a);
        }
        let room = choices.one_of(&[0, 19, 20, 512, 1024, 511, 4096]);
        let cut = choices.below(64);
        self.send(&bytes, room, cut);
    }

    /// Offers a request that is cut at `cut`, with `room` bytes before its status.
    fn send(&mut self, bytes: &[u8], room: u32, cut: usize) {
        let place = self.next % 8;
        self.next += 1;
        let (request, data) = (REQUEST + place * 0x1000, DATA + place * 0x1800);
        let memory = &self.driver.memory;
        memory.write_slice(bytes, GuestAddress(request)).unwrap();
        let length = bytes.len() as u32;
        let cut = (cut as u32).min(length);
        let mut pieces = vec![
            (request, cut, false),
            (request + u64::from(cut), length - cut, false),
            (data, room / 3, true),
            (data + u64::from(room / 3), room - room / 3 + 1, true),
        ];
        pieces.retain(|(_, length, _)| *length > 0);
        self.driver.offer(0, &pieces);
    }

    /// Takes the image away, or brings it back.
    fn exchange(&mut self) {
        // Nothing is under way: requests are carried out in `settle`, which waits for all.
        if self.handle.detach().is_err() {
            self.handle.attach(Arc::clone(&self.image)).unwrap();
        }
    }

    fn settle(&mut self) -> Vec<Executed> {
        self.driver.settle()
    }

    /// The device still serves a guest that behaves.
    fn assert_alive(&mut self) {
        self.settle();
        let _ = self.handle.attach(Arc::clone(&self.image));
        self.driver.start(QUEUE_SIZE, false);
        self.next = 0;
        self.send(&header(0, 0), 512, 16);
        let executed = self.settle();
        assert_eq!(executed.len(), 1);
        assert_eq!(executed[0].length, Some(513));
        let mut bytes = [0xaa; 513];
        let memory = &self.driver.memory;
        memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        assert_eq!(bytes[512], 0, "the first sector can be read");
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}
