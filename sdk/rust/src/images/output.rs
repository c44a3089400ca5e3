//! Files that appear when they are complete.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::ImageError;
use super::error::failed;

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// Lets `write` write what becomes the file at `path`, and replaces what was there. Pipes and devices are written to as
/// they are.
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
    let staged = Staged::new(path)?;
    let mut output = BufWriter::with_capacity(BUFFER, &staged.file);
    write(&mut output)?;
    output.flush().map_err(failed("write", path))?;
    drop(output);
    staged.file.sync_all().map_err(failed("write", path))?;
    fs::rename(&staged.path, path).map_err(failed("create", path))?;
    Ok(())
}

/// A file beside the one that it becomes, which is gone when this is.
struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    fn new(target: &Path) -> Result<Staged, ImageError> {
        let name = target
            .file_name()
            .ok_or_else(|| failed("create", target)(std::io::ErrorKind::InvalidFilename.into()))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(hidden);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(&path);
        Ok(Staged {
            file: file.map_err(failed("create", &path))?,
            path,
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It is gone already when it got its name.
        let _ = fs::remove_file(&self.path);
    }
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
