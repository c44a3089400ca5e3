//! An image that cannot grow any more. A test of its own, because the limit is the process's.
#![allow(clippy::unwrap_used)]

mod support;

use disk::qcow2::{CreateOptions, create};
use disk::{Buffers, Format};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use support::{Bench, Random, compare, open, play};

#[test]
fn what_does_not_fit_is_an_error_and_the_rest_stays() {
    // SAFETY: ignoring a signal runs no code. A write beyond the limit fails with EFBIG then.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    for (seed, bits) in [9, 12, 16].into_iter().enumerate() {
        let bench = Bench::in_memory();
        let mut random = Random::new(seed as u64);
        let size = 16 << 20;
        let options = CreateOptions {
            cluster_size: 1 << bits,
            ..CreateOptions::of_size(size)
        };
        create(&bench.path("disk.qcow2"), &options).unwrap();
        let mut model = vec![0; size as usize];
        let image = open(&bench.path("disk.qcow2"), Format::Qcow2);
        setrlimit(Resource::RLIMIT_FSIZE, (5 << 20) + 700, hard).unwrap();
        let mut failures = 0;
        for at in (0..size).step_by(5000 * 3) {
            let length = 5000.min(size - at);
            let mut bytes = vec![at as u8 | 1; length as usize];
            match image.write(at, &Buffers::of_slice(&mut bytes)) {
                Ok(()) => {
                    model[at as usize..][..length as usize].copy_from_slice(&bytes);
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
                    failures += 1;
                    // Old and new bytes in any mixture.
                    let there = support::read(&*image, at, length);
                    model[at as usize..][..length as usize].copy_from_slice(&there);
                }
            }
        }
        assert!(failures > 10);
        image.flush().unwrap();
        compare(&*image, &model);
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        // There is room again.
        play(&*image, &mut model, &mut random, 20);
        drop(image);
        bench.check("disk.qcow2", Format::Qcow2, &model);
    }
}
