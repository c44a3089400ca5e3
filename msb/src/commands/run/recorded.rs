//! `msb run` of a sandbox that others can find: one that has a name, a terminal that can be left, or a life of its own.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;

use anyhow::Context;
use microsandbox::sandbox::{SandboxConfig, SandboxStatus};
use microsandbox::{MicrosandboxError, Sandbox};
use nix::sys::signal::Signal;

use super::plan::Plan;
use super::timings::Timings;
use crate::commands::advice::advise;
use crate::commands::process::{Outcome, signal_status, wait_for};
use crate::commands::running::RunningSandbox;
use crate::commands::runtime::block_on;
use crate::commands::sandbox::name_or_new;
use crate::commands::{exec, kept};
use crate::operand::operand;
use crate::options::DetachKeys;
use crate::output;
use crate::signals::Signals;
use crate::terminal;

/// What becomes of the command.
#[derive(Debug, Clone)]
pub(super) enum Manner {
    /// It is the sandbox's own process, and nobody waits for it.
    Detached {
        /// Whether it has a terminal.
        tty: bool,
    },
    /// It is the sandbox's own process on this terminal, until the keys leave it alone.
    Terminal(DetachKeys),
    /// It is the only reason for which the sandbox runs, which is stopped afterwards.
    Foreground,
}

/// Runs the sandbox and returns the exit status.
///
/// # Errors
/// When it cannot be made, or is lost sight of.
pub(super) fn run(
    plan: Plan,
    console: Option<File>,
    signals: &Signals,
    mut timings: Timings,
) -> anyhow::Result<u8> {
    let manner = plan.manner;
    let name = name_or_new(plan.sandbox.name.clone())?;
    let image = plan.sandbox.held_image();
    let mut config = plan.sandbox.configuration(&name)?;
    config.ephemeral = plan.ephemeral;
    match manner {
        Manner::Detached { tty } => {
            config.detached = true;
            config.tty = tty;
        }
        Manner::Terminal(_) => {
            config.tty = true;
            let size = terminal::size();
            config.tty_size = Some((size.rows, size.columns));
            // Its kind, which the guest should know.
            let term = std::env::var("TERM")
                .ok()
                .map(|term| ("TERM".to_owned(), term));
            config.env = term.into_iter().chain(config.env).collect();
        }
        Manner::Foreground => {
            config.entrypoint.clear();
            config.command.clear();
            // Nor does the image's entry point run besides.
            config.run_entrypoint = false;
        }
    }
    let kept = config.clone();
    block_on(async {
        let sandbox = match create(config, console, signals).await? {
            Created::Up(sandbox) => sandbox,
            Created::Interrupted(signal) => return Ok(signal_status(signal as i32)),
        };
        // From now on the sandbox's record holds it.
        drop(image);
        if let Some(startup) = sandbox.startup() {
            timings.started(startup);
        }
        let running = RunningSandbox::of(name.clone(), kept)?;
        let status = match manner {
            Manner::Detached { .. } => {
                output::print(&format!("{name}\n"))?;
                0
            }
            Manner::Terminal(keys) => on_terminal(*sandbox, &running, &keys, signals).await?,
            Manner::Foreground => {
                let status = exec::run(&running, plan.exec, plan.timeout, signals);
                // Others may have ended it: that the command was told, and it told the exit status.
                advised(sandbox.close()).await?;
                status?
            }
        };
        timings.stopped();
        if let Some(format) = plan.timings_format {
            output::tell(&format!("{}\n", timings.display(format)));
        }
        Ok(status)
    })
}

/// What became of the creation.
enum Created {
    Up(Box<Sandbox>),
    /// The user did not wait for it; nothing of it is left.
    Interrupted(Signal),
}

async fn create(
    config: SandboxConfig,
    console: Option<File>,
    signals: &Signals,
) -> anyhow::Result<Created> {
    let mut builder = Sandbox::builder(config.name.as_str()).with_config(config);
    if let Some(console) = console {
        builder = builder.console(console);
    }
    tokio::select! {
        created = builder.create() => match created {
            Ok(sandbox) => Ok(Created::Up(Box::new(sandbox))),
            Err(error) => Err(advise(error).await),
        },
        signal = signal_to_end(signals) => Ok(Created::Interrupted(signal?)),
    }
}

/// Waits for a signal that ends programs. Nobody misses what arrives after the wait was given up: it is only looked for
/// there, and not taken.
async fn signal_to_end(signals: &Signals) -> anyhow::Result<Signal> {
    loop {
        let descriptor = signals
            .as_fd()
            .try_clone_to_owned()
            .context("cannot wait for signals")?;
        let wait = move || wait_for([Some(descriptor.as_fd())], None);
        tokio::task::spawn_blocking(wait)
            .await
            .context("a task ended early")??;
        match signals.next().context("cannot read signals")? {
            Some(Signal::SIGWINCH) | None => {}
            Some(signal) => return Ok(signal),
        }
    }
}

/// Is the sandbox's own process until it ends, and the sandbox with it, or until it is left alone.
async fn on_terminal(
    sandbox: Sandbox,
    running: &RunningSandbox,
    keys: &DetachKeys,
    signals: &Signals,
) -> anyhow::Result<u8> {
    let (outcome, session) = match kept::follow(running, None, keys, signals) {
        Ok(followed) => followed,
        Err(error) => return ended_before(&sandbox, error).await,
    };
    match outcome {
        Outcome::Detached => advised(sandbox.detach()).await?,
        Outcome::Exited(_) | Outcome::Refused(_) => {
            even_if_gone(sandbox.wait_until_stopped().await.map(drop)).await?;
        }
        Outcome::OutputClosed | Outcome::Disconnected | Outcome::TimedOut | Outcome::Killed(_) => {
            even_if_gone(sandbox.kill().await).await?;
        }
    }
    Ok(kept::report(running, outcome, None, session))
}

/// A short command may have ended before anybody could come to it, and its sandbox with it. Returns its exit status.
async fn ended_before(sandbox: &Sandbox, error: anyhow::Error) -> anyhow::Result<u8> {
    let name = sandbox.name();
    let status = advised(Sandbox::get(name)).await?.status();
    if status.is_alive() && status != SandboxStatus::Stopping {
        return Err(error);
    }
    let end = advised(sandbox.wait_until_stopped()).await?;
    let status = match (end.exit_code, end.signal) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => signal_status(signal),
        (None, None) => return Err(error),
    };
    tracing::warn!(
        "the command ended before its output could be shown: `msb logs {}` has it",
        operand(name)
    );
    Ok(status)
}

/// What became of an end that may have come by itself, or by others, before it was asked for or waited for.
async fn even_if_gone(ended: Result<(), MicrosandboxError>) -> anyhow::Result<()> {
    match ended {
        Err(
            MicrosandboxError::SandboxNotRunning { .. }
            | MicrosandboxError::SandboxNotFound { .. }
            | MicrosandboxError::InvalidHandle { .. },
        ) => Ok(()),
        ended => advised(async { ended }).await,
    }
}

async fn advised<T>(work: impl Future<Output = Result<T, MicrosandboxError>>) -> anyhow::Result<T> {
    match work.await {
        Ok(value) => Ok(value),
        Err(error) => Err(advise(error).await),
    }
}
