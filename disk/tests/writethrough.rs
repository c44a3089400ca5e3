//! Writes that are durable when they are over, seen by a thread for which the host cannot make anything durable: they must
//! fail there, and those that a flush follows must not.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::thread;

use disk::{
    Buffers, Cache, CreateOptions, Format, Image, OpenOptions, Preallocation, Subformat, qcow2,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use support::{Bench, options, read};

const SIZE: u64 = 1 << 20;

/// Has every fsync(2) and fdatasync(2) of the calling thread fail.
fn refuse_to_sync() {
    let calls = [
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync_file_range,
    ];
    let filter = SeccompFilter::new(
        calls.map(|call| (call, Vec::new())).into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EIO.cast_unsigned()),
        TargetArch::x86_64,
    );
    let program = BpfProgram::try_from(filter.unwrap()).unwrap();
    apply_filter(&program).unwrap();
}

fn images() -> Vec<(&'static str, CreateOptions)> {
    vec![
        (
            "disk.raw",
            CreateOptions::Raw {
                size: SIZE,
                preallocation: Preallocation::Off,
            },
        ),
        (
            "disk.qcow2",
            CreateOptions::Qcow2(qcow2::CreateOptions::of_size(SIZE)),
        ),
        (
            "disk.vmdk",
            CreateOptions::Vmdk {
                size: SIZE,
                subformat: Subformat::MonolithicSparse,
            },
        ),
        (
            "flat.vmdk",
            CreateOptions::Vmdk {
                size: SIZE,
                subformat: Subformat::MonolithicFlat,
            },
        ),
    ]
}

fn open(path: &Path, cache: Cache) -> Box<dyn Image> {
    let options = OpenOptions {
        cache,
        ..options(Format::from_extension(path).unwrap())
    };
    disk::open(path, &options).unwrap()
}

/// A change of an image.
type Change = fn(&dyn Image) -> std::io::Result<()>;

/// What changes a disk: at places that have storage, and at others.
const CHANGES: [(&str, Change); 5] = [
    ("a write where there is data", |image| {
        image.write(4096, &Buffers::of_slice(&mut [2; 4096]))
    }),
    ("a write where there is none", |image| {
        image.write(SIZE / 2, &Buffers::of_slice(&mut [3; 4096]))
    }),
    ("zeros", |image| image.write_zeroes(8192, 4096, false)),
    ("zeros that give storage back", |image| {
        image.write_zeroes(16_384, 4096, true)
    }),
    ("a discard", |image| image.discard(32_768, 4096)),
];

/// How each change ends where nothing can be made durable, on an image whose beginning has data.
fn ends(path: &Path, cache: Cache) -> Vec<Result<(), i32>> {
    let image = open(path, cache);
    image
        .write(0, &Buffers::of_slice(&mut [1; 1 << 17]))
        .unwrap();
    image.flush().unwrap();
    let image = &*image;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            refuse_to_sync();
            let flushed: (&str, Change) = ("a flush", |image| image.flush());
            CHANGES
                .iter()
                .chain([&flushed])
                .map(|(_, change)| change(image).map_err(|error| error.raw_os_error().unwrap_or(0)))
                .collect()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_change_waits_until_it_is_durable_or_leaves_that_to_the_flush() {
    for (name, options) in images() {
        let bench = Bench::new();
        let path = bench.path(name);
        disk::create(&path, &options).unwrap();
        let mut expected = vec![Ok(()); CHANGES.len()];
        expected.push(Err(libc::EIO));
        assert_eq!(ends(&path, Cache::Writeback), expected, "{name}");
        let ended = ends(&path, Cache::Writethrough);
        for (end, (what, _)) in ended.iter().zip(CHANGES) {
            assert_eq!(*end, Err(libc::EIO), "{name}: {what}");
        }
    }
}

#[test]
fn what_was_written_through_is_found_without_a_flush() {
    for (name, options) in images() {
        let bench = Bench::new();
        let path = bench.path(name);
        disk::create(&path, &options).unwrap();
        let image = open(&path, Cache::Writethrough);
        let mut bytes = vec![7; 100_000];
        image.write(70_000, &Buffers::of_slice(&mut bytes)).unwrap();
        // As the host would have it after a power cut.
        let after = Bench::new();
        for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(
                entry.path(),
                after.path(entry.file_name().to_str().unwrap()),
            )
            .unwrap();
        }
        let copy = open(&after.path(name), Cache::Writeback);
        assert!(read(&*copy, 70_000, 100_000) == bytes, "{name}");
    }
}
