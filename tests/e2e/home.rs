//! A home that is no good any more while sandboxes live in it: its disk is full, its database is locked, cannot be written, is
//! damaged or of a later release.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use msb_tests::namespace::in_namespace;
use msb_tests::{Finished, Home, Running, product};
use nix::sys::signal::{Signal, kill};
use rusqlite::{Connection, TransactionBehavior};

fn create_command(home: &Home, name: &str) -> std::process::Command {
    let root = product::busybox();
    let name = format!("--name={name}");
    home.command([
        "create",
        "--memory=128M",
        "--root-upper=tmpfs",
        &name,
        root.to_str().unwrap(),
    ])
}

fn create(home: &Home, name: &str) -> Finished {
    Running::start(&mut create_command(home, name)).finish()
}

#[test]
fn a_full_disk_under_the_log_costs_the_log_only() {
    let home = Home::new();
    let script = "
        mount -t tmpfs -o size=6m none \"$MSB_HOME\"
        \"$@\"
        ! cat /dev/zero >\"$MSB_HOME/full\" 2>/dev/null
        \"$1\" exec web sh -c 'head -c 8388608 /dev/zero; echo >&2 to the end' | wc -c
        \"$1\" ls -q --running
        rm \"$MSB_HOME/full\"
        \"$1\" exec web echo room again
        \"$1\" stop web
        \"$1\" logs --source=stdout,system web | tr -d '\\0' | grep -e missing -e room
        \"$1\" rm web";
    let finished =
        Running::start(&mut in_namespace(&create_command(&home, "web"), script)).finish();
    assert_eq!(finished.code(), 0, "{finished}");
    let lines: Vec<_> = finished.text().lines().collect();
    let [
        "web",
        "8388608",
        "web",
        "room again",
        "web",
        missing @ ..,
        "room again",
        "web",
    ] = lines.as_slice()
    else {
        panic!("{finished}")
    };
    let bytes = missing.iter().map(|line| {
        let number = line.strip_suffix(" bytes are missing here: the log could not be written");
        number.and_then(|number| number.parse::<u64>().ok())
    });
    let bytes = bytes.sum::<Option<u64>>();
    assert!(bytes.is_some_and(|bytes| bytes > 1 << 20), "{missing:?}");
    assert_eq!(finished.errors(), "to the end\n");
}

#[test]
fn a_locked_database_stops_writers_and_no_readers() {
    let home = Home::new();
    assert_eq!(create(&home, "web").lines(), ["web"]);
    let mut connection = Connection::open(home.msb_home().join("db/msb.db")).unwrap();
    let locked = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    assert_eq!(home.msb(["ls", "-q"]).lines(), ["web"]);
    assert_eq!(home.exec_shell("web", "echo hello").lines(), ["hello"]);
    let refused = create(&home, "other");
    refused.assert_error(1, "locked for too long");
    // Not even those who see that a machine has died, which nobody can record now.
    kill(home.machine(), Signal::SIGKILL).unwrap();
    home.wait_until_alone();
    let crashed = home.msb(["ls", "-q", "--filter=status=crashed"]);
    assert_eq!(crashed.lines(), ["web"]);
    drop(locked);
    assert_eq!(create(&home, "other").lines(), ["other"]);
    assert_eq!(home.msb(["rm", "-f", "web", "other"]).code(), 0);
}

#[test]
fn a_home_that_cannot_be_written_is_told() {
    let home = Home::new();
    assert_eq!(create(&home, "web").lines(), ["web"]);
    let script = "mount --bind \"$MSB_HOME\" \"$MSB_HOME\"; mount -o remount,ro,bind \"$MSB_HOME\"; exec \"$@\"";
    let read_only = |arguments: &[&str]| {
        Running::start(&mut in_namespace(&home.command(arguments), script)).finish()
    };
    read_only(&["ls"]).assert_error(1, "read-only");
    read_only(&["stop", "web"]).assert_error(1, "read-only");
    let finished =
        Running::start(&mut in_namespace(&create_command(&home, "other"), script)).finish();
    finished.assert_error(1, "");
    // Nothing of it is left, and the machine has not noticed.
    assert_eq!(home.msb(["ls", "-q"]).lines(), ["web"]);
    assert_eq!(home.exec_shell("web", "echo hello").lines(), ["hello"]);
    assert_eq!(home.msb(["rm", "-f", "web"]).code(), 0);
}

#[test]
fn a_database_that_is_no_good_is_told_and_what_runs_goes_on() {
    let home = Home::new();
    assert_eq!(create(&home, "web").lines(), ["web"]);
    let machine = home.machine();
    let database = home.msb_home().join("db/msb.db");
    // All of it in one file: nobody has it open.
    let connection = Connection::open(&database).unwrap();
    connection
        .pragma_update(None, "wal_checkpoint", "TRUNCATE")
        .unwrap();
    connection.close().unwrap();
    let whole = fs::read(&database).unwrap();
    let mut later = whole.clone();
    // `user_version`, see the database file format of SQLite.
    later[60..64].copy_from_slice(&9999_u32.to_be_bytes());
    let damaged = b"this is no database but something else altogether".to_vec();
    for (contents, complaint) in [(damaged, "is damaged"), (later, "has version 9999")] {
        fs::write(&database, contents).unwrap();
        home.msb(["ls"]).assert_error(1, complaint);
        home.msb(["stop", "web"]).assert_error(1, complaint);
        // What runs is reached without it.
        assert_eq!(home.exec_shell("web", "echo hello").lines(), ["hello"]);
        create(&home, "other").assert_error(1, complaint);
        assert_eq!(home.machine(), machine);
    }
    fs::write(&database, whole).unwrap();
    assert_eq!(home.exec_shell("web", "echo hello").lines(), ["hello"]);
    assert_eq!(home.msb(["rm", "-f", "web"]).code(), 0);
}
