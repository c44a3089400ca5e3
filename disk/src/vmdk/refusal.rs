//! Why the contents of a file are refused, before it is known which file that is.

use std::io;
use std::path::Path;

use crate::{DiskError, Format};

/// Contents that cannot be used.
#[derive(Debug)]
pub(super) enum Refusal {
    /// They break the format's rules.
    Invalid(String),
    /// They are in order, but need something that is not provided.
    Unsupported(String),
    /// They cannot be read.
    Io(io::Error),
}

impl Refusal {
    pub(super) fn invalid(reason: impl Into<String>) -> Refusal {
        Refusal::Invalid(reason.into())
    }

    pub(super) fn unsupported(reason: impl Into<String>) -> Refusal {
        Refusal::Unsupported(reason.into())
    }

    /// The error, now that the file is known.
    pub(super) fn of(self, path: &Path) -> DiskError {
        let path = path.to_owned();
        let format = Format::Vmdk;
        match self {
            Refusal::Invalid(reason) => DiskError::Invalid {
                path,
                format,
                reason,
            },
            Refusal::Unsupported(reason) => DiskError::Unsupported {
                path,
                format,
                reason,
            },
            Refusal::Io(source) => DiskError::Io {
                what: "read",
                path,
                source,
            },
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}
