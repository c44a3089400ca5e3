//! The machine: processors, memory, kernels, and `msb vm`, which boots one without an agent.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use msb_tests::cpio::Archive;
use msb_tests::{Finished, Home, Running, Terminal, product};

const MIB: u64 = 1024 * 1024;

/// MemTotal of /proc/meminfo in bytes, from a line.
fn memory(line: &str) -> u64 {
    line.trim().parse::<u64>().unwrap() * 1024
}

const REPORT: &str = "nproc; awk '/^MemTotal/ { print $2 }' /proc/meminfo;";

#[test]
fn the_smallest_machine() {
    let home = Home::new();
    let finished = home
        .busybox()
        .with(["--cpus=1", "--memory=64M"])
        .shell(REPORT);
    let lines = finished.lines();
    assert_eq!(lines[0], "1");
    // The kernel keeps some for itself.
    assert!(
        (32 * MIB..64 * MIB).contains(&memory(lines[1])),
        "{}",
        lines[1]
    );
}

#[test]
fn four_processors_and_four_gibibytes() {
    let home = Home::new();
    let script = "
        # Each of them works.
        for cpu in 0 1 2 3; do taskset -c $cpu sh -c 'echo $((6 * 7))' & done; wait
        cut -d: -f2 /proc/cpuinfo | grep -c GenuineIntel\\\\\\|AuthenticAMD
        cat /sys/devices/system/cpu/online
        # Some of the memory is above the hole below 4 GiB; the kernel takes from there first.
        grep -c '^ *1[0-9a-f]*-1[0-9a-f]* : System RAM' /proc/iomem
        head -c 67108864 /dev/zero | tr '\\0' x >/tmp/file; tr -d x </tmp/file | wc -c";
    let guest = home.busybox().with(["--cpus=4", "--memory=4G"]);
    let finished = guest.shell(&format!("{REPORT} {script}"));
    let lines = finished.lines();
    assert_eq!(lines[0], "4");
    assert!(
        (3800 * MIB..4096 * MIB).contains(&memory(lines[1])),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2..], ["42", "42", "42", "42", "4", "0-3", "1", "0"]);
}

#[test]
fn memory_is_taken_when_it_is_used() {
    let home = Home::new();
    let guest = home
        .busybox()
        .with(["--memory=2G"])
        .start("echo ready; read wait");
    guest.stdout.wait_for("ready");
    let status = msb_tests::processes::proc_file(home.machine(), "status");
    let status = fs::read_to_string(status).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let resident = memory(resident.trim().strip_suffix(" kB").unwrap());
    assert!(
        resident < 512 * MIB,
        "{resident} bytes of 2 GiB are taken by a guest that does nothing"
    );
    assert_eq!(guest.finish().code(), 1);
}

#[test]
fn a_bz_image_boots_as_well() {
    let home = Home::new();
    let guest = home
        .busybox()
        .with(["--kernel".as_ref(), product::bz_image().as_os_str()]);
    let (vmlinux, bz_image) = (
        home.busybox().run(["uname", "-rv"]),
        guest.run(["uname", "-rv"]),
    );
    assert_eq!(bz_image.lines(), vmlinux.lines());
}

#[test]
fn the_guest_has_random_numbers_and_the_right_time() {
    let home = Home::new();
    let script = "
        head -c 32 /dev/random | xxd -p -c 64
        cat /proc/sys/kernel/random/boot_id
        date +%s";
    let guest = home.busybox();
    let (one, other) = (guest.shell(script), guest.shell(script));
    let (one, other) = (one.lines(), other.lines());
    assert!(one[0].len() == 64 && one[0] != other[0] && one[1] != other[1]);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let guest: u64 = other[2].parse().unwrap();
    assert!(guest.abs_diff(now) < 60, "{guest} and not {now}");
}

/// An initramfs with a shell whose `init` runs `script`.
fn initramfs(home: &Home, script: &str) -> PathBuf {
    let busybox = fs::read(product::busybox().join("bin/busybox")).unwrap();
    let init = format!("#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\n{script}\n");
    let links = [
        "sh", "mount", "echo", "reboot", "cat", "grep", "sleep", "stty", "nproc", "mkdir",
    ];
    let archive = Archive::default()
        .directory("dev")
        .device("dev/console", 5, 1)
        .directory("proc")
        .directory("bin")
        .program("bin/busybox", &busybox)
        .program("init", init.as_bytes());
    let archive = links.iter().fold(archive, |archive, link| {
        archive.symlink(&format!("bin/{link}"), "busybox")
    });
    let path = home.path().join("initramfs.cpio");
    fs::write(&path, archive.finish()).unwrap();
    path
}

/// `msb vm` with the guest's kernel.
fn vm(home: &Home, initramfs: &Path, options: &[&str]) -> std::process::Command {
    let mut command = home.command(["vm", "--memory", "128M", "--kernel"]);
    command
        .arg(product::kernel())
        .arg("--initramfs")
        .arg(initramfs)
        .args(options);
    command
}

#[test]
fn vm_has_its_console_on_standard_input_and_output() {
    let home = Home::new();
    let script = "
        grep -o 'marker=[a-z]*' /proc/cmdline
        echo processors $(nproc)
        echo ready
        read line
        echo \"got <$line>\"
        reboot -f";
    let options = [
        "--cpus",
        "2",
        "--cmdline",
        "console=ttyS0 panic=-1 reboot=k marker=here",
    ];
    let mut machine = Running::start(&mut vm(&home, &initramfs(&home, script), &options));
    machine.stdout.wait_for("ready");
    machine.send("hello\n");
    machine.stdout.wait_for("got <hello>");
    let finished = machine.finish();
    assert_eq!((finished.code(), finished.errors()), (0, ""), "{finished}");
    let text = finished.text();
    for part in ["Linux version", "\nmarker=here", "processors 2"] {
        assert!(text.contains(part), "{part:?}: {finished}");
    }
}

#[test]
fn vm_is_ended_from_the_keyboard() {
    let home = Home::new();
    let initramfs = initramfs(&home, "echo ready; while :; do sleep 1; done");
    let mut terminal = Terminal::start(vm(&home, &initramfs, &[]));
    terminal.screen.wait_for("ready\r\n");
    // Ctrl-C is the guest's,
    terminal.type_keys("\x03");
    // Ctrl-] is not.
    terminal.type_keys("\x1d");
    assert_eq!(terminal.finish().code, 0);
}

#[test]
fn vm_writes_its_console_to_a_file_and_shares_folders() {
    let home = Home::new();
    let shared = home.folder("shared");
    fs::write(shared.join("from-host"), "hello guest\n").unwrap();
    let script = "
        mkdir /mnt && mount -t virtiofs files /mnt
        cat /mnt/from-host
        echo hello host >/mnt/from-guest
        reboot -f";
    let log = home.path().join("log");
    let share = format!("{}:files", shared.display());
    let options = ["--console", log.to_str().unwrap(), "--share", &share];
    let finished = Running::start(&mut vm(&home, &initramfs(&home, script), &options)).finish();
    assert_eq!((finished.code(), finished.text()), (0, ""), "{finished}");
    assert!(fs::read_to_string(log).unwrap().contains("hello guest"));
    assert_eq!(
        fs::read_to_string(shared.join("from-guest")).unwrap(),
        "hello host\n"
    );
}

/// Runs a script that ends the machine.
fn end(home: &Home, script: &str, options: &[&str]) -> Finished {
    Running::start(&mut vm(home, &initramfs(home, script), options)).finish()
}

#[test]
fn vm_tells_ends_apart() {
    let home = Home::new();
    // PID 1 must not end.
    let panicked = end(&home, "exit 3", &[]);
    assert_eq!(panicked.code(), 1, "{panicked}");
    assert!(
        panicked.errors().contains("Attempted to kill init"),
        "{panicked}"
    );
    let fault = end(&home, "reboot -f", &["--cmdline", "console=ttyS0 reboot=t"]);
    assert_eq!(fault.code(), 2, "{fault}");
    assert!(fault.errors().contains("triple fault"), "{fault}");
    let wrong = home.msb(["vm", "--kernel", "/no/such/kernel"]);
    assert_eq!(wrong.code(), 125, "{wrong}");
    assert!(wrong.errors().contains("/no/such/kernel"), "{wrong}");
}

#[test]
fn vm_ends_with_a_signal() {
    let home = Home::new();
    let initramfs = initramfs(&home, "echo ready; while :; do sleep 1; done");
    let machine = Running::start(&mut vm(&home, &initramfs, &[]));
    machine.stdout.wait_for("ready");
    machine.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(machine.finish().code(), 143);
}

/// How far apart KVM takes two frequencies of the time stamp counter for the same, in millionths. Put back when dropped.
struct Tolerance(String);

const TOLERANCE: &str = "/sys/module/kvm/parameters/tsc_tolerance_ppm";

impl Tolerance {
    /// None at all, where this may be said.
    fn none() -> Option<Tolerance> {
        let before = fs::read_to_string(TOLERANCE).ok()?;
        fs::write(TOLERANCE, "0").ok()?;
        Some(Tolerance(before))
    }
}

impl Drop for Tolerance {
    fn drop(&mut self) {
        let _ = fs::write(TOLERANCE, &self.0);
    }
}

fn uptime(text: &str) -> f64 {
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn timers_come_in_time_although_the_host_has_measured_its_clock_anew() {
    let home = Home::new();
    let _tolerance = Tolerance::none();
    let host = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let script = "cat /proc/uptime; sleep 1; cat /proc/uptime";
    let finished = home.busybox().shell(script);
    let lines = finished.lines();
    let slept = uptime(lines[1]) - uptime(lines[0]);
    // A timer of a processor whose frequency KVM does not know is late by the time that the host has been up.
    assert!(slept < host, "slept for {slept} s");
}
