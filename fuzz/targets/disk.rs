//! Disk images: bytes as an image of either format, or a good qcow2 image with bytes of it changed.
#![no_main]

#[path = "../../disk/tests/support/exercise.rs"]
mod exercise;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use disk::Format;
use disk::qcow2::{CreateOptions, Preallocation, create};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// No file gets larger, so that an image cannot fill the disk.
const LARGEST_FILE: u64 = 16 << 20;

/// A write beyond the limit fails with EFBIG. libFuzzer keeps a handler, but would replace an ignored signal by its own.
extern "C" fn pass(_: i32) {}

/// Bytes of the input that say what is done with the image.
const SCRIPT: usize = 32;

libfuzzer_sys::fuzz_target!(
    init: {
        // SAFETY: the handler does nothing.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::Handler(pass)) }.expect("it can be handled");
        setrlimit(Resource::RLIMIT_FSIZE, LARGEST_FILE, LARGEST_FILE).expect("limits can be lowered");
    },
    |input: &[u8]| {
        let Some((script, image)) = input.split_at_checked(SCRIPT) else {
            return;
        };
        let Some((&kind, image)) = image.split_first() else {
            return;
        };
        // In memory, where a flush takes no time.
        let folder = tempfile::tempdir_in("/dev/shm").expect("there is memory for files");
        let path = folder.path().join("disk.qcow2");
        let format = match kind & 7 {
            0 => Format::Raw,
            1 => Format::Vmdk,
            _ => Format::Qcow2,
        };
        if kind & 3 == 3 {
            patched(&path, kind >> 3, image);
        } else {
            fs::write(&path, image).expect("and room for this one");
            let file = File::options().write(true).open(&path).expect("it is ours");
            let length = image.len() as u64 + (u64::from(kind >> 3) << 9);
            file.set_len(length).expect("a file may have a hole");
        }
        exercise::exercise(&path, format, script);
    }
);

/// A good image in small clusters, some bytes of which are changed: each change is its place (two bytes), how many bytes,
/// and these.
fn patched(path: &Path, kind: u8, mut changes: &[u8]) {
    let options = CreateOptions {
        cluster_size: 512 << (kind & 3),
        preallocation: if kind & 4 == 0 {
            Preallocation::Metadata
        } else {
            Preallocation::Off
        },
        ..CreateOptions::of_size(64 << 10)
    };
    create(path, &options).expect("it can be made");
    let file = File::options().write(true).open(path).expect("it is ours");
    while let Some((&[high, low, count], rest)) = changes.split_first_chunk() {
        let count = usize::from(count & 15).min(rest.len());
        let (bytes, rest) = rest.split_at(count);
        let at = u64::from(u16::from_be_bytes([high, low]));
        file.write_all_at(bytes, at)
            .expect("it is within the limit");
        changes = rest;
    }
}
