//! Processes that create, start, stop and remove sandboxes are killed at random moments, and their machines with them.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use microsandbox::home::Home;
use microsandbox::{ErrorKind, Microsandbox, MicrosandboxError};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{Fixture, Test, block_on, builder};

pub(super) const TESTS: &[Test] = &[(
    "a_killed_process_leaves_the_old_or_the_new",
    killed_anywhere,
)];

/// Sandboxes that the processes want.
const NAMES: [&str; 3] = ["one", "two", "three"];

/// How often processes are killed.
const ROUNDS: u64 = 40;

/// Creates, starts, stops and removes sandboxes until it is killed.
pub(super) fn churn(home: Home) {
    println!("begins");
    let microsandbox = Microsandbox::at(home);
    let mut number = usize::try_from(std::process::id()).unwrap();
    block_on(async {
        loop {
            let name = NAMES[number % NAMES.len()];
            step(&microsandbox, name, number / NAMES.len())
                .await
                .unwrap();
            number += 1;
        }
    });
}

async fn step(
    microsandbox: &Microsandbox,
    name: &str,
    number: usize,
) -> Result<(), MicrosandboxError> {
    let builder = builder(microsandbox, name)
        .detached(number.is_multiple_of(2))
        .ephemeral(number.is_multiple_of(5));
    let result = match builder.create().await {
        Ok(sandbox) => sandbox.close().await,
        Err(error) if error.kind() == ErrorKind::SandboxAlreadyExists => {
            match microsandbox.start(name).await {
                Ok(sandbox) => sandbox.kill().await,
                Err(error) if error.kind() == ErrorKind::SandboxRunning => {
                    match microsandbox.get(name).await {
                        Ok(sandbox) => sandbox.kill().await,
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    let removed = microsandbox.remove(name).await;
    for error in [result, removed].into_iter().filter_map(Result::err) {
        let expected = [
            ErrorKind::SandboxNotFound,
            ErrorKind::SandboxNotRunning,
            ErrorKind::SandboxRunning,
            ErrorKind::SandboxAlreadyExists,
            ErrorKind::InvalidHandle,
            // The other one kills a machine before its guest is up.
            ErrorKind::BootFailed,
        ];
        if !expected.contains(&error.kind()) {
            return Err(error);
        }
    }
    Ok(())
}

fn killed_anywhere() {
    let fixture = Fixture::new();
    // What the processes leave comes to this one.
    set_child_subreaper(true).unwrap();
    for round in 0..ROUNDS {
        let children = [fixture.spawn("churn"), fixture.spawn("churn")].map(|mut child| {
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
            child.wait().unwrap();
        }
        if round.is_multiple_of(2) {
            kill_machines();
        }
        block_on(check(&fixture));
    }
    set_child_subreaper(false).unwrap();
    let (sandboxes, _) = fixture.directories();
    assert_eq!(sandboxes.len(), 0, "{sandboxes:?}");
}

/// Kills the machines that outlived their creators, and reaps them.
fn kill_machines() {
    let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", Pid::this()));
    for pid in children.unwrap().split_whitespace() {
        let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
    }
}

/// What is there is whole, and can be used and removed.
async fn check(fixture: &Fixture) {
    let microsandbox = &fixture.microsandbox;
    for sandbox in microsandbox.list().await.unwrap() {
        sandbox.config().unwrap();
        if sandbox.status().is_alive() {
            // It may end by itself now.
            let _ = sandbox.kill().await;
        }
        // It may have been ephemeral.
        if let Ok(sandbox) = sandbox.refresh().await {
            match sandbox.start().await {
                Ok(started) => started.close().await.unwrap(),
                // Its machine came to its end by itself meanwhile, as one does whose creator is dead: an ephemeral sandbox,
                // and one that was never ready, are no more then.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::SandboxNotFound, "{error}");
                    continue;
                }
            }
            if !sandbox.is_ephemeral() {
                sandbox.remove().await.unwrap();
            }
        }
    }
    for name in NAMES {
        let sandbox = builder(microsandbox, name).ephemeral(true).create().await;
        sandbox.unwrap().close().await.unwrap();
    }
    assert!(microsandbox.list().await.unwrap().is_empty());
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == nix::sys::wait::WaitStatus::StillAlive {
            break;
        }
    }
}
