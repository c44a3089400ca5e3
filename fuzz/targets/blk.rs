//! Requests and chains around a disk.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

/// A file of this process.
static DISK: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("disk-{}", std::process::id())));

libfuzzer_sys::fuzz_target!(|script: &[u8]| vmm::fuzzing::blk(&DISK, script));
