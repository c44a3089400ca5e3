//! Files that appear when they are complete.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
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
/// What `write` returns; when the file cannot be made. What was at `path` is untouched then. [`ErrorKind::IsADirectory`]
/// when it is a directory, which is told before `write` is called.
pub(crate) fn write<E: From<ImageError>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    if is_called_as_directory(path) {
        return Err(failed("open", path)(ErrorKind::IsADirectory.into()).into());
    }
    // Directories, too: open(2) refuses them here (EISDIR), and rename(2) would when all is written.
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file());
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

/// Whether `path` ends as no file's can: `name/` or `name/.`.
fn is_called_as_directory(path: &Path) -> bool {
    let text = path.as_os_str().as_bytes();
    let has_more = |name: &OsStr| !text.ends_with(name.as_bytes());
    path.file_name().is_some_and(has_more)
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_directory_is_refused_before_any_work_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(".", &link).unwrap();
        for path in [
            folder.path(),
            &link,
            &folder.path().join("new/"),
            &folder.path().join("new/."),
            &folder.path().join(".."),
        ] {
            let written = write::<ImageError>(path, |_| panic!("{} is refused", path.display()));
            let Err(ImageError::Io { source, .. }) = written else {
                panic!("{}: {written:?}", path.display());
            };
            assert_eq!(source.kind(), ErrorKind::IsADirectory);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
