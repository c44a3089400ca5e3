//! Disk images, as the host's programs make and judge them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::running::{Finished, Running, piped};

/// Where a partition of [`partitioned`] begins, in bytes: the first, and each after the one before.
pub const PARTITION_SIZE: u64 = 16 << 20;

/// Bytes before the first partition.
const FIRST_PARTITION: u64 = 1 << 20;

/// Runs a program of the host that administrators have.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn program(name: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let finished = Running::start(piped(&mut command)).finish();
    assert_eq!(finished.code(), 0, "{name}: {finished}");
    finished
}

/// Makes a file of `size` bytes, all zeros.
pub fn blank(image: &Path, size: u64) {
    File::create(image).unwrap().set_len(size).unwrap();
}

/// Makes a raw image of `size` bytes with an ext4 that holds what is in `root`.
pub fn ext4(image: &Path, size: u64, root: &Path) {
    blank(image, size);
    ext4_at(image, 0, size, root);
}

/// Makes an ext4 of `size` bytes at `offset` of an image.
pub fn ext4_at(image: &Path, offset: u64, size: u64, root: &Path) {
    let (extended, blocks) = (
        format!("offset={offset},root_owner=0:0"),
        format!("{}k", size >> 10),
    );
    let arguments: [&OsStr; 9] = [
        "-q".as_ref(),
        "-F".as_ref(),
        "-text4".as_ref(),
        "-E".as_ref(),
        extended.as_ref(),
        "-d".as_ref(),
        root.as_ref(),
        image.as_ref(),
        blocks.as_ref(),
    ];
    program("mke2fs", arguments);
}

/// Makes a raw image with `count` empty partitions of [`PARTITION_SIZE`].
pub fn partitioned(image: &Path, count: u64) {
    blank(image, FIRST_PARTITION * 2 + PARTITION_SIZE * count);
    let mut table = String::from("label: gpt\n");
    for index in 0..count {
        let (start, size) = (partition_offset(index) / 512, PARTITION_SIZE / 512);
        table.push_str(&format!("start={start}, size={size}\n"));
    }
    let script = image.with_extension("sfdisk");
    fs::write(&script, table).unwrap();
    let line = format!("sfdisk -q {} <{}", image.display(), script.display());
    program("sh", ["-c", &line]);
}

/// Where partition `index`, counted from 0, begins in such an image.
pub fn partition_offset(index: u64) -> u64 {
    FIRST_PARTITION + index * PARTITION_SIZE
}

/// Asserts that the ext4 on a raw image was unmounted, and that nothing is wrong with it.
#[track_caller]
pub fn assert_clean(image: &Path) {
    let checked = program("e2fsck", ["-fn".as_ref(), image.as_os_str()]);
    assert!(!checked.text().contains("recovering journal"), "{checked}");
    let header = program("dumpe2fs", ["-h".as_ref(), image.as_os_str()]);
    let state = |line: &str| line.starts_with("Filesystem state:") && line.ends_with(" clean");
    assert!(header.text().lines().any(state), "{header}");
    assert!(!header.text().contains("needs_recovery"), "{header}");
}

/// The contents of a file on the ext4 of a raw image.
#[track_caller]
pub fn read(image: &Path, file: &str) -> String {
    let request = format!("cat {file}");
    let read = program(
        "debugfs",
        ["-R".as_ref(), request.as_ref(), image.as_os_str()],
    );
    read.text().to_owned()
}

/// What identifies the bytes of a file.
#[track_caller]
pub fn sum(file: &Path) -> String {
    let sum = program("sha256sum", [file]);
    sum.text().split(' ').next().unwrap().to_owned()
}
