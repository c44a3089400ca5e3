//! Why a machine did not start, for people, and what to do about it.

use microsandbox::BootFailure;
use microsandbox::launch::{DiskProblem, StartFailure, StartStage};
use microsandbox::protocol::Stage;

use super::process::{errno_text, with_causes};
use crate::failure::{with_console, with_hint};

/// Why a sandbox did not start.
pub(super) fn explain(failure: BootFailure) -> anyhow::Error {
    let BootFailure {
        name,
        stage,
        errno,
        message,
        causes,
        console,
    } = failure;
    let error = match stage {
        Some(stage) => start_failed(StartFailure {
            stage,
            errno,
            message,
            causes,
            console,
        }),
        None => with_hint(
            with_console(with_causes(message, causes.into_iter()), &console),
            "the system's log (dmesg) tells whether memory ran out",
        ),
    };
    error.context(format!("cannot start {name:?}"))
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
        StartStage::Guest(Stage::Patch) => with_hint(
            error,
            "--patch-replace lets files that are there be replaced; changes need a root with a private layer, see --root-upper",
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
            "end what uses it, or give it read-only to all: --root-ro, --root-upper, or the mount option ro"
        }
        DiskProblem::NotAllowed => "--allow PATH permits that, if you know the image",
        DiskProblem::Format => {
            "--root-format, or format= of --mount-disk, names the format: raw, qcow2 or vmdk"
        }
        DiskProblem::File => {
            "it must be readable, and writable unless it is used read-only: --root-ro, --root-upper, or the mount option ro"
        }
    }
}
