//! A host that has no io_uring, and images that lose their name or their end while a guest uses them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;

use disk::{CreateOptions, Format, Preallocation, Subformat, qcow2};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::driver::{Guest, open, raw, segment};
use super::ring::Ring;
use super::{Engine, Traffic};

const READ: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Sectors of the disks.
const SECTORS: u64 = 8192;

/// Has `call` fail with `errno` in the calling thread and in those that it starts.
fn refuse(call: i64, errno: i32) {
    let filter = SeccompFilter::new(
        [(call, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        TargetArch::x86_64,
    );
    let program = BpfProgram::try_from(filter.unwrap()).unwrap();
    apply_filter(&program).unwrap();
}

#[test]
fn where_io_uring_is_not_to_be_had_the_thread_does_its_work() {
    // Forbidden by a sandbox or by kernel.io_uring_disabled, and a kernel without it.
    for errno in [libc::EPERM, libc::ENOSYS] {
        let worked = thread::spawn(move || {
            refuse(libc::SYS_io_uring_setup, errno);
            let refused = Ring::new(Traffic::default()).err().unwrap();
            assert_eq!(refused.raw_os_error(), Some(errno));
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![5; (SECTORS * 512) as usize]).unwrap();
            let mut guest = Guest::new(Engine::IoUring, Some(raw(file.path(), false)));
            assert_eq!(guest.request(OUT, 8, &[9; 4096], 0).status, DONE);
            assert_eq!(guest.request(FLUSH, 0, &[], 0).status, DONE);
            let read = guest.request(READ, 7, &[], 1024);
            assert_eq!((read.status, read.used), (DONE, 1025));
            assert_eq!(
                (&read.data[..512], &read.data[512..]),
                (&[5; 512][..], &[9; 512][..])
            );
            let discarded = guest.request(DISCARD, 0, &segment(8, 8, 0), 0);
            assert_eq!(discarded.status, DONE);
            assert_eq!(guest.request(READ, 8, &[], 512).data, [0; 512]);
        });
        worked.join().unwrap();
    }
}

fn images() -> [(&'static str, Format, CreateOptions); 4] {
    let size = SECTORS * 512;
    let raw = CreateOptions::Raw {
        size,
        preallocation: Preallocation::Off,
    };
    let vmdk = |subformat| CreateOptions::Vmdk { size, subformat };
    let qcow2 = CreateOptions::Qcow2(qcow2::CreateOptions::of_size(size));
    [
        ("disk.raw", Format::Raw, raw),
        ("disk.qcow2", Format::Qcow2, qcow2),
        ("disk.vmdk", Format::Vmdk, vmdk(Subformat::MonolithicSparse)),
        ("flat.vmdk", Format::Vmdk, vmdk(Subformat::MonolithicFlat)),
    ]
}

/// What a guest does with a disk of each format and with either engine before and after `happens` to its folder.
fn with_each_image(happens: fn(&Path), after: fn(&str, &mut Guest)) {
    for (name, format, options) in images() {
        for engine in [Engine::IoUring, Engine::Thread] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            disk::create(&path, &options).unwrap();
            let mut guest = Guest::new(engine, Some(open(&path, format, false)));
            for sector in [0, SECTORS - 256] {
                let bytes = vec![7; 256 * 512];
                assert_eq!(guest.request(OUT, sector, &bytes, 0).status, DONE);
            }
            assert_eq!(guest.request(FLUSH, 0, &[], 0).status, DONE);
            happens(folder.path());
            after(&format!("{name} with {engine:?}"), &mut guest);
            // The device works, whatever its image does.
            guest.reset();
            guest.start(super::driver::ALL_FEATURES);
            assert_eq!(guest.request(8, 0, &[], 20).status, DONE, "{name}");
            assert!(
                guest.endings.try_recv().is_err(),
                "{name}: the machine ended"
            );
        }
    }
}

#[test]
fn an_image_without_a_name_goes_on() {
    with_each_image(
        |folder| {
            for entry in fs::read_dir(folder).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        },
        |what, guest| {
            assert_eq!(guest.request(READ, 0, &[], 512).data, [7; 512], "{what}");
            let end = SECTORS - 1;
            assert_eq!(guest.request(READ, end, &[], 512).data, [7; 512], "{what}");
            // Where there was nothing before, too.
            for sector in [1, 4000] {
                let written = guest.request(OUT, sector, &[9; 512], 0);
                assert_eq!(written.status, DONE, "{what}");
                assert_eq!(guest.request(FLUSH, 0, &[], 0).status, DONE, "{what}");
                let read = guest.request(READ, sector, &[], 512);
                assert_eq!(read.data, [9; 512], "{what}");
            }
        },
    );
}

#[test]
fn an_image_that_is_cut_short_has_errors_where_its_end_was() {
    with_each_image(
        |folder| {
            for entry in fs::read_dir(folder).unwrap() {
                let file = fs::File::options().write(true).open(entry.unwrap().path());
                file.unwrap().set_len(4096).unwrap();
            }
        },
        |what, guest| {
            for sector in [SECTORS - 1, SECTORS - 256, 128] {
                let read = guest.request(READ, sector, &[], 512);
                assert_eq!(read.status, FAILED, "{what}: {sector}");
            }
            // Whatever becomes of these, they come back.
            for sector in [0, 4000, SECTORS - 1] {
                guest.request(OUT, sector, &[9; 512], 0);
                guest.request(DISCARD, 0, &segment(sector, 1, 0), 0);
                guest.request(13, 0, &segment(sector, 1, 0), 0);
                guest.request(READ, sector, &[], 512);
            }
            guest.request(FLUSH, 0, &[], 0);
        },
    );
}
