//! A folder of the host that a guest sees as a file system.
//!
//! [`SharedFolder`] carries out the requests of the FUSE protocol, as the `FileSystem` trait of fuse-backend-rs hands
//! them over; the virtio-fs device in `virtio::fs` is the only user. What it promises:
//!
//! - **The folder is never left.** Inodes are `O_PATH` descriptors; a name is resolved as a single component beneath
//!   its directory (`beneath`). Symbolic links are the guest's to follow, the host never does. A directory that
//!   someone on the host moves out of the folder stays reachable for a guest that already knows it, as it would for a
//!   process that has it open.
//! - **Windows into the host's kernel stay shut**, such as /proc where the host's root is shared
//!   (`kernel_interfaces`).
//! - **FIFOs, sockets and devices are never opened on the host.** The guest's kernel gives them their meaning. The guest
//!   can make FIFOs and sockets; device nodes are refused with `EPERM`, since they would be real ones on the host.
//! - **Read-only is enforced here**, whatever the guest asks: every request that changes something is answered with
//!   `EROFS`, and access times stay untouched where the host permits `O_NOATIME`.
//! - **Permissions** are checked by the guest's kernel against the owners that it is shown (`identity`), and then
//!   once more by the host for this process. Mode bits are kept as the guest sets them, the set-user-ID and
//!   set-group-ID bits included, because package managers depend on them: such a file in a folder that other users of
//!   the host can search runs on the host, too, as the owner it has there.
//! - **Locks** are left to the guest's kernel.
//! - **A listing is the host's**, read anew each time, except where nobody else changes the folder (`cache=always`): there
//!   the guest may keep it. For neither need it open directories (`listing`).
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod attributes;
mod beneath;
mod booking;
mod closing;
mod descriptors;
mod directory;
mod entries;
mod export_requests;
mod exports;
mod extended;
mod files;
mod filesystem;
mod freshness;
mod handles;
mod holds;
mod identity;
mod inode;
mod inodes;
mod kernel_interfaces;
mod ledger;
mod listing;
mod lookup;
mod nodes;
mod options;
mod parking;
mod quota;
mod transfer;
mod usage;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_backend_rs::api::filesystem::FileSystem;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

pub use descriptors::raise_descriptor_limit;
pub use exports::{ExportError, Exports};
pub use options::{CachePolicy, FolderOptions};
pub use quota::{Quota, QuotaError};

pub(crate) use entries::Entries;

use attributes::{DeviceNumbers, InodeNumbers};
use beneath::DescriptorDirectory;
use closing::Closing;
use descriptors::Budget;
use files::OpenFile;
use handles::Handles;
use identity::IdentityMap;
use inodes::Inodes;
use kernel_interfaces::is_kernel_interface;
use quota::Meter;

use crate::traffic::Traffic;

/// A folder could not be shared.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder or file cannot be opened, or is none.
    #[error("cannot open {} to share it", path.display())]
    Open {
        /// As the caller gave it.
        path: PathBuf,
        /// As open(2) reported it.
        #[source]
        source: io::Error,
    },
    /// It is neither a folder nor a regular file.
    #[error("{} is neither a folder nor a regular file", path.display())]
    Special {
        /// As the caller gave it.
        path: PathBuf,
    },
    /// The folder is /proc, /sys or the like.
    #[error("{} belongs to an interface of the host's kernel, which is not shared", path.display())]
    KernelInterface {
        /// As the caller gave it.
        path: PathBuf,
    },
    /// The host kernel has no openat2(2), which came with Linux 5.6.
    #[error("the kernel of this host cannot confine the shared folder {}: openat2 failed", path.display())]
    Confine {
        /// As the caller gave it.
        path: PathBuf,
        /// As openat2(2) reported it.
        #[source]
        source: io::Error,
    },
    /// /proc/self/fd cannot be opened; the folder needs it to open files that it holds.
    #[error("cannot open /proc/self/fd, which sharing {} needs", path.display())]
    Descriptors {
        /// The folder that was to be shared.
        path: PathBuf,
        /// As open(2) reported it.
        #[source]
        source: io::Error,
    },
}

/// A shared folder, or a single shared file, see the module's description.
///
/// It acts as the user that the process is when the folder is opened, and must serve in the process that opened it.
/// Where Landlock confines the process, it must permit what the guest may do beneath the folder.
pub struct SharedFolder {
    options: FolderOptions,
    inodes: Inodes,
    files: Handles<OpenFile>,
    descriptors: Arc<DescriptorDirectory>,
    identity: IdentityMap,
    numbers: InodeNumbers,
    closing: Closing,
    /// The guest reads files, or directories, without opening them.
    openless: Openless,
    meter: Option<Meter>,
    traffic: Traffic,
}

#[derive(Default)]
struct Openless {
    files: AtomicBool,
    directories: AtomicBool,
}

impl SharedFolder {
    /// System calls that serving the folder takes.
    pub(crate) const SYSTEM_CALLS: &[i64] = &[
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_fstatfs,
        libc::SYS_readlinkat,
        libc::SYS_name_to_handle_at,
        libc::SYS_getdents64,
        libc::SYS_lseek,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_pwritev2,
        libc::SYS_fallocate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_ftruncate,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_symlinkat,
        libc::SYS_linkat,
        libc::SYS_unlinkat,
        // What the C library makes of renameat2(2) without flags.
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_fgetxattr,
        libc::SYS_flistxattr,
        libc::SYS_fsetxattr,
        libc::SYS_fremovexattr,
    ];

    /// Opens the folder at `path`, following symbolic links. From then on nothing is opened by path except beneath it.
    ///
    /// # Errors
    /// If `path` is no directory that can be opened, or the host lacks what confining the guest to it takes.
    pub fn open(path: &Path, options: FolderOptions) -> Result<SharedFolder, FolderError> {
        let root = open_root(path, OFlag::O_DIRECTORY)?;
        beneath::probe(&root).map_err(|source| FolderError::Confine {
            path: path.to_owned(),
            source,
        })?;
        SharedFolder::of_root(path, root, options)
    }

    /// Opens the regular file at `path`, following symbolic links, for [`Exports::attach`]. The guest reaches this very
    /// file and nothing beside it. Where the host puts another file in its place, the old one stays shared.
    ///
    /// # Errors
    /// If `path` is no regular file that can be opened.
    pub fn open_single_file(
        path: &Path,
        options: FolderOptions,
    ) -> Result<SharedFolder, FolderError> {
        let root = open_root(path, OFlag::empty())?;
        SharedFolder::of_root(path, root, options)
    }

    fn of_root(
        path: &Path,
        root: OwnedFd,
        options: FolderOptions,
    ) -> Result<SharedFolder, FolderError> {
        let open_error = |source: io::Error| FolderError::Open {
            path: path.to_owned(),
            source,
        };
        let status = attributes::status_of(&root).map_err(open_error)?;
        if !matches!(status.st_mode & libc::S_IFMT, libc::S_IFDIR | libc::S_IFREG) {
            let path = path.to_owned();
            return Err(FolderError::Special { path });
        }
        if is_kernel_interface(&root).map_err(open_error)? {
            let path = path.to_owned();
            return Err(FolderError::KernelInterface { path });
        }
        let descriptors =
            DescriptorDirectory::open().map_err(|source| FolderError::Descriptors {
                path: path.to_owned(),
                source,
            })?;
        let descriptors = Arc::new(descriptors);
        let closing = Closing::of_root(&root, &status).map_err(open_error)?;
        let inodes = Budget::of_process()
            .and_then(|budget| Inodes::new(root, &status, Arc::clone(&descriptors), budget));
        Ok(SharedFolder {
            options,
            inodes: inodes.map_err(open_error)?,
            files: Handles::new(),
            descriptors,
            identity: IdentityMap::of_process(),
            numbers: InodeNumbers::of_root(&status),
            closing,
            openless: Openless::default(),
            meter: None,
            traffic: Traffic::default(),
        })
    }

    /// Limits what the folder may use on the disk. Walks through the folder first, unless another machine keeps count of
    /// it in the same ledger.
    ///
    /// # Errors
    /// If it is a single file, cannot be walked, or the ledger cannot be used.
    pub fn with_quota(mut self, quota: &Quota) -> Result<SharedFolder, QuotaError> {
        if !self.is_folder() {
            return Err(QuotaError::SingleFile);
        }
        let root = self.inodes.root().as_fd().try_clone_to_owned();
        let root = root.map_err(QuotaError::Count)?;
        self.meter = Some(Meter::new(quota, root, Arc::clone(&self.descriptors))?);
        Ok(self)
    }

    /// Whether it is a folder, not a single file.
    pub(crate) fn is_folder(&self) -> bool {
        self.inodes.root().is_directory()
    }

    /// As export `number` of a device: with node IDs and inode numbers that none of the others has, and counting
    /// `traffic` together with them.
    fn into_export(
        mut self,
        number: u16,
        devices: &DeviceNumbers,
        traffic: &Traffic,
    ) -> SharedFolder {
        self.traffic = traffic.clone();
        self.inodes.become_export(number);
        self.numbers.become_export(number, devices);
        self
    }

    /// Refuses a change if the folder is read-only.
    ///
    /// # Errors
    /// `EROFS`.
    fn check_writable(&self) -> io::Result<()> {
        if self.options.read_only {
            Err(errno(libc::EROFS))
        } else {
            Ok(())
        }
    }
}

impl Served for SharedFolder {
    fn list(&self, directory: u64, offset: u64, entries: &mut Entries) -> io::Result<()> {
        self.list_directory(directory, offset, entries)
    }

    fn reset(&self) {
        self.files.clear();
        self.inodes.clear();
        self.openless.files.store(false, Ordering::Relaxed);
        self.openless.directories.store(false, Ordering::Relaxed);
    }

    fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl SharedFolder {
    /// As if the process were not root's.
    pub(crate) fn of_ordinary_user(mut self) -> SharedFolder {
        self.identity = IdentityMap::OwnIsRoot(nix::unistd::geteuid().as_raw());
        self
    }

    /// With a quota for which requests walk no longer than `slice`.
    #[cfg(test)]
    pub(crate) fn with_short_walks(mut self, slice: std::time::Duration) -> SharedFolder {
        if let Some(meter) = &mut self.meter {
            meter.set_slice(slice);
        }
        self
    }

    /// With a budget of its own.
    pub(crate) fn with_descriptor_limit(mut self, limit: usize) -> SharedFolder {
        self.inodes.set_budget(Budget::of(limit));
        self
    }
}

/// Opens what is to be shared, as `O_PATH`.
fn open_root(path: &Path, kind: OFlag) -> Result<OwnedFd, FolderError> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | kind;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(|error| FolderError::Open {
        path: path.to_owned(),
        source: error.into(),
    })
}

/// What a device serves.
pub(crate) trait Served:
    FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static
{
    /// Adds the entries of `directory` from position `offset` on to `entries`: what FUSE_READDIR and FUSE_READDIRPLUS ask
    /// for. No handle is needed.
    ///
    /// # Errors
    /// As open(2), lseek(2) and getdents(2); `ESTALE` if the guest does not know the directory.
    fn list(&self, directory: u64, offset: u64, entries: &mut Entries) -> io::Result<()>;

    /// Forgets all that the guest had open or was told of; the next request is FUSE_INIT.
    fn reset(&self);

    /// Counts what reads and writes move.
    fn traffic(&self) -> Traffic;
}

/// An error that the guest sees as this number.
fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
