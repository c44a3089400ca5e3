//! Reading a tree.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};
use nix::unistd::{Whence, lseek};
use protocol::{Bytes, MAX_DATA, NodeKind, TreeNode};

use super::{MAX_DEPTH, MAX_PATH};
use crate::Files;
use crate::attributes::clock_time;
use crate::beneath::{RelativePath, reopen};
use crate::entries::Entries;
use crate::error::{FilesError, failed};

/// Bytes of paths that are remembered of files with several names. What comes when they are used up is told as files of
/// their own.
const MAX_LINK_PATHS: usize = 16 << 20;

/// Takes a tree.
pub trait TreeSink {
    /// Why it takes no more.
    type Error: From<FilesError>;

    /// A node comes. The contents of the one before are complete.
    fn node(&mut self, node: TreeNode) -> Result<(), Self::Error>;

    /// Contents of the node that came last: 1 to [`MAX_DATA`] bytes.
    fn data(&mut self, data: &[u8]) -> Result<(), Self::Error>;

    /// So many bytes of zeros, at least one.
    fn hole(&mut self, length: u64) -> Result<(), Self::Error>;
}

impl Files {
    /// Tells `sink` of what is at a path and of everything beneath it, in the order that [`protocol::TreeNode`] wants.
    /// Links are told and not followed. What is removed meanwhile is left out.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], [`FilesError::TooDeep`] above 256 directories within each other; as read(2); those of
    /// `sink`.
    pub fn read_tree<S: TreeSink>(
        &self,
        path: impl AsRef<Path>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let path = RelativePath::new(path.as_ref())?;
        let top = self.root.find_unfollowed("read", &path)?;
        let mut reading = Reading {
            given: path.given(),
            sink,
            links: HashMap::new(),
            link_paths: 0,
            part: vec![0; MAX_DATA],
        };
        reading.node(top, Vec::new(), 0)
    }
}

struct Reading<'r, S> {
    given: &'r Path,
    sink: &'r mut S,
    /// Files with more than one name by device and inode: the first path, and how many names are still to come.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
    link_paths: usize,
    part: Vec<u8>,
}

impl<S: TreeSink> Reading<'_, S> {
    /// Tells of what `found` (`O_PATH`) refers to, and of what is in it.
    fn node(&mut self, found: OwnedFd, path: Vec<u8>, depth: usize) -> Result<(), S::Error> {
        let stat = fstat(&found).map_err(|error| self.failed(&path, error))?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => return self.directory(found, &stat, path, depth),
            SFlag::S_IFREG => return self.file(&found, &stat, path),
            SFlag::S_IFLNK => {
                // readlinkat(2) reads the link itself that an `O_PATH` descriptor refers to.
                let target = readlinkat(&found, c"").map_err(|error| self.failed(&path, error))?;
                NodeKind::Symlink {
                    target: Bytes(target.into_vec()),
                }
            }
            SFlag::S_IFIFO => NodeKind::Fifo,
            SFlag::S_IFSOCK => NodeKind::Socket,
            SFlag::S_IFBLK => {
                let (major, minor) = device(&stat);
                NodeKind::BlockDevice { major, minor }
            }
            _ => {
                let (major, minor) = device(&stat);
                NodeKind::CharacterDevice { major, minor }
            }
        };
        self.sink.node(describe(&stat, path, kind))
    }

    fn directory(
        &mut self,
        found: OwnedFd,
        stat: &FileStat,
        path: Vec<u8>,
        depth: usize,
    ) -> Result<(), S::Error> {
        if depth == MAX_DEPTH {
            return Err(self.too_deep(&path).into());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(&found, c".", flags, Mode::empty());
        drop(found);
        let directory = opened.map_err(|error| self.failed(&path, error))?;
        self.sink
            .node(describe(stat, path.clone(), NodeKind::Directory))?;
        let mut entries = Entries::new();
        loop {
            match entries.next(directory.as_fd()) {
                Ok(Some(entry)) => self.entry(directory.as_fd(), &entry.name, &path, depth)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(failed("read", &self.shown(&path))(error).into()),
            }
        }
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        depth: usize,
    ) -> Result<(), S::Error> {
        let path = match path {
            b"" => name.to_bytes().to_vec(),
            path => [path, b"/", name.to_bytes()].concat(),
        };
        if path.len() > MAX_PATH {
            return Err(self.failed(&path, Errno::ENAMETOOLONG).into());
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(directory, name, flags, Mode::empty()) {
            Ok(found) => self.node(found, path, depth.saturating_add(1)),
            // Removed meanwhile.
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.failed(&path, error).into()),
        }
    }

    fn file(&mut self, found: &OwnedFd, stat: &FileStat, path: Vec<u8>) -> Result<(), S::Error> {
        if stat.st_nlink > 1
            && let Some(first) = self.first_name(stat, &path)
        {
            let kind = NodeKind::HardLink { to: Bytes(first) };
            return self.sink.node(describe(stat, path, kind));
        }
        let mut file =
            reopen(found.as_fd(), OFlag::O_RDONLY).map_err(failed("read", &self.shown(&path)))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.sink
            .node(describe(stat, path.clone(), NodeKind::File { size }))?;
        self.contents(&mut file, size, &path)
    }

    /// The path under which a file with several names came before. If there is none, the file is remembered.
    fn first_name(&mut self, stat: &FileStat, path: &[u8]) -> Option<Vec<u8>> {
        let id = (stat.st_dev, stat.st_ino);
        if let Some((first, left)) = self.links.get_mut(&id) {
            let first = first.clone();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.links.remove(&id);
                self.link_paths = self.link_paths.saturating_sub(first.len());
            }
            return Some(first);
        }
        let with_this = self.link_paths.saturating_add(path.len());
        if with_this <= MAX_LINK_PATHS {
            self.link_paths = with_this;
            let left = stat.st_nlink.saturating_sub(1);
            self.links.insert(id, (path.to_vec(), left));
        }
        None
    }

    /// Tells `size` bytes, whatever becomes of the file meanwhile.
    fn contents(&mut self, file: &mut File, size: u64, path: &[u8]) -> Result<(), S::Error> {
        let mut told = 0;
        while told < size {
            let (start, end) =
                data_from(file, told, size).map_err(failed("read", &self.shown(path)))?;
            if start > told {
                self.sink.hole(start.saturating_sub(told))?;
            }
            told = start;
            while told < end {
                let wanted = usize::try_from(end.saturating_sub(told)).unwrap_or(usize::MAX);
                let wanted = wanted.min(self.part.len());
                let room = self.part.get_mut(..wanted).unwrap_or_default();
                let count = match file.read(room) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(failed("read", &self.shown(path))(error).into()),
                };
                if count == 0 {
                    // It was cut short meanwhile.
                    return self.sink.hole(size.saturating_sub(told));
                }
                self.sink.data(self.part.get(..count).unwrap_or_default())?;
                told = told.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }

    /// The path of a node as the caller would name it.
    fn shown(&self, path: &[u8]) -> PathBuf {
        match path {
            b"" => self.given.to_owned(),
            path => self.given.join(std::ffi::OsStr::from_bytes(path)),
        }
    }

    fn failed(&self, path: &[u8], error: Errno) -> FilesError {
        failed("read", &self.shown(path))(error.into())
    }

    fn too_deep(&self, path: &[u8]) -> FilesError {
        FilesError::TooDeep {
            path: self.shown(path),
            limit: MAX_DEPTH as u64,
        }
    }
}

/// Where the next data of a file begins and ends, from `from` on and up to `size`, with the file there. Both are `size` if
/// there is none.
fn data_from(file: &mut File, from: u64, size: u64) -> std::io::Result<(u64, u64)> {
    let offset = i64::try_from(from).map_err(|_| ErrorKind::InvalidData)?;
    let (start, end) = match lseek(&*file, offset, Whence::SeekData) {
        Ok(start) => match lseek(&*file, start, Whence::SeekHole) {
            Ok(end) => (start.unsigned_abs(), end.unsigned_abs()),
            Err(error) => return Err(error.into()),
        },
        Err(Errno::ENXIO) => return Ok((size, size)),
        // A file system without holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => (from, size),
        Err(error) => return Err(error.into()),
    };
    let (start, end) = (start.clamp(from, size), end.min(size));
    file.seek(SeekFrom::Start(start))?;
    // At least a byte further: somebody who changes the file keeps nobody here for ever.
    Ok((start, end.max(start.saturating_add(1)).min(size)))
}

fn describe(stat: &FileStat, path: Vec<u8>, kind: NodeKind) -> TreeNode {
    TreeNode {
        path: Bytes(path),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: clock_time(stat.st_mtime, stat.st_mtime_nsec),
        kind,
    }
}

/// Numbers of a device node; on Linux they fit.
fn device(stat: &FileStat) -> (u32, u32) {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (number(major(stat.st_rdev)), number(minor(stat.st_rdev)))
}
