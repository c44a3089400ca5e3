//! Images that QEMU has open, and QEMU where we have them open.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use disk::{DiskError, Format};
use support::{Bench, open, open_read_only, options};

/// A qemu-io that has an image open until this is dropped.
struct Qemu(Child);

impl Qemu {
    fn open(path: &Path, format: Format, read_only: bool) -> Qemu {
        let mut child = Command::new("qemu-io")
            .args(["-f", format.name()])
            .args(read_only.then_some("-r"))
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It answers when the image is open.
        let input = child.stdin.as_mut().unwrap();
        input.write_all(b"length\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut answer)
            .unwrap();
        assert!(answer.contains("1 MiB"), "{answer}");
        Qemu(child)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

const IMAGES: [(&str, Format); 4] = [
    ("disk.raw", Format::Raw),
    ("disk.qcow2", Format::Qcow2),
    ("sparse.vmdk", Format::Vmdk),
    ("flat.vmdk", Format::Vmdk),
];

fn images() -> Bench {
    let bench = Bench::new();
    bench.qemu_img("create -f raw disk.raw 1M");
    bench.qemu_img("create -f qcow2 disk.qcow2 1M");
    bench.qemu_img("create -f vmdk sparse.vmdk 1M");
    bench.qemu_img("create -f vmdk -o subformat=monolithicFlat flat.vmdk 1M");
    bench
}

/// Whether one of us may have the image open, for writing and for reading.
fn we_may_open(path: &Path, format: Format) -> [bool; 2] {
    [false, true].map(|read_only| {
        let options = disk::OpenOptions {
            read_only,
            ..options(format)
        };
        match disk::open(path, &options) {
            Ok(_) => true,
            Err(DiskError::InUse { .. }) => false,
            Err(error) => panic!("{error:?}"),
        }
    })
}

/// Whether a QEMU may.
fn qemu_may_open(path: &Path, format: Format) -> [bool; 2] {
    [false, true].map(|read_only| {
        let output = Command::new("qemu-io")
            .args(["-f", format.name(), "-c", "length"])
            .args(read_only.then_some("-r"))
            .arg(path)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() != errors.contains("lock"),
            "{output:?}"
        );
        output.status.success()
    })
}

#[test]
fn what_qemu_writes_is_in_use_and_what_it_reads_may_be_read() {
    let bench = images();
    for (name, format) in IMAGES {
        let path = bench.path(name);
        let writer = Qemu::open(&path, format, false);
        assert_eq!(we_may_open(&path, format), [false, false], "{name}");
        drop(writer);
        let reader = Qemu::open(&path, format, true);
        assert_eq!(we_may_open(&path, format), [false, true], "{name}");
        drop(reader);
        assert_eq!(we_may_open(&path, format), [true, true], "{name}");
    }
}

#[test]
fn what_we_write_is_in_use_for_qemu_and_what_we_read_it_may_read() {
    let bench = images();
    for (name, format) in IMAGES {
        let path = bench.path(name);
        let writer = open(&path, format);
        assert_eq!(qemu_may_open(&path, format), [false, false], "{name}");
        assert_eq!(we_may_open(&path, format), [false, false], "{name}");
        drop(writer);
        let reader = open_read_only(&path, format);
        assert_eq!(qemu_may_open(&path, format), [false, true], "{name}");
        assert_eq!(we_may_open(&path, format), [false, true], "{name}");
        drop(reader);
        assert_eq!(qemu_may_open(&path, format), [true, true], "{name}");
    }
}
