//! What is mounted in a sandbox.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DiskCache;

/// Something that is mounted in a sandbox, and what is forbidden there.
///
/// ```
/// use microsandbox::sandbox::MountConfig;
///
/// let sources = MountConfig::bind("./src").readonly();
/// let cache = MountConfig::named("pip-cache").ensure_exists();
/// let scratch = MountConfig::tmpfs().size_mib(256).noexec();
/// # drop((sources, cache, scratch));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountConfig {
    /// What is mounted.
    pub kind: MountKind,
    /// Nothing can be changed.
    #[serde(default)]
    pub readonly: bool,
    /// No program can be executed.
    #[serde(default)]
    pub noexec: bool,
    /// Set-user-ID and set-group-ID bits and file capabilities mean nothing.
    #[serde(default)]
    pub nosuid: bool,
    /// Device nodes cannot be used.
    #[serde(default)]
    pub nodev: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum MountKind {
    /// A folder or a single file of the host.
    Bind {
        /// The folder or the file.
        path: PathBuf,
        /// Whether the guest looks for changes of others.
        #[serde(default)]
        cache: BindCache,
        /// Milliseconds that it may miss such a change, if not as `cache` says.
        #[serde(default)]
        cache_timeout_ms: Option<u64>,
        /// Most MiB that a folder may take up on the host's disk; `None` and 0 are no limit. Each mount of a folder counts for
        /// itself.
        #[serde(default)]
        quota_mib: Option<u32>,
    },
    /// A named volume.
    Named {
        /// Its name.
        name: String,
        /// What if it exists, and what if not.
        #[serde(default)]
        mode: NamedMode,
        /// How it keeps its files if it is made.
        #[serde(default)]
        storage: NamedStorage,
        /// Size of its disk in MiB, if it is one and is made; `None` and 0 are none.
        #[serde(default)]
        size_mib: Option<u32>,
        /// Most MiB that its files may take up, if it is a directory and is made; `None` and 0 are no limit.
        #[serde(default)]
        quota_mib: Option<u32>,
        /// Whether the guest looks for changes of others, if it is a directory.
        #[serde(default)]
        cache: BindCache,
        /// Milliseconds that it may miss such a change, if not as `cache` says.
        #[serde(default)]
        cache_timeout_ms: Option<u64>,
        /// When a write of the guest is durable, if it is a disk.
        #[serde(default)]
        disk_cache: DiskCache,
    },
    /// Guest memory.
    Tmpfs {
        /// Limit in MiB; `None` and 0 are half of the guest's memory.
        #[serde(default)]
        size_mib: Option<u32>,
        /// Permission bits of its root directory; `None` is 1777, as `/tmp` has them.
        #[serde(default)]
        mode: Option<u32>,
    },
    /// A disk image or a block device.
    Disk {
        /// The image.
        path: PathBuf,
        /// Its format: `raw`, `qcow2` or `vmdk`; `None` is what its name ends with.
        #[serde(default)]
        format: Option<String>,
        /// File system on it, as mount(8) takes it; `None` is what its superblock says.
        #[serde(default)]
        fstype: Option<String>,
        /// Number of the partition; `None` is the only one with a Linux file system, or a disk without partitions.
        #[serde(default)]
        partition: Option<u32>,
        /// When a write of the guest is durable.
        #[serde(default)]
        cache: DiskCache,
    },
}

/// What if a named volume exists, and what if not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedMode {
    /// It must exist.
    #[default]
    Existing,
    /// It must not exist, and is made when the sandbox is created; later starts find it.
    Create,
    /// It is made if it does not exist, and must be as described if it does.
    EnsureExists,
}

/// A size in MiB, if it was given: programs that have no other word for "none" say 0.
pub(super) fn given(mib: Option<u32>) -> Option<u32> {
    mib.filter(|&mib| mib > 0)
}

/// How a named volume keeps its files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedStorage {
    /// In a directory of the host.
    #[default]
    Dir,
    /// On a disk of its own.
    Disk,
}

/// Whether a guest looks for changes that others make in what is shared with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindCache {
    /// Each time.
    None,
    /// When it opens a file, and after a second.
    #[default]
    Auto,
    /// After a day: nobody else changes it.
    Always,
}

impl From<MountKind> for MountConfig {
    fn from(kind: MountKind) -> MountConfig {
        MountConfig {
            kind,
            readonly: false,
            noexec: false,
            nosuid: false,
            nodev: false,
        }
    }
}

impl MountConfig {
    /// A folder or a single file of the host.
    pub fn bind(path: impl Into<PathBuf>) -> MountConfig {
        let kind = MountKind::Bind {
            path: path.into(),
            cache: BindCache::default(),
            cache_timeout_ms: None,
            quota_mib: None,
        };
        kind.into()
    }

    /// A named volume, which must exist unless [`create`](Self::create) or [`ensure_exists`](Self::ensure_exists) follows. One
    /// that must exist is taken as it is: to say of it how it is made is a mistake.
    pub fn named(name: impl Into<String>) -> MountConfig {
        let kind = MountKind::Named {
            name: name.into(),
            mode: NamedMode::default(),
            storage: NamedStorage::default(),
            size_mib: None,
            quota_mib: None,
            cache: BindCache::default(),
            cache_timeout_ms: None,
            disk_cache: DiskCache::default(),
        };
        kind.into()
    }

    /// Guest memory; it is empty at each start, and always `nosuid` and `nodev`.
    pub fn tmpfs() -> MountConfig {
        let kind = MountKind::Tmpfs {
            size_mib: None,
            mode: None,
        };
        kind.into()
    }

    /// A disk image of the format that its name tells, or a block device with a [`format`](Self::format).
    pub fn disk(path: impl Into<PathBuf>) -> MountConfig {
        let kind = MountKind::Disk {
            path: path.into(),
            format: None,
            fstype: None,
            partition: None,
            cache: DiskCache::default(),
        };
        kind.into()
    }

    /// Nothing can be changed.
    #[must_use]
    pub fn readonly(mut self) -> MountConfig {
        self.readonly = true;
        self
    }

    /// No program can be executed.
    #[must_use]
    pub fn noexec(mut self) -> MountConfig {
        self.noexec = true;
        self
    }

    /// Set-user-ID and set-group-ID bits and file capabilities mean nothing.
    #[must_use]
    pub fn nosuid(mut self) -> MountConfig {
        self.nosuid = true;
        self
    }

    /// Device nodes cannot be used.
    #[must_use]
    pub fn nodev(mut self) -> MountConfig {
        self.nodev = true;
        self
    }

    /// The named volume is made with the sandbox, and must not exist before.
    #[must_use]
    pub fn create(self) -> MountConfig {
        self.with_mode(NamedMode::Create)
    }

    /// The named volume is made if it does not exist, and must be of the kind, quota and size that are given if it does;
    /// one for which no quota is given has none. A disk that exists may be of any size where none is given.
    #[must_use]
    pub fn ensure_exists(self) -> MountConfig {
        self.with_mode(NamedMode::EnsureExists)
    }

    fn with_mode(mut self, wanted: NamedMode) -> MountConfig {
        if let MountKind::Named { mode, .. } = &mut self.kind {
            *mode = wanted;
        }
        self
    }

    /// The named volume keeps its files on a disk of so many MiB, if it is made.
    #[must_use]
    pub fn on_disk(mut self, mib: u32) -> MountConfig {
        if let MountKind::Named {
            storage, size_mib, ..
        } = &mut self.kind
        {
            *storage = NamedStorage::Disk;
            *size_mib = Some(mib);
        }
        self
    }

    /// Most MiB that a folder, or a named volume that is a directory and is made, may take up on the host's disk; 0 is no limit.
    /// A named volume has one count for all who mount it. Each mount of a folder counts for itself, so that several together
    /// may put more there: what others add, it finds when it is about to refuse something.
    #[must_use]
    pub fn quota_mib(mut self, mib: u32) -> MountConfig {
        if let MountKind::Bind { quota_mib, .. } | MountKind::Named { quota_mib, .. } =
            &mut self.kind
        {
            *quota_mib = Some(mib);
        }
        self
    }

    /// Limit of guest memory in MiB; with 0 it is half of the guest's memory, as without a limit.
    #[must_use]
    pub fn size_mib(mut self, mib: u32) -> MountConfig {
        if let MountKind::Tmpfs { size_mib, .. } = &mut self.kind {
            *size_mib = Some(mib);
        }
        self
    }

    /// Whether the guest looks for changes that others make in a folder, a file or a named volume that is a directory.
    #[must_use]
    pub fn cache(mut self, wanted: BindCache) -> MountConfig {
        if let MountKind::Bind { cache, .. } | MountKind::Named { cache, .. } = &mut self.kind {
            *cache = wanted;
        }
        self
    }

    /// When a write of the guest to a disk image, or to a named volume that is a disk, is durable.
    #[must_use]
    pub fn disk_cache(mut self, wanted: DiskCache) -> MountConfig {
        if let MountKind::Disk { cache, .. }
        | MountKind::Named {
            disk_cache: cache, ..
        } = &mut self.kind
        {
            *cache = wanted;
        }
        self
    }

    /// Format of a disk image whose name does not tell it: `raw`, `qcow2` or `vmdk`.
    #[must_use]
    pub fn format(mut self, wanted: impl Into<String>) -> MountConfig {
        if let MountKind::Disk { format, .. } = &mut self.kind {
            *format = Some(wanted.into());
        }
        self
    }

    /// File system on a disk image, as mount(8) takes it.
    #[must_use]
    pub fn fstype(mut self, wanted: impl Into<String>) -> MountConfig {
        if let MountKind::Disk { fstype, .. } = &mut self.kind {
            *fstype = Some(wanted.into());
        }
        self
    }
}
