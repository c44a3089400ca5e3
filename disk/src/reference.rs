//! Files that an image names: which of them may be opened.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::DiskError;

/// The file that the image at `image` calls `name`, with every symbolic link resolved. It lies in the image's own folder
/// or beneath it, or is among `allowed`.
///
/// # Errors
/// When there is no such file, or it is not allowed.
pub(crate) fn resolve(
    image: &Path,
    name: &OsStr,
    allowed: &[PathBuf],
) -> Result<PathBuf, DiskError> {
    let refused = |other: PathBuf| DiskError::NotAllowed {
        path: image.to_owned(),
        other,
    };
    // Other programs take such a name as a protocol and not as a file; two meanings are one too many.
    let first = name.as_bytes().split(|byte| *byte == b'/').next();
    if first.is_some_and(|first| first.contains(&b':')) {
        return Err(refused(name.into()));
    }
    let image = canonical(image)?;
    let folder = image.parent().unwrap_or(Path::new("/"));
    let file = canonical(&folder.join(name))?;
    if file.starts_with(folder) {
        return Ok(file);
    }
    for allowed in allowed {
        // What is gone allows nothing.
        if canonical(allowed).is_ok_and(|allowed| file.starts_with(allowed)) {
            return Ok(file);
        }
    }
    Err(refused(file))
}

/// The path without symbolic links, `.` and `..`.
pub(crate) fn canonical(path: &Path) -> Result<PathBuf, DiskError> {
    path.canonicalize().map_err(|source| DiskError::Open {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_lies_elsewhere_needs_permission_whatever_it_is_called() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for folder in ["images", "images/sub", "bases", "bases2"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        for file in ["images/a", "images/sub/b", "bases/c", "bases2/d"] {
            fs::write(root.join(file), "").unwrap();
        }
        symlink("../bases/c", root.join("images/link")).unwrap();
        symlink("images", root.join("here")).unwrap();
        let image = root.join("here/a");
        let resolve = |name: &str, allowed: &[&str]| {
            let allowed: Vec<_> = allowed.iter().map(|path| root.join(path)).collect();
            super::resolve(&image, OsStr::new(name), &allowed)
        };
        assert_eq!(resolve("sub/b", &[]).unwrap(), root.join("images/sub/b"));
        let absolute = root.join("images/a");
        assert_eq!(resolve(absolute.to_str().unwrap(), &[]).unwrap(), absolute);
        for name in ["link", "../bases/c", "sub/../../bases/c", "/etc/passwd"] {
            for allowed in [&[][..], &["bases2"], &["gone"], &["bases2/d"]] {
                let refused = resolve(name, allowed).unwrap_err();
                assert!(matches!(refused, DiskError::NotAllowed { .. }), "{refused}");
            }
        }
        assert_eq!(resolve("link", &["bases"]).unwrap(), root.join("bases/c"));
        assert_eq!(resolve("link", &["bases/c"]).unwrap(), root.join("bases/c"));
        assert!(matches!(resolve("no", &[]), Err(DiskError::Open { .. })));
        for name in ["nbd://host/disk", "json:{}", "file:a"] {
            let refused = resolve(name, &[""]).unwrap_err();
            assert!(matches!(refused, DiskError::NotAllowed { .. }), "{refused}");
        }
    }
}
