//! Where the data of a file lies, and where its holes.

use std::fs::File;
use std::io::{ErrorKind, Result, Seek, SeekFrom};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Where the next data of a file begins and ends, from `from` on and up to `size`, with the file there. Both are `size` if
/// there is none.
pub(crate) fn data_from(file: &mut File, from: u64, size: u64) -> Result<(u64, u64)> {
    let offset = i64::try_from(from).map_err(|_| ErrorKind::InvalidData)?;
    let (start, end) = match lseek(&*file, offset, Whence::SeekData) {
        Ok(start) => match lseek(&*file, start, Whence::SeekHole) {
            Ok(end) => (start.unsigned_abs(), end.unsigned_abs()),
            Err(error) => return Err(error.into()),
        },
        Err(Errno::ENXIO) => return Ok((size, size)),
        // A file system without holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => (from, size),
        Err(error) => return Err(error.into()),
    };
    let (start, end) = (start.clamp(from, size), end.min(size));
    file.seek(SeekFrom::Start(start))?;
    // At least a byte further: somebody who changes the file keeps nobody here for ever.
    Ok((start, end.max(start.saturating_add(1)).min(size)))
}
