//! The requests of the FUSE protocol on a device with exports: each goes to the export that its node belongs to, or
//! concerns the virtual root, which has entries and nothing else.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FsOptions, OpenOptions, ROOT_ID, SetattrValid, stat64, statvfs64,
};
use fuse_backend_rs::api::filesystem::{
    Context, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader, ZeroCopyWriter,
};

use super::errno;
use super::exports::{Exports, status_of_root};
use super::filesystem::WANTED;

impl FileSystem for Exports {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.set_openless_directories(capable.contains(FsOptions::ZERO_MESSAGE_OPENDIR));
        // What holds for all exports: not that links stay what they are, nor that files need not be opened.
        Ok(WANTED | FsOptions::AUTO_INVAL_DATA)
    }

    fn lookup(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        if parent == ROOT_ID {
            return self.entry_of_root(name.to_bytes());
        }
        self.export_of(parent, libc::EIO)?
            .lookup(context, parent, name)
    }

    fn forget(&self, context: &Context, inode: u64, count: u64) {
        // Of an export that was detached all is forgotten.
        if let Ok(export) = self.export_of(inode, libc::EIO) {
            export.forget(context, inode, count);
        }
    }

    fn getattr(
        &self,
        context: &Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        if inode == ROOT_ID {
            return Ok((status_of_root(), Duration::ZERO));
        }
        self.export_of(inode, libc::EIO)?
            .getattr(context, inode, handle)
    }

    fn setattr(
        &self,
        context: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        self.export_of(inode, libc::EROFS)?
            .setattr(context, inode, attr, handle, valid)
    }

    fn readlink(&self, context: &Context, inode: u64) -> io::Result<Vec<u8>> {
        self.export_of(inode, libc::EINVAL)?
            .readlink(context, inode)
    }

    fn symlink(
        &self,
        context: &Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        self.export_of(parent, libc::EROFS)?
            .symlink(context, target, parent, name)
    }

    fn mknod(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        self.export_of(parent, libc::EROFS)?
            .mknod(context, parent, name, mode, device, umask)
    }

    fn mkdir(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        self.export_of(parent, libc::EROFS)?
            .mkdir(context, parent, name, mode, umask)
    }

    fn unlink(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.export_of(parent, libc::EROFS)?
            .unlink(context, parent, name)
    }

    fn rmdir(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.export_of(parent, libc::EROFS)?
            .rmdir(context, parent, name)
    }

    fn rename(
        &self,
        context: &Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.common_export(old_parent, new_parent)?
            .rename(context, old_parent, old_name, new_parent, new_name, flags)
    }

    fn link(&self, context: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.common_export(inode, parent)?
            .link(context, inode, parent, name)
    }

    fn open(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        self.export_of(inode, libc::EISDIR)?
            .open(context, inode, flags, fuse_flags)
    }

    fn create(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        request: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        self.export_of(parent, libc::EROFS)?
            .create(context, parent, name, request)
    }

    fn read(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        buffers: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let export = self.export_of(inode, libc::EBADF)?;
        export.read(
            context, inode, handle, buffers, size, offset, lock_owner, flags,
        )
    }

    fn write(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        buffers: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let export = self.export_of(inode, libc::EBADF)?;
        export.write(
            context, inode, handle, buffers, size, offset, lock_owner, delayed, flags, fuse_flags,
        )
    }

    fn flush(&self, context: &Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        self.export_of(inode, libc::EBADF)?
            .flush(context, inode, handle, lock_owner)
    }

    fn fsync(&self, context: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        self.export_of(inode, libc::EBADF)?
            .fsync(context, inode, data_only, handle)
    }

    fn fallocate(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.export_of(inode, libc::EBADF)?
            .fallocate(context, inode, handle, mode, offset, length)
    }

    fn lseek(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        self.export_of(inode, libc::EBADF)?
            .lseek(context, inode, handle, offset, whence)
    }

    fn release(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        let export = self.export_of(inode, libc::EBADF)?;
        export.release(
            context,
            inode,
            flags,
            handle,
            flush,
            flock_release,
            lock_owner,
        )
    }

    fn statfs(&self, context: &Context, inode: u64) -> io::Result<statvfs64> {
        if inode != ROOT_ID {
            return self.export_of(inode, libc::EIO)?.statfs(context, inode);
        }
        // SAFETY: statvfs64 is plain data, for which all zeros is a valid value.
        let mut empty: statvfs64 = unsafe { std::mem::zeroed() };
        empty.f_bsize = 4096;
        empty.f_frsize = 4096;
        empty.f_namemax = 255;
        Ok(empty)
    }

    fn setxattr(
        &self,
        context: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        self.export_of(inode, libc::EROFS)?
            .setxattr(context, inode, name, value, flags)
    }

    fn getxattr(
        &self,
        context: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.export_of(inode, libc::EOPNOTSUPP)?
            .getxattr(context, inode, name, size)
    }

    fn listxattr(&self, context: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.export_of(inode, libc::EOPNOTSUPP)?
            .listxattr(context, inode, size)
    }

    fn removexattr(&self, context: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.export_of(inode, libc::EROFS)?
            .removexattr(context, inode, name)
    }

    fn opendir(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        if self.has_openless_directories() {
            // The guest does not ask again, for none of the exports.
            return Err(errno(libc::ENOSYS));
        }
        if inode == ROOT_ID {
            return Ok((None, OpenOptions::empty()));
        }
        self.export_of(inode, libc::EIO)?
            .opendir(context, inode, flags)
    }

    fn fsyncdir(
        &self,
        context: &Context,
        inode: u64,
        data_only: bool,
        handle: u64,
    ) -> io::Result<()> {
        if inode == ROOT_ID {
            return Ok(());
        }
        self.export_of(inode, libc::EIO)?
            .fsyncdir(context, inode, data_only, handle)
    }

    fn releasedir(&self, _: &Context, _inode: u64, _flags: u32, _handle: u64) -> io::Result<()> {
        Ok(())
    }
}
