//! Directories that are made, behind symbolic links that lead nowhere, too.
//!
//! mkdir(2) does not follow a link at the end of a path, and an image may have one where it says that a directory will be. As
//! container engines do it, the directory is made where the link leads within the root.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Most links on the way, as for the kernel: path_resolution(7).
const MAX_LINKS: usize = 40;

/// Makes the directory `path`, which is absolute, and those above it, unless they are there, and returns where it is without
/// links. What a link says is a path beneath the root, whatever the kernel would make of it (`/proc/self/fd/3`). Nobody else
/// must change anything there meanwhile.
///
/// # Errors
/// `ENOTDIR` when something else is in the way, `ELOOP` when links lead to each other; as mkdir(2).
pub(crate) fn make(path: &Path) -> io::Result<PathBuf> {
    let mut place = PathBuf::from("/");
    let mut rest = Vec::new();
    push(&mut rest, path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        match name.as_bytes() {
            b"/" => place = PathBuf::from("/"),
            b"." => {}
            b".." => drop(place.pop()),
            _ => {
                let next = place.join(&name);
                match fs::symlink_metadata(&next) {
                    Ok(there) if there.is_dir() => place = next,
                    Ok(there) if there.is_symlink() && links < MAX_LINKS => {
                        links += 1;
                        push(&mut rest, &fs::read_link(next)?);
                    }
                    Ok(there) if there.is_symlink() => return Err(Errno::ELOOP.into()),
                    Ok(_) => return Err(Errno::ENOTDIR.into()),
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        fs::create_dir(&next)?;
                        place = next;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(place)
}

/// Puts the components of `path` in front of what is still to be gone, whose end comes first.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    let components = path.components().rev();
    rest.extend(components.map(|component| component.as_os_str().to_owned()));
}
