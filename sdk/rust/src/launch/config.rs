//! What a machine is to be.

use std::path::PathBuf;

use protocol::Bytes;
use serde::{Deserialize, Serialize};

/// A machine and what its guest sees, as data. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchConfig {
    /// Name of the sandbox.
    pub name: String,
    /// Virtual processors, 1 to 32.
    pub vcpus: u8,
    /// Memory of the guest in bytes, 64 MiB to 64 GiB, a multiple of 4 KiB.
    pub memory: u64,
    /// The guest's kernel, an uncompressed `vmlinux` or a bzImage.
    #[serde(with = "path_bytes")]
    pub kernel: PathBuf,
    /// The initramfs whose `/init` is agentd.
    #[serde(with = "path_bytes")]
    pub initramfs: PathBuf,
    /// Appended to the kernel's command line.
    pub extra_command_line: String,
    /// The root file system.
    pub root: RootFolder,
    /// Shared folders.
    pub folders: Vec<Folder>,
    /// File systems in guest memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Host name of the guest.
    pub hostname: String,
    /// How long the guest may take until its agent is ready, in milliseconds.
    pub boot_timeout_ms: u32,
    /// Least severe log lines that the machine's process prints: `error` to `trace`.
    pub log_level: String,
}

/// A folder of the host as root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFolder {
    /// The folder.
    #[serde(with = "path_bytes")]
    pub source: PathBuf,
    /// Writes go through to the folder; otherwise to a private layer in guest memory.
    pub writable: bool,
}

/// A folder of the host, mounted in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// The folder.
    #[serde(with = "path_bytes")]
    pub source: PathBuf,
    /// Absolute path in the guest.
    pub target: Bytes,
    /// The guest cannot change it.
    pub read_only: bool,
}

/// A file system in guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path in the guest.
    pub target: Bytes,
    /// Limit in bytes; `None` is half of the guest's memory.
    pub size: Option<u64>,
}

/// Paths are bytes on Linux, not text.
pub(super) mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserializer, Serializer};

    pub(in crate::launch) fn serialize<S: Serializer>(
        path: &Path,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(path.as_os_str().as_bytes(), serializer)
    }

    pub(in crate::launch) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathBuf, D::Error> {
        let bytes: Vec<u8> = serde_bytes::deserialize(deserializer)?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }
}
