//! `msb volume`: volumes are made, shown and removed.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::ffi::OsStringExt;

use msb_tests::running::Finished;
use msb_tests::{Home, Running};

#[track_caller]
fn volume<const N: usize>(home: &Home, arguments: [&str; N]) -> Finished {
    home.msb(std::iter::once("volume").chain(arguments))
}

#[test]
fn a_volume_lives_from_create_to_rm() {
    let home = Home::new();
    assert_eq!(
        volume(&home, ["ls"]).lines(),
        ["NAME  KIND  SIZE  USED  CREATED"]
    );
    assert_eq!(volume(&home, ["ls", "--format", "json"]).lines(), ["[]"]);
    let made = volume(
        &home,
        ["create", "cache", "--quota", "2G", "--label", "env=prod"],
    );
    assert_eq!(made.lines(), ["cache"]);
    let quiet = volume(
        &home,
        ["create", "-q", "db", "--kind", "disk", "--size=64M"],
    );
    assert_eq!(quiet.lines(), [""; 0]);
    let told = volume(&home, ["create", "third", "--format=json"]);
    for part in ["\"name\": \"third\"", "\"kind\": \"dir\""] {
        assert!(told.text().contains(part), "{told}");
    }
    assert_eq!(volume(&home, ["rm", "third"]).lines(), ["third"]);
    let data = home.msb_home().join("volumes/cache/data");
    fs::write(data.join("file"), vec![1; 3 << 20]).unwrap();

    let list = volume(&home, ["ls"]);
    let words: Vec<Vec<_>> = list
        .lines()
        .iter()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words[1][..6],
        ["cache", "dir", "2", "GiB", "3.0", "MiB"],
        "{list}"
    );
    assert_eq!(words[2][..4], ["db", "disk", "64", "MiB"], "{list}");
    let created = words[1][6];
    assert!(
        created.starts_with("20") && created.ends_with('Z'),
        "{list}"
    );
    assert_eq!(volume(&home, ["ls", "-q"]).lines(), ["cache", "db"]);
    assert_eq!(
        volume(&home, ["ls", "-q", "--label", "env"]).lines(),
        ["cache"]
    );
    assert_eq!(
        volume(&home, ["ls", "-q", "--label=env=test"]).lines(),
        [""; 0]
    );

    let json = volume(&home, ["inspect", "cache", "db", "--format", "json"]);
    let json = json.lines().join("");
    for part in [
        "\"name\": \"cache\"",
        "\"quota_mib\": 2048",
        "\"env\": \"prod\"",
        "\"capacity_bytes\": 67108864",
        "\"disk_format\": \"raw\"",
        "\"disk_fstype\": \"ext4\"",
        &format!("\"path\": \"{}\"", data.display()),
    ] {
        assert!(json.contains(part), "{part}: {json}");
    }
    let text = volume(&home, ["inspect", "cache"]);
    assert!(text.lines().contains(&"quota: 2 GiB"), "{text}");

    let usage = volume(&home, ["du"]);
    assert_eq!(usage.lines().len(), 4, "{usage}");
    assert!(usage.lines()[1].starts_with("3.0 MiB"), "{usage}");
    assert_eq!(volume(&home, ["du", "cache"]).lines().len(), 2);

    assert_eq!(
        volume(&home, ["rm", "cache", "db"]).lines(),
        ["cache", "db"]
    );
    assert_eq!(home.msb(["vol", "ls", "-q"]).lines(), [""; 0]);
    assert!(!data.exists());
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    let home = Home::new();
    volume(&home, ["create", "cache"]).lines();
    volume(&home, ["create", "cache"]).assert_error(1, "\"cache\" exists");
    volume(&home, ["create", "db", "--kind", "disk"]).assert_error(1, "needs a size");
    volume(&home, ["create", "db", "--size", "1G"]).assert_error(1, "quota");
    volume(&home, ["inspect", "db"]).assert_error(1, "o volume named \"db\"");
    volume(&home, ["du", "db"]).assert_error(1, "\"db\"");
    for arguments in [
        ["create", "a/b"],
        ["create", ".."],
        ["create", ".hidden"],
        ["create", ""],
        ["create", "a\nb"],
        ["rm", "../volumes/cache"],
        ["inspect", &"x".repeat(129)],
    ] {
        volume(&home, arguments).assert_error(2, "invalid value");
    }
    for option in ["--size=0", "--quota=512K", "--label==x", "--kind=tape"] {
        volume(&home, ["create", "db", option]).assert_error(2, "invalid value");
    }
    let name = std::ffi::OsString::from_vec(b"a\xff".to_vec());
    let finished = home.msb(["volume".into(), "create".into(), name]);
    assert_eq!(finished.code(), 2, "{finished}");
    // A name as long as one may be, and another that differs in case.
    volume(&home, ["create", &"x".repeat(128)]).lines();
    volume(&home, ["create", "Cache"]).lines();
    assert_eq!(volume(&home, ["ls", "-q"]).lines().len(), 3);
}

#[test]
fn rm_goes_on_after_an_error() {
    let home = Home::new();
    for name in ["one", "two"] {
        volume(&home, ["create", "-q", name]).lines();
    }
    let removed = volume(&home, ["rm", "one", "none", "two"]);
    removed.assert_error(1, "\"none\"");
    assert_eq!(removed.text(), "one\ntwo\n");
    assert_eq!(volume(&home, ["rm", "-f", "none"]).lines(), [""; 0]);
    let created = volume(&home, ["create", "--name=one"]);
    assert_eq!(created.lines(), ["one"]);
    let removed = volume(&home, ["rm", "--format=json", "none", "one"]);
    removed.assert_error(1, "\"none\"");
    let removed: serde_json::Value = serde_json::from_str(removed.text()).unwrap();
    assert_eq!(removed, serde_json::json!([{ "name": "one" }]));
    assert_eq!(
        volume(&home, ["rm", "-f", "--format=json", "one"]).text(),
        "[]\n"
    );
}

#[test]
fn a_directory_that_was_removed_by_hand_is_told() {
    let home = Home::new();
    volume(&home, ["create", "-q", "cache"]).lines();
    let directory = home.msb_home().join("volumes/cache");
    fs::rename(&directory, home.path().join("elsewhere")).unwrap();
    assert!(volume(&home, ["ls"]).lines()[1].contains("missing"));
    volume(&home, ["du"]).assert_error(1, "is gone");
    assert_eq!(volume(&home, ["rm", "cache"]).lines(), ["cache"]);
    // And one that was put there by hand.
    fs::create_dir(&directory).unwrap();
    volume(&home, ["create", "cache"]).assert_error(1, "recorded as no volume");
    assert!(directory.exists());
}

#[test]
fn a_program_that_makes_file_systems_is_needed_for_disks_only() {
    let home = Home::new();
    let mut command = home.command(["volume", "create", "db", "--kind=disk", "--size=16M"]);
    // An ordinary user's PATH does not lead to it.
    let finished = Running::start(command.env("PATH", "/usr/bin:/bin")).finish();
    assert_eq!(finished.lines(), ["db"]);
}

#[test]
fn a_database_that_cannot_be_used_is_told_and_left_alone() {
    let home = Home::new();
    volume(&home, ["create", "-q", "cache"]).lines();
    let database = home.msb_home().join("db/msb.db");
    let whole = fs::read(&database).unwrap();
    fs::write(
        &database,
        "this is no database but something else altogether",
    )
    .unwrap();
    volume(&home, ["ls"]).assert_error(1, "is damaged");
    // One of a later version: `user_version`, see the database file format of SQLite.
    let mut later = whole.clone();
    later[60..64].copy_from_slice(&9999_u32.to_be_bytes());
    fs::write(&database, later).unwrap();
    volume(&home, ["ls"]).assert_error(1, "has version 9999");
    fs::write(&database, whole).unwrap();
    assert_eq!(volume(&home, ["ls", "-q"]).lines(), ["cache"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    volume(&home, ["create", "-q", "cache"]).lines();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let finished = Running::start(home.command(["volume", "ls"]).stdout(writer)).finish();
    assert_eq!((finished.code(), finished.errors()), (0, ""));
}

#[test]
fn of_many_processes_with_one_name_one_makes_it() {
    let home = Home::new();
    let running: Vec<_> = (0..12)
        .map(|_| Running::start(&mut home.command(["volume", "create", "cache"])))
        .collect();
    let finished: Vec<_> = running.into_iter().map(Running::finish).collect();
    let made = finished.iter().filter(|finished| finished.code() == 0);
    assert_eq!(made.count(), 1);
    for failed in finished.iter().filter(|finished| finished.code() != 0) {
        failed.assert_error(1, "\"cache\" exists");
    }
    assert_eq!(volume(&home, ["ls", "-q"]).lines(), ["cache"]);
}
