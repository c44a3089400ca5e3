//! How snapshots are called.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::names::{Name, NameError};

/// Name of a snapshot: as that of a sandbox, and does not begin with `.` or `~`, as paths do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotName(String);

/// Why a text is no name of a snapshot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotNameError {
    /// As for a sandbox.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It begins as a path.
    #[error("The name {name:?} begins with {character:?}, as a path does")]
    Path {
        /// What was given.
        name: String,
        /// The character.
        character: char,
    },
}

impl SnapshotName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = SnapshotNameError;

    fn from_str(name: &str) -> Result<SnapshotName, SnapshotNameError> {
        let name = Name::from_str(name)?.to_string();
        match name.chars().next() {
            Some(character @ ('.' | '~')) => Err(SnapshotNameError::Path { name, character }),
            _ => Ok(SnapshotName(name)),
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a user says a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    Name(SnapshotName),
    Path(PathBuf),
}

impl FromStr for Selector {
    type Err = SnapshotNameError;

    /// A path contains `/`, or begins with `.` or `~`.
    fn from_str(text: &str) -> Result<Selector, SnapshotNameError> {
        if text.starts_with(['.', '~']) || text.contains('/') {
            return Ok(Selector::Path(text.into()));
        }
        Ok(Selector::Name(text.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        for path in [".", "..", "./a", "../a", "/a", "a/b", "~", "~/a", ".hidden"] {
            assert_eq!(path.parse(), Ok(Selector::Path(path.into())));
            assert!(path.parse::<SnapshotName>().is_err());
        }
        for name in ["base", "a.b", "a~", "My snapshot", "\u{fc}bung"] {
            assert_eq!(
                name.parse::<Selector>(),
                Ok(Selector::Name(name.parse().unwrap()))
            );
        }
        assert!("".parse::<Selector>().is_err());
        assert!("a\n".parse::<Selector>().is_err());
    }
}
