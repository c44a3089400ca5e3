//! Changes to the root file system, before anything runs in it.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use files::{Files, FilesError, TreePolicy, TreeWriter};
use nix::errno::Errno;
use protocol::{Bytes, Failure, Patch, Root, RootAccess, Stage};

use crate::directories;
use crate::failure::{failure, shown};
use crate::mount_plan::{is_entry, normalise};
use crate::staging::Staging;

/// What the host shares becomes the guest's own as the guest sees it.
const POLICY: TreePolicy = TreePolicy {
    owners: true,
    special: true,
};

/// Permission bits that chmod(2) sets.
const PERMISSIONS: u32 = 0o7777;

/// Checks all patches before the first is made.
pub(crate) fn check(root: &Root, patches: &[Patch]) -> Result<(), Failure> {
    let refuse = |message: String| Err(failure(Stage::Patch, Errno::EINVAL, message));
    if !patches.is_empty() && root.access == RootAccess::Writable {
        return refuse("A root that is written through cannot be patched".into());
    }
    for patch in patches {
        let path = path(patch);
        if let Err(reason) = normalise(&path.0) {
            return refuse(format!("The patch of {:?} {reason}", shown(&path.0)));
        }
        if let Patch::Copy { entry, .. } | Patch::AppendShared { entry, .. } = patch
            && !is_entry(entry)
        {
            let reason = "asks for an entry that is no name of one";
            return refuse(format!("The patch of {:?} {reason}", shown(&path.0)));
        }
    }
    Ok(())
}

/// Makes the patches, which have been checked. The calling process is in the new root, with `/proc`; `staging` has what the
/// host shares.
pub(crate) fn make(patches: &[Patch], staging: &Staging) -> Result<(), Failure> {
    patches.iter().try_for_each(|patch| {
        make_one(patch, staging).map_err(|error| Failure {
            stage: Stage::Patch,
            errno: error.raw_os_error().unwrap_or(0),
            message: message(patch, &error),
        })
    })
}

fn path(patch: &Patch) -> &Bytes {
    match patch {
        Patch::Write { path, .. }
        | Patch::Append { path, .. }
        | Patch::MakeDirectory { path, .. }
        | Patch::Remove { path }
        | Patch::Symlink { path, .. }
        | Patch::Copy { path, .. }
        | Patch::AppendShared { path, .. } => path,
    }
}

fn message(patch: &Patch, error: &io::Error) -> String {
    let action = match patch {
        Patch::Write { .. } => "write",
        Patch::Append { .. } | Patch::AppendShared { .. } => "append to",
        Patch::MakeDirectory { .. } => "make the directory",
        Patch::Remove { .. } => "remove",
        Patch::Symlink { .. } => "link",
        Patch::Copy { .. } => "copy to",
    };
    let reason = match error.raw_os_error() {
        Some(libc::EEXIST) => ", which is there already and is not to be replaced".into(),
        Some(_) => String::new(),
        None => format!(": {error}"),
    };
    format!(
        "The patch cannot {action} {:?}{reason}",
        shown(&path(patch).0)
    )
}

fn make_one(patch: &Patch, staging: &Staging) -> io::Result<()> {
    let path = normalise(&path(patch).0).map_err(|_| Errno::EINVAL)?;
    match patch {
        Patch::Write {
            contents,
            mode,
            replace,
            ..
        } => {
            make_room(&path, *replace)?;
            File::create_new(&path)?.write_all(&contents.0)?;
            set_mode(&path, *mode)
        }
        Patch::Append { contents, .. } => open_to_append(&path)?.write_all(&contents.0),
        Patch::AppendShared { tag, entry, .. } => staging.within(tag, || {
            let mut target = open_to_append(&path)?;
            io::copy(&mut File::open(entry)?, &mut target).map(drop)
        })?,
        Patch::MakeDirectory { mode, .. } => {
            let made = directories::make(&path)?;
            set_mode(&made, *mode)
        }
        Patch::Remove { .. } => remove(&path),
        Patch::Symlink {
            target, replace, ..
        } => {
            make_room(&path, *replace)?;
            symlink(OsStr::from_bytes(&target.0), &path)
        }
        Patch::Copy {
            tag,
            entry,
            mode,
            replace,
            ..
        } => staging.within(tag, || copy(Path::new(entry), &path, *mode, *replace))?,
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    // A FIFO would wait for a reader that never comes.
    match fs::metadata(path)?.is_file() {
        true => File::options().append(true).open(path),
        false => Err(Errno::EINVAL.into()),
    }
}

fn set_mode(path: &Path, mode: Option<u32>) -> io::Result<()> {
    match mode {
        Some(mode) => fs::set_permissions(path, Permissions::from_mode(mode & PERMISSIONS)),
        None => Ok(()),
    }
}

/// Sees to it that the directory of `path` is there and nothing is at `path` itself.
fn make_room(path: &Path, replace: bool) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => make_parents(path),
        Err(error) => Err(error),
        Ok(_) if !replace => Err(Errno::EEXIST.into()),
        Ok(_) => remove(path),
    }
}

fn make_parents(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => directories::make(parent).map(drop),
        None => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

/// Copies `entry` of the working directory, a file or a directory with everything in it.
fn copy(entry: &Path, path: &Path, mode: Option<u32>, replace: bool) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(entry)?.is_dir();
    let goes_into =
        is_directory && replace && fs::symlink_metadata(path).is_ok_and(|there| there.is_dir());
    if !goes_into {
        make_room(path, replace)?;
    }
    let copied = || -> Result<(), FilesError> {
        let source = Files::open(Path::new("."))?;
        let target = Files::open_as_root(Path::new("/"))?;
        let beneath = path.strip_prefix("/").unwrap_or(path);
        let mut writer = TreeWriter::new(&target, beneath, POLICY)?;
        source.read_tree(entry, &mut writer)?;
        writer.finish().map(drop)
    };
    copied().map_err(|error| match error {
        FilesError::Io { source, .. } => source,
        error => io::Error::other(error),
    })?;
    match is_directory {
        true => Ok(()),
        false => set_mode(path, mode),
    }
}

#[cfg(test)]
mod tests {
    use protocol::RootSource;

    use super::*;

    fn remove_patch(path: &str) -> Patch {
        Patch::Remove {
            path: Bytes(path.into()),
        }
    }

    fn root(access: RootAccess) -> Root {
        Root {
            source: RootSource::Memory,
            access,
        }
    }

    #[test]
    fn what_is_written_through_is_not_patched() {
        let patches = [remove_patch("/a")];
        for access in [RootAccess::Layer { size: None }, RootAccess::ReadOnly] {
            assert_eq!(check(&root(access), &patches), Ok(()));
        }
        let root = root(RootAccess::Writable);
        assert_eq!(check(&root, &[]), Ok(()));
        let refusal = check(&root, &patches).unwrap_err();
        assert_eq!((refusal.stage, refusal.errno), (Stage::Patch, libc::EINVAL));
    }

    #[test]
    fn paths_are_absolute_and_lead_nowhere_else() {
        let layered = root(RootAccess::Layer { size: None });
        for path in ["", "a", "/", "/a/../b", "/a\0"] {
            let refusal = check(&layered, &[remove_patch("/a"), remove_patch(path)]).unwrap_err();
            assert_eq!(refusal.stage, Stage::Patch, "{path:?}");
        }
        for entry in ["", ".", "..", "a/b"] {
            let copy = Patch::Copy {
                tag: "share".into(),
                entry: entry.into(),
                path: Bytes(b"/a".to_vec()),
                mode: None,
                replace: false,
            };
            assert!(check(&layered, &[copy]).is_err(), "{entry:?}");
        }
    }
}
