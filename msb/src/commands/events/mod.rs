//! `msb events`

mod changes;
mod wakeups;

use std::ops::ControlFlow;
use std::time::SystemTime;

use anyhow::Context;
use clap::Args;
use microsandbox::sandbox::{SandboxHandle, StopReason};
use microsandbox::{Microsandbox, MicrosandboxError};
use serde::Serialize;
use tokio::task::JoinSet;

use self::changes::{Change, Known};
use self::wakeups::WakeUps;
use super::records::all_or_why_not;
use super::runtime::block_on;
use crate::output;
use crate::utc;

/// Tells what happens to sandboxes from now on, a JSON object on a line for each event
///
/// Events are created, starting, running, paused, draining, stopping, stopped, crashed and removed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb events
  msb events | jq -r 'select(.event == \"crashed\").name'")]
pub(super) struct Arguments {}

/// An event in JSON.
#[derive(Debug, Serialize)]
struct EventView<'a> {
    time: String,
    event: &'static str,
    name: &'a str,
    reason: Option<StopReason>,
}

/// Tells them until nobody reads any more.
pub(super) fn execute(_: &Arguments) -> anyhow::Result<u8> {
    block_on(async {
        let sandboxes = Microsandbox::from_environment()?;
        watch(&sandboxes).await?;
        Ok(0)
    })
}

async fn watch(sandboxes: &Microsandbox) -> anyhow::Result<()> {
    // First, so that nothing that happens after the first look goes unnoticed.
    let mut wake_ups = WakeUps::new(sandboxes.home()).context("cannot watch the home")?;
    let mut known = Known::default();
    let mut ends = JoinSet::new();
    let handles = list().await?;
    await_ends(known.update(&handles), &handles, &mut ends);
    loop {
        tokio::select! {
            result = wake_ups.next() => result.context("cannot watch the home")?,
            Some(_) = ends.join_next() => {}
        }
        let handles = list().await?;
        let changes = known.update(&handles);
        for change in &changes {
            if tell(change)?.is_break() {
                return Ok(());
            }
        }
        await_ends(changes, &handles, &mut ends);
    }
}

/// A machine that is killed changes no file: its end is waited for.
fn await_ends(
    changes: Vec<Change>,
    handles: &[SandboxHandle],
    ends: &mut JoinSet<Result<(), MicrosandboxError>>,
) {
    for change in changes.iter().filter(|change| change.begins_run()) {
        if let Some(handle) = handles.iter().find(|handle| handle.name() == change.name) {
            let handle = handle.clone();
            ends.spawn(async move { handle.wait_until_stopped().await.map(|_| ()) });
        }
    }
}

/// All sandboxes; nothing happens that could be told of those whose records cannot be read.
async fn list() -> anyhow::Result<Vec<SandboxHandle>> {
    Ok(all_or_why_not().await?.0)
}

fn tell(change: &Change) -> anyhow::Result<ControlFlow<()>> {
    let view = EventView {
        time: utc::rfc3339_nanos(SystemTime::now()),
        event: change.event,
        name: &change.name,
        reason: change.reason,
    };
    output::stream(&format!("{}\n", serde_json::to_string(&view)?))
}
