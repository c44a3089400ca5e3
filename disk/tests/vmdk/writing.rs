//! What is written is what qemu-img reads, and what a crash leaves is an image.

use std::fs;
use std::path::Path;

use disk::{Access, Cache, CreateOptions, Image, Subformat};
use proptest::prelude::*;

use crate::tools::{
    converted, noise, open, open_with, options, qemu, raw_image, read, read_all, read_by_qemu,
    text, write,
};

/// Not a multiple of a grain.
const SIZE: u64 = (3 << 20) + 1536;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u64),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SIZE, prop_oneof![1..5000_u64, 1..400_000_u64]);
    let range = move || range().prop_map(|(at, length)| (at, length.min(SIZE - at)));
    prop_oneof![
        5 => (range(), any::<u64>()).prop_map(|((at, length), seed)| Step::Write(at, length as usize, seed)),
        2 => (range(), any::<bool>()).prop_map(|((at, length), unmap)| Step::Zero(at, length, unmap)),
        1 => range().prop_map(|(at, length)| Step::Discard(at, length)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

fn play(path: &Path, model: &mut [u8], steps: &[Step]) {
    let mut image = open(path, false).unwrap();
    for step in steps {
        match *step {
            Step::Write(at, length, seed) => {
                let bytes = noise(seed, length);
                write(&*image, at, &bytes).unwrap();
                model[at as usize..][..length].copy_from_slice(&bytes);
            }
            Step::Zero(at, length, unmap) => {
                image.write_zeroes(at, length, unmap).unwrap();
                model[at as usize..][..length as usize].fill(0);
            }
            Step::Discard(at, length) => {
                image.discard(at, length).unwrap();
                let bytes = read(&*image, at, length as usize).unwrap();
                let range = &mut model[at as usize..][..length as usize];
                for (new, old) in bytes.iter().zip(range) {
                    assert!(*new == 0 || new == old);
                    *old = *new;
                }
            }
            Step::Flush => image.flush().unwrap(),
            Step::Reopen => {
                drop(image);
                image = open(path, false).unwrap();
            }
        }
    }
    assert!(read_all(&*image) == model);
    for at in (0..SIZE).step_by(100_000) {
        if let Some(place) = image.place(at, 300_000, Access::Read) {
            let mut bytes = vec![0; place.length as usize];
            nix::sys::uio::pread(place.file, &mut bytes, place.offset as i64).unwrap();
            assert!(bytes == model[at as usize..][..bytes.len()]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_disk_is_what_was_written_to_it(
        subformat in prop_oneof![Just(Subformat::MonolithicSparse), Just(Subformat::MonolithicFlat)],
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.vmdk");
        disk::create(&path, &CreateOptions::Vmdk { size: SIZE, subformat }).unwrap();
        let mut model = vec![0; SIZE as usize];
        play(&path, &mut model, &steps);
        assert!(read_by_qemu(&path) == model);
        if subformat == Subformat::MonolithicSparse {
            qemu("qemu-img", ["check", "-f", "vmdk", text(&path)]);
        }
    }

    #[test]
    fn images_of_qemu_img_are_written_as_well(
        subformat in prop_oneof![Just("monolithicSparse"), Just("monolithicFlat"), Just("twoGbMaxExtentSparse")],
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let raw = raw_image(folder.path(), SIZE, &[(0, 100_000), (1 << 20, 300_000)]);
        let path = converted(&raw, subformat);
        let mut model = fs::read(&raw).unwrap();
        play(&path, &mut model, &steps);
        assert!(read_by_qemu(&path) == model);
    }
}

fn sparse(folder: &Path, size: u64) -> (std::path::PathBuf, Box<dyn Image>) {
    let path = folder.join("disk.vmdk");
    let subformat = Subformat::MonolithicSparse;
    disk::create(&path, &CreateOptions::Vmdk { size, subformat }).unwrap();
    let image = open(&path, false).unwrap();
    (path, image)
}

#[test]
fn threads_write_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = sparse(folder.path(), 16 << 20);
    // Pieces of 24 KiB, one after the other by turns: most grains are first written by two threads at once.
    let piece = 24 << 10;
    let pieces = (16 << 20) / piece;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let image = &image;
            scope.spawn(move || {
                for number in (thread..pieces).step_by(4) {
                    let bytes = noise(number as u64, piece);
                    write(&**image, (number * piece) as u64, &bytes).unwrap();
                    assert!(read(&**image, (number * piece) as u64, piece).unwrap() == bytes);
                    if number % 50 == 0 {
                        image.flush().unwrap();
                    }
                }
            });
        }
    });
    drop(image);
    let mut expected: Vec<u8> = (0..pieces)
        .flat_map(|number| noise(number as u64, piece))
        .collect();
    expected.resize(16 << 20, 0);
    assert!(read_by_qemu(&path) == expected);
    qemu("qemu-img", ["check", "-f", "vmdk", text(&path)]);
}

#[test]
fn what_was_flushed_survives_and_the_rest_leaves_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = sparse(folder.path(), 200 << 20);
    write(&*image, 100, &noise(1, 100_000)).unwrap();
    write(&*image, 150 << 20, &noise(2, 100_000)).unwrap();
    image.flush().unwrap();
    write(&*image, 40 << 20, &noise(3, 100_000)).unwrap();
    // The monitor dies here: the file is what it is.
    let copy = folder.path().join("copy.vmdk");
    fs::copy(&path, &copy).unwrap();
    qemu("qemu-img", ["check", "-f", "vmdk", text(&copy)]);
    let left = open(&copy, false).unwrap();
    assert!(read(&*left, 100, 100_000).unwrap() == noise(1, 100_000));
    assert!(read(&*left, 150 << 20, 100_000).unwrap() == noise(2, 100_000));
    assert!(
        read(&*left, 40 << 20, 100_000).unwrap() == [0; 100_000],
        "it was not flushed"
    );
    // And it goes on being an image.
    write(&*left, 41 << 20, &noise(4, 70_000)).unwrap();
    drop(left);
    let image = open(&copy, true).unwrap();
    assert!(read(&*image, 41 << 20, 70_000).unwrap() == noise(4, 70_000));
    assert!(read(&*image, 100, 100_000).unwrap() == noise(1, 100_000));
}

#[test]
fn both_copies_of_the_tables_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = sparse(folder.path(), 200 << 20);
    for at in [0, 33 << 20, 199 << 20] {
        write(&*image, at, b"x").unwrap();
    }
    drop(image);
    let bytes = fs::read(&path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (redundant, primary) = (number(48) * 512, number(56) * 512);
    let mut grains = 0;
    for table in 0..7 {
        let [one, two] = [redundant, primary].map(|directory| {
            let table = number(directory + table * 4) * 512;
            &bytes[table..table + 2048]
        });
        assert_eq!(one, two, "{table}");
        grains += one.iter().filter(|&&byte| byte != 0).count().min(1);
    }
    assert_eq!(grains, 3);
    // The redundant copy alone is enough for QEMU if the header says so.
    assert_eq!(bytes[72], 0, "it was closed");
}

#[test]
fn tables_that_are_missing_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = sparse(folder.path(), 200 << 20);
    drop(image);
    // VirtualBox and others make tables when they need them: empty both directories.
    let mut bytes = fs::read(&path).unwrap();
    for at in [48, 56] {
        let directory = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize * 512;
        bytes[directory..directory + 7 * 4].fill(0);
    }
    fs::write(&path, bytes).unwrap();
    let image = open(&path, false).unwrap();
    assert!(image.place(0, 512, Access::Read).is_none());
    write(&*image, (32 << 20) - 5, &noise(1, 100_000)).unwrap();
    write(&*image, 199 << 20, &noise(2, 5000)).unwrap();
    image.flush().unwrap();
    drop(image);
    let dump = read_by_qemu(&path);
    assert!(dump[(32 << 20) - 5..][..100_000] == noise(1, 100_000));
    assert!(dump[199 << 20..][..5000] == noise(2, 5000));
    assert!(dump[40 << 20..199 << 20].iter().all(|&byte| byte == 0));
}

#[test]
fn the_content_id_changes_with_the_contents() {
    let folder = tempfile::tempdir().unwrap();
    for subformat in [Subformat::MonolithicSparse, Subformat::MonolithicFlat] {
        let path = folder.path().join(format!("{}.vmdk", subformat.name()));
        disk::create(
            &path,
            &CreateOptions::Vmdk {
                size: 1 << 20,
                subformat,
            },
        )
        .unwrap();
        let id = || {
            let text = qemu("qemu-img", ["info", "-f", "vmdk", text(&path)]);
            let line = text.lines().find(|line| line.trim().starts_with("cid: "));
            line.unwrap().to_owned()
        };
        let before = id();
        let image = open(&path, false).unwrap();
        assert!(image.place(0, 512, Access::Write).is_none());
        read(&*image, 0, 512).unwrap();
        image.flush().unwrap();
        drop(image);
        assert_eq!(id(), before, "nothing was written");
        let image = open(&path, false).unwrap();
        write(&*image, 0, &[1; 512]).unwrap();
        assert!(image.place(0, 512, Access::Write).is_some());
        drop(image);
        assert_ne!(id(), before);
    }
}

#[test]
fn writethrough_needs_no_flush() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = sparse(folder.path(), 2 << 20);
    drop(image);
    let mut options = options(false);
    options.cache = Cache::Writethrough;
    let image = open_with(&path, &options).unwrap();
    write(&*image, 70_000, &noise(1, 1000)).unwrap();
    assert!(image.place(70_000, 512, Access::Write).is_none());
    let copy = folder.path().join("copy.vmdk");
    fs::copy(&path, &copy).unwrap();
    let copy = open(&copy, true).unwrap();
    assert!(read(&*copy, 70_000, 1000).unwrap() == noise(1, 1000));
}

#[test]
fn a_read_only_image_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = sparse(folder.path(), 1 << 20);
    drop(image);
    let before = fs::read(&path).unwrap();
    let image = open(&path, true).unwrap();
    assert!(write(&*image, 0, b"x").is_err());
    assert!(image.write_zeroes(0, 512, true).is_err());
    assert!(image.discard(0, 512).is_err());
    assert!(image.place(0, 512, Access::Write).is_none());
    assert!(image.resize(2 << 20).is_err());
    drop(image);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn zeros_take_no_storage() {
    let folder = tempfile::tempdir().unwrap();
    let (_path, image) = sparse(folder.path(), 64 << 20);
    let empty = image.allocated().unwrap();
    image.write_zeroes(0, 64 << 20, false).unwrap();
    image.discard(0, 64 << 20).unwrap();
    assert_eq!(image.allocated().unwrap(), empty);
    write(&*image, 0, &noise(1, 8 << 20)).unwrap();
    image.flush().unwrap();
    assert!(image.allocated().unwrap() >= empty + (8 << 20));
    image.discard(0, 8 << 20).unwrap();
    image.flush().unwrap();
    assert!(image.allocated().unwrap() < empty + (1 << 20));
}
