//! Moving bytes between files and memory, and ranges of zeros in files.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::Buffers;

/// Memory that is written to where the host has no system call for zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Fills `buffers` with what the file holds at `offset`.
///
/// # Errors
/// As preadv(2); `UnexpectedEof` if the file ends before.
pub(crate) fn read_at(file: &File, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
    transfer(offset, buffers, |part, at| {
        let (vectors, count) = (part.vectors().as_ptr(), vector_count(part));
        // SAFETY: the vectors are memory that is writable while `part` lives.
        unsafe { libc::preadv(file.as_raw_fd(), vectors, count, at) }
    })
}

/// Writes `buffers` to `offset`.
///
/// # Errors
/// As pwritev(2).
pub(crate) fn write_at(file: &File, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
    transfer(offset, buffers, |part, at| {
        let (vectors, count) = (part.vectors().as_ptr(), vector_count(part));
        // SAFETY: the vectors are memory that is readable while `part` lives.
        unsafe { libc::pwritev(file.as_raw_fd(), vectors, count, at) }
    })
}

/// Makes a range within the file read as zeros, and with `unmap` gives its storage back, as far as the file system
/// or the device can.
///
/// # Errors
/// As fallocate(2) and pwrite(2).
pub(crate) fn write_zeroes(file: &File, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
    if unmap && punch_hole(file, offset, length)? {
        return Ok(());
    }
    if change_range(file, FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, length)? {
        return Ok(());
    }
    fill_with_zeros(file, offset, length)
}

/// Gives the storage of a range back, which reads as zeros then. Returns whether the file system or the device can.
///
/// # Errors
/// As fallocate(2).
pub(crate) fn punch_hole(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    change_range(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, length)
}

/// fallocate(2); whether it is possible.
fn change_range(file: &File, how: FallocateFlags, offset: u64, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    let how = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (at, count) = (position(offset)?, position(length)?);
    loop {
        return match fallocate(file, how, at, count) {
            Ok(()) => Ok(true),
            Err(nix::Error::EINTR) => continue,
            // A block device answers EINVAL to a range that is not a multiple of its blocks.
            Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS | nix::Error::EINVAL) => Ok(false),
            Err(error) => Err(error.into()),
        };
    }
}

fn fill_with_zeros(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mut done = 0_u64;
    while done < length {
        let count = length.saturating_sub(done).min(ZEROS.len() as u64);
        let at = position(offset.saturating_add(done))?;
        // SAFETY: `ZEROS` has at least `count` bytes.
        let written =
            unsafe { libc::pwrite(file.as_raw_fd(), ZEROS.as_ptr().cast(), count as usize, at) };
        match written {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count if count > 0 => done = done.saturating_add(count as u64),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Repeats `step` until all of `buffers` is transferred.
fn transfer(
    offset: u64,
    buffers: &Buffers<'_>,
    mut step: impl FnMut(&Buffers<'_>, i64) -> isize,
) -> io::Result<()> {
    let mut done = 0_u64;
    while done < buffers.len() {
        let at = position(offset.saturating_add(done))?;
        let count = if done == 0 {
            step(buffers, at)
        } else {
            step(&buffers.part(done, u64::MAX), at)
        };
        match count {
            // The file was cut short.
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if count > 0 => done = done.saturating_add(count as u64),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// At most as many as one system call takes (IOV_MAX).
fn vector_count(buffers: &Buffers<'_>) -> i32 {
    buffers.vectors().len().min(libc::UIO_MAXIOV as usize) as i32
}

/// An offset as system calls take it.
fn position(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn filled(folder: &str) -> File {
        let file = tempfile::tempfile_in(folder).unwrap();
        file.write_all_at(&[7; 1 << 20], 0).unwrap();
        file
    }

    fn check_zeros(file: &File) {
        let mut bytes = vec![1; 1 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let zeros = 5000..900_000;
        for (at, byte) in bytes.iter().enumerate() {
            let expected = if zeros.contains(&at) { 0 } else { 7 };
            assert_eq!(*byte, expected, "at {at}");
        }
    }

    #[test]
    fn a_range_becomes_zeros_and_its_storage_goes_back_where_that_was_allowed() {
        for unmap in [true, false] {
            let file = filled(std::env::temp_dir().to_str().unwrap());
            let before = file.metadata().unwrap().blocks();
            write_zeroes(&file, 5000, 895_000, unmap).unwrap();
            check_zeros(&file);
            if unmap {
                assert!(file.metadata().unwrap().blocks() < before / 2);
            }
        }
    }

    /// tmpfs(5) punches holes, but cannot make zeros that stay allocated.
    #[test]
    fn zeros_are_written_where_the_file_system_has_no_call_for_them() {
        let file = filled("/dev/shm");
        let how = FallocateFlags::FALLOC_FL_ZERO_RANGE;
        assert!(!change_range(&file, how, 5000, 895_000).unwrap());
        write_zeroes(&file, 5000, 895_000, false).unwrap();
        check_zeros(&file);
    }
}
