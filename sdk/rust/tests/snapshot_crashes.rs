//! Processes that make, replace and remove snapshots are killed at random moments, and find their disk full, with this
//! program itself in their place.
//!
//! Without libtest, because the program takes roles.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "roles/little_room.rs"]
mod little_room;
#[path = "roles/run_tests.rs"]
mod run_tests;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use little_room::{Failure, until_there_is_enough};
use microsandbox::database::Database;
use microsandbox::home::Home;
use microsandbox::images::image::Digest;
use microsandbox::sandbox::SandboxConfig;
use microsandbox::snapshots::{
    LoadOptions, SnapshotError, SnapshotName, SnapshotOptions, Snapshots, silent,
};
use microsandbox::{ErrorKind, MicrosandboxError};
use run_tests::run_tests;

/// Snapshots that the processes make and remove.
const NAMES: [&str; 3] = ["one", "two", "three"];

/// How often processes are killed.
const ROUNDS: u64 = 60;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, role, home] if role == "churn" => return churn(&Home::at(home)),
        [_, role, home] if role == "fill" => return fill(&Home::at(home)),
        [_, role, home] if role == "load" => return load(&Home::at(home)),
        _ => {}
    }
    let tests: [(&str, fn()); 3] = [
        (
            "a_killed_process_leaves_the_old_or_the_new",
            killed_anywhere,
        ),
        ("a_full_disk_leaves_nothing", full_disk),
        (
            "a_full_disk_leaves_nothing_of_an_archive",
            full_disk_of_load,
        ),
    ];
    run_tests(&tests);
}

/// A home with two stopped sandboxes whose root is a folder, and one whose root is an image, as far as the database is
/// concerned; and some data in their layers.
fn home(folder: &Path) -> Home {
    let home = Home::at(folder.join("home"));
    Database::open(&home).unwrap();
    let database = rusqlite::Connection::open(home.database()).unwrap();
    let image = Digest::of(b"manifest").to_string();
    database
        .execute("INSERT INTO images VALUES (?1, ?1, 0, 0)", [&image])
        .unwrap();
    for (id, name, root) in [
        ("00000000000000aa", "a", "/"),
        ("00000000000000bb", "b", "/"),
        ("00000000000000cc", "c", "debian"),
    ] {
        let mut config = SandboxConfig::new(name, root);
        config.image_digest = (root == "debian").then(|| image.clone());
        let config = serde_json::to_string(&config).unwrap();
        database
            .execute(
                "INSERT INTO sandboxes (id, name, config, ephemeral, created_at, updated_at, ever_ready, run, active)
                 VALUES (?1, ?2, ?3, 0, 0, 0, 1, 1, 0)",
                [id, name, &config],
            )
            .unwrap();
        let directory = home.sandboxes().join(id);
        fs::create_dir_all(&directory).unwrap();
        let upper = File::create_new(directory.join("upper.img")).unwrap();
        upper.set_len(8 << 20).unwrap();
        upper.write_all_at(&vec![1; 2 << 20], 1 << 20).unwrap();
    }
    home
}

fn start(home: &Home) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg("churn")
        .arg(home.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Makes, replaces and removes snapshots until it is killed.
fn churn(home: &Home) {
    println!("begins");
    let snapshots = Snapshots::open(home).unwrap();
    let mut number = usize::try_from(std::process::id()).unwrap();
    loop {
        let name: SnapshotName = NAMES[number % NAMES.len()].parse().unwrap();
        let sandbox = ["a", "b"][number / 3 % 2].parse().unwrap();
        let options = SnapshotOptions {
            replace: number.is_multiple_of(5),
            ..SnapshotOptions::default()
        };
        let path = home.path().join("at").join(name.as_str());
        let made = match number % 4 {
            0 => snapshots.create_at(&path, &sandbox, &options, &mut silent),
            _ => snapshots.create(&name, &sandbox, &options, &mut silent),
        };
        match made {
            Ok(_) => {}
            Err(MicrosandboxError::Snapshot(SnapshotError::PathExists { .. })) => {
                // In one step, so that a half of it is never there. Others do the same.
                let gone = home
                    .path()
                    .join(format!("gone-{}-{number}", std::process::id()));
                if fs::rename(&path, &gone).is_ok() {
                    fs::remove_dir_all(&gone).unwrap();
                }
            }
            Err(MicrosandboxError::Snapshot(SnapshotError::SnapshotAlreadyExists { .. })) => {
                match snapshots.remove(&name) {
                    Ok(()) | Err(SnapshotError::SnapshotNotFound { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            // The other process works on that sandbox, or has just replaced what was there.
            Err(error) if error.kind() == ErrorKind::SandboxRunning => {}
            Err(MicrosandboxError::Snapshot(SnapshotError::Io {
                action: "replace", ..
            })) => {}
            Err(error) => panic!("{error:?}"),
        }
        number += 1;
    }
}

/// Two processes work, and are killed after a time that is another in every round. What they leave must be whole for a
/// third.
fn killed_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    fs::create_dir(home.path().join("at")).unwrap();
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        let children = [start(&home), start(&home)].map(|mut child| {
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            child
        });
        // The moment of the kill is the point: no event of the processes tells it.
        std::thread::sleep(Duration::from_micros(1000 + (round * 7919) % 90_000));
        for mut child in children {
            child.kill().unwrap();
            assert!(child.wait().unwrap().code().is_none(), "it ended by itself");
        }
        let recorded = Snapshots::open(&home).unwrap().list().unwrap().len();
        unfinished += usize::from(entries(&home.snapshots()).len() > recorded);
        check(&home);
    }
    assert!(unfinished > 0, "no process was killed while it worked");
}

/// Every snapshot is whole, and after the next was made nothing else is there.
fn check(home: &Home) {
    let snapshots = Snapshots::open(home).unwrap();
    let options = SnapshotOptions {
        replace: true,
        ..SnapshotOptions::default()
    };
    let name = "last".parse().unwrap();
    let sandbox = "a".parse().unwrap();
    snapshots
        .create(&name, &sandbox, &options, &mut silent)
        .unwrap();
    let found = snapshots.list().unwrap();
    for snapshot in &found {
        let name = snapshot.name().unwrap();
        snapshots.verify(name, &mut silent).unwrap();
    }
    let recorded: HashSet<_> = found
        .iter()
        .map(|snapshot| snapshot.id().to_owned())
        .collect();
    let present: HashSet<_> = entries(&home.snapshots()).into_iter().collect();
    assert_eq!(recorded, present);
    let at = home.path().join("at");
    for name in NAMES {
        let path = at.join(name);
        snapshots
            .create_at(&path, &sandbox, &options, &mut silent)
            .unwrap();
        snapshots
            .verify(path.to_str().unwrap(), &mut silent)
            .unwrap();
    }
    let mut names = entries(&at);
    names.sort_unstable();
    assert_eq!(names, ["one", "three", "two"]);
    assert!(entries(&home.run()).iter().all(|name| name == "lock"));
}

fn entries(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Makes a snapshot, by name and at a path on the same disk.
fn fill(home: &Home) {
    let snapshots = Snapshots::open(home).unwrap();
    let options = SnapshotOptions::default();
    let sandbox = "a".parse().unwrap();
    let path = home.snapshots().join("at/here");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let name = "named".parse().unwrap();
    let made = match snapshots.create_at(&path, &sandbox, &options, &mut silent) {
        Ok(_) => snapshots.create(&name, &sandbox, &options, &mut silent),
        failed => failed,
    };
    if let Err(error) = made {
        fail(&error);
    }
}

fn fail(error: &dyn std::error::Error) -> ! {
    let cause = error.source().map(ToString::to_string);
    eprintln!("{error}: {}", cause.unwrap_or_default());
    std::process::exit(1)
}

/// Loads the archive of a home.
fn load(home: &Home) {
    let snapshots = Snapshots::open(home).unwrap();
    let archive = File::open(archive(home)).unwrap();
    if let Err(error) = snapshots.load(archive, &LoadOptions::default(), &mut silent) {
        fail(&error);
    }
}

fn archive(home: &Home) -> PathBuf {
    home.path().join("archive")
}

/// The disk of the snapshots is full at each stage of loading one, until there is room enough.
fn full_disk_of_load() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    let snapshots = Snapshots::open(&home).unwrap();
    let name = "of-image".parse().unwrap();
    let (options, sandbox) = (SnapshotOptions::default(), "c".parse().unwrap());
    snapshots
        .create(&name, &sandbox, &options, &mut silent)
        .unwrap();
    snapshots
        .save_file(name.as_str(), false, &archive(&home), &mut silent)
        .unwrap();
    snapshots.remove(&name).unwrap();
    let sizes = (0..20).map(|step| 4 + step * 300);
    let check = |failure: Failure| {
        assert_is_full(&failure);
        assert_eq!(failure.left, "", "{}: {}", failure.kilobytes, failure.error);
        assert!(snapshots.list().unwrap().is_empty());
    };
    let failures = until_there_is_enough("load", home.path(), &home.snapshots(), sizes, check);
    assert!(failures > 4, "the disk was never full");
}

fn assert_is_full(failure: &Failure) {
    assert!(
        failure.error.contains("No space left on device"),
        "{}: {}",
        failure.kilobytes,
        failure.error
    );
}

/// The disk of the snapshots is full at each stage, until there is room enough.
fn full_disk() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    Snapshots::open(&home).unwrap();
    let sizes = (0..20).map(|step| 16 + step * 400);
    let check = |failure: Failure| {
        assert_is_full(&failure);
        let Failure {
            kilobytes, left, ..
        } = failure;
        let left: Vec<_> = left.lines().filter(|line| !line.ends_with("/at")).collect();
        let whole = |line: &&str| line.contains("/at/here");
        assert!(left.iter().all(whole), "{kilobytes}: {left:?}");
        assert!(left.is_empty() || left.len() == 3, "{kilobytes}: {left:?}");
        assert!(Snapshots::open(&home).unwrap().list().unwrap().is_empty());
    };
    let failures = until_there_is_enough("fill", home.path(), &home.snapshots(), sizes, check);
    assert!(failures > 4, "the disk was never full");
}
