//! From what became of a process in a guest to an exit status or an error.

use std::time::Duration;

use anyhow::anyhow;
use microsandbox::protocol::{Exit, ExitStatus as GuestStatus, Failure, Stage};
use microsandbox::session::{SessionEnd, SessionError};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::failure::{RUN_FAILED, with_hint};

/// Exit status when the time was over, as of timeout(1).
const TIMED_OUT: u8 = 124;

/// Exit status for a program that cannot be executed, as of shells.
const NOT_EXECUTABLE: u8 = 126;

/// Exit status for a program that does not exist, as of shells.
const NOT_FOUND: u8 = 127;

/// How the process in the guest fared.
#[derive(Debug)]
pub(in crate::commands) enum Outcome {
    /// It ended.
    Exited(Exit),
    /// It was never run.
    Refused(Failure),
    /// Nobody reads its output any more.
    OutputClosed,
    /// The guest went away, or its agent closed the session.
    Disconnected,
    /// Its time was over, and the guest did not end it.
    TimedOut,
    /// The user insisted on its end.
    Killed(Signal),
    /// The user left it alone.
    Detached,
}

impl From<SessionEnd> for Outcome {
    fn from(end: SessionEnd) -> Outcome {
        match end {
            SessionEnd::Exited(exit) => Outcome::Exited(exit),
            SessionEnd::Refused(failure) => Outcome::Refused(failure),
            SessionEnd::OutputClosed => Outcome::OutputClosed,
            SessionEnd::Disconnected => Outcome::Disconnected,
        }
    }
}

/// The exit status that stands for an outcome, and what is to be said about it. `disconnected` explains why the guest went away.
pub(in crate::commands) fn conclude(
    outcome: Outcome,
    program: &str,
    timeout: Option<Duration>,
    disconnected: impl FnOnce() -> anyhow::Error,
) -> (u8, Option<anyhow::Error>) {
    match outcome {
        Outcome::Exited(Exit {
            timed_out: true, ..
        })
        | Outcome::TimedOut => {
            let time = timeout
                .map(|timeout| format!(" within {timeout:?}"))
                .unwrap_or_default();
            let error = anyhow!("{program:?} did not end{time} and was killed");
            (
                TIMED_OUT,
                Some(with_hint(error, "give it more time with --timeout")),
            )
        }
        Outcome::Exited(Exit {
            status: GuestStatus::Code(code),
            ..
        }) => (code, None),
        Outcome::Exited(Exit {
            status: GuestStatus::Signal(signal),
            ..
        }) => (signal_status(signal.into()), None),
        Outcome::Refused(refusal) => (
            refusal_status(refusal.stage),
            Some(refused(refusal, program)),
        ),
        // What would have ended a program that runs here.
        Outcome::OutputClosed => (signal_status(Signal::SIGPIPE as i32), None),
        Outcome::Detached => (0, None),
        Outcome::Killed(signal) => (signal_status(signal as i32), None),
        Outcome::Disconnected => (RUN_FAILED, Some(disconnected())),
    }
}

/// Exit status for an end by a signal, as of shells.
pub(in crate::commands) fn signal_status(signal: i32) -> u8 {
    u8::try_from(signal).unwrap_or(0).saturating_add(128)
}

fn refusal_status(stage: Stage) -> u8 {
    match stage {
        Stage::ProgramNotFound => NOT_FOUND,
        Stage::ProgramNotExecutable => NOT_EXECUTABLE,
        _ => RUN_FAILED,
    }
}

/// Why the agent could not run the program.
pub(in crate::commands) fn refused(refusal: Failure, program: &str) -> anyhow::Error {
    let Failure {
        stage,
        errno,
        message,
    } = refusal;
    let error = with_causes(
        format!("cannot run {program:?} in the guest"),
        [message].into_iter().chain(errno_text(errno)),
    );
    match stage {
        Stage::ProgramNotFound => with_hint(
            error,
            "the program must be in the root file system: give its path, or set PATH with --env",
        ),
        Stage::ProgramNotExecutable => with_hint(
            error,
            "it must be a program for Linux on x86_64, or a script, with mode +x",
        ),
        Stage::User => with_hint(
            error,
            "--user names a user of the guest's /etc/passwd, or a number",
        ),
        Stage::WorkingDirectory => with_hint(error, "--workdir names a directory of the guest"),
        Stage::ResourceLimit => with_hint(error, "see --rlimit, and `ulimit -a` in the guest"),
        _ => error,
    }
}

/// The session itself failed.
pub(in crate::commands) fn session_failed(error: SessionError) -> anyhow::Error {
    let hint = match &error {
        SessionError::Output(_) => {
            Some("standard output and standard error must lead where they can be written")
        }
        SessionError::Hello(_) | SessionError::Frame(_) | SessionError::Unexpected { .. } => {
            Some("--initramfs names what `make initramfs` of this release built")
        }
        SessionError::Request(_) | SessionError::Setup(_) | SessionError::Panicked => None,
    };
    let error = anyhow!(error).context("the session with the guest failed");
    match hint {
        Some(hint) => with_hint(error, hint),
        None => error,
    }
}

/// An error whose causes are known as texts only, nearest first.
pub(in crate::commands) fn with_causes(
    message: String,
    causes: impl DoubleEndedIterator<Item = String>,
) -> anyhow::Error {
    let mut chain = causes.rev().chain([message]);
    let innermost = anyhow!(chain.next().unwrap_or_default());
    chain.fold(innermost, |error, message| error.context(message))
}

pub(in crate::commands) fn errno_text(errno: i32) -> Option<String> {
    (errno != 0).then(|| Errno::from_raw(errno).desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(outcome: Outcome) -> u8 {
        conclude(outcome, "x", None, || anyhow!("gone")).0
    }

    fn exited(status: GuestStatus, timed_out: bool) -> Outcome {
        Outcome::Exited(Exit { status, timed_out })
    }

    fn refusal(stage: Stage) -> Outcome {
        Outcome::Refused(Failure {
            stage,
            errno: libc::ENOENT,
            message: "No".into(),
        })
    }

    #[test]
    fn the_status_of_the_process_is_that_of_msb() {
        for code in [0, 1, 124, 255] {
            assert_eq!(status(exited(GuestStatus::Code(code), false)), code);
        }
        assert_eq!(status(exited(GuestStatus::Signal(9), false)), 137);
        assert_eq!(status(exited(GuestStatus::Signal(255), false)), 255);
    }

    #[test]
    fn other_ends_have_the_statuses_that_shells_and_tools_use() {
        assert_eq!(status(exited(GuestStatus::Signal(9), true)), 124);
        assert_eq!(status(Outcome::TimedOut), 124);
        assert_eq!(status(refusal(Stage::ProgramNotFound)), 127);
        assert_eq!(status(refusal(Stage::ProgramNotExecutable)), 126);
        assert_eq!(status(refusal(Stage::User)), 125);
        assert_eq!(status(Outcome::OutputClosed), 141);
        assert_eq!(status(Outcome::Killed(Signal::SIGINT)), 130);
        assert_eq!(status(Outcome::Disconnected), 125);
        assert_eq!(status(Outcome::Detached), 0);
    }

    #[test]
    fn causes_come_in_order() {
        let error = with_causes("a".into(), ["b".to_owned(), "c".to_owned()].into_iter());
        assert_eq!(format!("{error:#}"), "a: b: c");
    }

    #[test]
    fn the_guests_reason_is_told_with_the_error_number() {
        let failure = Failure {
            stage: Stage::ProgramNotFound,
            errno: libc::ENOENT,
            message: "\"foo\" is not in PATH".into(),
        };
        let text = format!("{:#}", refused(failure, "foo"));
        assert_eq!(
            text,
            "cannot run \"foo\" in the guest: \"foo\" is not in PATH: No such file or directory"
        );
    }
}
