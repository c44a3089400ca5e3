//! Fifty programs that use one home at a time, `msb` and the library: each does what it is to do, and none sees half of anything.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use microsandbox::sandbox::SandboxStatus;
use microsandbox::{ErrorKind, Microsandbox, MicrosandboxError};
use msb_tests::running::piped;
use msb_tests::sandboxes::install;
use msb_tests::{Finished, Home, Running, product};

/// Tells this program that it is a client of the library, and in which home.
const CLIENT: &str = "MSB_TEST_CLIENT";

/// Not a test but a role: a program that uses the library while others do.
#[test]
fn client() {
    let Some(home) = env::var_os(CLIENT) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime.unwrap().block_on(use_library(&Microsandbox::at(
        microsandbox::home::Home::at(home),
    )));
    done.unwrap();
}

async fn use_library(microsandbox: &Microsandbox) -> Result<(), MicrosandboxError> {
    let builder = microsandbox.builder("shared").image(product::busybox());
    let created = builder.memory(64).detached(true).create().await;
    let made = match created {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::SandboxAlreadyExists => false,
        Err(error) => return Err(error),
    };
    for sandbox in microsandbox.list().await? {
        // Whoever is listed is whole.
        sandbox.config()?;
    }
    let shared = match microsandbox.get("shared").await {
        // Whoever creates it has its name a moment before it is recorded.
        Err(error) if !made && error.kind() == ErrorKind::SandboxNotFound => return Ok(()),
        shared => shared?,
    };
    // Whoever made it has waited until it is up, the others have not.
    if shared.status() == SandboxStatus::Running {
        let output = shared.connect().await?.shell("echo $((6 * 7))").await?;
        assert_eq!(output.stdout_text(), "42\n");
    }
    Ok(())
}

/// What each of the programs of the crowd does.
fn crowd(home: &Home, number: usize) -> Command {
    let root = product::busybox();
    let root = root.to_str().unwrap();
    match (number % 10, number / 10) {
        (0 | 1, _) => {
            let mut client = Command::new(env::current_exe().unwrap());
            client
                .args(["--exact", "client"])
                .env(CLIENT, home.msb_home());
            piped(&mut client);
            client
        }
        (3, 0) => home.command([
            "create",
            "--memory=64M",
            "--root-upper=tmpfs",
            "--name=own",
            root,
        ]),
        (4, _) => home.command([
            "create",
            "--memory=64M",
            "--root-upper=tmpfs",
            "--name=one",
            root,
        ]),
        (5 | 6, _) => home.command(["volume", "create", &format!("volume-{number}")]),
        (7, _) => home.command(["metrics", "--format=json"]),
        _ => home.command(["ls", "--format=json"]),
    }
}

#[test]
fn fifty_programs_use_one_home_at_a_time() {
    let home = Home::new();
    install(&home);
    let running: Vec<_> = (0..50)
        .map(|number| (number, Running::start(&mut crowd(&home, number))))
        .collect();
    let mut finished: BTreeMap<usize, Vec<Finished>> = BTreeMap::new();
    for (number, running) in running {
        finished
            .entry(number % 10)
            .or_default()
            .push(running.finish());
    }
    for (kind, finished) in &finished {
        let failed = finished.iter().filter(|finished| finished.code() != 0);
        match kind {
            // One name, of which one of them becomes the sandbox.
            4 => {
                let mut failed = failed.collect::<Vec<_>>();
                assert_eq!(failed.len(), finished.len() - 1, "{}", failed[0]);
                failed.retain(|failed| !failed.errors().contains("--replace"));
                assert!(failed.is_empty(), "{}", failed[0]);
            }
            _ => {
                let failed: Vec<_> = failed.map(ToString::to_string).collect();
                assert!(failed.is_empty(), "{failed:#?}");
            }
        }
    }
    let names = home.msb(["ls", "-q"]);
    assert_eq!(names.lines(), ["one", "own", "shared"]);
    let volumes = home.msb(["volume", "ls", "-q"]);
    assert_eq!(volumes.lines().len(), 10);
    for name in names.lines() {
        assert_eq!(home.exec_shell(name, "echo up").lines(), ["up"], "{name}");
    }
    let removed = home.msb(["rm", "-f"].iter().chain(&names.lines()));
    assert_eq!(removed.code(), 0, "{removed}");
    home.wait_until_alone();
    assert_eq!(home.left_over(), [""; 0]);
}
