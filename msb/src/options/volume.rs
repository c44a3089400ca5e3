//! Mounts: `SOURCE:TARGET[:ro|rw]` and `TARGET[:SIZE]`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::guest_path::{GuestPath, GuestPathError};
use super::size::{SizeError, parse_size};

/// A folder of the host in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Folder of the host.
    pub(crate) source: PathBuf,
    /// Where the guest sees it.
    pub(crate) target: GuestPath,
    /// The guest cannot change it.
    pub(crate) read_only: bool,
}

/// Why a text is no volume.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeError {
    /// No colon.
    #[error("a volume is SOURCE:TARGET[:ro|rw]")]
    NoTarget,
    /// Nothing before the colon.
    #[error("the folder of the host is missing before the colon")]
    NoSource,
    /// Something else than `ro` and `rw` at the end.
    #[error("{option:?} is neither ro nor rw")]
    Option {
        /// What was given.
        option: String,
    },
    /// The target is no path.
    #[error(transparent)]
    Target(#[from] GuestPathError),
    /// A mount at `/` would hide the root file system.
    #[error("a volume cannot be mounted at /")]
    Root,
}

impl Volume {
    /// Reads what stands behind `--volume`. The source may contain colons, the target may not.
    pub(crate) fn parse(text: &OsStr) -> Result<Volume, VolumeError> {
        let (rest, last) = split_last(text.as_bytes()).ok_or(VolumeError::NoTarget)?;
        let (rest, target, read_only) = match (last, split_last(rest)) {
            (b"ro", Some((source, target))) => (source, target, true),
            (b"rw", Some((source, target))) => (source, target, false),
            // Three parts, of which the second is the target: the third should be an option.
            (option, Some((_, target)))
                if !option.starts_with(b"/") && target.starts_with(b"/") =>
            {
                let option = String::from_utf8_lossy(option).into_owned();
                return Err(VolumeError::Option { option });
            }
            (target, _) => (rest, target, false),
        };
        if rest.is_empty() {
            return Err(VolumeError::NoSource);
        }
        let target = GuestPath::parse(OsStr::from_bytes(target))?;
        if target.is_root() {
            return Err(VolumeError::Root);
        }
        Ok(Volume {
            source: PathBuf::from(OsStr::from_bytes(rest)),
            target,
            read_only,
        })
    }
}

/// A file system in guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TmpfsMount {
    /// Where the guest sees it.
    pub(crate) target: GuestPath,
    /// Limit in bytes.
    pub(crate) size: Option<u64>,
}

/// Why a text is no such mount.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TmpfsError {
    /// The target is no path.
    #[error(transparent)]
    Target(#[from] GuestPathError),
    /// The limit is no size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// A mount at `/` would hide the root file system.
    #[error("a tmpfs cannot be mounted at /")]
    Root,
}

impl TmpfsMount {
    /// Reads what stands behind `--tmpfs`.
    pub(crate) fn parse(text: &OsStr) -> Result<TmpfsMount, TmpfsError> {
        let (target, size) = match split_last(text.as_bytes()) {
            Some((target, size)) => (target, Some(parse_size(&String::from_utf8_lossy(size))?)),
            None => (text.as_bytes(), None),
        };
        let target = GuestPath::parse(OsStr::from_bytes(target))?;
        if target.is_root() {
            return Err(TmpfsError::Root);
        }
        Ok(TmpfsMount { target, size })
    }
}

/// What stands before and behind the last colon.
fn split_last(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().rposition(|&byte| byte == b':')?;
    Some((&bytes[..colon], &bytes[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn volume(text: &str) -> Result<Volume, VolumeError> {
        Volume::parse(OsStr::new(text))
    }

    fn tmpfs(text: &str) -> Result<TmpfsMount, TmpfsError> {
        TmpfsMount::parse(OsStr::new(text))
    }

    #[test]
    fn volumes_as_people_write_them() {
        for (text, source, target, read_only) in [
            ("/src:/dst", "/src", "/dst", false),
            ("./src:/dst:ro", "./src", "/dst", true),
            ("src:/dst:rw", "src", "/dst", false),
            ("/a:b:/dst", "/a:b", "/dst", false),
            ("/a:/b:/dst:ro", "/a:/b", "/dst", true),
            ("ro:/dst", "ro", "/dst", false),
        ] {
            let volume = volume(text).unwrap();
            assert_eq!(volume.source, Path::new(source), "{text}");
            assert_eq!(volume.target.to_string(), target, "{text}");
            assert_eq!(volume.read_only, read_only, "{text}");
        }
    }

    #[test]
    fn what_is_no_volume() {
        assert_eq!(volume("/src"), Err(VolumeError::NoTarget));
        assert_eq!(volume(":/dst"), Err(VolumeError::NoSource));
        assert_eq!(volume(":/dst:ro"), Err(VolumeError::NoSource));
        assert_eq!(volume("/src:/"), Err(VolumeError::Root));
        assert_eq!(
            volume("/src:/dst:no"),
            Err(VolumeError::Option {
                option: "no".into()
            })
        );
        assert_eq!(
            volume("/src:/dst:"),
            Err(VolumeError::Option {
                option: String::new()
            })
        );
        for text in ["/src:dst", "/src:", "/src:dst:ro", "/src:ro"] {
            let result = volume(text);
            assert!(
                matches!(result, Err(VolumeError::Target(_))),
                "{text}: {result:?}"
            );
        }
    }

    #[test]
    fn tmpfs_as_people_write_them() {
        assert_eq!(tmpfs("/tmp").unwrap().size, None);
        assert_eq!(tmpfs("/tmp:64M").unwrap().size, Some(64 << 20));
        assert_eq!(tmpfs("/tmp:0"), Err(TmpfsError::Size(SizeError::Zero)));
        assert_eq!(tmpfs("/"), Err(TmpfsError::Root));
        assert!(matches!(tmpfs("tmp"), Err(TmpfsError::Target(_))));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[:/.ro\\PC]{0,12}") {
            let _ = volume(&text);
            let _ = tmpfs(&text);
        }
    }
}
