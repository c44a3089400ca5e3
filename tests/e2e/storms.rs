//! Death at any moment, of anybody: what is left is whole, usable and nothing more than it should be.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use msb_tests::{Home, Running, product};
use nix::sys::signal::{Signal, kill};

/// How long the storm lasts, in seconds.
fn storm_length() -> Duration {
    let seconds = env::var("MSB_TEST_STORM_SECONDS").map_or(120, |value| value.parse().unwrap());
    Duration::from_secs(seconds)
}

/// A number below `limit`, which `state` leads to.
fn random(state: &mut u64, limit: u64) -> u64 {
    // Xorshift, as Marsaglia has it.
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % limit
}

/// Commands that use sandboxes of a few names in every way, `NAME` for each.
const USES: [&[&str]; 14] = [
    &[
        "create",
        "--memory=64M",
        "--root-upper=tmpfs",
        "--name=NAME",
        "ROOT",
    ],
    &["create", "--memory=64M", "--replace", "--name=NAME", "ROOT"],
    &["run", "--memory=64M", "--rm", "--name=NAME", "ROOT", "true"],
    &[
        "run",
        "--memory=64M",
        "-d",
        "--name=NAME",
        "--volume=storm:/data",
        "ROOT",
        "sleep",
        "5",
    ],
    &["start", "NAME"],
    &["restart", "--time=1", "NAME"],
    &["pause", "NAME"],
    &["unpause", "NAME"],
    &["drain", "NAME"],
    &["exec", "NAME", "sh", "-c", "echo hello; sync"],
    &["stop", "--time=1", "NAME"],
    &["kill", "NAME"],
    &["rm", "-f", "NAME"],
    &["ls"],
];

fn use_command(home: &Home, number: u64) -> Command {
    let name = format!("storm-{}", number % 3);
    let words = USES[usize::try_from(number).unwrap() % USES.len()];
    let root = product::busybox();
    let root = root.to_str().unwrap();
    home.command(
        words
            .iter()
            .map(|word| word.replace("NAME", &name).replace("ROOT", root)),
    )
}

/// Uses sandboxes until the time is over, in whatever way the last one ended.
fn use_until(home: &Home, end: Instant, mut seed: u64) {
    while Instant::now() < end {
        let number = random(&mut seed, 30_030);
        let finished = Running::start(&mut use_command(home, number)).finish();
        // Killed, done, or told why not; a panic would be 101, words that msb does not know 2.
        assert!(
            !matches!(finished.status.code(), Some(2 | 101)),
            "{finished}"
        );
        assert!(!finished.errors().contains("damaged"), "{finished}");
    }
}

/// Kills processes of the home, `msb` and machines alike, until the time is over. Returns how many.
fn kill_until(home: &Home, end: Instant, mut seed: u64) -> usize {
    let mut killed = 0;
    while Instant::now() < end {
        // The moment of the kill is the point: no event of the processes tells it.
        thread::sleep(Duration::from_millis(random(&mut seed, 400)));
        let processes = home.processes();
        if processes.is_empty() {
            continue;
        }
        let place = random(&mut seed, processes.len() as u64);
        let pid = processes[usize::try_from(place).unwrap()];
        // It may have ended.
        killed += usize::from(kill(pid, Signal::SIGKILL).is_ok());
    }
    killed
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let directory = fs::read_dir(directory).into_iter().flatten();
    directory.map(|entry| entry.unwrap().path()).collect()
}

fn mounts() -> usize {
    fs::read_to_string("/proc/mounts").unwrap().lines().count()
}

/// Removes what is there, and makes sure that nothing of it is left.
#[track_caller]
fn clear(home: &Home) {
    for _ in 0..2 {
        let names = home.msb(["ls", "-q"]);
        let names = names.lines();
        if !names.is_empty() {
            let removed = home.msb(["rm", "-f"].iter().chain(&names));
            // One that was on its way to its end without anybody may have come there meanwhile.
            assert!(
                removed.code() == 0 || removed.errors().contains("no sandbox"),
                "{removed}"
            );
        }
    }
    assert_eq!(home.msb(["ls", "-q"]).lines(), [""; 0]);
    home.wait_until_alone();
    // The next creation removes what killed ones have left; a foreground run leaves nothing itself.
    assert_eq!(home.busybox().shell("echo well").lines(), ["well"]);
    home.wait_until_alone();
    assert_eq!(home.left_over(), [""; 0]);
    let kept = entries(&home.msb_home().join("sandboxes"));
    assert!(kept.is_empty(), "{kept:?}");
    // Nobody uses the volume any more, if it came to be made.
    let removed = home.msb(["volume", "rm", "-f", "storm"]);
    assert_eq!(removed.code(), 0, "{removed}");
}

#[test]
fn a_storm_of_kills_leaves_nothing() {
    let home = Home::new();
    let mounts_before = mounts();
    let end = Instant::now() + storm_length();
    let killed = thread::scope(|scope| {
        for seed in 1..=3 {
            let home = &home;
            scope.spawn(move || use_until(home, end, seed));
        }
        kill_until(&home, end, 0x5eed)
    });
    println!("{killed} processes were killed in {:?}", storm_length());
    assert!(killed > 0);
    clear(&home);
    assert_eq!(mounts(), mounts_before);
}
