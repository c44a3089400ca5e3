//! Names that come, go and move: create, link, rename, remove.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fuse_backend_rs::abi::fuse_abi::{CreateIn, OpenOptions, stat64};
use fuse_backend_rs::api::filesystem::Entry;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::attributes::{PERMISSIONS, status_of};
use super::beneath::{self, Component};
use super::files::{host_flags, is_writable};
use super::identity::Owner;
use super::inode::Inode;
use super::lookup::{check_directory, open_path};
use super::quota::BLOCK;
use super::usage::bytes_of;
use super::{SharedFolder, errno};

/// Mode bits that mkdir(2) sets: the set-group-ID bit of a new directory is its parent's.
const DIRECTORY_PERMISSIONS: u32 = 0o1777;

/// A directory of the folder and the name of a new entry in it.
pub(super) struct Place<'n> {
    parent: Inode,
    name: Component<'n>,
}

impl<'n> Place<'n> {
    /// The directory.
    pub(super) fn parent(&self) -> &Inode {
        &self.parent
    }

    /// The name in it.
    pub(super) fn name(&self) -> Component<'n> {
        self.name
    }

    /// Removes what was made there but could not be finished. The error that is on its way to the guest says more than
    /// one of the removal.
    fn clear(&self, flag: UnlinkatFlags) {
        let _ = unlinkat(&self.parent, self.name.as_c_str(), flag);
    }
}

impl SharedFolder {
    fn place<'n>(&self, parent: u64, name: &'n CStr) -> io::Result<Place<'n>> {
        self.check_writable()?;
        let parent = self.inodes.get(parent)?;
        check_directory(&parent)?;
        parent.check_contents()?;
        let name = Component::new(name)?;
        Ok(Place { parent, name })
    }

    /// Opens a regular file that need not exist yet, and gives out a handle.
    pub(super) fn create_file(
        &self,
        caller: Owner,
        parent: u64,
        name: &CStr,
        request: &CreateIn,
    ) -> io::Result<(Entry, u64, OpenOptions)> {
        let place = self.place(parent, name)?;
        let flags = host_flags(request.flags);
        let permit = self.inodes.permit()?;
        let exclusive = request.flags & libc::O_EXCL.cast_unsigned() != 0;
        let made = self.change_names(&[&place.parent], BLOCK, || {
            let made = self.make_file(caller, &place, flags, request.mode)?;
            let bytes = bytes_of(&made.status);
            Ok((made, bytes))
        });
        let made = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !exclusive => {
                return self.open_existing(&place, request);
            }
            result => result?,
        };
        let device = made.status.st_dev;
        let entry = self.entry_of(made.path, made.status)?;
        let handle = self
            .inodes
            .get(entry.inode)
            .and_then(|inode| self.give_handle(&inode, made.descriptor, flags, permit));
        let handle = handle.inspect_err(|_| self.inodes.forget(entry.inode, 1))?;
        let options = self.closing.options(device, is_writable(flags));
        Ok((entry, handle, options))
    }

    /// Opens a file that someone else made since the guest looked.
    fn open_existing(
        &self,
        place: &Place<'_>,
        request: &CreateIn,
    ) -> io::Result<(Entry, u64, OpenOptions)> {
        let mut entry = self.entry_beneath(&place.parent, place.name)?;
        let opened = self.open_file(entry.inode, request.flags, request.fuse_flags);
        let (handle, options) = opened.inspect_err(|_| self.inodes.forget(entry.inode, 1))?;
        // Opening may have truncated it.
        entry.attr = self.shown(status_of(self.inodes.get(entry.inode)?)?);
        Ok((entry, handle, options))
    }

    /// Makes a regular file and opens it.
    fn make_file(
        &self,
        caller: Owner,
        place: &Place<'_>,
        flags: OFlag,
        mode: u32,
    ) -> io::Result<MadeFile> {
        let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = self.options.mode_on_host(mode & PERMISSIONS, libc::S_IFREG);
        let initial = self.initial_mode(caller, mode);
        let descriptor = beneath::open(place.parent.as_fd(), place.name, flags, initial)?;
        let settled = status_of(&descriptor).and_then(|made| {
            let status = self.settle(descriptor.as_fd(), made, &place.parent, caller, mode)?;
            let path = self.descriptors.reopen(descriptor.as_fd(), OFlag::O_PATH)?;
            Ok((status, path))
        });
        match settled {
            Ok((status, path)) => Ok(MadeFile {
                descriptor,
                path,
                status,
            }),
            Err(error) => {
                place.clear(UnlinkatFlags::NoRemoveDir);
                Err(error)
            }
        }
    }

    /// Makes a regular file, a FIFO or a socket.
    pub(super) fn make_node(
        &self,
        caller: Owner,
        parent: u64,
        name: &CStr,
        mode: u32,
    ) -> io::Result<Entry> {
        let place = self.place(parent, name)?;
        self.make(&place, BLOCK, || self.make_node_at(caller, &place, mode))
    }

    /// Makes something at `place`, which may take `needed` bytes of the disk.
    fn make(
        &self,
        place: &Place<'_>,
        needed: u64,
        make: impl FnOnce() -> io::Result<Entry>,
    ) -> io::Result<Entry> {
        self.change_names(&[&place.parent], needed, || {
            let entry = make()?;
            let bytes = bytes_of(&entry.attr);
            Ok((entry, bytes))
        })
    }

    fn make_node_at(&self, caller: Owner, place: &Place<'_>, mode: u32) -> io::Result<Entry> {
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => {
                let made = self.make_file(caller, place, OFlag::O_WRONLY, mode)?;
                return self.entry_of(made.path, made.status);
            }
            libc::S_IFIFO => SFlag::S_IFIFO,
            libc::S_IFSOCK => SFlag::S_IFSOCK,
            // On the host it would be a real device.
            libc::S_IFCHR | libc::S_IFBLK => return Err(errno(libc::EPERM)),
            _ => return Err(errno(libc::EINVAL)),
        };
        let mode = self.options.mode_on_host(mode & PERMISSIONS, kind.bits());
        let initial = self.initial_mode(caller, mode);
        mknodat(&place.parent, place.name.as_c_str(), kind, initial, 0)?;
        let permissions = |_: &stat64| Some(mode);
        self.finish(caller, place, UnlinkatFlags::NoRemoveDir, kind, permissions)
    }

    /// Makes a directory.
    pub(super) fn make_directory(
        &self,
        caller: Owner,
        parent: u64,
        name: &CStr,
        mode: u32,
    ) -> io::Result<Entry> {
        let place = self.place(parent, name)?;
        let initial = self.initial_mode(caller, mode & DIRECTORY_PERMISSIONS);
        let permissions = |made: &stat64| {
            let inherited = made.st_mode & libc::S_ISGID;
            Some((mode & DIRECTORY_PERMISSIONS) | inherited)
        };
        let kind = SFlag::S_IFDIR;
        // Its own block, and one that its parent may need for the name.
        self.make(&place, 2 * BLOCK, || {
            mkdirat(&place.parent, place.name.as_c_str(), initial)?;
            self.finish(caller, &place, UnlinkatFlags::RemoveDir, kind, permissions)
        })
    }

    /// Makes a symbolic link.
    pub(super) fn make_symbolic_link(
        &self,
        caller: Owner,
        parent: u64,
        name: &CStr,
        target: &CStr,
    ) -> io::Result<Entry> {
        let place = self.place(parent, name)?;
        let kind = SFlag::S_IFLNK;
        self.make(&place, 2 * BLOCK, || {
            symlinkat(target, &place.parent, place.name.as_c_str())?;
            self.finish(caller, &place, UnlinkatFlags::NoRemoveDir, kind, |_| None)
        })
    }

    /// Makes another link to the file with ID `inode`.
    pub(super) fn make_link(&self, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let place = self.place(parent, name)?;
        let inode = self.inodes.get(inode)?;
        if inode.is_directory() {
            return Err(errno(libc::EPERM));
        }
        self.change_names(&[&place.parent], BLOCK, || {
            self.note_move();
            self.descriptors
                .link(inode.as_fd(), place.parent.as_fd(), place.name)?;
            Ok(((), 0))
        })?;
        self.known_entry(&inode)
    }

    /// Removes an entry: a directory if `flag` says so, else anything but a directory.
    pub(super) fn remove(&self, parent: u64, name: &CStr, flag: UnlinkatFlags) -> io::Result<()> {
        let place = self.place(parent, name)?;
        self.lose_entry(&place, &[&place.parent], 0, || {
            Ok(unlinkat(&place.parent, place.name.as_c_str(), flag)?)
        })
    }

    /// Moves an entry, as renameat2(2) with `flags`.
    pub(super) fn move_entry(
        &self,
        old: (u64, &CStr),
        new: (u64, &CStr),
        flags: u32,
    ) -> io::Result<()> {
        let old = self.place(old.0, old.1)?;
        let new = self.place(new.0, new.1)?;
        let flags = RenameFlags::from_bits(flags).ok_or_else(|| errno(libc::EINVAL))?;
        // A whiteout is a device node, see `make_node`.
        if flags.contains(RenameFlags::RENAME_WHITEOUT) {
            return Err(errno(libc::EINVAL));
        }
        let rename = || {
            self.note_move();
            let (from, to) = (old.name.as_c_str(), new.name.as_c_str());
            Ok(renameat2(&old.parent, from, &new.parent, to, flags)?)
        };
        let parents = [&old.parent, &new.parent];
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return self.change_names(&parents, BLOCK, || Ok((rename()?, 0)));
        }
        self.lose_entry(&new, &parents, BLOCK, rename)
    }

    /// Tells the guest of an entry that was just made by name, after giving it its owner and its mode.
    fn finish(
        &self,
        caller: Owner,
        place: &Place<'_>,
        flag: UnlinkatFlags,
        kind: SFlag,
        permissions: impl Fn(&stat64) -> Option<u32>,
    ) -> io::Result<Entry> {
        let settled = open_path(&place.parent, place.name).and_then(|path| {
            let made = status_of(&path)?;
            self.check_own_making(caller, &made, kind)?;
            let mode = permissions(&made).unwrap_or(made.st_mode & PERMISSIONS);
            let status = self.settle(path.as_fd(), made, &place.parent, caller, mode)?;
            self.entry_of(path, status)
        });
        settled.inspect_err(|_| place.clear(flag))
    }

    /// Before a file is given away: makes sure that it is the one that was made, not another that someone on the host
    /// has put in its place meanwhile.
    ///
    /// # Errors
    /// `EAGAIN`.
    fn check_own_making(&self, caller: Owner, made: &stat64, kind: SFlag) -> io::Result<()> {
        let single = kind == SFlag::S_IFDIR || made.st_nlink == 1;
        let same = made.st_mode & libc::S_IFMT == kind.bits() && single && made.st_uid == 0;
        if self.identity.gives_to(caller) && !same {
            return Err(errno(libc::EAGAIN));
        }
        Ok(())
    }

    /// Mode to create a file with: nobody gets at it before it has its owner.
    fn initial_mode(&self, caller: Owner, mode: u32) -> Mode {
        if self.identity.gives_to(caller) {
            Mode::empty()
        } else {
            Mode::from_bits_truncate(mode & PERMISSIONS)
        }
    }

    /// Gives the new file behind `descriptor`, which has the status `made`, its owner, and then the mode bits `mode`:
    /// those that it was created with are less this process's umask(2), and a change of the owner takes more away.
    /// Returns its status then.
    fn settle(
        &self,
        descriptor: BorrowedFd<'_>,
        made: stat64,
        parent: &Inode,
        caller: Owner,
        mode: u32,
    ) -> io::Result<stat64> {
        let gives = self.identity.gives_to(caller);
        if gives {
            let inherits_group = status_of(parent)?.st_mode & libc::S_ISGID != 0;
            self.identity
                .give(descriptor, &made, caller, inherits_group)?;
        }
        let is_link = made.st_mode & libc::S_IFMT == libc::S_IFLNK;
        let changes_mode = !is_link && (gives || made.st_mode & PERMISSIONS != mode);
        if changes_mode {
            let mode = Mode::from_bits_truncate(mode);
            self.descriptors.change_mode(descriptor, mode)?;
        }
        if gives || changes_mode {
            status_of(descriptor)
        } else {
            Ok(made)
        }
    }
}

/// A regular file that was just made.
struct MadeFile {
    /// For I/O.
    descriptor: OwnedFd,
    /// An `O_PATH` one.
    path: OwnedFd,
    status: stat64,
}
