//! Disks of `msb vm`: what a guest's kernel writes lies in the image, what it may not is refused, and many work at once.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use msb_tests::cpio::Archive;
use msb_tests::disk_images::{blank, program};
use msb_tests::namespace::in_namespace;
use msb_tests::{Finished, Home, Running, product};
use nix::unistd::geteuid;

const MIB: u64 = 1024 * 1024;

/// An initramfs with all of busybox whose `init` runs `script` and resets the machine.
fn initramfs(home: &Home, script: &str) -> PathBuf {
    let busybox = fs::read(product::busybox().join("bin/busybox")).unwrap();
    let init = format!(
        "#!/bin/busybox sh
        export PATH=/bin
        /bin/busybox --install -s /bin
        mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
        echo 1 >/proc/sys/kernel/printk
        {script}
        # Waits until the console has written everything; the kernel writes in between.
        stty -F /dev/console sane
        reboot -f\n"
    );
    let archive = Archive::default()
        .directory("dev")
        .device("dev/console", 5, 1)
        .directory("proc")
        .directory("sys")
        .directory("bin")
        .program("bin/busybox", &busybox)
        .program("init", init.as_bytes());
    let path = home.path().join("initramfs.cpio");
    fs::write(&path, archive.finish()).unwrap();
    path
}

/// Runs a script on two processors with these disks.
fn run(home: &Home, disks: &[String], script: &str) -> Finished {
    Running::start(&mut command(home, disks, script)).finish()
}

/// The command for that.
fn command(home: &Home, disks: &[String], script: &str) -> Command {
    let mut command = home.command(["vm", "--memory=256M", "--cpus=2", "--kernel"]);
    command
        .arg(product::kernel())
        .arg("--initramfs")
        .arg(initramfs(home, script))
        .arg("--cmdline=console=ttyS0 panic=-1 reboot=k quiet");
    for disk in disks {
        command.arg("--disk").arg(disk);
    }
    command
}

/// An image of `size` bytes, all of them `byte`.
fn image(path: &Path, byte: u8, size: u64) -> String {
    fs::write(path, vec![byte; size as usize]).unwrap();
    path.display().to_string()
}

/// The lines that the guest's script wrote to its console; the kernel's begin with a time.
fn lines(finished: &Finished) -> Vec<&str> {
    let lines = finished.text().lines().map(str::trim_end);
    lines.filter(|line| !line.starts_with('[')).collect()
}

#[test]
fn what_is_written_is_read_and_lies_in_the_image_and_what_is_read_only_stays_as_it_was() {
    let home = Home::new();
    let (disk, read_only) = (home.path().join("disk.img"), home.path().join("ro.img"));
    let disks = [
        image(&disk, b'a', 16 * MIB),
        format!("{}:raw:ro", image(&read_only, b'b', MIB)),
    ];
    let before = fs::metadata(&disk).unwrap().blocks();
    let script = "
        echo serials $(cat /sys/block/vda/serial) $(cat /sys/block/vdb/serial)
        echo size $(blockdev --getsize64 /dev/vda) ro $(cat /sys/block/vda/ro) $(cat /sys/block/vdb/ro)
        echo queues $(ls /sys/block/vda/mq | wc -l) cache $(cat /sys/block/vda/queue/write_cache)
        yes line | head -c 4194304 >/lines
        dd if=/lines of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null && echo written
        echo 3 >/proc/sys/vm/drop_caches
        dd if=/dev/vda bs=64k skip=16 count=64 2>/dev/null | cmp - /lines && echo same
        dd if=/dev/vda bs=512 count=1 2>/dev/null | tr -d a | wc -c
        dd if=/dev/zero of=/dev/vdb bs=512 count=1 2>/dev/null || echo refused
        dd if=/dev/vdb bs=4k count=1 iflag=direct 2>/dev/null | tr -d b | wc -c
        blkdiscard -o 8388608 -l 4194304 /dev/vda && echo discarded
        dd if=/dev/vda bs=1M skip=8 count=4 2>/dev/null | tr -d '\\0' | wc -c";
    let finished = run(&home, &disks, script);
    assert_eq!(finished.code(), 0, "{finished}");
    let expected = [
        "serials disk0 disk1",
        "size 16777216 ro 0 1",
        "queues 2 cache write back",
        "written",
        "same",
        "0",
        "refused",
        "0",
        "discarded",
        "0",
    ];
    assert_eq!(lines(&finished), expected, "{finished}");

    let written = File::open(&disk).unwrap();
    let mut bytes = vec![0; 4 * MIB as usize];
    written.read_exact_at(&mut bytes, MIB).unwrap();
    assert!(bytes.chunks(5).all(|line| b"line\n".starts_with(line)));
    assert!(
        fs::metadata(&disk).unwrap().blocks() < before,
        "nothing was given back"
    );
    assert!(fs::read(&read_only).unwrap() == vec![b'b'; MIB as usize]);
}

#[test]
fn sixty_disks_work_at_once_although_they_share_interrupt_lines() {
    let home = Home::new();
    let disks: Vec<_> = (0..60u8)
        .map(|index| image(&home.path().join(format!("{index}.img")), b'0' + index, MIB))
        .collect();
    // Each is read and written by a process of its own; a lost interrupt is waited for in vain.
    let script = "
        cat >/each <<'END'
        disk=$1 number=$(cat /sys/block/$1/serial)
        for round in 1 2 3; do
            dd if=/dev/$disk of=/$disk bs=64k count=8 iflag=direct 2>/dev/null || exit
            dd if=/$disk of=/dev/$disk bs=32k seek=16 oflag=direct conv=fsync 2>/dev/null || exit
        done
        printf '%s %s\\n' $number $(head -c 1 /$disk) >/done-$disk
END
        for disk in $(ls /sys/block | grep ^vd); do sh /each $disk & done; wait
        cat /done-* | sort -n
        echo shared $(grep -c virtio.*,.*virtio /proc/interrupts)";
    let finished = run(&home, &disks, script);
    assert_eq!(finished.code(), 0, "{finished}");
    let lines = lines(&finished);
    assert_eq!(lines.len(), 61, "{finished}");
    let mut served: Vec<_> = lines[..60].to_vec();
    served.sort_unstable();
    let mut expected: Vec<_> = (0..60u8)
        .map(|index| format!("disk{index} {}", char::from(b'0' + index)))
        .collect();
    expected.sort_unstable();
    assert_eq!(served, expected);
    // There are more devices than lines.
    let shared = lines[60].strip_prefix("shared ").unwrap();
    assert!(shared.parse::<u32>().unwrap() > 10, "{finished}");
}

#[test]
fn a_host_without_room_fails_what_it_cannot_allocate_and_the_disk_goes_on() {
    let home = Home::new();
    let small = home.folder("small");
    for format in ["raw", "qcow2", "vmdk"] {
        let image = home.path().join(format!("disk.{format}"));
        let made = home.msb([
            "disk".as_ref(),
            "create".as_ref(),
            image.as_os_str(),
            "32M".as_ref(),
        ]);
        assert_eq!(made.code(), 0, "{made}");
        // 2 MiB have room, then 16 do not.
        let script = "
            yes line | head -c 2097152 >/lines
            dd if=/lines of=/dev/vda bs=64k conv=fsync 2>/dev/null && echo written
            yes more | head -c 16777216 | dd of=/dev/vda bs=64k seek=64 conv=fsync 2>/dev/null || echo full
            echo 3 >/proc/sys/vm/drop_caches
            dd if=/dev/vda bs=64k count=32 2>/dev/null | cmp - /lines && echo kept
            dd if=/dev/zero of=/dev/vda bs=64k count=1 conv=fsync 2>/dev/null && echo goes on
            blkdiscard -o 4194304 -l 16777216 /dev/vda
            dd if=/lines of=/dev/vda bs=64k seek=64 count=8 conv=fsync 2>/dev/null && echo room again
            dd if=/dev/vda bs=64k skip=64 count=8 2>/dev/null | cmp -n 524288 - /lines && echo kept";
        let disk = small.join(format!("disk.{format}"));
        let machine = command(&home, &[disk.display().to_string()], script);
        let small_disk = format!(
            "mount -t tmpfs -o size=6m none '{small}'; cp --sparse=always '{image}' '{disk}'
             status=0; \"$@\" || status=$?; cp --sparse=always '{disk}' '{image}'; exit $status",
            small = small.display(),
            image = image.display(),
            disk = disk.display(),
        );
        let finished = Running::start(&mut in_namespace(&machine, &small_disk)).finish();
        assert_eq!(finished.code(), 0, "{format}: {finished}");
        let expected = ["written", "full", "kept", "goes on", "room again", "kept"];
        assert_eq!(lines(&finished), expected, "{format}: {finished}");
        if format != "raw" {
            let checked = home.msb(["disk".as_ref(), "check".as_ref(), image.as_os_str()]);
            assert!([0, 3].contains(&checked.code()), "{format}: {checked}");
        }
    }
}

/// A file as a block device of the host, as long as this lives.
struct Loop(String);

impl Loop {
    fn of(file: &Path) -> Loop {
        let made = program(
            "losetup",
            ["-f".as_ref(), "--show".as_ref(), file.as_os_str()],
        );
        Loop(made.text().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What fails here has failed the test already, or leaves a device that nobody uses.
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_block_device_of_the_host_is_a_disk() {
    if !geteuid().is_root() {
        // Nobody else can make one; an ordinary user is told that he may not open it.
        let home = Home::new();
        let refused = run(&home, &["/dev/loop-control:raw".to_owned()], "");
        assert_eq!(refused.code(), 125, "{refused}");
        return;
    }
    let home = Home::new();
    let file = home.path().join("file");
    blank(&file, 16 * MIB);
    let device = Loop::of(&file);
    let script = "
        echo size $(blockdev --getsize64 /dev/vda) ro $(cat /sys/block/vda/ro)
        yes line | head -c 1048576 >/lines
        dd if=/lines of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null && echo written
        echo 3 >/proc/sys/vm/drop_caches
        dd if=/dev/vda bs=64k skip=16 count=16 2>/dev/null | cmp - /lines && echo same
        dd if=/dev/vda bs=512 skip=32767 count=1 2>/dev/null | wc -c
        blkdiscard -o 1048576 -l 524288 /dev/vda && dd if=/dev/vda bs=64k skip=16 count=8 2>/dev/null | tr -d '\\0' | wc -c
        dd if=/dev/vdb of=/dev/null bs=64k count=1 2>/dev/null && echo read
        dd if=/lines of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null || echo refused";
    let other = home.path().join("other");
    blank(&other, MIB);
    let read_only = Loop::of(&other);
    let disks = [
        format!("{}:raw", device.0),
        format!("{}:raw:ro", read_only.0),
    ];
    let finished = run(&home, &disks, script);
    assert_eq!(finished.code(), 0, "{finished}");
    let expected = [
        "size 16777216 ro 0",
        "written",
        "same",
        "512",
        "0",
        "read",
        "refused",
    ];
    assert_eq!(lines(&finished), expected, "{finished}");
    drop((device, read_only));
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes.len() as u64, 16 * MIB);
    let second_half = &bytes[(MIB + MIB / 2) as usize..][..(MIB / 2) as usize];
    assert!(second_half.windows(5).any(|window| window == b"line\n"));
    assert!(fs::read(&other).unwrap() == vec![0; MIB as usize]);
}

#[test]
fn disks_that_cannot_be_had_are_errors() {
    let home = Home::new();
    let broken = image(&home.path().join("broken.img"), 0, 1000);
    let fine = image(&home.path().join("fine.img"), 0, MIB);
    for (disks, reason) in [
        (vec!["/no/such/disk.img".to_owned()], "/no/such/disk.img"),
        (vec![broken], "not a number of sectors"),
        (vec![fine.clone(), fine], "is in use"),
    ] {
        let finished = run(&home, &disks, "");
        assert_eq!(finished.code(), 125, "{finished}");
        assert!(finished.errors().contains(reason), "{finished}");
    }
    let unknown = run(&home, &["/a/disk".to_owned()], "");
    assert!(unknown.errors().contains("tells no format"), "{unknown}");
}
