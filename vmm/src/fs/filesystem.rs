//! The requests of the FUSE protocol, one method each: what the server of fuse-backend-rs calls.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FsOptions, OpenOptions, SetattrValid, WRITE_KILL_PRIV, stat64, statvfs64,
};
use fuse_backend_rs::api::filesystem::{
    Context, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader, ZeroCopyWriter,
};
use nix::fcntl::readlinkat;
use nix::unistd::{UnlinkatFlags, fdatasync, fsync};

use super::attributes::status_of;
use super::files::Write;
use super::identity::Owner;
use super::{SharedFolder, errno};

/// What the guest's kernel is asked to do.
///
/// Not ATOMIC_O_TRUNC: with it, Linux has an open with O_RDONLY | O_TRUNC truncate the file before it finds out that
/// the file is being executed, and refuses the open after that.
pub(super) const WANTED: FsOptions = FsOptions::ASYNC_READ
    .union(FsOptions::BIG_WRITES)
    .union(FsOptions::MAX_PAGES)
    .union(FsOptions::DO_READDIRPLUS)
    .union(FsOptions::READDIRPLUS_AUTO)
    .union(FsOptions::PARALLEL_DIROPS)
    .union(FsOptions::HANDLE_KILLPRIV_V2);

/// Who makes the request.
fn caller(context: &Context) -> Owner {
    Owner {
        user: context.uid,
        group: context.gid,
    }
}

/// Waits until what was written is on the disk.
fn synchronise(descriptor: impl AsFd, data_only: bool) -> io::Result<()> {
    if data_only {
        Ok(fdatasync(descriptor)?)
    } else {
        Ok(fsync(descriptor)?)
    }
}

impl FileSystem for SharedFolder {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = if self.options.cache.is_always() {
            WANTED | FsOptions::CACHE_SYMLINKS
        } else {
            WANTED | FsOptions::AUTO_INVAL_DATA
        };
        // Where nothing changes, an open on the host says nothing that the guest needs to wait for.
        let unchanging = self.options.read_only && self.options.cache.is_always();
        let openless = unchanging && capable.contains(FsOptions::ZERO_MESSAGE_OPEN);
        self.openless.files.store(openless, Ordering::Relaxed);
        let openless = capable.contains(FsOptions::ZERO_MESSAGE_OPENDIR);
        self.openless.directories.store(openless, Ordering::Relaxed);
        Ok(wanted)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.look_up(parent, name)
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.inodes.forget(inode, count);
    }

    fn getattr(
        &self,
        _: &Context,
        inode: u64,
        _handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        let inode = self.inodes.get(inode)?;
        let status = status_of(&inode)?;
        Ok((self.shown(status), self.options.cache.lifetime()))
    }

    fn setattr(
        &self,
        _: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let now = self.set_attributes(inode, &attr, handle, valid)?;
        Ok((now, self.options.cache.lifetime()))
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let inode = self.inodes.get(inode)?;
        if inode.kind() != libc::S_IFLNK {
            return Err(errno(libc::EINVAL));
        }
        let target = readlinkat(&inode, c"")?;
        Ok(std::os::unix::ffi::OsStringExt::into_vec(target))
    }

    fn symlink(
        &self,
        context: &Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        self.make_symbolic_link(caller(context), parent, name, target)
    }

    // The guest's kernel has applied the umask to the mode already: FsOptions::DONT_MASK is not asked for.
    fn mknod(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _device: u32,
        _umask: u32,
    ) -> io::Result<Entry> {
        self.make_node(caller(context), parent, name, mode)
    }

    fn mkdir(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _umask: u32,
    ) -> io::Result<Entry> {
        self.make_directory(caller(context), parent, name, mode)
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, UnlinkatFlags::NoRemoveDir)
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, UnlinkatFlags::RemoveDir)
    }

    fn rename(
        &self,
        _: &Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.move_entry((old_parent, old_name), (new_parent, new_name), flags)
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.make_link(inode, parent, name)
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let (handle, options) = self.open_file(inode, flags, fuse_flags)?;
        Ok((Some(handle), options, None))
    }

    fn create(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        request: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let (entry, handle, options) = self.create_file(caller(context), parent, name, &request)?;
        Ok((entry, Some(handle), options, None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        buffers: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        let file = self.file(inode, handle)?;
        self.read_file(&file, buffers, size, offset)
    }

    fn write(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        buffers: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        delayed: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        self.check_writable()?;
        let file = self.file(inode, handle)?;
        let write = Write {
            size,
            offset,
            // A page that was changed through a mapping goes where it came from, however the file was opened.
            appends: flags & libc::O_APPEND.cast_unsigned() != 0 && !delayed,
            strips_privileges: fuse_flags & WRITE_KILL_PRIV != 0,
        };
        self.write_file(&file, buffers, write)
    }

    fn flush(&self, _: &Context, inode: u64, handle: u64, _lock_owner: u64) -> io::Result<()> {
        if self.openless.files.load(Ordering::Relaxed) {
            // The guest does not ask again.
            return Err(errno(libc::ENOSYS));
        }
        let file = self.file(inode, handle)?;
        self.flush_file(&file)
    }

    fn fsync(&self, _: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let file = self.file(inode, handle)?;
        synchronise(&*file, data_only)
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.check_writable()?;
        let file = self.file(inode, handle)?;
        self.allocate(&file, mode, offset, length)
    }

    fn lseek(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        let file = self.file(inode, handle)?;
        self.seek(&file, offset, whence)
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.files.remove(inode, handle).map(drop)
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<statvfs64> {
        self.space(inode)
    }

    fn setxattr(
        &self,
        _: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        self.set_extended_attribute(inode, name, value, flags)
    }

    fn getxattr(
        &self,
        _: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.extended_attribute(inode, name, size)
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.extended_attributes(inode, size)
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.remove_extended_attribute(inode, name)
    }

    fn opendir(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        if self.openless.directories.load(Ordering::Relaxed) {
            // The guest does not ask again.
            return Err(errno(libc::ENOSYS));
        }
        Ok((None, self.open_directory(inode)?))
    }

    fn fsyncdir(&self, _: &Context, inode: u64, data_only: bool, _handle: u64) -> io::Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let inode = self.inodes.get(inode)?;
        synchronise(self.reopen_directory(&inode)?, data_only)
    }

    fn releasedir(&self, _: &Context, _inode: u64, _flags: u32, _handle: u64) -> io::Result<()> {
        Ok(())
    }
}
