//! The requests of the FUSE protocol, one method each: what the server of fuse-backend-rs calls.

use std::ffi::CStr;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{FsOptions, OpenOptions, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem, ZeroCopyWriter};
use nix::fcntl::readlinkat;

use super::attributes::{space_of, status_of};
use super::{CachePolicy, SharedFolder, errno};

impl FileSystem for SharedFolder {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let mut wanted = FsOptions::ASYNC_READ
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::HANDLE_KILLPRIV_V2;
        match self.options.cache {
            CachePolicy::ReadOnlyLayer => wanted |= FsOptions::CACHE_SYMLINKS,
            CachePolicy::Shared => wanted |= FsOptions::AUTO_INVAL_DATA,
        }
        if !self.options.read_only {
            wanted |= FsOptions::ATOMIC_O_TRUNC;
        }
        // Where nothing changes, an open on the host says nothing that the guest needs to wait for.
        let unchanging = self.options.read_only && self.options.cache == CachePolicy::ReadOnlyLayer;
        let openless = |option| unchanging && capable.contains(option);
        self.openless
            .files
            .store(openless(FsOptions::ZERO_MESSAGE_OPEN), Ordering::Relaxed);
        self.openless
            .directories
            .store(openless(FsOptions::ZERO_MESSAGE_OPENDIR), Ordering::Relaxed);
        Ok(wanted)
    }

    fn destroy(&self) {
        self.reset();
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
        let status = status_of(&*inode)?;
        Ok((self.shown(status), self.options.cache.lifetime()))
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let inode = self.inodes.get(inode)?;
        if inode.kind != libc::S_IFLNK {
            return Err(errno(libc::EINVAL));
        }
        let target = readlinkat(&*inode, c"")?;
        Ok(std::os::unix::ffi::OsStringExt::into_vec(target))
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let (handle, options) = self.open_file(inode, flags)?;
        Ok((handle, options, None))
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
        let inode = self.inodes.get(inode)?;
        space_of(&*inode)
    }

    fn opendir(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        self.open_directory(inode)
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        _size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.read_directory(inode, handle, offset, add_entry)
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.read_directory_plus(inode, handle, size, offset, add_entry)
    }

    fn releasedir(&self, _: &Context, inode: u64, _flags: u32, handle: u64) -> io::Result<()> {
        self.directories.remove(inode, handle).map(drop)
    }
}
