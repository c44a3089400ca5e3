//! A guest whose virtio driver breaks every rule, `tests/hostile-driver`: ten thousand rounds of it, which the monitor
//! survives and after each of which the device can be used again.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use msb_tests::running::piped;
use msb_tests::tree::{self, Entry};
use msb_tests::{Finished, Home, LIMIT, Running, product};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Rounds of each machine: as many as fit into the time that a guest has until its agent must have answered,
/// also where KVM is emulated on a busy machine.
const ROUNDS: u64 = 1250;

/// Seeds and memory. In the last machines there is memory behind the hole below 4 GiB.
const MACHINES: [(u64, &str); 8] = [
    (1, "64M"),
    (2, "64M"),
    (3, "64M"),
    (4, "65M"),
    (5, "128M"),
    (6, "512M"),
    (7, "4G"),
    (8, "5G"),
];

/// Size that files have at most: what the guest makes larger would fill the disk.
const LARGEST_FILE: u64 = 8 << 20;

/// Folders of the host before the guest had them.
struct Folders {
    /// The guest's root, read-only.
    root: PathBuf,
    /// Shared for writing.
    writable: PathBuf,
    /// Not shared; links in the others lead here.
    outside: PathBuf,
    untouched: [BTreeMap<PathBuf, Entry>; 2],
}

impl Folders {
    fn make(home: &Home) -> Folders {
        let root = home.path().join("root");
        let mut copy = Command::new("cp");
        let copied =
            Running::start(piped(copy.arg("-a").arg(product::busybox()).arg(&root))).finish();
        assert_eq!(copied.code(), 0, "{copied}");
        let (writable, outside) = (home.folder("writable"), home.folder("outside"));
        fs::write(outside.join("f"), "nobody's business\n").unwrap();
        for folder in [&root, &writable] {
            fs::write(folder.join("f"), "a file\n").unwrap();
            fs::create_dir(folder.join("d")).unwrap();
            symlink("../outside/f", folder.join("link")).unwrap();
            // Nobody ever writes to it: whoever opens it waits for ever.
            mkfifo(&folder.join("fifo"), Mode::S_IRWXU).unwrap();
        }
        let untouched = [tree::snapshot(&root), tree::snapshot(&outside)];
        Folders {
            root,
            writable,
            outside,
            untouched,
        }
    }

    fn assert_untouched(&self) {
        let now = [tree::snapshot(&self.root), tree::snapshot(&self.outside)];
        assert_eq!(now, self.untouched);
    }

    fn volume(&self) -> String {
        format!("--volume={}:/data", self.writable.display())
    }
}

/// For this program and all that it starts.
fn limit_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, LARGEST_FILE.min(hard), hard).unwrap();
}

/// The socket of the one machine that runs.
fn agent_socket(home: &Home) -> PathBuf {
    let run = home.msb_home().join("run");
    let sockets: Vec<_> = fs::read_dir(run)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("agent.sock"))
        .filter(|socket| socket.exists())
        .collect();
    let [socket] = &sockets[..] else {
        panic!("the sockets are {sockets:?}")
    };
    socket.clone()
}

/// A program of the host that connects to the guest for as long as there is one, and whose connections all end.
fn keep_connecting(socket: &Path) -> u64 {
    let mut connections = 0;
    while let Ok(mut stream) = UnixStream::connect(socket) {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // The guest may have closed it already.
        let _ = stream.write_all(&[b'x'; 1000]);
        let ended = stream.read_to_end(&mut Vec::new());
        if let Err(error) = ended {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it hangs");
        }
        connections += 1;
    }
    connections
}

/// Boots the hostile guest and sees it through; returns what it wrote to the serial port, and its end.
fn run_hostile_guest(
    home: &Home,
    folders: &Folders,
    seed: u64,
    memory: &str,
) -> (String, Finished) {
    let (console, log) = home.named_pipe(&format!("console-{seed}"));
    let guest = home.guest(&folders.root).with([
        format!("--kernel={}", product::hostile_driver().display()),
        format!("--cmdline=hostile.seed={seed} hostile.rounds={ROUNDS}"),
        format!("--console={}", console.display()),
        format!("--memory={memory}"),
        folders.volume(),
    ]);
    let running = Running::start(&mut guest.command(["never-run"]));
    log.wait_for("hostile: seed");
    let connections = keep_connecting(&agent_socket(home));
    let finished = running.finish();
    log.wait_for("hostile: over");
    assert!(connections > 0, "nobody could connect");
    (log.so_far(), finished)
}

/// The numbers of "verdict: rounds N needs_reset N works N".
fn verdict(log: &str) -> [u64; 3] {
    let line = log.lines().find_map(|line| line.strip_prefix("verdict: "));
    let line = line.unwrap_or_else(|| panic!("no verdict: {log}"));
    let words: Vec<_> = line.split(' ').collect();
    let ["rounds", rounds, "needs_reset", needs_reset, "works", works] = words[..] else {
        panic!("{line}")
    };
    [rounds, needs_reset, works].map(|number| number.parse().unwrap())
}

#[test]
fn the_monitor_survives_ten_thousand_rounds_and_every_device_works_again() {
    limit_files();
    let home = Home::new();
    let folders = Folders::make(&home);
    let mut total = 0;
    for (seed, memory) in MACHINES {
        let (log, finished) = run_hostile_guest(&home, &folders, seed, memory);
        let [rounds, needs_reset, works] = verdict(&log);
        println!(
            "seed {seed}, {memory}: {rounds} rounds, {needs_reset} needs_reset, {works} works"
        );
        assert!(rounds >= ROUNDS && needs_reset >= ROUNDS / 10 && works >= ROUNDS / 10);
        total += rounds;

        // It never had an agent, so this is no good end for msb, but it is the guest's own.
        assert_eq!(finished.code(), 125, "{finished}");
        assert!(finished.errors().contains("it reset itself"), "{finished}");
        assert_eq!(finished.text(), "");
        // A warning for each device and the error, but not one for each round.
        assert!(finished.errors().lines().count() < 40, "{finished}");
        home.wait_until_alone();
        assert_eq!(home.left_over(), [""; 0]);
        folders.assert_untouched();
    }
    assert!(total >= 10_000);

    let script = "cat /f; mkdir /data/new && echo fine >/data/new/file && cat /data/new/file";
    let ordinary = home.guest(&folders.root).with([folders.volume()]);
    let finished = ordinary.shell(script);
    assert_eq!(finished.lines(), ["a file", "fine"], "{finished}");
    folders.assert_untouched();
}

#[test]
fn a_disk_survives_as_well_and_nothing_else_is_written() {
    let home = Home::new();
    // Not larger: what it reads must not fall on the guest itself.
    let (disk, neighbour) = (home.path().join("disk.img"), home.path().join("other.img"));
    for image in [&disk, &neighbour] {
        fs::write(image, vec![0x77; 2 << 20]).unwrap();
    }
    let mut command = home.command(["vm", "--memory=64M", "--rng", "--kernel"]);
    command.arg(product::hostile_driver());
    command.arg(format!("--cmdline=hostile.seed=9 hostile.rounds={ROUNDS}"));
    command.arg(format!("--disk={}", disk.display()));
    command.arg(format!("--disk={}:ro", neighbour.display()));
    let finished = Running::start(&mut command).finish();
    assert_eq!(finished.code(), 0, "{finished}");
    let [rounds, needs_reset, works] = verdict(finished.text());
    println!("disks: {rounds} rounds, {needs_reset} needs_reset, {works} works");
    assert!(rounds >= ROUNDS && needs_reset >= ROUNDS / 10 && works >= ROUNDS / 10);
    assert_eq!(fs::metadata(&disk).unwrap().len(), 2 << 20);
    assert!(fs::read(&neighbour).unwrap() == vec![0x77; 2 << 20]);
}
