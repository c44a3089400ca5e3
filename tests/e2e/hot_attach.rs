//! Disks and folders that come and go while their machine runs, with the library `vmm` as a program uses it.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use disk::{Buffers, Cache, CreateOptions, Format, Image, OpenOptions, qcow2};
use msb_tests::cpio::Archive;
use msb_tests::{Transcript, product};
use vmm::fs::{Exports, FolderOptions, SharedFolder};
use vmm::machine::{self, Config, Console, Ending};
use vmm::virtio::{BlkConfig, BlkHandle, DeviceDescription, blk_device, exports_device};

const MIB: u64 = 1024 * 1024;

/// What the guest does: it waits for each change that the test makes, and says so.
const INIT: &str = r#"#!/bin/busybox sh
    /bin/busybox --install -s /bin; export PATH=/bin
    mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
    mkdir /shares; mount -t virtiofs shares /shares
    size() { cat /sys/block/vda/size; }
    echo "empty: $(size) $(ls /shares)."

    while [ $(size) = 0 ]; do sleep 0.1; done
    echo "disk: $(size) $(head -c 10 /dev/vda)"
    echo written | dd of=/dev/vda bs=512 seek=1 conv=fsync 2>/dev/null && echo written
    while [ $(size) = 2048 ]; do sleep 0.1; done
    echo "grown: $(size)"
    while [ $(size) != 0 ]; do sleep 0.1; done
    # A device without sectors ends at once.
    echo "no disk: <$(head -c 10 /dev/vda)>"
    while [ $(size) = 0 ]; do sleep 0.1; done
    echo "read-only: $(head -c 10 /dev/vda)"
    echo written | dd of=/dev/vda bs=512 seek=1 conv=fsync 2>/dev/null || echo refused
    while [ $(size) != 0 ]; do sleep 0.1; done
    echo no read-only
    while [ $(size) = 0 ]; do sleep 0.1; done
    echo "qcow2: $(size) $(head -c 10 /dev/vda)"
    echo written | dd of=/dev/vda bs=512 seek=4000 conv=fsync 2>/dev/null && echo written
    while [ $(size) = 4096 ]; do sleep 0.1; done
    echo "grown: $(size)"
    while [ $(size) != 0 ]; do sleep 0.1; done
    echo no qcow2

    until [ -e /shares/late ]; do sleep 0.1; done
    echo "folder: $(cat /shares/late/file)"
    echo answer >/shares/late/answer
    exec 3</shares/late/file
    echo answered
    while [ -e /shares/late ]; do sleep 0.1; done
    cat /shares/late/file 2>/dev/null || echo "no folder"
    stat -L /proc/self/fd/3 >/dev/null 2>&1 || echo stale
    reboot -f
"#;

/// A machine with an empty slot for a disk and a place for folders, both in the test's hands.
struct Machine {
    running: machine::Machine,
    console: Transcript,
    disk: BlkHandle,
    shares: Exports,
}

impl Machine {
    fn boot(initramfs: &Path) -> Machine {
        // As in `msb`: the monitor's threads may not open what glibc does when it shrinks a thread's own heap.
        // SAFETY: a number for the allocator.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let (blk, disk) = blk_device(BlkConfig {
            image: None,
            read_only: false,
            serial: "slot".to_owned(),
            queues: 1,
        })
        .unwrap();
        let shares = Exports::new();
        let exports = exports_device("shares", shares.clone()).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let running = machine::boot(Config {
            vcpus: 1,
            memory: 128 * MIB,
            kernel: File::open(product::kernel()).unwrap(),
            initramfs: Some(File::open(initramfs).unwrap()),
            command_line: "console=ttyS0 quiet panic=-1 reboot=k".to_owned(),
            console: Console {
                output: Some(Box::new(writer) as Box<dyn Write + Send>),
                input: None,
            },
            devices: Vec::<DeviceDescription>::from([blk, exports]),
        })
        .unwrap();
        Machine {
            running,
            console: Transcript::of(std::os::fd::OwnedFd::from(reader)),
            disk,
            shares,
        }
    }
}

fn initramfs(folder: &Path) -> std::path::PathBuf {
    let busybox = fs::read(product::busybox().join("bin/busybox")).unwrap();
    let archive = ["dev", "proc", "sys", "bin"]
        .into_iter()
        .fold(Archive::default(), Archive::directory)
        .device("dev/console", 5, 1)
        .program("bin/busybox", &busybox)
        .program("init", INIT.as_bytes());
    let path = folder.join("initramfs.cpio");
    fs::write(&path, archive.finish()).unwrap();
    path
}

fn image(path: &Path) -> Arc<dyn Image> {
    let file = File::create(path).unwrap();
    file.set_len(MIB).unwrap();
    file.write_all_at(b"from host\n", 0).unwrap();
    drop(file);
    open(path, Format::Raw, false)
}

fn open(path: &Path, format: Format, read_only: bool) -> Arc<dyn Image> {
    let options = OpenOptions {
        format,
        read_only,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    };
    disk::open(path, &options).unwrap().into()
}

#[test]
fn a_disk_and_a_folder_come_and_go_while_the_machine_runs() {
    let folder = tempfile::tempdir().unwrap();
    let Machine {
        running,
        console,
        disk,
        shares,
    } = Machine::boot(&initramfs(folder.path()));
    console.wait_for("empty: 0 .");

    let path = folder.path().join("disk.raw");
    disk.attach(image(&path)).unwrap();
    console.wait_for("disk: 2048 from host\r\nwritten");
    disk.resize(2 * MIB).unwrap();
    console.wait_for("grown: 4096");
    drop(disk.detach().unwrap());
    console.wait_for("no disk: <>");
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, 2 * MIB);
    assert_eq!(&bytes[512..520], b"written\n");

    // The slot was made for disks that are written. One that is not refuses all the same.
    let path = folder.path().join("read-only.raw");
    drop(image(&path));
    let before = fs::read(&path).unwrap();
    disk.attach(open(&path, Format::Raw, true)).unwrap();
    console.wait_for("read-only: from host");
    // The guest's kernel tells of it before.
    console.wait_for("refused");
    drop(disk.detach().unwrap());
    console.wait_for("no read-only");
    assert!(fs::read(&path).unwrap() == before);

    let path = folder.path().join("disk.qcow2");
    let options = CreateOptions::Qcow2(qcow2::CreateOptions::of_size(2 * MIB));
    disk::create(&path, &options).unwrap();
    let qcow2 = open(&path, Format::Qcow2, false);
    let mut text = *b"from host\n";
    qcow2.write(0, &Buffers::of_slice(&mut text)).unwrap();
    disk.attach(qcow2).unwrap();
    console.wait_for("qcow2: 4096 from host\r\nwritten");
    disk.resize(3 * MIB).unwrap();
    console.wait_for("grown: 6144");
    drop(disk.detach().unwrap());
    console.wait_for("no qcow2");
    let qcow2 = open(&path, Format::Qcow2, true);
    assert_eq!(qcow2.size(), 3 * MIB);
    let mut text = [0; 8];
    qcow2
        .read(4000 * 512, &Buffers::of_slice(&mut text))
        .unwrap();
    assert_eq!(&text, b"written\n");
    assert_eq!(
        disk::qcow2::check(&path, false).unwrap(),
        Default::default()
    );

    let late = folder.path().join("late");
    fs::create_dir(&late).unwrap();
    fs::write(late.join("file"), "of the host").unwrap();
    let shared = SharedFolder::open(&late, FolderOptions::default()).unwrap();
    shares.attach("late", shared).unwrap();
    console.wait_for("folder: of the host\r\nanswered");
    assert_eq!(fs::read_to_string(late.join("answer")).unwrap(), "answer\n");
    shares.detach("late").unwrap();
    console.wait_for("no folder\r\nstale");
    assert!(matches!(running.wait(), Ending::Reset));
}
