//! Processes that go on without their client, and the way back to them.

use std::time::Duration;

use microsandbox::control::{ControlClient, ControlError, ControlRequest, RefusalKind};
use microsandbox::protocol::Exec;

use super::process::{Outcome, Returning, conclude, refused};
use super::running::{RunningSandbox, gone};
use crate::failure::{self, with_hint};
use crate::operand::operand;
use crate::options::DetachKeys;
use crate::output;
use crate::signals::Signals;

/// How long a machine's process may take to answer. It does so at once, unless the host is overloaded.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Begins a process that goes on by itself, and returns the number of its session.
///
/// # Errors
/// When the guest does not begin it.
pub(super) fn begin(sandbox: &RunningSandbox, exec: Exec) -> anyhow::Result<u64> {
    let program = exec.args.first().map_or_else(
        || "the shell".to_owned(),
        |program| String::from_utf8_lossy(&program.0).into_owned(),
    );
    let request = ControlRequest::Run(Box::new(exec));
    let client = connect(sandbox)?;
    match client.open_session(&request, ANSWER_LIMIT) {
        Ok(session) => Ok(session.opened.session),
        Err(ControlError::Exec(failure)) => Err(refused(failure, &program)),
        Err(error) => Err(advise(error, sandbox)),
    }
}

/// Comes back to a session, or to the sandbox's own process, and is it from there on. Returns its exit status.
///
/// # Errors
/// When there is no such session, or somebody else is there.
pub(super) fn attach(
    sandbox: &RunningSandbox,
    number: Option<u64>,
    keys: &DetachKeys,
    signals: &Signals,
) -> anyhow::Result<u8> {
    let (outcome, session) = follow(sandbox, number, keys, signals)?;
    Ok(report(sandbox, outcome, number, session))
}

/// Says what there is to say about an outcome, and returns the exit status.
pub(super) fn report(
    sandbox: &RunningSandbox,
    outcome: Outcome,
    number: Option<u64>,
    session: u64,
) -> u8 {
    if matches!(outcome, Outcome::Detached) {
        let name = operand(&sandbox.name);
        let back = match number {
            None => format!("msb attach {name}"),
            Some(_) => format!("msb exec --reattach {session} {name}"),
        };
        output::tell(&format!(
            "\nThe process goes on: `{back}` comes back to it.\n"
        ));
    }
    let (status, error) = conclude(outcome, "the process", None, || gone(&sandbox.name));
    if let Some(error) = error {
        failure::report(&error);
    }
    status
}

/// Is a process until it ends or is left alone. Also returns the number of its session.
///
/// # Errors
/// As [`attach`].
pub(super) fn follow(
    sandbox: &RunningSandbox,
    number: Option<u64>,
    keys: &DetachKeys,
    signals: &Signals,
) -> anyhow::Result<(Outcome, u64)> {
    let request = ControlRequest::Attach {
        session: number,
        seen: 0,
    };
    let session = connect(sandbox)?
        .open_session(&request, ANSWER_LIMIT)
        .map_err(|error| advise(error, sandbox))?;
    let opened = session.opened;
    if opened.missed > 0 {
        tracing::warn!(
            "{} bytes of earlier output are not kept any more",
            opened.missed
        );
    }
    let returning = Returning {
        session,
        keys,
        signals,
    };
    Ok((returning.run()?, opened.session))
}

fn connect(sandbox: &RunningSandbox) -> anyhow::Result<ControlClient> {
    ControlClient::connect(&sandbox.directory, &sandbox.name, ANSWER_LIMIT)
        .map_err(|error| advise(error, sandbox))
}

fn advise(error: ControlError, sandbox: &RunningSandbox) -> anyhow::Error {
    let name = operand(&sandbox.name);
    let hint = match &error {
        ControlError::Refused(refusal) => match refusal.kind {
            RefusalKind::NoSession if sandbox.config.command.is_empty() => {
                format!(
                    "run one: `msb exec {name} COMMAND`, or `msb exec -d` for one to come back to"
                )
            }
            RefusalKind::NoSession => {
                format!("`msb logs {name}` shows what was written")
            }
            RefusalKind::SessionInUse => "one client at a time: end the other one first".to_owned(),
            RefusalKind::State => format!("`msb inspect {name}` tells what it does"),
            RefusalKind::Limit => "end some of what runs in it, or some of its clients".to_owned(),
            RefusalKind::Protocol | RefusalKind::Host => {
                format!("`msb restart {name}` starts it with this release of msb")
            }
        },
        ControlError::Connect(_) | ControlError::Gone => {
            format!("start it with `msb start {name}`")
        }
        ControlError::TimedOut { .. } => format!("`msb kill {name}` ends it"),
        _ => format!("`msb restart {name}` starts it with this release of msb"),
    };
    let error = anyhow::Error::from(error);
    with_hint(
        error.context(format!(
            "cannot use the process in {:?}",
            sandbox.name.as_str()
        )),
        hint,
    )
}
