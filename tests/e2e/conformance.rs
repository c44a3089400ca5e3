//! The file system conformance suites pjdfstest and fsx: on the host, and on what a guest sees of it.
//!
//! What fails in a guest and not on the host must be what `tests/conformance/expected` says, no more and no less.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use msb_tests::running::piped;
use msb_tests::{Finished, Guest, Home, Running, product};
use nix::unistd::geteuid;

/// Every test but `link::link_count_max`, which makes as many links as the file system allows: 65,000 on ext4.
const TESTS: [&str; 20] = [
    "chflags",
    "chmod",
    "chown",
    "link::c",
    "link::e",
    "link::r",
    "link::s",
    "link::u",
    "mkdir",
    "mkfifo",
    "mknod",
    "nfsv4acl",
    "open",
    "posix_fallocate",
    "rename",
    "rmdir",
    "symlink",
    "truncate",
    "unlink",
    "utimensat",
];

/// pjdfstest needs root: to give files away and to become other users.
fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("not root: pjdfstest is left out");
    }
    root
}

/// Copies the suites and their settings to where every user can read them.
fn suites(home: &Home) -> PathBuf {
    let suites = home.folder("suites");
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    for (folder, name) in [
        (product::conformance(), "pjdfstest"),
        (product::conformance(), "fsx"),
        (product::conformance(), "sleep"),
        (settings.clone(), "pjdfstest.toml"),
        (settings.clone(), "fsx.toml"),
        (settings, "fsx-without-mappings.toml"),
    ] {
        fs::copy(folder.join(name), suites.join(name)).unwrap();
    }
    suites
}

/// `--volume` with this value.
fn volume(source: &Path, target: &str) -> OsString {
    let mut option = OsString::from("--volume=");
    option.push(source);
    option.push(":");
    option.push(target);
    option
}

/// How each test of pjdfstest ended, and what was said about it.
struct Outcomes {
    tests: BTreeMap<String, &'static str>,
    output: String,
}

impl Outcomes {
    /// Reads what pjdfstest printed: a line for each test, its name first and its result last, and indented lines with
    /// details.
    #[track_caller]
    fn of(finished: &Finished) -> Outcomes {
        let mut tests = BTreeMap::new();
        let output = finished.text().to_owned();
        for line in output.lines().filter(|line| line.contains("::")) {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap().to_owned();
            let result = words.next_back();
            for known in ["ok", "FAILED", "skipped"] {
                if result == Some(known) && !line.starts_with('\t') {
                    tests.insert(name.clone(), known);
                }
            }
        }
        let total = output
            .lines()
            .rev()
            .find(|line| line.starts_with("Summary"));
        let total = total.unwrap_or_else(|| panic!("it was not finished: {finished}"));
        assert!(
            tests.len() > 350 && total.ends_with(&format!(" {} total", tests.len())),
            "{} of {total}",
            tests.len()
        );
        Outcomes { tests, output }
    }

    /// Names of the tests that ended so.
    fn that(&self, result: &str) -> BTreeSet<&str> {
        let tests = self.tests.iter();
        tests
            .filter(|(_, other)| **other == result)
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// What was said about these tests.
    fn details(&self, tests: BTreeSet<&String>) -> Vec<&str> {
        let mut wanted = false;
        let mut details = Vec::new();
        for line in self.output.lines() {
            if !line.starts_with(['\t', ' ']) {
                let name = line.split_whitespace().next();
                wanted = tests.iter().any(|test| name == Some(test));
            }
            if wanted {
                details.push(line);
            }
        }
        details
    }
}

/// Runs pjdfstest in a folder of this machine.
#[track_caller]
fn on_the_host(suites: &Path, folder: &Path) -> Outcomes {
    let mut command = Command::new(suites.join("pjdfstest"));
    command
        .env("NO_COLOR", "1")
        .arg("-c")
        .arg(suites.join("pjdfstest.toml"))
        .arg("-p")
        .arg(folder)
        .args(["-s", "/dev/shm"])
        .args(TESTS);
    Outcomes::of(&Running::start(piped(&mut command)).finish())
}

/// Runs pjdfstest in a folder that a guest sees.
#[track_caller]
fn in_a_guest(guest: Guest<'_>, suites: &Path, folder: &str) -> Outcomes {
    let guest = guest.with([
        volume(suites, "/suites:ro"),
        "--env=PATH=/suites:/usr/bin:/bin".into(),
        "--env=NO_COLOR=1".into(),
    ]);
    let command = ["/suites/pjdfstest", "-c", "/suites/pjdfstest.toml", "-p"];
    let places = [folder, "-s", "/dev/shm"];
    Outcomes::of(&guest.run(command.iter().chain(&places).chain(&TESTS)))
}

/// The tests that the file `name` lists; a line with a reason stands above each group.
fn expected(name: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conformance/expected")
        .join(name);
    let list = fs::read_to_string(path).unwrap();
    assert!(list.starts_with("# "), "the first reason is missing");
    let names = list.lines().filter(|line| !line.starts_with('#'));
    names.map(str::to_owned).collect()
}

/// Asserts that the guest fails where the host does and where the file `list` says, and leaves out no other test.
#[track_caller]
fn assert_expected(host: &Outcomes, guest: &Outcomes, list: &str) {
    assert_eq!(guest.that("skipped"), host.that("skipped"));
    let failed = guest.that("FAILED");
    let failed: BTreeSet<String> = failed
        .difference(&host.that("FAILED"))
        .map(|name| (*name).to_owned())
        .collect();
    let expected = expected(list);
    let surprising: BTreeSet<_> = failed.difference(&expected).collect();
    assert!(
        surprising.is_empty(),
        "these fail, and not on the host: {:#?}",
        guest.details(surprising)
    );
    let mended: Vec<_> = expected.difference(&failed).collect();
    assert!(
        mended.is_empty(),
        "these pass, take them from tests/conformance/expected/{list}: {mended:#?}"
    );
}

#[test]
fn a_shared_folder_does_what_pjdfstest_wants() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let suites = suites(&home);
    let share = home.folder("share");
    let host = on_the_host(&suites, &share);
    let guest = home.busybox().with([volume(&share, "/data")]);
    let guest = in_a_guest(guest, &suites, "/data");
    assert_expected(&host, &guest, "shared-folder");
    assert_eq!(fs::read_dir(&share).unwrap().count(), 0);
}

#[test]
fn a_shared_folder_of_an_ordinary_user_does_what_pjdfstest_wants() {
    if !is_root() {
        return;
    }
    let home = Home::of_ordinary_user();
    let suites = suites(&home);
    let root = home.path().join("root");
    let mut copy = Command::new("cp");
    let copy = copy.arg("-a").arg(product::busybox()).arg(&root);
    assert_eq!(Running::start(piped(copy)).finish().code(), 0);
    let share = home.folder("share");
    let host = on_the_host(&suites, &share);
    chown(&share, Some(1000), Some(1000)).unwrap();
    let guest = home.guest(root).with([volume(&share, "/data")]);
    let guest = in_a_guest(guest, &suites, "/data");
    assert_expected(&host, &guest, "folder-of-an-ordinary-user");
}

#[test]
fn the_private_layer_does_what_pjdfstest_wants() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let suites = suites(&home);
    let host = on_the_host(&suites, &home.folder("here"));
    let guest = in_a_guest(home.busybox().with(["--memory=512M"]), &suites, "/var/tmp");
    assert_expected(&host, &guest, "private-layer");
}

/// Exercises a file in the folder and leaves it there as fsx made it.
const EXERCISE: &str = "set -e; cd $FOLDER
    $SUITES/fsx -f $SUITES/fsx.toml -N 1000 -S 7 mapped
    $SUITES/fsx -f $SUITES/fsx-without-mappings.toml -N 1000 -S 8 unmapped
    sha256sum mapped unmapped";

/// What fsx says at the end of both runs, and the sums of the files.
#[track_caller]
fn sums(finished: &Finished) -> Vec<String> {
    assert_eq!(finished.code(), 0, "{finished}");
    let lines: Vec<_> = finished.text().lines().map(str::to_owned).collect();
    let (sums, said): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.ends_with("mapped"));
    assert_eq!(sums.len(), 2, "{finished}");
    assert!(
        said.iter()
            .all(|line| line.is_empty() || line.contains("A-OK")),
        "{finished}"
    );
    sums
}

/// Exercises a folder of this machine.
#[track_caller]
fn exercised_here(suites: &Path, folder: &Path) -> Vec<String> {
    let mut shell = Command::new("sh");
    shell.env("FOLDER", folder).env("SUITES", suites);
    sums(&Running::start(piped(shell.args(["-c", EXERCISE]))).finish())
}

/// Exercises a folder that a guest sees.
#[track_caller]
fn exercised_there(guest: Guest<'_>, suites: &Path, folder: &str) -> Vec<String> {
    let options = [
        volume(suites, "/suites:ro"),
        "--env=SUITES=/suites".into(),
        format!("--env=FOLDER={folder}").into(),
    ];
    sums(&guest.with(options).shell(EXERCISE))
}

#[test]
fn fsx_finds_its_data_in_a_shared_folder() {
    let home = Home::new();
    let suites = suites(&home);
    let share = home.folder("share");
    let guest = home.busybox().with([volume(&share, "/data")]);
    let there = exercised_there(guest, &suites, "/data");
    // The same operations on the host's own file system: the host sees what the guest saw.
    assert_eq!(exercised_here(&suites, &home.folder("here")), there);
    let mut sum = Command::new("sha256sum");
    let sum = sum.current_dir(&share).args(["mapped", "unmapped"]);
    assert_eq!(Running::start(piped(sum)).finish().lines(), there);
}

#[test]
fn fsx_finds_its_data_in_the_private_layer() {
    let home = Home::new();
    let suites = suites(&home);
    let guest = exercised_there(home.busybox(), &suites, "/var/tmp");
    assert_eq!(exercised_here(&suites, &home.folder("here")), guest);
}
