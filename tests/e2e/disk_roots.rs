//! Disk images as root file systems.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;

use msb_tests::disk_images::{
    PARTITION_SIZE, assert_clean, blank, ext4, ext4_at, partition_offset, partitioned, program,
    read, sum,
};
use msb_tests::{Home, product};
use nix::sys::signal::{Signal, kill};

/// Size of images that hold the small root file system, in bytes.
const SIZE: u64 = 24 << 20;

/// An ext4 with the small root file system.
fn disk(home: &Home, name: &str) -> PathBuf {
    let image = home.path().join(name);
    ext4(&image, SIZE, &product::busybox());
    image
}

#[test]
fn a_disk_is_the_root_and_keeps_what_is_written() {
    let home = Home::new();
    let image = disk(&home, "disk.img");
    let script = "
        grep ' / ' /proc/mounts | cut -d' ' -f1,3; cat /sys/block/vda/serial; echo
        echo new >/new; mkdir /directory; rm /bin/zcat; tail -1 /etc/passwd | cut -d: -f1
        # A process that is killed with a file open does not keep the disk from being unmounted.
        exec 3>/open; echo in the open file >&3; sleep 1000 & echo $$";
    let finished = home.guest(&image).with(["-c2"]).shell(script);
    let lines = finished.lines();
    assert_eq!(lines[..3], ["/dev/vda ext4", "root", "nobody"]);
    assert_clean(&image);
    assert_eq!(read(&image, "/new"), "new\n");
    assert_eq!(read(&image, "/open"), "in the open file\n");
    let again = "cat /new; [ -d /directory ] && [ ! -e /bin/zcat ] && echo as it was left";
    let finished = home
        .guest(&image)
        .with(["--root-cache=writethrough"])
        .shell(again);
    assert_eq!(finished.lines(), ["new", "as it was left"]);
}

#[test]
fn every_linux_file_system_can_be_the_root() {
    let home = Home::new();
    let root = product::busybox();
    let [squashfs, erofs, ext2] =
        ["disk.squashfs", "disk.erofs", "ext2.img"].map(|name| home.path().join(name));
    program(
        "mksquashfs",
        [root.as_os_str(), squashfs.as_ref(), "-quiet".as_ref()],
    );
    program(
        "mkfs.erofs",
        ["-E0".as_ref(), erofs.as_os_str(), root.as_ref()]
            .into_iter()
            .skip(1),
    );
    blank(&ext2, SIZE);
    let arguments = [
        "-q".as_ref(),
        "-text2".as_ref(),
        "-d".as_ref(),
        root.as_os_str(),
    ];
    program("mke2fs", arguments.into_iter().chain([ext2.as_os_str()]));
    // What is no whole number of sectors is no disk.
    for image in [&squashfs, &erofs] {
        let length = fs::metadata(image).unwrap().len().next_multiple_of(4096);
        File::options()
            .write(true)
            .open(image)
            .unwrap()
            .set_len(length)
            .unwrap();
    }
    for (image, option, kind) in [
        (&squashfs, "--root-ro", "squashfs ro"),
        (&erofs, "--root-upper=tmpfs", "overlay rw"),
        (&ext2, "--root-rw", "ext4 rw"),
    ] {
        let script = "
            grep ' / ' /proc/mounts | cut -d' ' -f3,4 | cut -d, -f1; tail -1 /etc/passwd | cut -d: -f1";
        let finished = home.guest(image).with([option]).shell(script);
        assert_eq!(finished.lines(), [kind, "nobody"]);
    }
    // One that cannot be written is no error of the disk.
    let finished = home.guest(&squashfs).run(["touch", "/x"]);
    assert_eq!(finished.code(), 1, "{finished}");
}

#[test]
fn a_disk_stays_as_it_is_read_only_or_under_a_layer() {
    let home = Home::new();
    let image = disk(&home, "disk.img");
    let before = sum(&image);
    let script = "
        try() { \"$@\" 2>/dev/null && echo \"worked: $*\"; }
        try touch /new; try rm /etc/passwd; mount -o remount,rw / 2>/dev/null; try touch /new
        try dd if=/dev/zero of=/dev/vda bs=4096 count=16 conv=fsync; cat /sys/block/vda/ro";
    let finished = home.guest(&image).with(["--root-ro"]).shell(script);
    assert_eq!(finished.text(), "1\n", "{finished}");
    assert_eq!(sum(&image), before);
    let script = "
        echo new >/new && cat /new; rm /etc/passwd && ls /etc
        mkdir /tmp/x; head -c 9000000 /dev/zero >/tmp/x/large 2>/dev/null || echo full
        dd if=/dev/zero of=/dev/vda bs=4096 count=16 conv=fsync 2>/dev/null || echo protected";
    let finished = home
        .guest(&image)
        .with(["--root-upper=tmpfs:8M"])
        .shell(script);
    assert_eq!(finished.lines(), ["new", "group", "full", "protected"]);
    assert_eq!(sum(&image), before);
    // Patches are for folders and images.
    for options in [
        &["--write=/x=1"][..],
        &["--write=/x=1", "--root-upper=tmpfs"],
    ] {
        let refused = home
            .guest(&image)
            .with(options.iter().copied())
            .shell("true");
        refused.assert_error(125, "a disk image is not patched");
    }
}

#[test]
fn a_partition_is_found_or_chosen() {
    let home = Home::new();
    let image = home.path().join("disk.img");
    partitioned(&image, 3);
    let with_system = |index| {
        let (offset, size) = (partition_offset(index), PARTITION_SIZE);
        ext4_at(&image, offset, size, &product::busybox());
    };
    with_system(1);
    let script = "grep ' / ' /proc/mounts | cut -d' ' -f1";
    let root = |options: &[&str]| home.guest(&image).with(options).shell(script);
    assert_eq!(root(&[]).lines(), ["/dev/vda2"]);
    with_system(2);
    let several = root(&[]);
    several.assert_error(
        125,
        "one of its partitions has to be chosen: 1 (nothing known), 2 (ext4), 3 (ext4)",
    );
    several.assert_error(125, "--root-partition");
    let none = root(&["--root-partition=1"]);
    none.assert_error(125, "vda1 holds no known file system");
    let none = root(&["--root-partition=7"]);
    none.assert_error(125, "it has no partition 7, but these: 1, 2, 3");
    assert_eq!(root(&["--root-partition=3"]).lines(), ["/dev/vda3"]);
}

#[test]
fn a_disk_without_a_system_is_named() {
    let home = Home::new();
    let file = |name: &str, size| {
        let path = home.path().join(name);
        blank(&path, size);
        path
    };
    let run = |image: &PathBuf, options: &[&str]| home.guest(image).with(options).run(["true"]);
    let empty = file("empty.img", 1 << 20);
    run(&empty, &[]).assert_error(125, "vda holds no known file system");
    run(&empty, &["--fstype=ext4"]).assert_error(125, "it is no ext4 that the kernel takes");
    run(&empty, &["--fstype=btrfs"]).assert_error(125, "the guest's kernel has no btrfs");
    run(&file("nothing.raw", 0), &[]).assert_error(125, "its size is 0 bytes");
    run(&file("odd.raw", 1000), &[]).assert_error(125, "its size is 1000 bytes");
    let named = run(&file("disk", 1 << 20), &[]);
    named.assert_error(125, "does not tell the format");
    named.assert_error(125, "--root-format");
    // What a file is called decides, and not what a guest may have written into it.
    run(&empty, &["--root-format=qcow2"]).assert_error(125, "qcow2");
    let vfat = file("vfat.img", 2 << 20);
    program("mkfs.vfat", [&vfat]);
    run(&vfat, &[]).assert_error(125, "the guest's kernel has no vfat");
    run(&home.path().join("none.img"), &[]).assert_error(125, "none.img");
    // Cut short: the kernel finds that the file system is larger than its disk.
    let cut = disk(&home, "cut.img");
    File::options()
        .write(true)
        .open(&cut)
        .unwrap()
        .set_len(SIZE / 2)
        .unwrap();
    run(&cut, &[]).assert_error(125, "ext4");
}

#[test]
fn a_disk_is_for_one_who_writes_or_many_who_read() {
    let home = Home::new();
    let image = disk(&home, "disk.img");
    let wait = "echo up; read x";
    let mut writer = home.guest(&image).start(wait);
    writer.stdout.wait_for("up\n");
    for options in [&[][..], &["--root-ro"], &["--root-upper=tmpfs"]] {
        let refused = home.guest(&image).with(options).run(["true"]);
        refused.assert_error(125, "is in use");
        refused.assert_error(125, "disk.img");
    }
    writer.send("\n");
    assert_eq!(writer.finish().lines(), ["up"]);
    let mut reader = home.guest(&image).with(["--root-ro"]).start(wait);
    reader.stdout.wait_for("up\n");
    let other = home
        .guest(&image)
        .with(["--root-upper=tmpfs"])
        .run(["echo", "me too"]);
    assert_eq!(other.lines(), ["me too"]);
    home.guest(&image)
        .run(["true"])
        .assert_error(125, "is in use");
    reader.send("\n");
    assert_eq!(reader.finish().lines(), ["up"]);
}

#[test]
fn what_was_synced_survives_the_death_of_the_machine() {
    let home = Home::new();
    let image = disk(&home, "disk.img");
    let script = "
        i=0; while [ $i -lt 100 ]; do echo $i >/file$i; i=$((i+1)); done; sync; echo synced
        while :; do echo more >>/more; done";
    let guest = home.guest(&image).start(script);
    guest.stdout.wait_for("synced\n");
    kill(home.machine(), Signal::SIGKILL).unwrap();
    let finished = guest.finish();
    assert_eq!(finished.code(), 125, "{finished}");
    // Read-only means that not even the journal is replayed.
    let before = sum(&image);
    let finished = home
        .guest(&image)
        .with(["--root-ro"])
        .run(["cat", "/etc/group"]);
    assert!(finished.text().starts_with("root:"), "{finished}");
    assert_eq!(sum(&image), before);
    let finished = home
        .guest(&image)
        .shell("cat /file* | sort -n | uniq | wc -l; cat /file99");
    assert_eq!(finished.lines(), ["100", "99"]);
    assert_clean(&image);
}

#[test]
fn an_image_that_goes_away_fails_the_guest_and_not_the_machine() {
    let home = Home::new();
    let image = disk(&home, "disk.img");
    let files = home.folder("files");
    fs::write(files.join("large"), vec![7; 2 << 20]).unwrap();
    let [raw, qcow2] = ["raw", "qcow2"].map(|format| home.path().join(format!("data.{format}")));
    ext4(&raw, 8 << 20, &files);
    let convert = ["convert", "-fraw", "-Oqcow2"].map(OsStr::new);
    let files = [raw.as_os_str(), qcow2.as_os_str()];
    program("qemu-img", convert.into_iter().chain(files));
    let script = "
        sync; echo up; read x
        dd if=/dev/vda of=/dev/null bs=65536 iflag=direct 2>/dev/null || echo the disk fails
        for place in home var; do
            cat /$place/large >/dev/null 2>&1 || echo $place fails
            head -c 1000000 /dev/zero 2>/dev/null >/$place/new; sync; rm /$place/new 2>/dev/null
        done
        echo alive";
    let mounts = [(&raw, "home"), (&qcow2, "var")]
        .map(|(image, place)| format!("--mount-disk={}:/{place}", image.display()));
    let mut guest = home
        .guest(&image)
        .with(["--root-ro"])
        .with(mounts)
        .start(script);
    guest.stdout.wait_for("up\n");
    // A file without a name is still a file.
    fs::rename(&image, home.path().join("moved")).unwrap();
    for (image, left) in [
        (&home.path().join("moved"), SIZE / 2),
        (&raw, 1 << 20),
        (&qcow2, 1 << 20),
    ] {
        let file = File::options().write(true).open(image).unwrap();
        file.set_len(left).unwrap();
    }
    guest.send("\n");
    let finished = guest.finish();
    let expected = "up\nthe disk fails\nhome fails\nvar fails\nalive\n";
    assert_eq!(finished.text(), expected, "{finished}");
    assert_eq!(finished.code(), 0, "{finished}");
}

#[test]
fn an_image_may_be_qcow2_and_refer_to_what_is_allowed() {
    let home = Home::new();
    let raw = disk(&home, "base.img");
    let base_before = sum(&raw);
    let qcow2 = home.path().join("disk.qcow2");
    let place = home.folder("elsewhere");
    let top = place.join("top.qcow2");
    let convert = ["convert", "-fraw", "-Oqcow2"].map(OsStr::new);
    program(
        "qemu-img",
        convert
            .into_iter()
            .chain([raw.as_os_str(), qcow2.as_os_str()]),
    );
    let create = ["create", "-q", "-fqcow2", "-Fraw", "-b"].map(OsStr::new);
    program(
        "qemu-img",
        create.into_iter().chain([raw.as_os_str(), top.as_os_str()]),
    );
    let write = "echo kept >/file; head -c 3000000 /dev/urandom >/large; sha256sum </large >/sum";
    let check = "cat /file; [ \"$(sha256sum </large)\" = \"$(cat /sum)\" ] && echo the same";
    let allow = format!("--allow={}", raw.display());
    for (image, options) in [(&qcow2, &[][..]), (&top, &[allow.as_str()])] {
        let run = |script| home.guest(image).with(options).shell(script);
        assert_eq!(run(write).lines(), [""; 0]);
        assert_eq!(run(check).lines(), ["kept", "the same"]);
        program("qemu-img", ["check".as_ref(), image.as_os_str()]);
        let extracted = home.path().join("extracted.img");
        program(
            "qemu-img",
            [
                "convert".as_ref(),
                "-Oraw".as_ref(),
                image.as_os_str(),
                extracted.as_ref(),
            ],
        );
        assert_clean(&extracted);
        assert_eq!(read(&extracted, "/file"), "kept\n");
        let before = sum(image);
        let layered = ["--root-upper=tmpfs:8M"].iter().chain(options);
        let finished = home
            .guest(image)
            .with(layered)
            .shell("rm /large; cat /file");
        assert_eq!(finished.lines(), ["kept"]);
        assert_eq!(sum(image), before);
    }
    assert_eq!(sum(&raw), base_before);
    let refused = home.guest(&top).run(["true"]);
    refused.assert_error(125, "base.img, which was not allowed");
    refused.assert_error(125, "--allow");
    // A raw image in which a guest has written another header is as raw as before.
    let data = home.path().join("data.img");
    fs::copy(&top, &data).unwrap();
    let mount = format!("--mount-disk={}:/data", data.display());
    let finished = home.busybox().with([mount]).run(["true"]);
    finished.assert_error(125, "vda holds no known file system");
}
