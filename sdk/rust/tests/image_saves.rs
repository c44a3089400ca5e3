//! Images that are saved to a disk that is full, and by processes that are killed, with this program itself in their place.
//!
//! Without libtest, because the program takes roles.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "roles/image.rs"]
mod image;
#[path = "roles/little_room.rs"]
mod little_room;
#[path = "roles/run_tests.rs"]
mod run_tests;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use little_room::{Failure, until_there_is_enough};
use microsandbox::home::Home;
use microsandbox::images::Images;
use microsandbox::images::image::archive::Format;
use microsandbox::images::image::progress::Silent;
use run_tests::run_tests;

/// How often processes are killed.
const ROUNDS: u64 = 30;

/// Bytes of the image.
const SIZE: usize = 3_000_000;

/// What is at the place of an archive before.
const BEFORE: &str = "an older archive";

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, role, home] if role == "save" => return save(Path::new(home)),
        _ => {}
    }
    let tests: [(&str, fn()); 2] = [
        ("a_full_disk_leaves_what_was_there", full_disk),
        ("what_a_killed_process_left_goes_with_the_next", killed),
    ];
    run_tests(&tests);
}

/// Where the images of a home are saved.
fn place(home: &Path) -> PathBuf {
    home.join("saved")
}

/// Saves the image of a home where something is already, or says why it cannot.
fn save(home: &Path) {
    let archive = place(home).join("archive");
    if !archive.exists() {
        fs::write(&archive, BEFORE).unwrap();
    }
    let images = Images::open(&Home::at(home)).unwrap();
    if let Err(error) = images.save_file(&["base:1"], Format::Docker, &archive, &Silent) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        assert_eq!(fs::read_to_string(archive).unwrap(), BEFORE);
        eprintln!("{text}");
        std::process::exit(1);
    }
}

/// A home with an image, and with a place to save it.
fn home() -> (tempfile::TempDir, Home) {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    let layer = image::layer(Vec::new(), "file", SIZE);
    image::load(&home, root.path(), &layer);
    fs::create_dir(place(home.path())).unwrap();
    (root, home)
}

/// The disk of the archive is full at each stage, until there is room enough.
fn full_disk() {
    let (_root, home) = home();
    let place = place(home.path());
    // A directory and the older archive have room in each.
    let sizes = (0..20).map(|step| 12 + step * 400);
    let check = |failure: Failure| {
        let Failure {
            kilobytes,
            error,
            left,
        } = failure;
        let is_told = error.contains("write") && error.contains("No space left on device");
        assert!(is_told, "{kilobytes}: {error}");
        let archive = place.join("archive");
        assert_eq!(left.trim_end(), archive.to_str().unwrap(), "{kilobytes}");
    };
    let failures = until_there_is_enough("save", home.path(), &place, sizes, check);
    assert!(failures > 4, "the disk was never full");
}

fn start(home: &Home) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.arg("save").arg(home.path()).stdin(Stdio::null());
    command.spawn().unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Processes are killed after a time that is another in every round. What is there is the older archive or the whole new one, and the
/// next process leaves nothing else; except what another one is making.
fn killed() {
    let (_root, home) = home();
    let place = place(home.path());
    assert!(start(&home).wait().unwrap().success());
    let whole = fs::read(place.join("archive")).unwrap();
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        fs::write(place.join("archive"), BEFORE).unwrap();
        let mut child = start(&home);
        // The moment of the kill is the point: no event of the process tells it.
        std::thread::sleep(Duration::from_micros(1000 + (round * 7919) % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(place.join("archive")).unwrap();
        assert!(found == whole || found == BEFORE.as_bytes(), "{round}");
        unfinished += usize::from(names(&place).len() > 1);
        let [mut one, mut two] = [start(&home), start(&home)];
        assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
        assert_eq!(names(&place), ["archive"], "{round}");
        assert!(fs::read(place.join("archive")).unwrap() == whole, "{round}");
    }
    assert!(unfinished > 0, "no process was killed while it worked");
}
