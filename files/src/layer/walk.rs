//! Going through a private layer.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use protocol::{Bytes, MAX_DATA, NodeKind, TreeNode};

use super::LayerSink;
use super::attributes::Attributes;
use super::own::{self, DIRECTORY_MODE};
use super::sparse::{SparseMap, line};
use super::tar::Archive;
use crate::beneath::reopen;
use crate::entries::Entries;
use crate::error::{FilesError, failed};
use crate::tree::first_names::FirstNames;
use crate::tree::reading::{describe, file_type, special_kind};
use crate::tree::{MAX_DEPTH, MAX_PATH};

/// What the name of a deletion begins with, and the name of what makes a directory opaque (image specification,
/// `layer.md`, section "Whiteouts").
const DELETED: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How what is walked through is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// As overlayfs keeps it.
    Upper,
    /// As overlayfs shows it.
    Merged,
}

/// A walk through a layer.
pub(super) struct Walk<'w, 's, M, S> {
    below: BorrowedFd<'w>,
    mount: M,
    /// The overlay, when it was asked for.
    merged: Option<OwnedFd>,
    archive: Archive<'s, S>,
    names: FirstNames,
    /// A directory that is told if something in it is.
    pending: Option<TreeNode>,
    part: Vec<u8>,
}

impl<'w, 's, M: FnMut() -> io::Result<OwnedFd>, S: LayerSink> Walk<'w, 's, M, S> {
    pub(super) fn new(below: BorrowedFd<'w>, mount: M, archive: Archive<'s, S>) -> Self {
        Walk {
            below,
            mount,
            merged: None,
            archive,
            names: FirstNames::default(),
            pending: None,
            part: vec![0; MAX_DATA],
        }
    }

    /// Goes through everything beneath `upper`.
    pub(super) fn all(mut self, upper: BorrowedFd<'_>) -> Result<(), S::Error> {
        let upper = upper
            .try_clone_to_owned()
            .map_err(failed("read", Path::new("")))?;
        self.entries(upper, b"", 0, View::Upper)?;
        self.archive.finish()
    }

    fn entries(
        &mut self,
        directory: OwnedFd,
        path: &[u8],
        depth: usize,
        view: View,
    ) -> Result<(), S::Error> {
        if depth == MAX_DEPTH {
            let (path, limit) = (shown(path), MAX_DEPTH as u64);
            return Err(FilesError::TooDeep { path, limit }.into());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(&directory, c".", flags, Mode::empty());
        drop(directory);
        let directory = opened.map_err(unread(path))?;
        let mut entries = Entries::new();
        while let Some(entry) = entries
            .next(directory.as_fd())
            .map_err(failed("read", &shown(path)))?
        {
            self.entry(directory.as_fd(), &entry.name, path, depth, view)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        within: &[u8],
        depth: usize,
        view: View,
    ) -> Result<(), S::Error> {
        let path = joined(within, name.to_bytes());
        if own::is_own(&path) {
            return Ok(());
        }
        if path.len() > MAX_PATH {
            return Err(unread(&path)(Errno::ENAMETOOLONG).into());
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = openat(directory, name, flags, Mode::empty()).map_err(unread(&path))?;
        let stat = fstat(&found).map_err(unread(&path))?;
        if view == View::Upper && is_deletion(&stat) {
            let marker = joined(within, &[DELETED, name.to_bytes()].concat());
            self.flush_pending()?;
            return self.archive.marker(marker);
        }
        if name.to_bytes().starts_with(DELETED) {
            return Err(FilesError::ReservedName { path: shown(&path) }.into());
        }
        let attributes = Attributes::read(&found).map_err(failed("read", &shown(&path)))?;
        if attributes.elsewhere {
            return Err(FilesError::NotInLayer { path: shown(&path) }.into());
        }
        match file_type(&stat) {
            SFlag::S_IFDIR => self.directory(
                found,
                &stat,
                attributes,
                path,
                depth.saturating_add(1),
                view,
            ),
            SFlag::S_IFREG => self.file(&found, &stat, &attributes, path),
            SFlag::S_IFSOCK => Ok(()),
            _ => {
                let kind = special_kind(&found, &stat).map_err(unread(&path))?;
                self.node(&stat, path, kind, &attributes)
            }
        }
    }

    fn directory(
        &mut self,
        found: OwnedFd,
        stat: &FileStat,
        attributes: Attributes,
        path: Vec<u8>,
        depth: usize,
        view: View,
    ) -> Result<(), S::Error> {
        if attributes.redirected {
            // What is in it has another path beneath, which the overlay follows.
            let seen = self.merged(&path)?;
            self.node(stat, path.clone(), NodeKind::Directory, &attributes)?;
            self.archive.marker(joined(&path, OPAQUE))?;
            return self.entries(seen, &path, depth, View::Merged);
        }
        let is_quiet = view == View::Upper && !attributes.opaque && own::may_be_own(&path);
        if is_quiet && self.is_as_below(stat, &attributes, &path)? {
            let node = described(stat, path.clone(), NodeKind::Directory, &attributes);
            self.pending = Some(node);
        } else {
            self.node(stat, path.clone(), NodeKind::Directory, &attributes)?;
            if attributes.opaque {
                self.archive.marker(joined(&path, OPAQUE))?;
            }
        }
        self.entries(found, &path, depth, view)?;
        if is_quiet {
            // Nothing in it was told.
            self.pending = None;
        }
        Ok(())
    }

    /// Whether the directory is beneath as it is here, but for its time; or if there is none, as the agent makes it.
    fn is_as_below(
        &self,
        stat: &FileStat,
        attributes: &Attributes,
        path: &[u8],
    ) -> Result<bool, FilesError> {
        let identity = |stat: &FileStat| (stat.st_mode, stat.st_uid, stat.st_gid);
        match open_beneath(self.below, path) {
            Ok(below) => {
                let stat_below = fstat(&below).map_err(unread(path))?;
                let kept = Attributes::read(&below).map_err(failed("read", &shown(path)))?;
                Ok(identity(stat) == identity(&stat_below) && attributes.kept == kept.kept)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                let mode = SFlag::S_IFDIR.bits() | DIRECTORY_MODE;
                Ok(identity(stat) == (mode, 0, 0) && attributes.kept.is_empty())
            }
            Err(error) => Err(unread(path)(error)),
        }
    }

    /// The directory as the overlay shows it.
    fn merged(&mut self, path: &[u8]) -> Result<OwnedFd, FilesError> {
        let merged = match self.merged.take() {
            Some(merged) => merged,
            None => (self.mount)().map_err(failed("show", &shown(path)))?,
        };
        let opened = open_beneath(merged.as_fd(), path).map_err(unread(path));
        self.merged = Some(merged);
        opened
    }

    fn file(
        &mut self,
        found: &OwnedFd,
        stat: &FileStat,
        attributes: &Attributes,
        path: Vec<u8>,
    ) -> Result<(), S::Error> {
        if let Some(first) = self.names.of(stat, &path) {
            let kind = NodeKind::HardLink { to: Bytes(first) };
            return self.node(stat, path, kind, &Attributes::default());
        }
        let failed = |error| failed("read", &shown(&path))(error);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut file = reopen(found.as_fd(), OFlag::O_RDONLY).map_err(failed)?;
        let has_holes = stat.st_blocks.unsigned_abs().saturating_mul(512) < size;
        let map = match has_holes {
            true => SparseMap::of(&mut file, size).map_err(failed)?,
            false => None,
        };
        let node = described(stat, path.clone(), NodeKind::File { size }, attributes);
        self.flush_pending()?;
        self.archive.entry(&node, map.as_ref())?;
        match map {
            None => self.contents(&mut file, size, &path)?,
            Some(map) => self.stretches(&mut file, &map, &path)?,
        }
        self.archive.pad()
    }

    /// The map of a sparse file, and what is no hole in it.
    fn stretches(&mut self, file: &mut File, map: &SparseMap, path: &[u8]) -> Result<(), S::Error> {
        let finder = &mut file.try_clone().map_err(failed("read", &shown(path)))?;
        let told = |error: Told<S::Error>| error.into_inner(path);
        self.archive.put(map.head().as_bytes())?;
        let archive = &mut self.archive;
        map.each(finder, |start, end| {
            archive.put(line(start, end).as_bytes()).map_err(Told::Sink)
        })
        .map_err(told)?;
        self.archive.pad()?;
        // Both descriptors have one position: the finder looks for a stretch only when the one before was read.
        map.each(finder, |start, end| {
            use std::io::Seek;
            file.seek(io::SeekFrom::Start(start))?;
            self.contents(file, end.saturating_sub(start), path)
                .map_err(Told::Sink)
        })
        .map_err(told)
    }

    /// So many bytes of the file, from where it is.
    fn contents(&mut self, file: &mut File, size: u64, path: &[u8]) -> Result<(), S::Error> {
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(MAX_DATA).min(MAX_DATA);
            let room = self.part.get_mut(..wanted).unwrap_or_default();
            let count = match file.read(room) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", &shown(path))(error).into()),
            };
            self.archive
                .put(self.part.get(..count).unwrap_or_default())?;
            left = left.saturating_sub(count as u64);
        }
        // The size has been told: what is missing at the end of a damaged file is zeros.
        self.archive.zeros(left)
    }

    /// Tells of a node without content.
    fn node(
        &mut self,
        stat: &FileStat,
        path: Vec<u8>,
        kind: NodeKind,
        attributes: &Attributes,
    ) -> Result<(), S::Error> {
        self.flush_pending()?;
        let node = described(stat, path, kind, attributes);
        self.archive.entry(&node, None)
    }

    fn flush_pending(&mut self) -> Result<(), S::Error> {
        match self.pending.take() {
            Some(node) => self.archive.entry(&node, None),
            None => Ok(()),
        }
    }
}

/// The node that `stat` tells of, with the attributes that become part of the layer.
fn described(stat: &FileStat, path: Vec<u8>, kind: NodeKind, attributes: &Attributes) -> TreeNode {
    TreeNode {
        xattrs: attributes.kept.clone(),
        ..describe(stat, path, kind)
    }
}

/// Why the stretches of a file were not told to their end.
enum Told<E> {
    File(io::Error),
    Sink(E),
}

impl<E: From<FilesError>> Told<E> {
    fn into_inner(self, path: &[u8]) -> E {
        match self {
            Told::File(error) => failed("read", &shown(path))(error).into(),
            Told::Sink(error) => error,
        }
    }
}

impl<E> From<io::Error> for Told<E> {
    fn from(error: io::Error) -> Told<E> {
        Told::File(error)
    }
}

/// A directory, reached through directories only.
fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, OsStr::from_bytes(path), how)
}

/// Whether it is how overlayfs marks what was deleted.
fn is_deletion(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

fn shown(path: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(path)).to_owned()
}

fn unread(path: &[u8]) -> impl Fn(Errno) -> FilesError {
    let path = shown(path);
    move |error| failed("read", &path)(error.into())
}
