//! Reading a tree.

use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};
use protocol::{Bytes, ExtendedAttribute, MAX_DATA, NodeKind, TreeNode};

use super::first_names::FirstNames;
use super::stretches::data_from;
use super::{MAX_DEPTH, MAX_PATH};
use crate::Files;
use crate::attributes::clock_time;
use crate::beneath::reopen;
use crate::entries::Entries;
use crate::error::{FilesError, failed};
use crate::extended_attributes;

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
        let path = self.path(path.as_ref())?;
        let top = self.root.find_unfollowed("read", &path)?;
        let mut reading = Reading {
            given: path.given(),
            sink,
            names: FirstNames::default(),
            part: vec![0; MAX_DATA],
        };
        reading.node(top, Vec::new(), 0)
    }
}

struct Reading<'r, S> {
    given: &'r Path,
    sink: &'r mut S,
    names: FirstNames,
    part: Vec<u8>,
}

impl<S: TreeSink> Reading<'_, S> {
    /// Tells of what `found` (`O_PATH`) refers to, and of what is in it.
    fn node(&mut self, found: OwnedFd, path: Vec<u8>, depth: usize) -> Result<(), S::Error> {
        let stat = fstat(&found).map_err(|error| self.failed(&path, error))?;
        match file_type(&stat) {
            SFlag::S_IFDIR => return self.directory(found, &stat, path, depth),
            SFlag::S_IFREG => return self.file(&found, &stat, path),
            _ => {}
        }
        let kind = special_kind(&found, &stat).map_err(|error| self.failed(&path, error))?;
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
        let xattrs = self.own_attributes(&directory, &path)?;
        self.sink.node(TreeNode {
            xattrs,
            ..describe(stat, path.clone(), NodeKind::Directory)
        })?;
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
        if let Some(first) = self.names.of(stat, &path) {
            let kind = NodeKind::HardLink { to: Bytes(first) };
            return self.sink.node(describe(stat, path, kind));
        }
        let mut file =
            reopen(found.as_fd(), OFlag::O_RDONLY).map_err(failed("read", &self.shown(&path)))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let xattrs = self.own_attributes(found, &path)?;
        self.sink.node(TreeNode {
            xattrs,
            ..describe(stat, path.clone(), NodeKind::File { size })
        })?;
        self.contents(&mut file, size, &path)
    }

    fn own_attributes(
        &self,
        found: &OwnedFd,
        path: &[u8],
    ) -> Result<Vec<ExtendedAttribute>, FilesError> {
        extended_attributes::own(found).map_err(failed("read", &self.shown(path)))
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

/// What `found` (`O_PATH`) is, which is neither a directory nor a regular file.
pub(crate) fn special_kind(found: &OwnedFd, stat: &FileStat) -> Result<NodeKind, Errno> {
    Ok(match file_type(stat) {
        SFlag::S_IFLNK => {
            // readlinkat(2) reads the link itself that an `O_PATH` descriptor refers to.
            let target = readlinkat(found, c"")?;
            NodeKind::Symlink {
                target: Bytes(target.into_vec()),
            }
        }
        SFlag::S_IFIFO => NodeKind::Fifo,
        SFlag::S_IFSOCK => NodeKind::Socket,
        SFlag::S_IFBLK => {
            let (major, minor) = device(stat);
            NodeKind::BlockDevice { major, minor }
        }
        _ => {
            let (major, minor) = device(stat);
            NodeKind::CharacterDevice { major, minor }
        }
    })
}

pub(crate) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// The node that `stat` tells of, without extended attributes.
pub(crate) fn describe(stat: &FileStat, path: Vec<u8>, kind: NodeKind) -> TreeNode {
    TreeNode {
        path: Bytes(path),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: clock_time(stat.st_mtime, stat.st_mtime_nsec),
        kind,
        xattrs: Vec::new(),
    }
}

/// Numbers of a device node; on Linux they fit.
fn device(stat: &FileStat) -> (u32, u32) {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (number(major(stat.st_rdev)), number(minor(stat.st_rdev)))
}
