//! Changes to the root file system.

use protocol::Bytes;
use serde::{Deserialize, Serialize};

use super::HostPath;

/// A change to the root file system, before anything runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patch {
    /// One that takes nothing from the host.
    Inline(protocol::Patch),
    /// A file or a folder of the host is copied.
    Copy {
        /// The file or folder.
        source: HostPath,
        /// Absolute path in the guest.
        path: Bytes,
        /// Permission bits of a file; `None` is those of the original.
        mode: Option<u32>,
        /// Whether files that are there are replaced.
        replace: bool,
    },
}
