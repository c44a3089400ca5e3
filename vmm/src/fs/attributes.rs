//! Attributes of files, as the guest sees them.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use fuse_backend_rs::abi::fuse_abi::{SetattrValid, stat64, statvfs64};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::ftruncate;

use super::beneath::Component;
use super::inode::Inode;
use super::{SharedFolder, errno};

/// Mode bits of a file that are not its type.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// Attributes of what `descriptor`, which may be an `O_PATH` one, refers to.
///
/// # Errors
/// As fstat(2).
pub(super) fn status_of(descriptor: impl AsFd) -> io::Result<stat64> {
    let mut status = MaybeUninit::<stat64>::uninit();
    // SAFETY: the descriptor is open while it is borrowed, and fstat writes one stat64 into the place for one.
    let result = unsafe { libc::fstat64(descriptor.as_fd().as_raw_fd(), status.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat succeeded, so it has filled all of it.
    Ok(unsafe { status.assume_init() })
}

/// Attributes of entry `name` of `directory`; of a symbolic link those of the link.
///
/// # Errors
/// As fstatat(2).
pub(super) fn status_beneath(directory: BorrowedFd<'_>, name: Component<'_>) -> io::Result<stat64> {
    let mut status = MaybeUninit::<stat64>::uninit();
    // SAFETY: the name ends with a NUL, and fstatat writes one stat64 into the place for one.
    let result = unsafe {
        libc::fstatat64(
            directory.as_raw_fd(),
            name.as_c_str().as_ptr(),
            status.as_mut_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatat succeeded, so it has filled all of it.
    Ok(unsafe { status.assume_init() })
}

/// Attributes of the file system on which `descriptor` lies.
///
/// # Errors
/// As fstatvfs(3).
pub(super) fn space_of(descriptor: impl AsFd) -> io::Result<statvfs64> {
    let mut status = MaybeUninit::<statvfs64>::uninit();
    // SAFETY: the descriptor is open while it is borrowed, and fstatvfs writes one statvfs64 into the place for one.
    let result = unsafe { libc::fstatvfs64(descriptor.as_fd().as_raw_fd(), status.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatvfs succeeded, so it has filled all of it.
    Ok(unsafe { status.assume_init() })
}

/// Inode numbers as the guest sees them. The guest sees one file system; a folder may hold several, and a device may
/// have several exports, so two files with the same number on different devices, or in different exports, must not look
/// like hard links of each other.
///
/// On the device of the root of a folder that is no export, the numbers are those of the host. All other pairs of an
/// export and a device are numbered from 1, and their files have that in the upper 16 bits: unique as long as file
/// systems number their inodes below 2^48, which all that keep them on disk do in practice. A larger number is folded
/// into 48 bits.
pub(super) struct InodeNumbers {
    root_device: u64,
    /// 0 for a folder that is none.
    export: u16,
    devices: DeviceNumbers,
}

/// The numbers given to pairs of an export and a device; shared by the exports of a virtio device.
#[derive(Clone, Default)]
pub(super) struct DeviceNumbers(Arc<Mutex<HashMap<(u16, u64), u64>>>);

impl InodeNumbers {
    /// Bits of the inode number that come from the host.
    const HOST_BITS: u32 = 48;
    const HOST_MASK: u64 = (1 << Self::HOST_BITS) - 1;

    /// For a folder whose root has `status`.
    pub(super) fn of_root(status: &stat64) -> InodeNumbers {
        InodeNumbers {
            root_device: status.st_dev,
            export: 0,
            devices: DeviceNumbers::default(),
        }
    }

    /// From now on for export `number`, not 0, of a virtio device whose exports share `devices`.
    pub(super) fn become_export(&mut self, number: u16, devices: &DeviceNumbers) {
        self.export = number;
        self.devices = devices.clone();
    }

    /// Whether `device` is that of the root.
    pub(super) fn is_of_root(&self, device: u64) -> bool {
        device == self.root_device
    }

    /// The number for inode `number` on `device`; the same every time.
    pub(super) fn shown(&self, device: u64, number: u64) -> u64 {
        if self.export == 0 && self.is_of_root(device) {
            return number;
        }
        let devices = self.devices.0.lock();
        let mut devices = devices.unwrap_or_else(PoisonError::into_inner);
        let next = u64::try_from(devices.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let index = *devices.entry((self.export, device)).or_insert(next);
        let folded = (number ^ (number >> Self::HOST_BITS)) & Self::HOST_MASK;
        (index << Self::HOST_BITS) | folded
    }
}

impl SharedFolder {
    /// `status` of the host as the guest sees it.
    pub(super) fn shown(&self, mut status: stat64) -> stat64 {
        let owner = self.identity.shown(&status);
        status.st_uid = owner.user;
        status.st_gid = owner.group;
        status.st_ino = self.numbers.shown(status.st_dev, status.st_ino);
        self.options.restrict(&mut status);
        status
    }

    /// Changes those attributes of an inode that `valid` names to the values in `new`, and returns all as they are then.
    pub(super) fn set_attributes(
        &self,
        inode: u64,
        new: &stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<stat64> {
        self.check_writable()?;
        let inode = self.inodes.get(inode)?;
        inode.check_contents()?;
        // The owner first: with it the host takes mode bits away that the guest may set in the same request.
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let user = valid.contains(SetattrValid::UID).then_some(new.st_uid);
            let group = valid.contains(SetattrValid::GID).then_some(new.st_gid);
            let now = status_of(&inode)?;
            self.identity
                .change_owner(inode.as_fd(), &now, user, group)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            let strips_privileges = valid.contains(SetattrValid::KILL_SUIDGID);
            self.change_file(inode.as_fd(), inode.unlinked(), 0, || {
                self.set_size(&inode, new.st_size, handle, strips_privileges)
            })?;
        }
        if valid.contains(SetattrValid::MODE) {
            let now = if self.options.no_exec {
                status_of(&inode)?.st_mode
            } else {
                inode.kind()
            };
            let mode = self.options.mode_on_host(new.st_mode & PERMISSIONS, now);
            let mode = Mode::from_bits_truncate(mode & PERMISSIONS);
            self.descriptors.change_mode(inode.as_fd(), mode)?;
        }
        let accessed = new_time(
            valid.contains(SetattrValid::ATIME),
            valid.contains(SetattrValid::ATIME_NOW),
            (new.st_atime, new.st_atime_nsec),
        )?;
        let modified = new_time(
            valid.contains(SetattrValid::MTIME),
            valid.contains(SetattrValid::MTIME_NOW),
            (new.st_mtime, new.st_mtime_nsec),
        )?;
        if accessed != TimeSpec::UTIME_OMIT || modified != TimeSpec::UTIME_OMIT {
            self.descriptors
                .change_times(inode.as_fd(), &accessed, &modified)?;
        }
        Ok(self.shown(status_of(&inode)?))
    }

    fn set_size(
        &self,
        inode: &Inode,
        size: i64,
        handle: Option<u64>,
        strips_privileges: bool,
    ) -> io::Result<()> {
        if size < 0 {
            return Err(errno(libc::EFBIG));
        }
        let open = handle.map(|handle| self.files.get(inode.id(), handle));
        if let Some(file) = open.transpose()?.filter(|file| file.writable) {
            ftruncate(&*file, size)?;
            return if strips_privileges {
                self.strip_privileges(file.as_fd())
            } else {
                Ok(())
            };
        }
        let file = self.reopen_file(inode, OFlag::O_WRONLY)?;
        ftruncate(&file, size)?;
        if strips_privileges {
            self.strip_privileges(file.as_fd())?;
        }
        Ok(())
    }
}

/// The time for utimensat(2): now, as given in seconds and nanoseconds, or unchanged.
fn new_time(set: bool, now: bool, time: (i64, i64)) -> io::Result<TimeSpec> {
    match (set, now) {
        (_, true) => Ok(TimeSpec::UTIME_NOW),
        (false, false) => Ok(TimeSpec::UTIME_OMIT),
        // Beyond a second lie numbers that mean something else to utimensat(2).
        (true, false) if (0..1_000_000_000).contains(&time.1) => Ok(TimeSpec::new(time.0, time.1)),
        (true, false) => Err(errno(libc::EINVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of export `export` whose root is on device 1.
    fn numbers(export: u16, devices: &DeviceNumbers) -> InodeNumbers {
        InodeNumbers {
            root_device: 1,
            export,
            devices: devices.clone(),
        }
    }

    #[test]
    fn the_same_number_on_two_devices_is_two_numbers() {
        let numbers = numbers(0, &DeviceNumbers::default());
        assert_eq!(numbers.shown(1, 12), 12);
        let second = numbers.shown(2, 12);
        let third = numbers.shown(3, 12);
        assert!(second != 12 && third != 12 && second != third);
        assert_eq!(numbers.shown(2, 12), second);
    }

    #[test]
    fn the_same_file_in_two_exports_has_two_numbers() {
        let devices = DeviceNumbers::default();
        let (first, second) = (numbers(1, &devices), numbers(2, &devices));
        assert_ne!(first.shown(1, 12), second.shown(1, 12));
        assert_ne!(first.shown(2, 12), second.shown(2, 12));
        assert_ne!(first.shown(1, 12), first.shown(2, 12));
        assert_eq!(first.shown(1, 12), first.shown(1, 12));
    }
}
