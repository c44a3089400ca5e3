//! Files that appear when they are complete.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::ImageError;
use super::error::failed;
use crate::staged::Staged;

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// What a file is called in the directory beside its place in which it is made.
const NAME: &str = "file";

/// Lets `write` write what becomes the file at `path`, and replaces what was there. What others left that were killed at
/// that is removed. Pipes and devices are written to as they are.
///
/// # Errors
/// What `write` returns; when the file cannot be made. What was at `path` is untouched then.
pub(crate) fn write<E: From<ImageError>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    if special {
        let file = OpenOptions::new().write(true).open(path);
        let mut output = BufWriter::with_capacity(BUFFER, file.map_err(failed("open", path))?);
        write(&mut output)?;
        output.flush().map_err(failed("write", path))?;
        return Ok(());
    }
    let staged = Staged::beside(path).map_err(ImageError::from)?;
    let new = staged.path().join(NAME);
    let file = File::create_new(&new).map_err(failed("create", &new))?;
    let mut output = BufWriter::with_capacity(BUFFER, &file);
    write(&mut output)?;
    output.flush().map_err(failed("write", path))?;
    drop(output);
    file.sync_all().map_err(failed("write", path))?;
    staged.publish_file(NAME, path).map_err(ImageError::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn what_cannot_be_written_to_its_end_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        let names = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name())
                .collect::<Vec<_>>()
        };
        let full = |output: &mut dyn Write| {
            output.write_all(b"half").unwrap();
            output.flush().unwrap();
            Err(failed("write", &path)(ErrorKind::StorageFull.into()))
        };
        write::<ImageError>(&path, full).unwrap_err();
        assert!(names().is_empty());
        fs::write(&path, "before").unwrap();
        write::<ImageError>(&path, full).unwrap_err();
        assert_eq!(names(), ["archive"]);
        assert_eq!(fs::read(&path).unwrap(), b"before");
        // A device is no file: what it does not take is told.
        let to_device = write(Path::new("/dev/full"), |output| {
            output.write_all(b"x").map_err(failed("write", &path))
        });
        let error: ImageError = to_device.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("No space left on device"), "{cause}");
    }
}
