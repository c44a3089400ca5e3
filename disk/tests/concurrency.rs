//! Several threads on one image.
#![allow(clippy::unwrap_used)]

mod support;

use disk::qcow2::{CreateOptions, create};
use disk::{Access, Buffers, Format, Image};
use support::{Bench, Random, compare, open};

const SIZE: u64 = 8 << 20;
const THREADS: u64 = 4;
const SECTOR: u64 = 512;

/// Writes some sectors of every cluster, those of one thread, in an order of its own.
fn write(image: &dyn Image, thread: u64) {
    let mut random = Random::new(thread + 1);
    let mut sectors: Vec<u64> = (thread..SIZE / SECTOR).step_by(THREADS as usize).collect();
    for at in (1..sectors.len()).rev() {
        // Near ones are swapped, so that threads meet in one cluster.
        let other = at.saturating_sub(random.below(64) as usize);
        sectors.swap(at, other);
    }
    for sector in sectors {
        let offset = sector * SECTOR;
        let mut bytes = vec![thread as u8 + 1; SECTOR as usize];
        // As a device does: at its place if it has one, or else by the format.
        match image.place(offset, SECTOR, Access::Write) {
            Some(place) if place.length == SECTOR => {
                let written = nix::sys::uio::pwrite(place.file, &bytes, place.offset as i64);
                assert_eq!(written, Ok(SECTOR as usize));
            }
            _ => image.write(offset, &Buffers::of_slice(&mut bytes)).unwrap(),
        }
        if random.below(300) == 0 {
            image.flush().unwrap();
        }
    }
}

fn exercise(bench: &Bench) {
    let image = open(&bench.path("disk.qcow2"), Format::Qcow2);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let image = &*image;
            scope.spawn(move || write(image, thread));
        }
    });
    let model: Vec<u8> = (0..SIZE)
        .map(|at| (at / SECTOR % THREADS) as u8 + 1)
        .collect();
    compare(&*image, &model);
    drop(image);
    bench.check("disk.qcow2", Format::Qcow2, &model);
}

#[test]
fn writes_to_different_sectors_of_a_cluster_are_all_there() {
    for bits in [9, 12, 16, 21] {
        let bench = Bench::in_memory();
        let options = CreateOptions {
            cluster_size: 1 << bits,
            ..CreateOptions::of_size(SIZE)
        };
        create(&bench.path("disk.qcow2"), &options).unwrap();
        exercise(&bench);
    }
}

#[test]
fn the_same_on_compressed_and_shared_clusters() {
    let bench = Bench::in_memory();
    let base = bench.base("base.raw", SIZE, &mut Random::new(9));
    bench.qemu_img("convert -c -O qcow2 -o cluster_size=16k base.raw disk.qcow2");
    bench.qemu_img("snapshot -c before disk.qcow2");
    exercise(&bench);
    bench.qemu_img("snapshot -a before disk.qcow2");
    bench.check("disk.qcow2", Format::Qcow2, &base);
}

/// More tables than the memory for them holds: each of 512 bytes maps 32 KiB.
#[test]
fn metadata_that_does_not_fit_into_memory_is_written_and_read_again() {
    let bench = Bench::in_memory();
    let size = 3 << 30;
    let options = CreateOptions {
        cluster_size: 512,
        ..CreateOptions::of_size(size)
    };
    create(&bench.path("disk.qcow2"), &options).unwrap();
    let image = open(&bench.path("disk.qcow2"), Format::Qcow2);
    let value = |at: u64| (at / 32768) as u32;
    for at in (0..size).step_by(32768) {
        let mut bytes = value(at).to_le_bytes();
        image.write(at, &Buffers::of_slice(&mut bytes)).unwrap();
    }
    for at in (0..size).step_by(32768) {
        let bytes = support::read(&*image, at, 4);
        assert_eq!(bytes, value(at).to_le_bytes(), "at {at}");
    }
    drop(image);
    let text = bench.qemu_img("check -f qcow2 disk.qcow2");
    assert!(text.contains("No errors were found"), "{text}");
}
