//! How long small things take in a sandbox that runs: `latency NAME COUNT exec|ping`, for `bench/run`. Prints microseconds, one
//! measurement on a line: `greeting`, a connection to the agent and its first frame, which is one trip to the guest and back;
//! `exec`, a process that does nothing; `fork`, the same process started by the guest's own shell.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::{Duration, Instant};

use microsandbox::Sandbox;
use microsandbox::protocol::{FrameReader, GuestMessage};

/// Starts the same process that [`exec`] does, so many times.
const LOOP: &str = "n=0; while [ $n -lt $0 ]; do $1; n=$((n + 1)); done";

/// The process, and what takes its place where the loop is to be measured without it: a builtin.
const PROCESS: &str = "/bin/true";
const NOTHING: &str = ":";

/// Processes that the guest's shell starts at a time.
const FORKS: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count, what] = arguments.as_slice() else {
        return Err("usage: latency NAME COUNT exec|ping".into());
    };
    let count: u32 = count.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let sandbox = Sandbox::get(name).await?.connect().await?;
        // The first time pages and caches are filled.
        greeting(&sandbox).await?;
        exec(&sandbox).await?;
        for _ in 0..count {
            show("greeting", greeting(&sandbox).await?);
            if what == "exec" {
                show("exec", exec(&sandbox).await?);
            }
        }
        if what == "exec" {
            for _ in 0..count.div_ceil(FORKS) {
                let nothing = repeat(&sandbox, NOTHING).await?;
                let process = repeat(&sandbox, PROCESS).await?;
                show("fork", process.saturating_sub(nothing) / FORKS);
            }
        }
        Ok(())
    })
}

fn show(name: &str, took: Duration) {
    println!("{name} {}", took.as_micros());
}

/// Waits for the first frame of a fresh connection.
async fn greeting(sandbox: &Sandbox) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    let mut frames = FrameReader::new(sandbox.connect_agent().await?);
    match frames.read::<GuestMessage>()? {
        Some(GuestMessage::Hello(_)) => Ok(begin.elapsed()),
        other => Err(format!("the agent said {other:?}").into()),
    }
}

async fn exec(sandbox: &Sandbox) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    let output = sandbox.exec(PROCESS, [""; 0]).await?;
    let took = begin.elapsed();
    if output.success() {
        Ok(took)
    } else {
        Err(format!("the process ended with {:?}", output.exit).into())
    }
}

/// How long the guest's shell takes for so many times this command.
async fn repeat(sandbox: &Sandbox, command: &str) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    let output = sandbox
        .exec("sh", ["-c", LOOP, &FORKS.to_string(), command])
        .await?;
    let took = begin.elapsed();
    if output.success() {
        Ok(took)
    } else {
        Err(format!("the loop ended with {:?}", output.exit).into())
    }
}
