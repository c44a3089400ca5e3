//! A process that is killed at any instant loses nothing that it flushed, and leaves an image in order.
//!
//! The test starts itself as a writer. MSB_CRASH_ROUNDS says how often that is killed.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use disk::{Buffers, Format};
use support::{Bench, Random, open, open_read_only, read};

const DISK: u64 = 48 << 20;
const THREADS: u64 = 2;
/// Each thread has a part of the disk to itself.
const PART: u64 = DISK / THREADS;
const SECTOR: u64 = 512;

/// A write of one sector value to some sectors. A value of 0 is zeros.
struct Step {
    first: u64,
    count: u64,
    value: u64,
}

/// The steps of a thread: the same for the writer and for who judges.
struct Steps {
    random: Random,
    thread: u64,
    number: u64,
}

impl Steps {
    fn new(seed: u64, thread: u64) -> Steps {
        Steps {
            random: Random::new(seed * 31 + thread),
            thread,
            number: 0,
        }
    }

    fn next(&mut self) -> Step {
        self.number += 1;
        let sectors = PART / SECTOR;
        let count = match self.random.below(4) {
            0 => 1 + self.random.below(600),
            _ => 1 + self.random.below(16),
        };
        let first = self.random.below(sectors - count);
        let zeros = self.random.below(6) == 0;
        Step {
            first: self.thread * sectors + first,
            count,
            value: if zeros { 0 } else { self.number },
        }
    }
}

fn sector(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(SECTOR as usize / 8)
}

/// Is the writer when the environment says so, and nothing otherwise.
#[test]
fn writer() {
    let Ok(path) = std::env::var("MSB_CRASH_IMAGE") else {
        return;
    };
    let seed: u64 = std::env::var("MSB_CRASH_SEED").unwrap().parse().unwrap();
    let image = open(Path::new(&path), Format::Qcow2);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let image = &*image;
            scope.spawn(move || write(image, Steps::new(seed, thread), thread));
        }
    });
}

fn write(image: &dyn disk::Image, mut steps: Steps, thread: u64) {
    let mut choice = Random::new(thread + 77);
    loop {
        let step = steps.next();
        let (offset, length) = (step.first * SECTOR, step.count * SECTOR);
        if step.value == 0 {
            image.write_zeroes(offset, length, true).unwrap();
        } else {
            let mut bytes = sector(step.value).repeat(step.count as usize);
            let buffers = Buffers::of_slice(&mut bytes);
            image.write(offset, &buffers).unwrap();
        }
        if choice.below(12) == 0 {
            image.flush().unwrap();
            let line = format!("flushed {thread} {}\n", steps.number);
            // One write each, past the test harness.
            std::io::stdout().write_all(line.as_bytes()).unwrap();
            std::io::stdout().flush().unwrap();
        }
    }
}

/// Starts a writer, kills it after a while, and returns how many steps of each thread were flushed.
fn run_and_kill(path: &Path, seed: u64, random: &mut Random) -> Vec<u64> {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
        .env("MSB_CRASH_IMAGE", path)
        .env("MSB_CRASH_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(writer.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut flushed = vec![0; THREADS as usize];
    let mut note = |line: String| {
        let line = line.split("flushed ").nth(1).map(str::to_owned);
        let Some((thread, number)) = line.as_deref().and_then(|line| line.split_once(' ')) else {
            return false;
        };
        flushed[thread.parse::<usize>().unwrap()] = number.parse().unwrap();
        true
    };
    // From the first flush on: some more, and then any instant.
    while !note(lines.recv().unwrap()) {}
    for _ in 0..random.below(40) {
        note(lines.recv().unwrap());
    }
    let instant = Duration::from_micros(random.below(20_000));
    if let Ok(line) = lines.recv_timeout(instant) {
        note(line);
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    reader.join().unwrap();
    for line in lines.try_iter() {
        note(line);
    }
    flushed
}

/// What each sector may have: what the last step before the flush wrote, or any step after it.
fn judge(bench: &Bench, seed: u64, flushed: &[u64], before: &[u8]) {
    let image = open_read_only(&bench.path("disk.qcow2"), Format::Qcow2);
    let mut last: HashMap<u64, u64> = HashMap::new();
    let mut later: HashMap<u64, Vec<u64>> = HashMap::new();
    for thread in 0..THREADS {
        let mut steps = Steps::new(seed, thread);
        let flushed = flushed[thread as usize];
        // More than a thread can do between the last flush that was told of and its end.
        while steps.number < flushed + 3000 {
            let step = steps.next();
            for sector in step.first..step.first + step.count {
                if steps.number <= flushed {
                    last.insert(sector, step.value);
                } else {
                    later.entry(sector).or_default().push(step.value);
                }
            }
        }
    }
    for start in (0..DISK).step_by(1 << 20) {
        let bytes = read(&*image, start, 1 << 20);
        for (at, found) in (start / SECTOR..).zip(bytes.chunks_exact(SECTOR as usize)) {
            let old = &before[(at * SECTOR) as usize..][..SECTOR as usize];
            let durable = match last.get(&at) {
                Some(value) => found == sector(*value),
                None => found == old,
            };
            let newer = || {
                let values = later.get(&at).into_iter().flatten();
                values.into_iter().any(|value| found == sector(*value))
            };
            assert!(
                durable || newer(),
                "sector {at}: {:?}, flushed {:?}, later {:?}",
                &found[..8],
                last.get(&at),
                later.get(&at)
            );
        }
    }
}

#[test]
fn what_was_flushed_survives_a_kill_at_any_instant() {
    let rounds = match std::env::var("MSB_CRASH_ROUNDS") {
        Ok(rounds) => rounds.parse().unwrap(),
        Err(_) => 8,
    };
    let kinds = [
        "-o cluster_size=64k",
        "-o cluster_size=512",
        "-o cluster_size=4k,refcount_bits=64",
        "-o compat=0.10",
        "-o cluster_size=64k,lazy_refcounts=on",
    ];
    let mut leaks = 0;
    for round in 0..rounds {
        let bench = Bench::new();
        let seed = round + 1;
        let mut random = Random::new(seed);
        let mut before = vec![0; DISK as usize];
        let options = kinds[round as usize % kinds.len()];
        match round % 3 {
            0 => {
                bench.qemu_img(&format!("create -f qcow2 {options} disk.qcow2 {DISK}"));
            }
            1 => {
                before = bench.base("base.raw", DISK, &mut random);
                bench.qemu_img(&format!(
                    "create -f qcow2 {options} -b base.raw -F raw disk.qcow2"
                ));
            }
            _ => {
                before = bench.base("base.raw", DISK, &mut random);
                bench.qemu_img(&format!(
                    "convert -c -O qcow2 {options} base.raw disk.qcow2"
                ));
                bench.qemu_img("snapshot -c before disk.qcow2");
            }
        }
        let path = bench.path("disk.qcow2");
        let flushed = run_and_kill(&path, seed, &mut random);
        let report = disk::qcow2::check(&path, false).unwrap();
        assert_eq!(report.corruptions, 0, "round {round}: {report:?}");
        leaks += u64::from(report.leaks > 0);
        // 0 is in order, 3 is leaks only.
        let check = Command::new("qemu-img")
            .args(["check", "-f", "qcow2"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(matches!(check.status.code(), Some(0 | 3)), "{check:?}");
        judge(&bench, seed, &flushed, &before);
        // It goes on as if nothing had been, and a repair finds the lost clusters.
        let model = {
            let image = open(&path, Format::Qcow2);
            let mut model = read(&*image, 0, DISK);
            support::play(&*image, &mut model, &mut random, 5);
            model
        };
        let report = disk::qcow2::check(&path, true).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:?}");
        bench.check("disk.qcow2", Format::Qcow2, &model);
        fs::remove_file(path).unwrap();
    }
    println!("{rounds} rounds, {leaks} of them with leaks");
}
