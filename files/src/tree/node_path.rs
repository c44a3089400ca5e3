//! Paths of nodes, which somebody hostile may have chosen.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::MAX_PATH;
use crate::error::FilesError;

/// Checks a path of a node, as [`protocol::TreeNode`] has them: names with slashes between, or nothing for the beginning of the tree.
///
/// # Errors
/// [`FilesError::PathEscape`].
pub fn check_node_path(path: &[u8]) -> Result<(), FilesError> {
    NodePath::new(path.to_vec()).map(drop)
}

/// The path of a node, checked: components that are names, or none for the beginning of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodePath(Vec<u8>);

impl NodePath {
    /// Checks a path.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`] if it is none of a node.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<NodePath, FilesError> {
        let are_names = bytes
            .split(|&byte| byte == b'/')
            .all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0));
        if bytes.is_empty() || (are_names && bytes.len() <= MAX_PATH) {
            return Ok(NodePath(bytes));
        }
        Err(FilesError::PathEscape {
            path: PathBuf::from(OsString::from_vec(bytes)),
        })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directory and the name in it; none for the beginning of the tree.
    pub(crate) fn split(&self) -> Option<(NodePath, CString)> {
        let slash = self.0.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = match slash {
            Some(slash) => (self.0.get(..slash)?, self.0.get(slash.checked_add(1)?..)?),
            None => (&[][..], &self.0[..]),
        };
        if name.is_empty() {
            return None;
        }
        Some((NodePath(parent.to_vec()), CString::new(name).ok()?))
    }

    /// Whether `other` is this directory or lies in it.
    pub(crate) fn contains(&self, other: &NodePath) -> bool {
        match other.0.strip_prefix(&self.0[..]) {
            Some(rest) => self.0.is_empty() || rest.is_empty() || rest.first() == Some(&b'/'),
            None => false,
        }
    }

    /// The directories on the way to it, from the topmost, and itself.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = NodePath> + '_ {
        let ends = (0..=self.0.len())
            .filter(|&end| end > 0 && self.0.get(end).is_none_or(|&byte| byte == b'/'));
        ends.filter_map(|end| self.0.get(..end).map(|part| NodePath(part.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> NodePath {
        NodePath::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn paths_that_are_none_of_a_node_are_refused() {
        for bad in [
            "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "a\0",
        ] {
            assert!(NodePath::new(bad.into()).is_err(), "{bad}");
        }
        assert!(NodePath::new(vec![b'a'; MAX_PATH + 1]).is_err());
        for good in ["", "a", "...", "a/..b/c"] {
            assert!(NodePath::new(good.into()).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_directory_contains_what_lies_in_it() {
        assert!(path("").contains(&path("a")) && path("a").contains(&path("a/b")));
        assert!(!path("a").contains(&path("ab")) && !path("a/b").contains(&path("a")));
        let prefixes: Vec<_> = path("a/bc/d").prefixes().collect();
        assert_eq!(prefixes, [path("a"), path("a/bc"), path("a/bc/d")]);
        assert_eq!(path("").prefixes().count(), 0);
        assert_eq!(path("a/b").split().unwrap().0, path("a"));
        assert!(path("").split().is_none());
    }
}
