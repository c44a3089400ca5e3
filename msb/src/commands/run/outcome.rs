//! From what happened to an exit status or an error.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::anyhow;
use microsandbox::launch::{DiskProblem, Ending, MachineProcess, StartFailure, StartStage};
use microsandbox::protocol::{Exit, ExitStatus as GuestStatus, Failure, Stage};
use microsandbox::session::SessionError;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::machine::Ended;
use crate::failure::{RUN_FAILED, with_console, with_hint};

/// Exit status when the time was over, as of timeout(1).
const TIMED_OUT: u8 = 124;

/// Exit status for a program that cannot be executed, as of shells.
const NOT_EXECUTABLE: u8 = 126;

/// Exit status for a program that does not exist, as of shells.
const NOT_FOUND: u8 = 127;

/// What to do about a machine's process that somebody has killed: most often it is the kernel.
const KILLED_HINT: &str = "the system's log (dmesg) tells whether memory ran out";

/// How the process in the guest fared.
#[derive(Debug)]
pub(super) enum Outcome {
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
}

/// The exit status of `msb run`, and what is to be said about it.
pub(super) fn conclude(
    outcome: Outcome,
    ended: Option<Ended>,
    program: &str,
    timeout: Option<Duration>,
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
        Outcome::Killed(signal) => (signal_status(signal as i32), None),
        Outcome::Disconnected => (RUN_FAILED, Some(disconnected(ended))),
    }
}

/// Exit status for an end by a signal, as of shells.
pub(super) fn signal_status(signal: i32) -> u8 {
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
fn refused(refusal: Failure, program: &str) -> anyhow::Error {
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

/// Why the guest did not come up.
pub(super) fn start_failed(start: StartFailure) -> anyhow::Error {
    let StartFailure {
        stage,
        errno,
        message,
        causes,
        console,
    } = start;
    // The causes say it already when they are there.
    let errno = errno_text(errno).filter(|_| causes.is_empty());
    let error = with_causes(message, causes.into_iter().chain(errno));
    let error = match stage {
        StartStage::Boot | StartStage::Guest(_) => with_console(error, &console),
        _ => error,
    };
    match stage {
        StartStage::Machine => with_hint(
            error,
            "`msb doctor` tells whether this machine can run microVMs",
        ),
        StartStage::Kernel => with_hint(
            error,
            "see --kernel, --initramfs and --cmdline; `make kernel initramfs` builds the usual files",
        ),
        StartStage::Boot => with_hint(error, "--console FILE keeps the log of the guest's kernel"),
        StartStage::Guest(Stage::Root) => with_hint(
            error,
            "--root-partition and --fstype choose what is mounted of a disk",
        ),
        StartStage::Guest(Stage::Mount) => with_hint(
            error,
            "a target must be a directory, for a file a file, or be possible to make; partition= and fstype= choose what is mounted of a disk",
        ),
        StartStage::Disk(problem) => with_hint(error, disk_hint(problem)),
        StartStage::Handover | StartStage::Folder | StartStage::Device | StartStage::Guest(_) => {
            error
        }
    }
}

fn disk_hint(problem: DiskProblem) -> &'static str {
    match problem {
        DiskProblem::InUse => {
            "end what uses it, or give it read-only to all: --root-ro, --root-overlay, or the mount option ro"
        }
        DiskProblem::NotAllowed => "--allow PATH permits that, if you know the image",
        DiskProblem::Format => {
            "--root-format, or format= of --mount-disk, names the format: raw, qcow2 or vmdk"
        }
        DiskProblem::File => {
            "it must be readable, and writable unless it is used read-only: --root-ro, --root-overlay, or the mount option ro"
        }
    }
}

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

/// The session itself failed.
pub(super) fn session_failed(error: SessionError) -> anyhow::Error {
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

/// The session broke off: because of the end of the machine, or without a reason to be seen.
fn disconnected(ended: Option<Ended>) -> anyhow::Error {
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

/// An error whose causes are known as texts only, nearest first.
fn with_causes(message: String, causes: impl DoubleEndedIterator<Item = String>) -> anyhow::Error {
    let mut chain = causes.rev().chain([message]);
    let innermost = anyhow!(chain.next().unwrap_or_default());
    chain.fold(innermost, |error, message| error.context(message))
}

fn errno_text(errno: i32) -> Option<String> {
    (errno != 0).then(|| Errno::from_raw(errno).desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> Option<Ended> {
        Some(Ended {
            how: Ending::Clean,
            console: Vec::new(),
        })
    }

    fn status(outcome: Outcome) -> u8 {
        conclude(outcome, clean(), "x", None).0
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
    }

    #[test]
    fn a_broken_session_is_explained_by_the_end_of_the_machine() {
        let explain = |how| {
            let ended = Ended {
                how,
                console: b"last words\n".to_vec(),
            };
            let (status, error) = conclude(Outcome::Disconnected, Some(ended), "x", None);
            assert_eq!(status, 125);
            format!("{:#}", error.unwrap())
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
        let (_, killed) = conclude(Outcome::Disconnected, None, "x", None);
        assert!(format!("{:#}", killed.unwrap()).contains("killed"));
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
