//! Archives that are compressed, or come through a pipe: they are copied to a file without a name, where each of their
//! files can be found.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ArchiveError;
use super::error::failed;
use crate::layer::{self, Compression, Limits};
use crate::store::Shared;

/// As many bytes as tell how something is compressed.
const MAGIC: usize = 6;

/// The archive, not compressed, in a file in which one can seek. `path` is how its user knows it.
///
/// # Errors
/// When it is compressed in an unknown way, or larger than a layer may be; when it cannot be read or copied.
pub(super) fn plain(file: File, path: &Path, store: &Shared) -> Result<File, ArchiveError> {
    within(&Limits::default(), file, path, store)
}

fn within(
    limits: &Limits,
    mut file: File,
    path: &Path,
    store: &Shared,
) -> Result<File, ArchiveError> {
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
    layer::decompress(input, compression, limits, |piece| {
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

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::thread;

    use super::*;
    use crate::layer::LayerError;
    use crate::store::Store;

    const LIMIT: usize = 1 << 20;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Copies what comes from a file, and through a pipe, into a store of which nothing is left then.
    fn copies(content: &[u8]) -> [Result<Vec<u8>, ArchiveError>; 2] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path().join("images")).unwrap();
        let shared = store.share().unwrap();
        let limits = Limits {
            tar_bytes: LIMIT as u64,
            ..Limits::default()
        };
        let copy = |file| {
            let mut copy = within(&limits, file, Path::new("archive"), &shared)?;
            let mut copied = Vec::new();
            copy.rewind().unwrap();
            copy.read_to_end(&mut copied).unwrap();
            Ok(copied)
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let results = thread::scope(|scope| {
            // Whoever reads may not want all of it.
            scope.spawn(move || writer.write_all(content));
            let piped = copy(File::from(std::os::fd::OwnedFd::from(reader)));
            [copy(file), piped]
        });
        let staging = std::fs::read_dir(root.path().join("images/staging"));
        assert_eq!(staging.unwrap().count(), 0);
        results
    }

    #[test]
    fn what_is_copied_has_the_limit_of_a_layer() {
        let is_over = |result: &Result<Vec<u8>, ArchiveError>| {
            matches!(
                result,
                Err(ArchiveError::Decompress(LayerError::Limit { .. }))
            )
        };
        let (most, more) = (vec![7; LIMIT], vec![7; LIMIT + 1]);
        for content in [gzip(&most), most.clone()] {
            assert!(copies(&content).map(Result::unwrap) == [most.clone(), most.clone()]);
        }
        let bomb = gzip(&more);
        assert!(bomb.len() < 20_000);
        for result in copies(&bomb) {
            assert!(is_over(&result), "{result:?}");
        }
        // A plain file is where it is, and needs no copy.
        let [file, piped] = copies(&more);
        assert!(file.unwrap() == more && is_over(&piped));
    }
}
