//! Copies of sparse files: what is a hole stays one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;

/// Makes the empty file `to` what `from` is.
///
/// # Errors
/// As the system calls.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    if share(from, to) {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    let mut chunk = vec![0; CHUNK];
    let mut end = 0;
    while let Some((start, stop)) = next_data(from, end)? {
        let mut position = start;
        while position < stop {
            let left = usize::try_from(stop - position).unwrap_or(CHUNK).min(CHUNK);
            let part = chunk.get_mut(..left).unwrap_or_default();
            from.read_exact_at(part, position)?;
            to.write_all_at(part, position)?;
            position += left as u64;
        }
        end = stop;
    }
    Ok(())
}

/// Lets `to` share everything that `from` has (ioctl_ficlone(2)). Returns whether the file system can.
pub(crate) fn share(from: &File, to: &File) -> bool {
    // SAFETY: FICLONE takes the number of a descriptor that is open, and touches no memory of this process.
    unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) == 0 }
}

/// Where the next data from `offset` on begins and ends.
///
/// # Errors
/// As lseek(2).
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let start = match lseek64(file, offset, Whence::SeekData) {
        Ok(start) => start,
        // None is left.
        Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stop = lseek64(file, start, Whence::SeekHole)?;
    let unsigned = |position| u64::try_from(position).map_err(io::Error::other);
    Ok(Some((unsigned(start)?, unsigned(stop)?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::*;

    /// On a tmpfs nothing can be shared; where temporary files are, perhaps.
    #[test]
    fn a_copy_reads_the_same_and_has_no_more_data() {
        const MIB: u64 = 1 << 20;
        for folder in [PathBuf::from("/dev/shm"), std::env::temp_dir()] {
            let file = || tempfile::tempfile_in(&folder).unwrap();
            let (from, to) = (file(), file());
            from.set_len(64 * MIB + 1).unwrap();
            for (place, length) in [(0, 10), (5 * MIB, 3 << 20), (64 * MIB, 1)] {
                from.write_all_at(&vec![7; length], place).unwrap();
            }
            copy(&from, &to).unwrap();
            let contents = |file: &File| {
                let mut contents = vec![1; usize::try_from(64 * MIB + 1).unwrap()];
                file.read_exact_at(&mut contents, 0).unwrap();
                contents
            };
            assert!(contents(&from) == contents(&to));
            let (of, made) = (from.metadata().unwrap(), to.metadata().unwrap());
            assert_eq!(made.len(), of.len());
            assert!(made.blocks() * 512 < 8 * MIB, "{} blocks", made.blocks());
        }
    }
}
