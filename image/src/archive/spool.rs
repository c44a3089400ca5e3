//! Archives that are compressed, or come through a pipe: they are copied to a file without a name, where each of their
//! files can be found.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ArchiveError;
use super::error::failed;
use crate::layer::{self, Compression};
use crate::store::Shared;

/// As many bytes as tell how something is compressed.
const MAGIC: usize = 6;

/// The archive, not compressed, in a file in which one can seek. `path` is how its user knows it.
///
/// # Errors
/// When it is compressed in an unknown way, or larger than a layer may be; when it cannot be read or copied.
pub(super) fn plain(mut file: File, path: &Path, store: &Shared) -> Result<File, ArchiveError> {
    let metadata = file.metadata().map_err(failed("examine", path))?;
    if metadata.is_file() {
        let mut start = [0; MAGIC];
        let count = file.read_at(&mut start, 0).map_err(failed("read", path))?;
        if compression(start.get(..count).unwrap_or_default())? == Compression::None {
            return Ok(file);
        }
    }
    let mut magic = Vec::with_capacity(MAGIC);
    (&mut file)
        .take(MAGIC as u64)
        .read_to_end(&mut magic)
        .map_err(failed("read", path))?;
    let compression = compression(&magic)?;
    let input = magic.as_slice().chain(file);
    let mut copy = store.scratch()?;
    layer::decompress(input, compression, |piece| {
        copy.write_all(piece).map_err(failed("copy", path))
    })?;
    Ok(copy)
}

/// How something is compressed that begins with these bytes.
fn compression(magic: &[u8]) -> Result<Compression, ArchiveError> {
    let by = match magic {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x04, 0x22, 0x4d, 0x18, ..] => "lz4",
        _ => return Ok(Compression::of(magic)),
    };
    Err(ArchiveError::Compression { by })
}
