//! Processes that make, remove and use volumes are killed at random moments, with this program itself in their place.
//!
//! Without libtest, because the program takes roles.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "roles/run_tests.rs"]
mod run_tests;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use microsandbox::home::Home;
use microsandbox::volumes::{
    NamedVolume, VolumeConfig, VolumeError, VolumeKind, VolumeMode, VolumeName, Volumes,
};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::waitpid;
use run_tests::run_tests;

/// Volumes that the processes make and remove.
const NAMES: [&str; 3] = ["one", "two", "three"];

/// How often processes are killed.
const ROUNDS: u64 = 60;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, role, home] if role == "churn" => return churn(&Home::at(home)),
        [_, role, home] if role == "hold" => return hold(&Home::at(home)),
        [_, role, home] if role == "make" => return make(&Home::at(home)),
        _ => {}
    }
    let tests: [(&str, fn()); 3] = [
        (
            "a_killed_process_leaves_the_old_or_the_new",
            killed_anywhere,
        ),
        ("a_killed_user_uses_a_volume_no_more", killed_user),
        ("of_many_processes_one_makes_a_volume", one_winner),
    ];
    run_tests(&tests);
}

fn start(role: &str, home: &Home) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg(role)
        .arg(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

/// Disks take the most steps; the labels are a second table.
fn config(number: usize) -> VolumeConfig {
    let disk = number.is_multiple_of(2);
    VolumeConfig {
        kind: if disk {
            VolumeKind::Disk
        } else {
            VolumeKind::Dir
        },
        size_mib: disk.then_some(8),
        labels: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
        ..VolumeConfig::default()
    }
}

/// Makes and removes volumes until it is killed.
fn churn(home: &Home) {
    println!("begins");
    let volumes = Volumes::open(home).unwrap();
    let mut number = usize::try_from(std::process::id()).unwrap();
    loop {
        let name = name(NAMES[number % NAMES.len()]);
        match volumes.create(&name, &config(number / 3)) {
            Ok(volume) => {
                if volume.kind() == VolumeKind::Dir {
                    // Others may remove it meanwhile.
                    let _ = volume.fs().mkdir("a/b/c");
                    let _ = volume.fs().write("a/file", "contents");
                }
            }
            Err(VolumeError::VolumeAlreadyExists { .. }) => match volumes.remove(&name) {
                Ok(()) | Err(VolumeError::VolumeNotFound { .. }) => {}
                Err(error) => panic!("{error:?}"),
            },
            Err(error) => panic!("{error:?}"),
        }
        number += 1;
    }
}

/// Two processes work, and are killed after a time that is another in every round. What they leave must be whole for a
/// third.
fn killed_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    let mut unfinished = 0;
    set_child_subreaper(true).unwrap();
    for round in 0..ROUNDS {
        let children = [start("churn", &home), start("churn", &home)];
        let children = children.map(|mut child| {
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            child
        });
        // The moment of the kill is the point: no event of the processes tells it.
        std::thread::sleep(Duration::from_micros(1000 + (round * 7919) % 60_000));
        for mut child in children {
            child.kill().unwrap();
            assert!(child.wait().unwrap().code().is_none(), "it ended by itself");
        }
        // The programs that they had started end by themselves, as children of this process then.
        while waitpid(None, None).is_ok() {}
        let is_left_over =
            |name: &&String| name.starts_with(".new-") || name.starts_with(".trash-");
        unfinished += entries(&home).iter().filter(is_left_over).count();
        check(&home);
    }
    assert!(unfinished > 0, "no process was killed while it worked");
}

/// Every record has a whole volume, every directory a record, and nothing else is there.
fn check(home: &Home) {
    let volumes = Volumes::open(home).unwrap();
    let found = volumes.list().unwrap();
    for volume in &found {
        volume.used_bytes().unwrap();
        assert_eq!(volume.labels().len(), 2);
        if let Some(image) = volume.disk_image() {
            let checked = Command::new("/usr/sbin/e2fsck")
                .arg("-fn")
                .arg(image)
                .output()
                .unwrap();
            assert!(checked.status.success(), "{checked:?}");
        } else {
            assert!(volume.fs().exists("").unwrap());
        }
    }
    let recorded: HashSet<_> = found
        .iter()
        .map(|volume| volume.name().to_string())
        .collect();
    let present: HashSet<_> = entries(home)
        .into_iter()
        .filter(|name| name != ".lock")
        .collect();
    assert_eq!(recorded, present);
}

fn entries(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.volumes()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn wanted(mode: VolumeMode) -> NamedVolume {
    NamedVolume {
        name: name("data"),
        mode,
        read_only: false,
    }
}

/// Uses a volume until standard input ends.
fn hold(home: &Home) {
    let volumes = Volumes::open(home).unwrap();
    let wanted = wanted(VolumeMode::EnsureExists(VolumeConfig::default()));
    let _in_use = volumes.acquire(&wanted, &"web".parse().unwrap()).unwrap();
    println!("holds");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
}

fn killed_user() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    let mut child = start("hold", &home);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "holds\n");
    let volumes = Volumes::open(&home).unwrap();
    let error = volumes.remove(&name("data")).unwrap_err();
    assert!(
        matches!(&error, VolumeError::VolumeInUse { sandboxes, .. } if *sandboxes == ["web"]),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    volumes.remove(&name("data")).unwrap();
    assert_eq!(entries(&home), [".lock"]);
}

/// Makes a volume when standard input ends, and exits with 0 if it was this process that made it.
fn make(home: &Home) {
    let volumes = Volumes::open(home).unwrap();
    println!("ready");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
    match volumes.create(&name("data"), &VolumeConfig::default()) {
        Ok(_) => {}
        Err(VolumeError::VolumeAlreadyExists { .. }) => std::process::exit(1),
        Err(error) => panic!("{error:?}"),
    }
}

fn one_winner() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    for _ in 0..5 {
        // Half of them meet with no database yet.
        let mut children: Vec<_> = (0..8).map(|_| start("make", &home)).collect();
        for child in &mut children {
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "ready\n");
        }
        for child in &mut children {
            drop(child.stdin.take());
        }
        let codes = children
            .into_iter()
            .map(|mut child| child.wait().unwrap().code().unwrap());
        let mut codes: Vec<_> = codes.collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 1, 1, 1, 1, 1, 1, 1]);
        Volumes::open(&home).unwrap().remove(&name("data")).unwrap();
    }
}
