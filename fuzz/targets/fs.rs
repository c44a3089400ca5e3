//! FUSE requests on a real folder below the directory for temporary files.
#![no_main]

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// No file gets larger, so that a script cannot fill the disk.
const LARGEST_FILE: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(
    init: {
        // SAFETY: ignoring a signal runs no code. A write beyond the limit fails with EFBIG then.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.expect("SIGXFSZ can be ignored");
        setrlimit(Resource::RLIMIT_FSIZE, LARGEST_FILE, LARGEST_FILE).expect("limits can be lowered");
    },
    |script: &[u8]| {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        vmm::fuzzing::fs(folder.path(), script);
    }
);
