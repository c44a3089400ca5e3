//! An image whose file cannot grow any more. A test of its own, because the limit is the process's.
#![allow(clippy::unwrap_used)]

mod support;

use disk::{Buffers, CreateOptions, Format, Image, Preallocation, Repair, Subformat, qcow2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use support::{Bench, Random, compare, open, options, play};

/// Size of the disks.
const SIZE: u64 = 16 << 20;

/// The most bytes that a file has room for.
const ROOM: u64 = (5 << 20) + 700;

fn images() -> Vec<CreateOptions> {
    let qcow2 = [9, 12, 16].map(|bits| {
        CreateOptions::Qcow2(qcow2::CreateOptions {
            cluster_size: 1 << bits,
            ..qcow2::CreateOptions::of_size(SIZE)
        })
    });
    let vmdk = [Subformat::MonolithicSparse, Subformat::MonolithicFlat].map(|subformat| {
        CreateOptions::Vmdk {
            size: SIZE,
            subformat,
        }
    });
    let raw = CreateOptions::Raw {
        size: SIZE,
        preallocation: Preallocation::Off,
    };
    qcow2.into_iter().chain(vmdk).chain([raw]).collect()
}

/// Writes here and there to all of the disk, as far as there is room. Returns how many writes failed.
fn fill(image: &dyn Image, model: &mut [u8]) -> u64 {
    let mut failures = 0;
    for at in (0..SIZE).step_by(5000 * 3) {
        let length = 5000.min(SIZE - at);
        let mut bytes = vec![at as u8 | 1; length as usize];
        match image.write(at, &Buffers::of_slice(&mut bytes)) {
            Ok(()) => {
                model[at as usize..][..length as usize].copy_from_slice(&bytes);
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
                failures += 1;
                // Old and new bytes in any mixture.
                let there = support::read(image, at, length);
                model[at as usize..][..length as usize].copy_from_slice(&there);
            }
        }
    }
    failures
}

#[test]
fn what_does_not_fit_is_an_error_and_the_rest_stays() {
    // SAFETY: ignoring a signal runs no code. A write beyond the limit fails with EFBIG then.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    for (seed, created) in images().into_iter().enumerate() {
        let bench = Bench::in_memory();
        let mut random = Random::new(seed as u64);
        let format = created.format();
        let path = bench.path("disk");
        disk::create(&path, &created).unwrap();
        let mut model = vec![0; SIZE as usize];
        let image = open(&path, format);
        setrlimit(Resource::RLIMIT_FSIZE, ROOM, hard).unwrap();
        assert!(fill(&*image, &mut model) > 10, "{created:?}");
        image.flush().unwrap();
        compare(&*image, &model);
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        // There is room again.
        play(&*image, &mut model, &mut random, 20);
        drop(image);
        bench.check("disk", format, &model);
        if format == Format::Vmdk {
            let report = disk::check(&path, &options(format), Repair::Nothing).unwrap();
            assert_eq!(report, Default::default(), "{created:?}");
        }
    }
}
