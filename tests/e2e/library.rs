//! Machines in the hands of a program that uses the library `vmm`: paused and resumed, stopped, metered.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use disk::{Cache, Format, OpenOptions};
use msb_tests::cpio::Archive;
use msb_tests::{LIMIT, Transcript, product};
use vmm::fs::{FolderOptions, SharedFolder};
use vmm::machine::{self, Config, Console, Ending, Meter, PauseError, Pauser, Stopper};
use vmm::virtio::{BlkConfig, DeviceDescription, blk_device, fs_device};

const MIB: u64 = 1024 * 1024;

/// How every guest begins.
const PREAMBLE: &str = r"#!/bin/busybox sh
    /bin/busybox --install -s /bin; export PATH=/bin
    mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
    # Centiseconds of the monotonic clock.
    now() { read up rest </proc/uptime; echo ${up%.*}${up#*.}; }
";

/// A machine whose end is waited for on a thread, so that nothing in a test can hang.
struct Machine {
    console: Transcript,
    pauser: Pauser,
    meter: Meter,
    stopper: Stopper,
    end: Receiver<Ending>,
}

impl Machine {
    /// A machine that runs `script`, and has these devices.
    fn boot(vcpus: u8, script: &str, devices: Vec<DeviceDescription>) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let initramfs = initramfs(folder.path(), script);
        Machine::of(vcpus, product::kernel(), Some(&initramfs), devices)
    }

    fn of(
        vcpus: u8,
        kernel: impl AsRef<Path>,
        initramfs: Option<&Path>,
        devices: Vec<DeviceDescription>,
    ) -> Machine {
        // As in `msb`: the monitor's threads may not open what glibc does when it shrinks a thread's own heap.
        // SAFETY: a number for the allocator.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let (reader, writer) = std::io::pipe().unwrap();
        let running = machine::boot(Config {
            vcpus,
            memory: 128 * MIB,
            kernel: File::open(kernel).unwrap(),
            initramfs: initramfs.map(|path| File::open(path).unwrap()),
            command_line: "console=ttyS0 quiet panic=-1 reboot=k".to_owned(),
            console: Console {
                output: Some(Box::new(writer) as Box<dyn Write + Send>),
                input: None,
            },
            devices,
        })
        .unwrap();
        let (pauser, meter, stopper) = (running.pauser(), running.meter(), running.stopper());
        let (sender, end) = channel();
        thread::spawn(move || sender.send(running.wait()));
        Machine {
            console: Transcript::of(std::os::fd::OwnedFd::from(reader)),
            pauser,
            meter,
            stopper,
            end,
        }
    }

    fn ending(&self) -> Ending {
        self.end.recv_timeout(LIMIT).expect("the machine ends")
    }

    /// Waits until nothing more comes from the console of a machine that stands still, and returns what has come.
    fn settled(&self) -> String {
        loop {
            let before = self.console.so_far();
            thread::sleep(Duration::from_millis(300));
            let after = self.console.so_far();
            if before == after {
                return after;
            }
        }
    }

    /// Waits for a line that begins like this and was not in `before`; returns the number behind it.
    fn next_number(&self, before: &str, label: &str) -> u64 {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = self.console.so_far();
            let news = numbers(&text, label)
                .into_iter()
                .nth(numbers(before, label).len());
            if let Some(number) = news {
                return number;
            }
            assert!(Instant::now() < deadline, "no {label} in {text:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

fn initramfs(folder: &Path, script: &str) -> PathBuf {
    let busybox = fs::read(product::busybox().join("bin/busybox")).unwrap();
    let init = format!("{PREAMBLE}{script}");
    let archive = ["dev", "proc", "sys", "bin"]
        .into_iter()
        .fold(Archive::default(), Archive::directory)
        .device("dev/console", 5, 1)
        .program("bin/busybox", &busybox)
        .program("init", init.as_bytes());
    let path = folder.join("initramfs.cpio");
    fs::write(&path, archive.finish()).unwrap();
    path
}

/// The numbers of all whole lines `label number.`
fn numbers(text: &str, label: &str) -> Vec<u64> {
    text.split("\r\n")
        .filter_map(|line| line.strip_prefix(label)?.trim().strip_suffix('.'))
        .map(|number| number.parse().unwrap())
        .collect()
}

#[test]
fn the_clock_of_a_paused_guest_stands_still() {
    let script = r#"
        echo "clock: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
        (echo "begin $(now)."; sleep 4; echo "slept $(now).") &
        # Without another process, so that little time passes between two lines however slow the machine is.
        while :; do read up rest </proc/uptime; echo "now ${up%.*}${up#*.}."; done
    "#;
    let machine = Machine::boot(1, script, vec![]);
    machine.next_number("", "begin ");
    machine.next_number("", "now ");
    let pause = Duration::from_secs(10);

    machine.pauser.pause().unwrap();
    assert!(machine.pauser.is_paused());
    let before = machine.settled();
    thread::sleep(pause);
    assert_eq!(machine.console.so_far(), before, "the guest ran on");
    machine.pauser.resume().unwrap();

    let last = *numbers(&before, "now ").last().unwrap();
    let next = machine.next_number(&before, "now ");
    println!("{}: {last} and {next}", before.lines().next().unwrap());
    assert!(next >= last);
    // Far less than the ten seconds, whatever else the machine under test did.
    assert!(next - last < 500, "from {last} to {next}");
    // A timer that was set before fires when it is due on the guest's clock.
    let begin = numbers(&machine.console.so_far(), "begin ")[0];
    let slept = machine.next_number("", "slept ");
    println!("slept from {begin} to {slept}");
    assert!(slept >= begin + 400);
}

#[test]
fn a_machine_that_is_paused_again_and_again_loses_nothing() {
    let script = r#"
        count() { i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); done; echo "$1 done $i"; }
        count first & count second &
        while :; do echo "now $(now)."; sleep 0.1; done
    "#;
    let machine = Machine::boot(2, script, vec![]);
    machine.next_number("", "now ");
    for _ in 0..12 {
        let before = machine.console.so_far();
        machine.pauser.pause().unwrap();
        // Once more changes nothing.
        machine.pauser.pause().unwrap();
        machine.pauser.resume().unwrap();
        machine.pauser.resume().unwrap();
        machine.next_number(&before, "now ");
    }
    machine.console.wait_for("first done 1000");
    machine.console.wait_for("second done 1000");
    let times = numbers(&machine.console.so_far(), "now ");
    assert!(times.is_sorted(), "a clock went back: {times:?}");
}

#[test]
fn a_paused_machine_can_be_stopped() {
    let machine = Machine::boot(2, "while :; do echo \"now $(now).\"; done", vec![]);
    machine.next_number("", "now ");
    machine.pauser.pause().unwrap();
    machine.stopper.stop();
    assert!(matches!(machine.ending(), Ending::Stopped));
    assert!(matches!(machine.pauser.resume(), Err(PauseError::Ended)));
    assert!(matches!(machine.pauser.pause(), Err(PauseError::Ended)));
    assert_eq!(machine.meter.resident_memory(), None);
    assert!(machine.meter.vcpu_time() > Duration::ZERO);
}

#[test]
fn a_machine_that_ends_can_be_paused_and_stopped_at_any_instant() {
    let machine = Machine::boot(2, "reboot -f", vec![]);
    let commanders: Vec<_> = (0..3)
        .map(|_| {
            let pauser = machine.pauser.clone();
            thread::spawn(move || {
                while pauser.pause().is_ok() && pauser.resume().is_ok() {
                    // The guest has to get somewhere.
                    thread::sleep(Duration::from_millis(300));
                }
            })
        })
        .collect();
    assert!(matches!(machine.ending(), Ending::Reset));
    for commander in commanders {
        commander.join().unwrap();
    }
}

#[test]
fn a_kernel_that_finds_no_switch_halts_and_that_is_the_end() {
    for (processors, command) in [(1, "poweroff -f"), (2, "halt -f")] {
        let machine = Machine::boot(processors, command, vec![]);
        let ending = machine.ending();
        assert!(matches!(ending, Ending::Halted), "{command}: {ending:?}");
    }
}

/// A kernel that does nothing but run in a circle, with interrupts off.
fn circling_kernel(folder: &Path) -> PathBuf {
    const ENTRY: u64 = 0x10_0000;
    // cli; jmp $
    let code = [0xfa, 0xeb, 0xfe];
    let offset = 64 + 56;
    let mut file = Vec::new();
    // ELF64, little-endian, an executable for x86-64 with one program header behind the file header.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([ENTRY, 64, 0].map(u64::to_le_bytes).concat());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable and executable.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let length = code.len() as u64;
    file.extend(
        [offset, ENTRY, ENTRY, length, length, 4096]
            .map(u64::to_le_bytes)
            .concat(),
    );
    file.extend(code);
    let path = folder.join("circle");
    fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_guest_that_listens_to_nothing_is_paused_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::of(1, circling_kernel(folder.path()), None, vec![]);
    let runs = |before: Duration| {
        let deadline = Instant::now() + LIMIT;
        while machine.meter.vcpu_time() < before + Duration::from_millis(50) {
            assert!(Instant::now() < deadline, "the guest does not run");
            thread::sleep(Duration::from_millis(10));
        }
    };
    runs(Duration::ZERO);
    for _ in 0..5 {
        machine.pauser.pause().unwrap();
        let paused = machine.meter.vcpu_time();
        thread::sleep(Duration::from_millis(500));
        let ran = machine.meter.vcpu_time() - paused;
        assert!(ran < Duration::from_millis(100), "it ran {ran:?}");
        machine.pauser.resume().unwrap();
        runs(paused);
    }
    machine.pauser.pause().unwrap();
    machine.stopper.stop();
    assert!(matches!(machine.ending(), Ending::Stopped));
}

#[test]
fn the_meter_shows_what_the_guest_uses() {
    let script = r#"
        mkdir /share /mem; mount -t virtiofs share /share
        echo ready; until [ -e /share/go ]; do sleep 0.1; done
        dd if=/dev/vda of=/dev/null bs=64k count=16 2>/dev/null
        dd if=/dev/zero of=/dev/vda bs=64k seek=16 count=8 conv=fsync 2>/dev/null
        cat /share/read >/dev/null
        dd if=/dev/zero of=/share/written bs=64k count=4 2>/dev/null
        mount -t tmpfs tmpfs /mem; dd if=/dev/zero of=/mem/file bs=1M count=40 2>/dev/null
        echo used; while :; do sleep 1; done
    "#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    File::create(&path).unwrap().set_len(4 * MIB).unwrap();
    let options = OpenOptions {
        format: Format::Raw,
        read_only: false,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    };
    let (disk, _handle) = blk_device(BlkConfig {
        image: Some(disk::open(&path, &options).unwrap().into()),
        read_only: false,
        serial: "disk".to_owned(),
        queues: 1,
    })
    .unwrap();
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("read"), vec![7; 3 * MIB as usize]).unwrap();
    let share = SharedFolder::open(&shared, FolderOptions::default()).unwrap();
    let devices = vec![disk, fs_device("share", share).unwrap()];
    let machine = Machine::boot(1, script, devices);

    machine.console.wait_for("ready");
    let meter = &machine.meter;
    let (time, memory) = (meter.vcpu_time(), meter.resident_memory().unwrap());
    let (read, written) = (meter.disk_read(), meter.disk_written());
    assert!(time > Duration::ZERO);
    assert!((10 * MIB..=128 * MIB).contains(&memory), "{memory}");
    fs::write(shared.join("go"), "").unwrap();
    machine.console.wait_for("used");

    assert!(meter.vcpu_time() > time);
    let more = meter.resident_memory().unwrap() - memory;
    println!("{memory} bytes resident, then {more} more");
    assert!((38 * MIB..=128 * MIB).contains(&more), "{more}");
    // 1 MiB of the disk and 3 MiB of the folder; the guest may read ahead.
    let read = meter.disk_read() - read;
    assert!((4 * MIB..=8 * MIB).contains(&read), "{read}");
    let written = meter.disk_written() - written;
    assert_eq!(written, 12 * 64 * 1024);
}
