//! Disks are copied from every format to every other one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use disk::{
    Buffers, Cache, CreateOptions, DiskError, Format, Image, OpenOptions, Preallocation, Subformat,
    qcow2,
};

const SIZE: u64 = (40 << 20) + 512;

fn open(path: &Path, format: Format, read_only: bool) -> Box<dyn Image> {
    let options = OpenOptions {
        format,
        read_only,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    };
    disk::open(path, &options).unwrap()
}

fn layouts() -> Vec<(&'static str, CreateOptions)> {
    let size = SIZE;
    let raw = |preallocation| CreateOptions::Raw {
        size,
        preallocation,
    };
    let vmdk = |subformat| CreateOptions::Vmdk { size, subformat };
    vec![
        ("a.raw", raw(Preallocation::Off)),
        ("b.raw", raw(Preallocation::Full)),
        ("c.raw", raw(Preallocation::Falloc)),
        (
            "d.qcow2",
            CreateOptions::Qcow2(qcow2::CreateOptions::of_size(size)),
        ),
        ("e.vmdk", vmdk(Subformat::MonolithicSparse)),
        ("f.vmdk", vmdk(Subformat::MonolithicFlat)),
    ]
}

fn contents(image: &dyn Image) -> Vec<u8> {
    let mut bytes = vec![1; image.size() as usize];
    image.read(0, &Buffers::of_slice(&mut bytes)).unwrap();
    bytes
}

#[test]
fn a_copy_has_the_same_sectors_and_no_storage_for_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first.raw");
    disk::create(&first, &layouts()[0].1).unwrap();
    let image = open(&first, Format::Raw, false);
    for (at, length) in [(0, 700), (5_000_000, 300_000), (SIZE - 100, 100)] {
        let mut bytes = vec![7; length];
        image.write(at, &Buffers::of_slice(&mut bytes)).unwrap();
    }
    // Zeros that are written, and take up storage in the source.
    image
        .write(20 << 20, &Buffers::of_slice(&mut vec![0; 2 << 20]))
        .unwrap();
    let expected = contents(&*image);
    drop(image);
    let mut source = (first, Format::Raw);
    for (name, layout) in layouts() {
        let target = folder.path().join(name);
        let image = open(&source.0, source.1, true);
        let mut seen = 0;
        disk::convert(&*image, &target, &layout, |done| {
            assert!(done >= seen && done <= SIZE);
            seen = done;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, SIZE);
        drop(image);
        let copy = open(&target, layout.format(), true);
        assert!(contents(&*copy) == expected, "{name}");
        if !matches!(name, "b.raw" | "c.raw") {
            assert!(copy.allocated().unwrap() < 2 << 20, "{name}");
        }
        source = (target, layout.format());
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.raw");
    disk::create(&source, &layouts()[0].1).unwrap();
    let image = open(&source, Format::Raw, true);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    for (name, layout) in layouts() {
        let target = folder.path().join(name);
        let error =
            disk::convert(&*image, &target, &layout, |_| ControlFlow::Break(())).unwrap_err();
        assert!(
            matches!(&error, DiskError::Io { source, .. } if source.kind() == std::io::ErrorKind::Interrupted),
            "{error:?}"
        );
        assert_eq!(names(), before, "{name}");
    }
    for (name, layout) in layouts() {
        let target = folder.path().join(name);
        fs::write(&target, "precious").unwrap();
        let error = disk::create(&target, &layout).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        let convert = disk::convert(&*image, &target, &layout, |_| ControlFlow::Continue(()));
        assert!(convert.is_err());
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        fs::remove_file(&target).unwrap();
        assert_eq!(names(), before, "{name}");
    }
    // The second file of a flat disk is somebody else's.
    let flat = folder.path().join("f-flat.vmdk");
    fs::write(&flat, "precious").unwrap();
    assert!(disk::create(&folder.path().join("f.vmdk"), &layouts()[5].1).is_err());
    assert_eq!(fs::read(&flat).unwrap(), b"precious");
    assert!(!folder.path().join("f.vmdk").exists());
}
