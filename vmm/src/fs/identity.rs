//! Who owns the files, as the guest sees it.
//!
//! A process with user ID 0 shows the host's owners as they are and gives new files to the guest's user who made them.
//! It does so by changing the owner right after the creation: acting under the user's ID (setfsuid(2)) would take
//! away the capabilities that the guest's own permission check already granted, and FUSE does not say which
//! supplementary groups the caller has. Until the owner is set, the file has no permission bits.
//!
//! An ordinary process cannot give files away. Its own files are shown as root's, those of others as nobody's, and
//! changing an owner to what is shown already succeeds, so that `tar` and `cp -a` as the guest's root work.

use std::io;
use std::os::fd::BorrowedFd;

use fuse_backend_rs::abi::fuse_abi::stat64;
use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat, geteuid};

use super::errno;

/// User and group "nobody" as most systems have them, and what Linux shows for an ID without a mapping.
const NOBODY: u32 = 65534;

/// User and group of a file or of a process, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// User ID.
    pub(super) user: u32,
    /// Group ID.
    pub(super) group: u32,
}

/// How owners on the host and in the guest belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdentityMap {
    /// The same on both sides.
    Identical,
    /// Files of this user on the host are root's in the guest.
    OwnIsRoot(u32),
}

impl IdentityMap {
    /// The map for this process's effective user.
    pub(super) fn of_process() -> IdentityMap {
        match geteuid().as_raw() {
            0 => IdentityMap::Identical,
            user => IdentityMap::OwnIsRoot(user),
        }
    }

    /// Owner that the guest sees of a file with `status`.
    pub(super) fn shown(self, status: &stat64) -> Owner {
        let own = |group| Owner { user: 0, group };
        match self {
            IdentityMap::Identical => Owner {
                user: status.st_uid,
                group: status.st_gid,
            },
            IdentityMap::OwnIsRoot(user) if status.st_uid == user => own(0),
            IdentityMap::OwnIsRoot(_) => Owner {
                user: NOBODY,
                group: NOBODY,
            },
        }
    }

    /// Whether a new file of `caller` has to be given away: it belongs to this process first.
    pub(super) fn gives_to(self, caller: Owner) -> bool {
        let own = Owner { user: 0, group: 0 };
        self == IdentityMap::Identical && caller != own
    }

    /// Gives the new file behind `descriptor`, which has `status`, to `owner`. In a directory with the set-group-ID bit
    /// (`inherits_group`) it keeps the group that the host gave to it, see inode(7).
    ///
    /// # Errors
    /// As chown(2).
    pub(super) fn give(
        self,
        descriptor: BorrowedFd<'_>,
        status: &stat64,
        owner: Owner,
        inherits_group: bool,
    ) -> io::Result<()> {
        let user = (owner.user != status.st_uid).then_some(owner.user);
        let group = (!inherits_group && owner.group != status.st_gid).then_some(owner.group);
        if user.is_none() && group.is_none() {
            return Ok(());
        }
        change(descriptor, user, group)
    }

    /// Changes the owner of the file behind `descriptor`, which has `status`. As with any chown(2), the host takes away
    /// the set-user-ID and set-group-ID bits and the capabilities of a file that is executable.
    ///
    /// # Errors
    /// `EPERM` where the map cannot express the new owner; as chown(2).
    pub(super) fn change_owner(
        self,
        descriptor: BorrowedFd<'_>,
        status: &stat64,
        user: Option<u32>,
        group: Option<u32>,
    ) -> io::Result<()> {
        match self {
            IdentityMap::Identical => change(descriptor, user, group),
            IdentityMap::OwnIsRoot(_) => {
                let shown = self.shown(status);
                let kept = user.is_none_or(|user| user == shown.user)
                    && group.is_none_or(|group| group == shown.group);
                if !kept {
                    return Err(errno(libc::EPERM));
                }
                // Without an ID the owner stays, but the bits are taken away as they must be.
                change(descriptor, None, None)
            }
        }
    }
}

fn change(descriptor: BorrowedFd<'_>, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let user = user.map(Uid::from_raw);
    let group = group.map(Gid::from_raw);
    Ok(fchownat(
        descriptor,
        c"",
        user,
        group,
        AtFlags::AT_EMPTY_PATH,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned_by(user: u32, group: u32) -> stat64 {
        // SAFETY: stat64 is plain data, for which all zeros is a valid value.
        let mut status: stat64 = unsafe { std::mem::zeroed() };
        status.st_uid = user;
        status.st_gid = group;
        status
    }

    #[test]
    fn an_ordinary_user_shows_own_files_as_roots_and_others_as_nobodys() {
        let map = IdentityMap::OwnIsRoot(1000);
        let root = Owner { user: 0, group: 0 };
        let nobody = Owner {
            user: 65534,
            group: 65534,
        };
        assert_eq!(map.shown(&owned_by(1000, 100)), root);
        assert_eq!(map.shown(&owned_by(0, 0)), nobody);
        assert_eq!(map.shown(&owned_by(1001, 1000)), nobody);
    }

    #[test]
    fn an_ordinary_user_keeps_owners_and_cannot_change_them() {
        use std::os::fd::AsFd;
        let file = tempfile::tempfile().unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let map = IdentityMap::OwnIsRoot(own);
        let status = owned_by(own, 0);
        let change = |user, group| {
            let result = map.change_owner(file.as_fd(), &status, user, group);
            result.err().and_then(|error| error.raw_os_error())
        };
        assert_eq!(change(Some(0), Some(0)), None);
        assert_eq!(change(Some(0), None), None);
        assert_eq!(change(Some(1), None), Some(libc::EPERM));
        assert_eq!(change(None, Some(5)), Some(libc::EPERM));
    }
}
