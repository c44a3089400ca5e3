//! Images that qemu-img made are read as it reads them.

use std::fs;
use std::os::unix::fs::FileExt;

use disk::{Access, Cache, Format, OpenOptions};

use crate::tools::{SUBFORMATS, converted, noise, open, qemu, raw_image, read, read_all, text};

#[test]
fn every_subformat_is_read_as_qemu_img_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    // The last grain is not complete.
    let size = (5 << 20) + 512 * 3;
    let data = [
        (0, 512),
        (65_000, 200_000),
        (3 << 20, 1 << 20),
        (size - 700, 700),
    ];
    let raw = raw_image(folder.path(), size, &data);
    let expected = fs::read(&raw).unwrap();
    for subformat in SUBFORMATS {
        let path = converted(&raw, subformat);
        let image = open(&path, true).unwrap();
        assert!(image.read_only());
        assert_eq!(image.size(), size, "{subformat}");
        assert!(read_all(&*image) == expected, "{subformat}");
        for seed in 0..200_u64 {
            let [a, b] = [0, 1].map(|n| {
                u64::from_le_bytes(noise(seed * 2 + n + 99, 8).try_into().unwrap()) % size
            });
            let (start, end) = (a.min(b), a.max(b));
            let bytes = read(&*image, start, (end - start) as usize).unwrap();
            assert!(
                bytes == expected[start as usize..end as usize],
                "{subformat}: {start} {end}"
            );
        }
        assert!(read(&*image, size - 1, 2).is_err());
        assert!(read(&*image, u64::MAX, 2).is_err());
    }
}

#[test]
fn a_disk_of_several_extents_is_one_disk() {
    let folder = tempfile::tempdir().unwrap();
    let size = 5 << 30;
    let border = 2_147_418_112; // QEMU's extents of 2 GiB are a little smaller.
    let data = [
        (0, 1000),
        (border - 100_000, 200_000),
        (2 * border - 70_000, 140_000),
        (size - 4096, 4096),
    ];
    let raw = raw_image(folder.path(), size, &data);
    let file = fs::File::open(&raw).unwrap();
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let path = converted(&raw, subformat);
        let descriptor = fs::read_to_string(&path).unwrap();
        assert_eq!(descriptor.matches("RW ").count(), 3, "{descriptor}");
        let image = open(&path, true).unwrap();
        assert_eq!(image.size(), size);
        for (offset, length) in data {
            let before = offset.saturating_sub(10_000);
            let length = (length + 20_000).min((size - before) as usize);
            let mut expected = vec![0; length];
            file.read_exact_at(&mut expected, before).unwrap();
            assert!(
                read(&*image, before, length).unwrap() == expected,
                "{subformat} {offset}"
            );
        }
        // A place never reaches beyond its extent.
        let mut at = border - 5 * (64 << 10);
        while at < border + (64 << 10) {
            if let Some(place) = image.place(at, 1 << 20, Access::Read) {
                let mut bytes = vec![0; place.length as usize];
                nix::sys::uio::pread(place.file, &mut bytes, place.offset as i64).unwrap();
                assert!(
                    bytes == read(&*image, at, bytes.len()).unwrap(),
                    "{subformat} {at}"
                );
            }
            at += 4096;
        }
    }
}

#[test]
fn grains_of_zeros_are_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeroed.vmdk");
    qemu(
        "qemu-img",
        [
            "create",
            "-q",
            "-f",
            "vmdk",
            "-o",
            "zeroed_grain=on",
            text(&path),
            "1M",
        ],
    );
    qemu(
        "qemu-io",
        [
            "-f",
            "vmdk",
            "-c",
            "write -P 7 0 1M",
            "-c",
            "write -z 128k 256k",
            text(&path),
        ],
    );
    let mut expected = vec![7; 1 << 20];
    expected[128 << 10..384 << 10].fill(0);
    let image = open(&path, false).unwrap();
    assert!(read_all(&*image) == expected);
    crate::tools::write(&*image, 200 << 10, b"new").unwrap();
    expected[200 << 10..][..3].copy_from_slice(b"new");
    drop(image);
    assert!(crate::tools::read_by_qemu(&path) == expected);
}

#[test]
fn extents_of_zeros_and_offsets_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    fs::write(folder.path().join("data"), noise(1, 4096)).unwrap();
    let descriptor = "# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
        RW 2 FLAT \"data\" 3\nRW 5 ZERO\nRW 1 FLAT \"data\" 7\n";
    fs::write(&path, descriptor).unwrap();
    let image = open(&path, true).unwrap();
    let mut expected = noise(1, 4096)[3 * 512..5 * 512].to_vec();
    expected.extend([0; 5 * 512]);
    expected.extend(&noise(1, 4096)[7 * 512..]);
    assert!(read_all(&*image) == expected);
    drop(image);
    assert!(open(&path, false).is_err(), "zeros cannot be written");
}

#[test]
fn an_image_is_locked_while_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw_image(folder.path(), 1 << 20, &[(0, 512)]);
    for subformat in SUBFORMATS {
        let path = converted(&raw, subformat);
        let reader = open(&path, true).unwrap();
        open(&path, true).unwrap();
        if subformat == "streamOptimized" {
            continue;
        }
        assert!(open(&path, false).is_err(), "{subformat}");
        drop(reader);
        let writer = open(&path, false).unwrap();
        assert!(open(&path, true).is_err(), "{subformat}");
        drop(writer);
        open(&path, true).unwrap();
        // The extents, too.
        if subformat == "monolithicFlat" {
            let _writer = open(&path, false).unwrap();
            let options = OpenOptions {
                format: Format::Raw,
                read_only: true,
                cache: Cache::Writeback,
                allowed: Vec::new(),
            };
            let extent = folder.path().join("monolithicFlat-flat.vmdk");
            assert!(disk::open(&extent, &options).is_err());
        }
    }
}
