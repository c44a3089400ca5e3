//! The private layer of a root on disk: a sparse raw image with an ext4 file system.
//!
//! mke2fs(8) takes much longer than anything else of a start. So it makes one image of each size, in the cache of the home,
//! and each sandbox gets a copy of what is not a hole in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{MicrosandboxError, failed};
use crate::home::Home;
use crate::identity::Id;
use crate::sparse;
use crate::volumes::make_disk_image;

/// What the names of images in the making begin with.
const NEW: &str = ".new-";

/// Makes the image at `path`, where nothing is yet, with a file system of `mib` MiB. Its contents are durable.
///
/// # Errors
/// When mke2fs is missing or fails, or the file cannot be written.
pub(super) fn make(home: &Home, path: &Path, mib: u32) -> Result<(), MicrosandboxError> {
    let template = template(home, mib)?;
    let from = File::open(&template).map_err(failed("open", &template))?;
    copy(&from, path)
}

/// Makes the image at `path`, where nothing is yet, what `from` is. Its contents are durable.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn copy(from: &File, path: &Path) -> Result<(), MicrosandboxError> {
    let to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))?;
    sparse::copy(from, &to)
        .and_then(|()| to.sync_all())
        .map_err(failed("write", path))
}

/// The image of this size that is copied; it is made if there is none. Nobody ever changes one.
fn template(home: &Home, mib: u32) -> Result<PathBuf, MicrosandboxError> {
    let directory = home.cache();
    let path = directory.join(format!("upper-{mib}.img"));
    if path.exists() {
        return Ok(path);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(failed("create", &directory))?;
    // Whoever has it is alone in making one, so that what others were making is left over.
    let lock = File::open(&directory).map_err(failed("open", &directory))?;
    lock.lock().map_err(failed("lock", &directory))?;
    // Who waited may find it made.
    if path.exists() {
        return Ok(path);
    }
    remove_left_overs(&directory).map_err(failed("read", &directory))?;
    let id = Id::generate().map_err(failed("read", "/dev/urandom".as_ref()))?;
    let new = directory.join(format!("{NEW}{}", id.as_str()));
    let made = make_disk_image(&new, mib)
        .map_err(MicrosandboxError::from)
        .and_then(|()| fs::rename(&new, &path).map_err(failed("rename", &new)));
    if made.is_err() {
        // The next one to make any image tries again.
        let _ = fs::remove_file(&new);
    }
    made.map(|()| path)
}

/// Removes the images that were being made by processes that were killed.
fn remove_left_overs(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(NEW.as_bytes()) {
            // In nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn entries(home: &Home) -> Vec<String> {
        let entries = fs::read_dir(home.cache()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_maker_left_goes_with_the_next_image() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        make(&home, &root.path().join("first"), 8).unwrap();
        fs::write(home.cache().join(".new-0123456789abcdef"), "left").unwrap();
        // Nothing is made for this one.
        make(&home, &root.path().join("second"), 8).unwrap();
        assert_eq!(entries(&home), [".new-0123456789abcdef", "upper-8.img"]);
        make(&home, &root.path().join("third"), 9).unwrap();
        assert_eq!(entries(&home), ["upper-8.img", "upper-9.img"]);
    }

    #[test]
    fn nobody_takes_what_others_are_making_for_left_over() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        let sizes = [8, 9, 10, 11, 8, 9];
        let barrier = Barrier::new(sizes.len());
        thread::scope(|scope| {
            for (number, mib) in sizes.into_iter().enumerate() {
                let path = root.path().join(number.to_string());
                let (home, barrier) = (&home, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    make(home, &path, mib).unwrap();
                    assert_eq!(fs::metadata(path).unwrap().len(), u64::from(mib) << 20);
                });
            }
        });
        assert_eq!(
            entries(&home),
            ["upper-10.img", "upper-11.img", "upper-8.img", "upper-9.img"]
        );
    }
}
