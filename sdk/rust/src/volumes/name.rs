//! Names of volumes.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::names::{Name, NameError};

/// Name of a volume, which is the name of its directory, too: as that of a sandbox, and does not begin with `.`, because
/// such directories hold volumes in the making and volumes being removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeName(String);

/// Why a text is no name of a volume.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeNameError {
    /// As for a sandbox.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `.` at the beginning.
    #[error("The name {name:?} begins with a dot")]
    Dot {
        /// What was given.
        name: String,
    },
}

impl VolumeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = VolumeNameError;

    fn from_str(name: &str) -> Result<VolumeName, VolumeNameError> {
        let name = Name::from_str(name)?;
        if name.as_str().starts_with('.') {
            return Err(VolumeNameError::Dot {
                name: name.to_string(),
            });
        }
        Ok(VolumeName(name.to_string()))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<Path> for VolumeName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::MAX_NAME;

    #[test]
    fn a_name_is_one_visible_component_of_a_path() {
        let longest = "x".repeat(MAX_NAME);
        for name in ["data", "My data", "a.b", "a:b", "\u{fc}bung", &longest] {
            assert_eq!(name.parse::<VolumeName>().unwrap().as_str(), name);
        }
        for name in [
            "",
            "..",
            ".",
            "a/b",
            "/",
            "a\0",
            "a\n",
            &"x".repeat(MAX_NAME + 1),
        ] {
            let error = name.parse::<VolumeName>().unwrap_err();
            assert!(matches!(error, VolumeNameError::Name(_)), "{name:?}");
        }
        for name in ["...", ".new-1", ".hidden"] {
            let error = name.parse::<VolumeName>().unwrap_err();
            assert!(matches!(error, VolumeNameError::Dot { .. }), "{name:?}");
        }
    }
}
