//! How a machine ended, for people.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::anyhow;
use microsandbox::launch::{Ending, MachineProcess};

use super::machine::Ended;
use crate::failure::{with_console, with_hint};

/// What to do about a machine's process that somebody has killed: most often it is the kernel.
const KILLED_HINT: &str = "the system's log (dmesg) tells whether memory ran out";

/// The machine's process ended, though it should have become ready.
pub(super) fn not_ready(ended: Option<Ended>, process: &mut MachineProcess) -> anyhow::Error {
    match ended {
        Some(ended) => machine_ended(ended),
        None => {
            let exit = process.wait().map(describe_exit);
            let cause = exit.unwrap_or_else(|_| "nothing is known of its end".to_owned());
            let error = anyhow!(cause).context("the machine's process ended without a word");
            with_hint(error, KILLED_HINT)
        }
    }
}

/// The session broke off: because of the end of the machine, or without a reason to be seen.
pub(super) fn disconnected(ended: Option<Ended>) -> anyhow::Error {
    match ended {
        Some(Ended {
            how: Ending::Clean | Ending::Forced,
            console,
        }) => {
            let error = anyhow!("the guest's agent ended the session without telling how it went");
            with_console(error, &console)
        }
        Some(ended) => machine_ended(ended),
        None => with_hint(anyhow!("the machine's process was killed"), KILLED_HINT),
    }
}

fn machine_ended(ended: Ended) -> anyhow::Error {
    let error = match ended.how {
        Ending::Clean | Ending::Forced => anyhow!("the machine was stopped from outside"),
        Ending::Reset => anyhow!("the guest reset itself"),
        Ending::KernelPanic { message } => anyhow!("the guest's kernel panicked: {message}"),
        Ending::TripleFault => anyhow!("the guest ran into a triple fault"),
        Ending::Halted => anyhow!("the guest halted"),
        Ending::MonitorFailed { reason } => anyhow!(reason).context("the monitor could not go on"),
    };
    with_hint(
        with_console(error, &ended.console),
        "--console FILE keeps the log of the guest's kernel",
    )
}

/// How a machine that should have shut down ended instead, for a warning.
pub(super) fn unclean_end(ended: Option<&Ended>, exit: ExitStatus) -> Option<String> {
    Some(match ended.map(|ended| &ended.how) {
        Some(Ending::Clean) => return None,
        Some(Ending::Forced) => "it did not shut down in time and was stopped".to_owned(),
        Some(Ending::Reset) => "it reset itself".to_owned(),
        Some(Ending::KernelPanic { message }) => format!("its kernel panicked: {message}"),
        Some(Ending::TripleFault) => "a triple fault".to_owned(),
        Some(Ending::Halted) => "it halted".to_owned(),
        Some(Ending::MonitorFailed { reason }) => format!("the monitor failed: {reason}"),
        None => format!("its process ended without a word ({})", describe_exit(exit)),
    })
}

fn describe_exit(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal} ended it"),
        (None, Some(code)) => format!("it exited with status {code}"),
        (None, None) => "nothing is known of its end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_session_is_explained_by_the_end_of_the_machine() {
        let explain = |how| {
            let ended = Ended {
                how,
                console: b"last words\n".to_vec(),
            };
            format!("{:#}", disconnected(Some(ended)))
        };
        assert!(
            explain(Ending::KernelPanic {
                message: "Oops".into()
            })
            .contains("panicked: Oops")
        );
        assert!(explain(Ending::TripleFault).contains("triple fault"));
        assert!(explain(Ending::Reset).contains("reset"));
        assert!(
            explain(Ending::MonitorFailed {
                reason: "EIO".into()
            })
            .contains("EIO")
        );
        assert!(explain(Ending::Clean).contains("agent"));
        assert!(format!("{:#}", disconnected(None)).contains("killed"));
    }
}
