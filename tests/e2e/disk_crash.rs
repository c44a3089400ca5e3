//! The machine's process is killed at random moments while its guest writes to a disk: what the guest was told is durable is
//! there, and the image is in order.
//!
//! `MSB_TEST_ROUNDS` says how often for each format (default 2).
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use msb_tests::running::piped;
use msb_tests::{Finished, Home, Running};
use nix::sys::signal::{Signal, kill};

const DISK_SIZE: u64 = 96 << 20;

/// Records that are kept; older ones are removed, so that the disk does not fill.
const KEPT: u64 = 100;

/// Writes records, each durable before it is announced, beside a program that takes and frees storage all the time.
const LOAD: &str = r#"
    (while :; do head -c 5000000 /dev/zero >/data/noise; rm /data/noise; fstrim /data; done) 2>/dev/null &
    number=$(cat /data/last 2>/dev/null || echo 0)
    while :; do
        number=$((number + 1))
        yes "record $number" | head -c 50000 | dd of=/data/record-$number bs=65536 conv=fsync 2>/dev/null || exit 1
        echo $number >/data/new-last && sync /data/new-last && mv /data/new-last /data/last && sync /data || exit 1
        echo "durable $number"
        rm -f /data/record-$((number - 100))
    done"#;

/// Looks at every record from the first that has to be there to the last that was announced.
const VERIFY: &str = r#"
    last=$(cat /data/last); [ "$last" -ge "$2" ] || { echo "last is $last"; exit 1; }
    for number in $(seq $1 $2); do
        yes "record $number" | head -c 50000 | cmp - /data/record-$number || exit 1
    done
    echo verified"#;

fn rounds() -> u32 {
    env::var("MSB_TEST_ROUNDS").map_or(2, |rounds| rounds.parse().expect("a number"))
}

/// A number below `limit` that nobody foresees.
fn random_below(limit: u64) -> u64 {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    u64::from_le_bytes(bytes) % limit
}

#[track_caller]
fn run(program: &str, arguments: &[&Path]) -> Finished {
    Running::start(piped(Command::new(program).args(arguments))).finish()
}

/// An image of this format with an empty ext4 in it.
fn image_with_file_system(home: &Home, format: &str) -> PathBuf {
    let raw = home.path().join("empty.raw");
    File::create(&raw).unwrap().set_len(DISK_SIZE).unwrap();
    let options = ["-q", "-F", "-t", "ext4"].map(Path::new);
    let made = run("mke2fs", &[&options[..], &[&raw]].concat());
    assert_eq!(made.code(), 0, "{made}");
    let image = home.path().join(format!("disk.{format}"));
    let options = ["convert", "-f", "raw", "-O", format].map(Path::new);
    let made = run("qemu-img", &[&options[..], &[&raw, &image]].concat());
    assert_eq!(made.code(), 0, "{made}");
    image
}

fn mount(image: &Path) -> OsString {
    let mut option = OsString::from("--mount-disk=");
    option.push(image);
    option.push(":/data:fstype=ext4");
    option
}

/// Runs the load until something was announced, and then a little longer; returns the last record that was.
fn crash(home: &Home, image: &Path) -> u64 {
    let guest = home.busybox().with([mount(image)]).start(LOAD);
    if !guest.stdout.lines_come(1 + random_below(8) as usize) {
        panic!("it was not even begun: {}", guest.finish());
    }
    thread::sleep(Duration::from_micros(random_below(200_000)));
    kill(home.machine(), Signal::SIGKILL).unwrap();
    let finished = guest.finish();
    assert_eq!(finished.code(), 125, "{finished}");
    // The last line may be cut short.
    let complete = finished
        .text()
        .rsplit_once('\n')
        .map_or("", |(lines, _)| lines);
    let last = complete.lines().last().expect("something was announced");
    last.trim_start_matches("durable ").parse().unwrap()
}

/// Nothing but storage that nobody uses may be wrong. qcow2 is checked by the program that defines it, too; there is none for
/// vmdk. A raw image has nothing to check.
fn check(home: &Home, image: &Path, format: &str) {
    if format == "raw" {
        return;
    }
    let options = ["disk", "check"].map(Path::new);
    let checked = home.msb([&options[..], &[image]].concat());
    assert!([0, 3].contains(&checked.code()), "{checked}");
    if format == "qcow2" {
        let options = ["check", "-f", format].map(Path::new);
        let checked = run("qemu-img", &[&options[..], &[image]].concat());
        assert!([0, 3].contains(&checked.code()), "{checked}");
    }
}

/// The file system is clean after a guest that ended in peace.
fn check_file_system(home: &Home, image: &Path, format: &str) {
    let raw = home.path().join("copy.raw");
    let options = ["convert", "-f", format, "-O", "raw"].map(Path::new);
    let copied = run("qemu-img", &[&options[..], &[image, &raw]].concat());
    assert_eq!(copied.code(), 0, "{copied}");
    let checked = run("e2fsck", &[Path::new("-fn"), &raw]);
    assert_eq!(checked.code(), 0, "{checked}");
}

fn survives(format: &str) {
    let home = Home::new();
    let image = image_with_file_system(&home, format);
    for round in 0..rounds() {
        let last = crash(&home, &image);
        check(&home, &image, format);
        let first = last.saturating_sub(KEPT - 2).max(1);
        let guest = home.busybox().with([mount(&image)]);
        let (first, last) = (first.to_string(), last.to_string());
        let verified = guest.run(["sh", "-c", VERIFY, "verify", &first, &last]);
        // That a VMDK was not closed is told on standard error.
        let told = (verified.code(), verified.text());
        assert_eq!(told, (0, "verified\n"), "round {round}: {verified}");
        check(&home, &image, format);
        check_file_system(&home, &image, format);
    }
}

#[test]
fn a_raw_image_survives_its_machine() {
    survives("raw");
}

#[test]
fn a_qcow2_image_survives_its_machine() {
    survives("qcow2");
}

#[test]
fn a_vmdk_image_survives_its_machine() {
    survives("vmdk");
}
