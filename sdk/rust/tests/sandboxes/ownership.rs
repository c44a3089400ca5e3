//! Who ends with whom.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use microsandbox::home::Home;
use microsandbox::sandbox::{SandboxStatus, StopReason};
use microsandbox::{ErrorKind, Microsandbox};

use crate::{Fixture, Test, block_on, builder};

pub(super) const TESTS: &[Test] = &[
    ("an_attached_sandbox_dies_with_its_creator", attached),
    ("a_detached_sandbox_survives_its_creator", detached),
    ("dropping_an_attached_sandbox_ends_it", dropped),
    (
        "dropping_one_that_has_ended_leaves_the_next_alone",
        dropped_late,
    ),
    (
        "who_lets_go_of_a_run_that_has_ended_leaves_the_next_alone",
        let_go_late,
    ),
    ("a_sandbox_is_let_go", let_go),
    ("who_connects_owns_nothing", connected),
    (
        "who_started_it_stops_it_in_good_order_without_the_database",
        without_database,
    ),
];

/// A creator that waits to be killed.
pub(super) fn creator(home: Home, detached: bool) {
    let microsandbox = Microsandbox::at(home);
    block_on(async {
        let builder = builder(&microsandbox, "web").detached(detached);
        let sandbox = builder.create().await.unwrap();
        println!("ready");
        sandbox.wait_until_stopped().await.unwrap();
    });
}

/// One that starts what another has created, and waits to be killed.
pub(super) fn starter(home: Home) {
    block_on(async {
        let sandbox = Microsandbox::at(home).start("web").await.unwrap();
        println!("ready");
        sandbox.wait_until_stopped().await.unwrap();
    });
}

fn wait_until_ready(creator: &mut Child) {
    let mut line = String::new();
    let output = creator.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
}

fn kill_creator(fixture: &Fixture, role: &str) {
    let mut creator = fixture.spawn(role);
    wait_until_ready(&mut creator);
    creator.kill().unwrap();
    creator.wait().unwrap();
}

fn attached() {
    let fixture = Fixture::new();
    kill_creator(&fixture, "attached");
    block_on(async {
        let handle = fixture.microsandbox.get("web").await.unwrap();
        let result = handle.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::CreatorDied);
    });
}

fn detached() {
    let fixture = Fixture::new();
    kill_creator(&fixture, "detached");
    block_on(async {
        let handle = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(handle.status(), SandboxStatus::Running);
        handle.metrics().await.unwrap();
        handle.stop().await.unwrap();
    });
}

fn dropped() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let handle = fixture.microsandbox.get("web").await.unwrap();
        drop(sandbox);
        let result = handle.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Killed);
    });
}

fn dropped_late() {
    let fixture = Fixture::new();
    block_on(async {
        let before = fixture.builder("web").create().await.unwrap();
        before.kill().await.unwrap();
        let again = fixture.microsandbox.start("web").await.unwrap();
        drop(before);
        let end = again.wait_until_stopped();
        let moment = tokio::time::timeout(Duration::from_millis(500), end);
        assert!(moment.await.is_err(), "it was ended, too");
        again.stop().await.unwrap();
    });
}

fn let_go_late() {
    let fixture = Fixture::new();
    block_on(async {
        let first = fixture.builder("web").create().await.unwrap();
        first.kill().await.unwrap();
        let second = fixture.microsandbox.start("web").await.unwrap();
        second.kill().await.unwrap();
        let mut other = fixture.spawn("starter");
        wait_until_ready(&mut other);
        first.close().await.unwrap();
        let error = second.detach().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxNotRunning, "{error}");
        let handle = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(handle.status(), SandboxStatus::Running);
        other.kill().unwrap();
        other.wait().unwrap();
        let result = handle.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::CreatorDied);
    });
}

fn let_go() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        sandbox.detach().await.unwrap();
        let handle = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(handle.status(), SandboxStatus::Running);
        handle.stop().await.unwrap();
        // Who made a detached sandbox stops it with `close`, and not by forgetting it.
        let sandbox = handle.start_detached().await.unwrap();
        assert!(!sandbox.owns_lifecycle());
        drop(sandbox);
        assert_eq!(
            handle.refresh().await.unwrap().status(),
            SandboxStatus::Running
        );
        handle.stop().await.unwrap();
        let sandbox = handle.start_detached().await.unwrap();
        sandbox.close().await.unwrap();
        assert_eq!(
            handle.refresh().await.unwrap().status(),
            SandboxStatus::Stopped
        );
    });
}

fn connected() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let handle = fixture.microsandbox.get("web").await.unwrap();
        let connected = handle.connect().await.unwrap();
        assert!(!connected.owns_lifecycle());
        connected.close().await.unwrap();
        assert_eq!(
            handle.refresh().await.unwrap().status(),
            SandboxStatus::Running
        );
        sandbox.close().await.unwrap();
        assert_eq!(
            handle.refresh().await.unwrap().status(),
            SandboxStatus::Stopped
        );
    });
}

fn without_database() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let handle = fixture.microsandbox.get("web").await.unwrap();
        let database = fixture.home().database();
        let aside = database.with_extension("aside");
        fs::rename(&database, &aside).unwrap();
        fs::write(&database, "no database".repeat(1000)).unwrap();
        let error = sandbox.close().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Database, "{error}");
        fs::rename(&aside, &database).unwrap();
        let result = handle.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Stopped);
        assert_eq!(result.source.as_deref(), Some("machine"));
    });
}
