//! Images that are broken by accident or on purpose: errors, and nothing worse.
#![allow(clippy::unwrap_used)]

#[path = "support/exercise.rs"]
mod exercise;
mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use disk::qcow2::{CreateOptions, create};
use disk::{DiskError, Format, OpenOptions};
use exercise::exercise;
use support::{Bench, Random, open_read_only, options};

/// A disk of 1 MiB in small clusters, with data, zeros, a snapshot and compressed clusters.
fn image(bench: &Bench, options: &str, random: &mut Random) -> Vec<u8> {
    bench.base("base.raw", 1 << 20, random);
    bench.qemu_img(&format!(
        "convert -c -O qcow2 {options} base.raw disk.qcow2"
    ));
    bench.qemu_img("snapshot -c before disk.qcow2");
    let image = support::open(&bench.path("disk.qcow2"), Format::Qcow2);
    let mut bytes = vec![5; 20_000];
    image
        .write(3000, &disk::Buffers::of_slice(&mut bytes))
        .unwrap();
    image.write_zeroes(100_000, 30_000, true).unwrap();
    drop(image);
    fs::read(bench.path("disk.qcow2")).unwrap()
}

fn refused(path: &Path) -> DiskError {
    let read_only = OpenOptions {
        read_only: true,
        ..options(Format::Qcow2)
    };
    match disk::open(path, &read_only) {
        Ok(image) => panic!("{image:?}"),
        Err(error) => error,
    }
}

/// Where bytes are changed, and what they become.
type Change<'b> = (u64, &'b [u8]);

/// Changes bytes of a fresh image; what opening it says.
fn refused_with(changes: &[Change]) -> String {
    let bench = Bench::new();
    let path = bench.path("disk.qcow2");
    create(&path, &CreateOptions::of_size(1 << 30)).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    for (offset, bytes) in changes {
        file.write_all_at(bytes, *offset).unwrap();
    }
    let error = refused(&path);
    assert!(matches!(
        error,
        DiskError::Invalid { .. } | DiskError::Unsupported { .. }
    ));
    error.to_string()
}

#[test]
fn what_is_wrong_with_a_header_is_said() {
    let cases: &[(&str, &[Change])] = &[
        ("magic", &[(0, b"QFI\xfa")]),
        ("version 4", &[(4, &4_u32.to_be_bytes())]),
        ("version 1", &[(4, &1_u32.to_be_bytes())]),
        ("2^8 bytes", &[(20, &8_u32.to_be_bytes())]),
        ("2^22 bytes", &[(20, &22_u32.to_be_bytes())]),
        ("2^4294967295", &[(20, &u32::MAX.to_be_bytes())]),
        ("size is 0", &[(24, &0_u64.to_be_bytes())]),
        ("size is 513", &[(24, &513_u64.to_be_bytes())]),
        (
            "too small for a disk",
            &[(24, &(1_u64 << 40).to_be_bytes())],
        ),
        ("encrypted", &[(32, &1_u32.to_be_bytes())]),
        ("encrypted", &[(32, &2_u32.to_be_bytes())]),
        ("L1 table of 4294967295", &[(36, &u32::MAX.to_be_bytes())]),
        (
            "L1 table lies behind the end",
            &[(36, &4_000_000_u32.to_be_bytes())],
        ),
        ("too small", &[(36, &1_u32.to_be_bytes())]),
        ("does not begin", &[(40, &0x1_0001_u64.to_be_bytes())]),
        ("behind the end", &[(40, &(1_u64 << 40).to_be_bytes())]),
        (
            "beyond any file",
            &[(40, &(u64::MAX - 0xffff).to_be_bytes())],
        ),
        ("overlap", &[(40, &0_u64.to_be_bytes())]),
        ("overlap", &[(40, &0x1_0000_u64.to_be_bytes())]),
        ("overlap", &[(48, &0_u64.to_be_bytes())]),
        ("behind the end", &[(48, &(1_u64 << 50).to_be_bytes())]),
        ("0 clusters", &[(56, &0_u32.to_be_bytes())]),
        ("refcount table of 129", &[(56, &129_u32.to_be_bytes())]),
        ("4294967295 snapshots", &[(60, &u32::MAX.to_be_bytes())]),
        ("bits 0x80", &[(79, &[0x80])]),
        ("bits 0x8000000000000000", &[(72, &[0x80])]),
        ("2^7 bits", &[(96, &7_u32.to_be_bytes())]),
        ("72 bytes long", &[(100, &72_u32.to_be_bytes())]),
        ("4294967295 bytes long", &[(100, &u32::MAX.to_be_bytes())]),
        (
            "compression type",
            &[(100, &112_u32.to_be_bytes()), (104, &[1])],
        ),
        (
            "compression type 2",
            &[(100, &112_u32.to_be_bytes()), (104, &[2]), (79, &[8])],
        ),
        ("contradicts", &[(79, &[8])]),
        ("no name", &[(79, &[4])]),
        (
            "extension is cut short",
            &[(104, &[0xe2, 0x79, 0x2a, 0xca, 0, 1, 0, 0])],
        ),
        (
            "extension is cut short",
            &[(104, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff])],
        ),
        (
            "name of the backing file",
            &[(8, &0xffff_u64.to_be_bytes()), (16, &9_u32.to_be_bytes())],
        ),
        (
            "name of the backing file",
            &[(8, &200_u64.to_be_bytes()), (16, &2000_u32.to_be_bytes())],
        ),
        (
            "name of the backing file",
            &[(8, &u64::MAX.to_be_bytes()), (16, &1_u32.to_be_bytes())],
        ),
    ];
    for (expected, changes) in cases {
        let error = refused_with(changes);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let bench = Bench::new();
    let path = bench.path("disk.qcow2");
    let mut random = Random::new(1);
    for length in [0, 1, 4, 71, 72, 104, 512, 65536, 1 << 20] {
        let mut bytes = vec![0; length];
        for _ in 0..2 {
            fs::write(&path, &bytes).unwrap();
            let error = refused(&path);
            assert!(matches!(error, DiskError::Invalid { .. }), "{error}");
            random.fill(&mut bytes);
        }
    }
    // Beginnings of a real one.
    fs::remove_file(&path).unwrap();
    create(&path, &CreateOptions::of_size(1 << 30)).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in [1, 40, 100, 104, 65536, 65537, 100_000, 131_072, 196_608] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(&path);
    }
}

#[test]
fn backing_files_need_permission_and_must_not_be_a_loop() {
    let bench = Bench::new();
    for folder in ["a", "b"] {
        fs::create_dir(bench.path(folder)).unwrap();
    }
    fs::write(bench.path("b/base.raw"), vec![7; 1 << 20]).unwrap();
    let make = |name: &str, backing: &str, format| {
        let options = CreateOptions {
            backing: Some((backing.into(), format)),
            ..CreateOptions::of_size(1 << 20)
        };
        create(&bench.path(name), &options).unwrap();
    };
    make("a/elsewhere.qcow2", "../b/base.raw", Format::Raw);
    let error = refused(&bench.path("a/elsewhere.qcow2"));
    assert!(matches!(error, DiskError::NotAllowed { .. }), "{error}");
    let allowed = OpenOptions {
        allowed: vec![bench.path("b")],
        ..options(Format::Qcow2)
    };
    let image = disk::open(&bench.path("a/elsewhere.qcow2"), &allowed).unwrap();
    assert_eq!(support::read(&*image, 1000, 3), [7; 3]);

    make("a/self.qcow2", "self.qcow2", Format::Qcow2);
    make("a/one.qcow2", "two.qcow2", Format::Qcow2);
    make("a/two.qcow2", "./../a/one.qcow2", Format::Qcow2);
    for name in ["a/self.qcow2", "a/one.qcow2", "a/two.qcow2"] {
        let error = refused(&bench.path(name)).to_string();
        assert!(error.contains("its own backing file"), "{error}");
        let writable = disk::open(&bench.path(name), &options(Format::Qcow2));
        let error = writable.err().unwrap().to_string();
        assert!(error.contains("its own backing file"), "{error}");
    }
    fs::write(bench.path("0.raw"), vec![0; 1 << 20]).unwrap();
    make("1.qcow2", "0.raw", Format::Raw);
    for depth in 2..40 {
        make(
            &format!("{depth}.qcow2"),
            &format!("{}.qcow2", depth - 1),
            Format::Qcow2,
        );
    }
    open_read_only(&bench.path("31.qcow2"), Format::Qcow2);
    let error = refused(&bench.path("39.qcow2")).to_string();
    assert!(error.contains("too many backing files"), "{error}");
}

/// A guest may write anything into a raw image, so its contents must never decide how it is read.
#[test]
fn a_format_is_never_guessed() {
    let bench = Bench::new();
    bench.qemu_img("create -f qcow2 inner.qcow2 1M");
    let inner = fs::read(bench.path("inner.qcow2")).unwrap();
    let inner = &inner[..inner.len() / 512 * 512];
    fs::write(bench.path("disk.raw"), inner).unwrap();
    let raw = open_read_only(&bench.path("disk.raw"), Format::Raw);
    support::compare(&*raw, inner);
    // An old image that names no format of its backing file.
    bench.qemu_img("create -f qcow2 -b disk.raw -F raw overlay.qcow2 1M");
    bench.qemu_img("rebase -u -f qcow2 -b disk.raw overlay.qcow2 -F raw");
    let overlay = open_read_only(&bench.path("overlay.qcow2"), Format::Qcow2);
    assert_eq!(support::read(&*overlay, 0, 512), inner[..512]);
    fs::write(bench.path("disk.what"), inner).unwrap();
    let mut bytes = fs::read(bench.path("overlay.qcow2")).unwrap();
    let name = bytes
        .windows(8)
        .position(|part| part == b"disk.raw")
        .unwrap();
    bytes[name..name + 9].copy_from_slice(b"disk.what");
    bytes[19] = 9;
    let extension = [0xe2, 0x79, 0x2a, 0xca];
    let at = bytes.windows(4).position(|part| part == extension).unwrap();
    bytes[at] = 0;
    fs::write(bench.path("overlay.qcow2"), bytes).unwrap();
    let error = refused(&bench.path("overlay.qcow2")).to_string();
    assert!(
        error.contains("which format its backing file has"),
        "{error}"
    );
}

#[test]
fn what_a_feature_forbids_is_not_done() {
    let bench = Bench::new();
    bench.qemu_img("create -f qcow2 -o extended_l2=on sub.qcow2 1M");
    let error = disk::open(&bench.path("sub.qcow2"), &options(Format::Qcow2))
        .err()
        .unwrap();
    assert!(matches!(error, DiskError::Unsupported { .. }), "{error}");
    bench.qemu_img("create -f qcow2 corrupt.qcow2 1M");
    let path = bench.path("corrupt.qcow2");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[2], 79).unwrap();
    let error = disk::open(&path, &options(Format::Qcow2)).err().unwrap();
    assert!(error.to_string().contains("marked as corrupt"), "{error}");
    open_read_only(&path, Format::Qcow2);
    disk::qcow2::check(&path, true).unwrap();
    support::open(&path, Format::Qcow2);
    // The method LUKS in the header (docs/interop/qcow2, bytes 32 to 35). qemu-img would measure
    // the processor to make such an image, and a busy machine makes it give up.
    bench.qemu_img("create -f qcow2 luks.qcow2 1M");
    let file = fs::File::options()
        .write(true)
        .open(bench.path("luks.qcow2"))
        .unwrap();
    file.write_all_at(&2_u32.to_be_bytes(), 32).unwrap();
    let error = refused(&bench.path("luks.qcow2"));
    assert!(matches!(error, DiskError::Unsupported { .. }), "{error}");
}

/// A write into it would go over the header, and its search for room must end.
#[test]
fn an_image_without_reference_counts_is_not_written() {
    for (name, offset) in [("table", 0x1_0000), ("block", 0x2_0000)] {
        let bench = Bench::new();
        let path = bench.path("disk.qcow2");
        create(&path, &CreateOptions::of_size(1 << 20)).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 8], offset).unwrap();
        let before = fs::read(&path).unwrap();
        let image = support::open(&path, Format::Qcow2);
        let mut bytes = [1; 512];
        let error = image.write(0, &disk::Buffers::of_slice(&mut bytes));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("damaged: a table"), "{name}: {error}");
        drop(image);
        assert!(fs::read(&path).unwrap() == before);
        // It can be repaired.
        disk::qcow2::check(&path, true).unwrap();
        bench.check("disk.qcow2", Format::Qcow2, &vec![0; 1 << 20]);
    }
}

/// Where tables of an image with clusters of 64 KiB are.
struct Tables {
    l1: u64,
    l2: u64,
    refcounts: u64,
}

/// An image of 1 MiB of which the first two clusters have data, and what it holds.
fn written(path: &Path) -> (Tables, Vec<u8>) {
    create(path, &CreateOptions::of_size(1 << 20)).unwrap();
    let image = support::open(path, Format::Qcow2);
    let mut bytes = vec![7; 1 << 17];
    image
        .write(0, &disk::Buffers::of_slice(&mut bytes))
        .unwrap();
    drop(image);
    let bytes = fs::read(path).unwrap();
    let word = |at: u64| u64::from_be_bytes(bytes[at as usize..][..8].try_into().unwrap());
    let tables = Tables {
        l1: word(40),
        l2: word(word(40)) & 0xff_ffff_ffff_fe00,
        refcounts: word(48),
    };
    (tables, bytes)
}

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

#[test]
fn entries_that_lead_nowhere_are_errors_of_what_needs_them() {
    let bench = Bench::in_memory();
    let path = bench.path("disk.qcow2");
    let (Tables { l1, l2, refcounts }, whole) = written(&path);
    let end = whole.len() as u64;
    for (place, entry, spoils_all) in [
        (l2, COPIED | end, false),
        (l2, COPIED | 1 << 40, false),
        (l2, COPIED | 0xff_ffff_ffff_0000, false),
        (l2, COPIED | 0x5_0200, false),
        (l2, COPIED, false),
        (l2, COPIED | l1, false),
        (l2, COPIED | refcounts, false),
        (l2, COMPRESSED | end, false),
        (l2, COMPRESSED | 1 << 52, false),
        (l1, COPIED | end, true),
        (l1, COPIED | 1 << 50, true),
        (l1, COPIED | (l2 + 512), true),
        (l1, COPIED | l1, true),
        (l1, COPIED | refcounts, true),
    ] {
        let what = format!("{entry:#x} at {place:#x}");
        let mut bytes = whole.clone();
        bytes[place as usize..][..8].copy_from_slice(&entry.to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        let image = support::open(&path, Format::Qcow2);
        let mut sector = [1; 512];
        let buffers = disk::Buffers::of_slice(&mut sector);
        image.read(0, &buffers).expect_err(&what);
        image.write(0, &buffers).expect_err(&what);
        image.write_zeroes(0, 512, false).expect_err(&what);
        let good = image.read(1 << 16, &buffers);
        assert_eq!(good.is_err(), spoils_all, "{what}");
        if !spoils_all {
            assert_eq!(sector, [7; 512], "{what}");
        }
        drop(image);
        // Who has to decompress what is written in part has taken a cluster before.
        if entry & COMPRESSED == 0 {
            assert!(fs::read(&path).unwrap() == bytes, "{what}: it has changed");
        }
    }
}

#[test]
fn reference_counts_that_lie_nowhere_are_errors_of_what_allocates() {
    let bench = Bench::in_memory();
    let path = bench.path("disk.qcow2");
    let (Tables { l1, refcounts, .. }, whole) = written(&path);
    let end = whole.len() as u64;
    for entry in [end, 1 << 40, !511, 0x2_0200, l1, refcounts] {
        let mut bytes = whole.clone();
        bytes[refcounts as usize..][..8].copy_from_slice(&entry.to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        let image = support::open(&path, Format::Qcow2);
        let mut sector = [1; 512];
        let buffers = disk::Buffers::of_slice(&mut sector);
        image
            .write(1 << 19, &buffers)
            .expect_err(&format!("{entry:#x}"));
        // What has its place needs no count.
        image.write(0, &buffers).unwrap();
        image.flush().unwrap();
        drop(image);
        let report = disk::qcow2::check(&path, true).unwrap();
        assert!(report.corruptions_fixed > 0, "{entry:#x}: {report:?}");
        assert_eq!(
            disk::qcow2::check(&path, false).unwrap(),
            Default::default()
        );
        let mut model = vec![0; 1 << 20];
        model[..1 << 17].fill(7);
        model[..512].fill(1);
        bench.check("disk.qcow2", Format::Qcow2, &model);
    }
}

/// A damaged image may have millions.
#[test]
fn the_first_findings_are_described() {
    let bench = Bench::in_memory();
    let path = bench.path("disk.qcow2");
    create(&path, &CreateOptions::of_size(1 << 20)).unwrap();
    let image = support::open(&path, Format::Qcow2);
    let mut bytes = vec![7; 1 << 16];
    image
        .write(0, &disk::Buffers::of_slice(&mut bytes))
        .unwrap();
    drop(image);
    let whole = fs::read(&path).unwrap();
    let word = |at: u64| u64::from_be_bytes(whole[at as usize..][..8].try_into().unwrap());
    let (l1, refcounts) = (word(40), word(48));
    let l2 = word(l1) & 0x00ff_ffff_ffff_fe00;
    let block = word(refcounts);
    let copied = 1 << 63;
    for (at, entry, described) in [
        (l1, 1 << 40, "entry 0 of the L1 table at"),
        (l1, l2, "the flag of entry 0 of the L1 table"),
        (l2, copied | 512, "entry 0 of the L2 table at"),
        (
            l2,
            copied | 1 << 40,
            "to 0x10000010000, which is not in the file",
        ),
        (
            l2,
            word(l2) & !copied,
            "the flag of entry 0 of the L2 table",
        ),
        (l2, 1 << 62 | 1 << 40, "the compressed cluster of entry 0"),
        (refcounts, 1 << 40, "entry 0 of the refcount table"),
        (refcounts, 0, "the cluster at 0x0 is used"),
        (block, 0, "the cluster at 0x0 has the reference count 0"),
        (
            block + 2048,
            u64::MAX,
            "the reference count 65535, and is referred to 0 times",
        ),
    ] {
        let mut bytes = whole.clone();
        bytes[at as usize..][..8].copy_from_slice(&entry.to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        let report = disk::qcow2::check(&path, false).unwrap();
        assert!(report.corruptions + report.leaks > 0, "{report:?}");
        let found = report
            .messages
            .iter()
            .any(|message| message.contains(described));
        assert!(found, "{described}: {report:?}");
    }
    let mut bytes = whole;
    bytes[block as usize + 2048..][..2000].fill(1);
    fs::write(&path, &bytes).unwrap();
    let report = disk::qcow2::check(&path, true).unwrap();
    assert_eq!((report.leaks_fixed, report.messages.len()), (1000, 100));
}

/// The mark says that counts may be wrong (docs/interop/qcow2.txt, "incompatible_features", bit 0). Counts that are
/// written before what they count need none, so whoever is killed leaves an image that nobody has to repair.
#[test]
fn an_image_is_marked_dirty_by_others_only_and_repaired_before_it_is_written() {
    let bench = Bench::in_memory();
    bench.qemu_img("create -f qcow2 -o lazy_refcounts=on disk.qcow2 1M");
    let path = bench.path("disk.qcow2");
    let mark = || fs::read(&path).unwrap()[79] & 1;
    let image = support::open(&path, Format::Qcow2);
    let mut bytes = vec![7; 1 << 17];
    let buffers = disk::Buffers::of_slice(&mut bytes);
    image.write(0, &buffers).unwrap();
    image.flush().unwrap();
    assert_eq!(mark(), 0);
    // As it would be after a kill.
    let copy = fs::read(&path).unwrap();
    fs::write(bench.path("killed.qcow2"), copy).unwrap();
    let report = disk::qcow2::check(&bench.path("killed.qcow2"), false).unwrap();
    assert_eq!(report.corruptions, 0, "{report:?}");
    drop(image);
    // One that does not keep counts up to date, and was killed.
    let whole = fs::read(&path).unwrap();
    let word = |at: u64| u64::from_be_bytes(whole[at as usize..][..8].try_into().unwrap());
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[1], 79).unwrap();
    let block = word(word(48));
    let first_data = (word(word(word(40)) & 0xff_ffff_ffff_fe00) & 0xff_ffff_ffff_fe00) >> 16;
    file.write_all_at(&[0, 0, 0, 0], block + first_data * 2)
        .unwrap();
    let mut model = vec![0; 1 << 20];
    model[..1 << 17].fill(7);
    let image = open_read_only(&path, Format::Qcow2);
    support::compare(&*image, &model);
    drop(image);
    assert_eq!(mark(), 1, "a reader changes nothing");
    let image = support::open(&path, Format::Qcow2);
    assert_eq!(mark(), 0);
    // Without counts, this would be written over the data.
    image.write(1 << 19, &buffers).unwrap();
    model[1 << 19..][..1 << 17].fill(7);
    drop(image);
    bench.check("disk.qcow2", Format::Qcow2, &model);
}

/// Every byte of the metadata, changed in several ways, and words of it at random.
#[test]
fn mutated_images_do_no_harm() {
    let mut random = Random::new(99);
    for options in [
        "-o cluster_size=512",
        "-o cluster_size=512,compat=0.10",
        "-o cluster_size=4k,compression_type=zstd,lazy_refcounts=on",
        "-o cluster_size=64k,refcount_bits=64",
    ] {
        let bench = Bench::in_memory();
        let whole = image(&bench, options, &mut random);
        let cluster = 1_u64 << whole[23];
        let word = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap());
        let l1 = word(40);
        let l2 = word(l1 as usize) & 0xff_ffff_ffff_ff00;
        let refcounts = word(48);
        let block = word(refcounts as usize);
        let tables = [0, l1, l2, refcounts, block];
        let path = bench.path("mutated.qcow2");
        for _ in 0..rounds() {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(3) {
                let table = tables[random.below(5) as usize];
                let span = if table == 0 { 120 } else { cluster.min(512) };
                let at = (table + random.below(span)) as usize;
                match random.below(3) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = random.next() as u8,
                    _ => {
                        let value = interesting(&mut random, whole.len() as u64, &tables);
                        bytes[at & !7..][..8].copy_from_slice(&value.to_be_bytes());
                    }
                }
            }
            if random.below(10) == 0 {
                bytes.truncate(random.below(whole.len() as u64) as usize);
            }
            fs::write(&path, &bytes).unwrap();
            let mut script = [0; 64];
            random.fill(&mut script);
            exercise(&path, Format::Qcow2, &script);
        }
    }
}

fn rounds() -> u64 {
    match std::env::var("MSB_MUTATIONS") {
        Ok(rounds) => rounds.parse().unwrap(),
        Err(_) => 150,
    }
}

fn interesting(random: &mut Random, length: u64, tables: &[u64]) -> u64 {
    let value = match random.below(5) {
        0 => random.next(),
        1 => random.below(2 * length),
        2 => tables[random.below(tables.len() as u64) as usize],
        3 => 1 << random.below(64),
        _ => length & !511,
    };
    let flags = [0, 1 << 63, 1 << 62, 1, 3 << 62];
    value | flags[random.below(5) as usize]
}
