//! Paths in the guest.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use microsandbox::protocol::Bytes;

/// Longest path that Linux takes, without the NUL (`PATH_MAX`).
const MAX_PATH: usize = 4095;

/// An absolute path in the guest without `.`, `..` and superfluous slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GuestPath(Vec<u8>);

/// Why a text is no such path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GuestPathError {
    /// Does not begin with `/`.
    #[error("the path in the guest, {path:?}, does not begin with /")]
    Relative {
        /// What was given.
        path: String,
    },
    /// Where `..` leads depends on symbolic links in the guest.
    #[error("the path in the guest, {path:?}, contains ..")]
    Parent {
        /// What was given.
        path: String,
    },
    /// Longer than the kernel takes.
    #[error("the path in the guest is longer than {MAX_PATH} bytes")]
    TooLong,
}

impl GuestPath {
    /// Reads a path.
    pub(crate) fn parse(text: &OsStr) -> Result<GuestPath, GuestPathError> {
        let bytes = text.as_bytes();
        let shown = || String::from_utf8_lossy(bytes).into_owned();
        if bytes.first() != Some(&b'/') {
            return Err(GuestPathError::Relative { path: shown() });
        }
        if bytes.len() > MAX_PATH {
            return Err(GuestPathError::TooLong);
        }
        let mut path = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(GuestPathError::Parent { path: shown() }),
                component => {
                    path.push(b'/');
                    path.extend_from_slice(component);
                }
            }
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(GuestPath(path))
    }

    /// Whether this is `/`.
    pub(crate) fn is_root(&self) -> bool {
        self.0 == b"/"
    }

    /// The path for a message to the agent.
    pub(crate) fn to_bytes(&self) -> Bytes {
        Bytes(self.0.clone())
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, GuestPathError> {
        GuestPath::parse(OsStr::new(text)).map(|path| path.to_string())
    }

    #[test]
    fn one_place_has_one_spelling() {
        for (text, path) in [
            ("/", "/"),
            ("/data", "/data"),
            ("//a/./b//", "/a/b"),
            ("/.", "/"),
            ("/a..", "/a.."),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(path));
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for text in ["", "data", "./data", "~"] {
            assert!(
                matches!(parse(text), Err(GuestPathError::Relative { .. })),
                "{text}"
            );
        }
        for text in ["/..", "/a/../b"] {
            assert!(
                matches!(parse(text), Err(GuestPathError::Parent { .. })),
                "{text}"
            );
        }
        assert_eq!(
            parse(&format!("/{}", "x".repeat(4096))),
            Err(GuestPathError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn reading_twice_changes_nothing(text in "/([./a]{0,20})") {
            if let Ok(path) = parse(&text) {
                prop_assert_eq!(parse(&path), Ok(path.clone()));
                prop_assert!(path.starts_with('/') && !path.contains("//"));
            }
        }
    }
}
