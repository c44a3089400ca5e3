//! How a folder is shared.

use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::stat64;

/// Mode bits that let a file run as somebody else.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Mode bits that let a file run.
const EXECUTE: u32 = libc::S_IXUSR | libc::S_IXGRP | libc::S_IXOTH;

/// A device that no driver has: numbers with major 0 are for file systems without a device. Not 0:0, which overlayfs
/// takes for a whiteout.
const NO_DEVICE: u64 = libc::makedev(0, 1);

/// How a folder or a file is shared. All of it is enforced here: the guest's root cannot undo it by a remount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// Refuse everything that changes the folder.
    pub read_only: bool,
    /// Show no execute permission of regular files. What the host has stays as it is when the guest changes a mode, and
    /// files that the guest makes have none.
    pub no_exec: bool,
    /// Show no set-user-ID and set-group-ID bits and no file capabilities, except the set-group-ID bit of directories,
    /// and let the guest set none.
    pub no_suid: bool,
    /// Show device nodes with a number that no driver has, so that opening one fails with `ENXIO`.
    pub no_dev: bool,
    /// How long the guest may rely on what it was told.
    pub cache: CachePolicy,
}

impl FolderOptions {
    /// Writable, with no restrictions, for a folder that the host may change.
    pub const DEFAULT: FolderOptions = FolderOptions {
        read_only: false,
        no_exec: false,
        no_suid: false,
        no_dev: false,
        cache: CachePolicy::AUTO,
    };

    /// `status` of the host less what the options take from it.
    pub(super) fn restrict(&self, status: &mut stat64) {
        status.st_mode &= !self.withheld_bits(status.st_mode);
        let device = matches!(status.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        if self.no_dev && device {
            status.st_rdev = NO_DEVICE;
        }
    }

    /// Mode bits for the host of a file of the type in `now`, its present mode there, for which the guest asks
    /// `wanted`: execute bits that the guest does not see stay as they are.
    pub(super) fn mode_on_host(&self, wanted: u32, now: u32) -> u32 {
        let withheld = self.withheld_bits(now);
        (wanted & !withheld) | (now & withheld & EXECUTE)
    }

    /// Mode bits of a file with `mode` that the guest neither sees nor sets.
    fn withheld_bits(&self, mode: u32) -> u32 {
        let kind = mode & libc::S_IFMT;
        let mut withheld = 0;
        if self.no_suid && kind != libc::S_IFDIR {
            withheld |= SET_ID;
        }
        if self.no_exec && kind == libc::S_IFREG {
            withheld |= EXECUTE;
        }
        withheld
    }
}

impl Default for FolderOptions {
    fn default() -> FolderOptions {
        FolderOptions::DEFAULT
    }
}

/// How long the guest may rely on what it was told about names, attributes and contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// For nothing: the guest asks for names and attributes each time, also before each read(2), and reads the contents
    /// again if the file changed since. Mappings stay coherent within the guest, so `MAP_SHARED` and executables work.
    None,
    /// The host may change the folder: names and attributes are kept for `timeout`, and contents until the file is seen
    /// to have changed, which each open looks for.
    Auto {
        /// How long the guest may miss a change of the host.
        timeout: Duration,
    },
    /// Nobody changes the folder but this guest: everything is kept for `timeout`, also that a name does not exist, and
    /// contents stay cached between one open and the next. For the read-only layers of root file systems.
    Always {
        /// How long the guest may miss a change of the host.
        timeout: Duration,
    },
}

impl CachePolicy {
    /// [`CachePolicy::Auto`] for a second.
    pub const AUTO: CachePolicy = CachePolicy::Auto {
        timeout: Duration::from_secs(1),
    };

    /// [`CachePolicy::Always`] for a day.
    pub const ALWAYS: CachePolicy = CachePolicy::Always {
        timeout: Duration::from_secs(24 * 60 * 60),
    };

    /// How long names and attributes hold.
    pub(super) fn lifetime(self) -> Duration {
        match self {
            CachePolicy::None => Duration::ZERO,
            CachePolicy::Auto { timeout } | CachePolicy::Always { timeout } => timeout,
        }
    }

    /// Whether changes by others need not be looked for.
    pub(super) fn is_always(self) -> bool {
        matches!(self, CachePolicy::Always { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_mode_keeps_what_the_guest_does_not_see_and_gains_no_privileges() {
        let options = FolderOptions {
            no_exec: true,
            no_suid: true,
            ..FolderOptions::DEFAULT
        };
        let file = libc::S_IFREG | 0o4750;
        assert_eq!(options.mode_on_host(0o6644, file), 0o754);
        assert_eq!(options.mode_on_host(0o777, libc::S_IFREG), 0o666);
        let directory = libc::S_IFDIR | 0o700;
        assert_eq!(options.mode_on_host(0o2755, directory), 0o2755);
        assert_eq!(FolderOptions::DEFAULT.mode_on_host(0o6711, file), 0o6711);
    }
}
