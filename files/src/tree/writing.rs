//! Writing a tree that somebody hostile may send.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchown, fchownat, geteuid, linkat, symlinkat};
use protocol::{NodeKind, TreeNode};

use super::MAX_DEPTH;
use super::node_path::NodePath;
use super::reading::TreeSink;
use super::target::{Target, file_type, put, status};
use crate::Files;
use crate::attributes::time_spec;
use crate::beneath::{Entry, check_regular};
use crate::error::{FilesError, failed};
use crate::extended_attributes::{self, Allowed};

/// How many of the nodes that were left out are told by name.
const MAX_TOLD: usize = 100;

/// What is taken over from nodes besides permissions, times and the user's extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreePolicy {
    /// Owners, if this process may give files away, and access control lists.
    pub owners: bool,
    /// Set-user-ID and set-group-ID bits, capabilities of programs, FIFOs, sockets and device nodes. Otherwise bits and
    /// capabilities are dropped and such nodes left out.
    pub special: bool,
}

/// A node that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path in the tree.
    pub path: PathBuf,
    /// Why, in a few words.
    pub reason: &'static str,
}

/// What became of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeReport {
    /// Nodes that were written.
    pub nodes: u64,
    /// Bytes of data that were written; holes do not count.
    pub bytes: u64,
    /// Nodes that were left out.
    pub left_out: u64,
    /// The first hundred of them.
    pub skipped: Vec<Skipped>,
}

/// Writes a tree beneath a directory, node for node. The rules are those of `docs/protocol.md`; they hold whatever is given,
/// and nothing outside of the directory is touched.
#[derive(Debug)]
pub struct TreeWriter<'f> {
    target: Target<'f>,
    policy: TreePolicy,
    /// Directories that were made and what is to be given to them when nothing more comes into them, each within the one
    /// before.
    open: Vec<(NodePath, OwnedFd, TreeNode)>,
    contents: Contents,
    report: TreeReport,
}

/// What becomes of contents.
#[derive(Debug)]
enum Contents {
    /// There are none to come.
    None,
    /// They are written.
    File {
        file: File,
        path: NodePath,
        node: TreeNode,
        written: u64,
        size: u64,
    },
}

/// Fails if something is in the way, or as the system calls: with [`FilesError::PathEscape`] for a path that is none of a node,
/// with `EINVAL` when contents of the node before are missing, or when there are more than it has.
impl TreeSink for TreeWriter<'_> {
    type Error = FilesError;

    fn node(&mut self, node: TreeNode) -> Result<(), FilesError> {
        let path = NodePath::new(node.path.0.clone())?;
        self.end_contents()?;
        self.leave_all_but(&path)?;
        self.report.nodes = self.report.nodes.saturating_add(1);
        // Where a tree begins may have no name, as the root directory.
        let is_beginning = node.kind == NodeKind::Directory && path.as_bytes().is_empty();
        if is_beginning && self.target.directory(&path).is_ok() {
            return Ok(());
        }
        let entry = self.entry(&path)?;
        let place = (entry.directory.as_fd(), entry.name.as_c_str());
        match &node.kind {
            NodeKind::Directory => self.directory(place, &path, node)?,
            NodeKind::File { size } => {
                let size = *size;
                let file = self.create(place, &path)?;
                self.contents = Contents::File {
                    file,
                    path,
                    node,
                    written: 0,
                    size,
                };
            }
            NodeKind::Symlink { target } => {
                let target = OsStr::from_bytes(&target.0);
                self.put(place, &path, || symlinkat(target, place.0, place.1))?;
                self.give_unfollowed(place, &path, &node)?;
            }
            NodeKind::HardLink { to } => self.link(place, &path, to.0.clone())?,
            NodeKind::Fifo => self.special(place, &path, &node, SFlag::S_IFIFO, (0, 0))?,
            NodeKind::Socket => self.special(place, &path, &node, SFlag::S_IFSOCK, (0, 0))?,
            NodeKind::CharacterDevice { major, minor } => {
                self.special(place, &path, &node, SFlag::S_IFCHR, (*major, *minor))?;
            }
            NodeKind::BlockDevice { major, minor } => {
                self.special(place, &path, &node, SFlag::S_IFBLK, (*major, *minor))?;
            }
        }
        Ok(())
    }

    fn data(&mut self, data: &[u8]) -> Result<(), FilesError> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let (file, path) = self.advance(length)?;
        let written = file.write_all(data);
        let path = path.clone();
        self.report.bytes = self.report.bytes.saturating_add(length);
        written.map_err(failed("write", &self.target.shown(&path)))
    }

    fn hole(&mut self, length: u64) -> Result<(), FilesError> {
        let (file, path) = self.advance(length)?;
        let moved = match i64::try_from(length) {
            Ok(length) => file.seek(SeekFrom::Current(length)).map(drop),
            Err(_) => Err(io::Error::from_raw_os_error(libc::EFBIG)),
        };
        let path = path.clone();
        moved.map_err(failed("write", &self.target.shown(&path)))
    }
}

impl<'f> TreeWriter<'f> {
    /// Writes to `path`, which may exist if the tree begins with a directory, and must if the tree has no beginning.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`] if it is absolute.
    pub fn new(
        files: &'f Files,
        path: impl AsRef<Path>,
        policy: TreePolicy,
    ) -> Result<TreeWriter<'f>, FilesError> {
        Ok(TreeWriter {
            target: Target::new(files, path.as_ref())?,
            policy: TreePolicy {
                owners: policy.owners && geteuid().is_root(),
                ..policy
            },
            open: Vec::new(),
            contents: Contents::None,
            report: TreeReport::default(),
        })
    }

    /// Ends the tree.
    ///
    /// # Errors
    /// `EINVAL` when contents are missing; as the system calls.
    pub fn finish(mut self) -> Result<TreeReport, FilesError> {
        self.end_contents()?;
        while let Some(directory) = self.open.pop() {
            self.leave(directory)?;
        }
        Ok(self.report)
    }

    /// The file whose contents come, after it was noted that so many more have.
    fn advance(&mut self, length: u64) -> Result<(&mut File, &NodePath), FilesError> {
        match &mut self.contents {
            Contents::File {
                file,
                path,
                written,
                size,
                ..
            } if length <= size.saturating_sub(*written) => {
                *written = written.saturating_add(length);
                Ok((file, path))
            }
            _ => Err(self.target.failed(&NodePath::default(), Errno::EINVAL)),
        }
    }

    /// Gives the file whose contents came what its node says.
    fn end_contents(&mut self) -> Result<(), FilesError> {
        let Contents::File {
            file,
            path,
            node,
            written,
            size,
        } = std::mem::replace(&mut self.contents, Contents::None)
        else {
            return Ok(());
        };
        if written != size {
            return Err(self.target.failed(&path, Errno::EINVAL));
        }
        // A hole at the end.
        file.set_len(size)
            .map_err(failed("write", &self.target.shown(&path)))?;
        self.check(&path, self.give(&file, &node))
    }

    /// Leaves the directories in which `path` does not lie.
    fn leave_all_but(&mut self, path: &NodePath) -> Result<(), FilesError> {
        while let Some(directory) = self.open.pop_if(|(open, ..)| !open.contains(path)) {
            self.leave(directory)?;
        }
        Ok(())
    }

    /// Gives a directory into which nothing more comes what its node says.
    fn leave(
        &self,
        (path, directory, node): (NodePath, OwnedFd, TreeNode),
    ) -> Result<(), FilesError> {
        self.check(&path, self.give(&directory, &node))
    }

    /// The entry that the node at `path` is to be.
    fn entry(&mut self, path: &NodePath) -> Result<Entry, FilesError> {
        if let Some((parent, name)) = path.split()
            && let Some((open, directory, _)) = self.open.last()
            && *open == parent
        {
            let directory = directory
                .try_clone()
                .map_err(failed("write", &self.target.shown(path)))?;
            return Ok(Entry { directory, name });
        }
        self.target.entry(path)
    }

    /// Makes a directory, or takes the one that is there as it is.
    fn directory(
        &mut self,
        (parent, name): (BorrowedFd<'_>, &CStr),
        path: &NodePath,
        node: TreeNode,
    ) -> Result<(), FilesError> {
        match mkdirat(parent, name, Mode::S_IRWXU) {
            Ok(()) => {}
            // `directory` says whether it is one.
            Err(Errno::EEXIST) => return self.target.directory(path).map(drop),
            Err(error) => return Err(self.target.failed(path, error)),
        }
        if self.open.len() == MAX_DEPTH {
            return Err(FilesError::TooDeep {
                path: self.target.shown(path),
                limit: MAX_DEPTH as u64,
            });
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(parent, name, flags, Mode::empty());
        let directory = self.check(path, opened)?;
        self.open.push((path.clone(), directory, node));
        Ok(())
    }

    /// Makes a file in the place of whatever has its name.
    fn create(
        &self,
        (parent, name): (BorrowedFd<'_>, &CStr),
        path: &NodePath,
    ) -> Result<File, FilesError> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let made = put(parent, name, || {
            openat(parent, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, mode)
        });
        let file = match made {
            // Something is mounted there, or mounted elsewhere from there: only its contents can be replaced.
            Err(Errno::EBUSY) => {
                let opened = openat(parent, name, flags | OFlag::O_NONBLOCK, Mode::empty());
                let file = self.check(path, opened)?;
                check_regular("write", &self.target.shown(path), &file)?;
                let file = File::from(file);
                file.set_len(0)
                    .map_err(failed("write", &self.target.shown(path)))?;
                return Ok(file);
            }
            made => self.check(path, made)?,
        };
        Ok(File::from(file))
    }

    fn link(
        &mut self,
        place: (BorrowedFd<'_>, &CStr),
        path: &NodePath,
        to: Vec<u8>,
    ) -> Result<(), FilesError> {
        let first = self.target.entry(&NodePath::new(to)?)?;
        let (directory, name) = (&first.directory, first.name.as_c_str());
        let first = self.check(path, status(directory.as_fd(), name))?;
        // A directory has one name, and what was to be removed first must not be the file itself.
        if file_type(&first) == SFlag::S_IFDIR {
            return Err(self.target.failed(path, Errno::EISDIR));
        }
        if let Ok(there) = status(place.0, place.1)
            && (there.st_dev, there.st_ino) == (first.st_dev, first.st_ino)
        {
            return Ok(());
        }
        self.put(place, path, || {
            linkat(directory, name, place.0, place.1, LinkatFlags::empty())
        })
    }

    fn special(
        &mut self,
        place: (BorrowedFd<'_>, &CStr),
        path: &NodePath,
        node: &TreeNode,
        kind: SFlag,
        (major, minor): (u32, u32),
    ) -> Result<(), FilesError> {
        if !self.policy.special {
            self.leave_out(path, "neither FIFOs nor sockets nor devices were asked for");
            return Ok(());
        }
        let device = makedev(major.into(), minor.into());
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match put(place.0, place.1, || {
            mknodat(place.0, place.1, kind, mode, device)
        }) {
            Ok(()) => {
                self.give_unfollowed(place, path, node)?;
                // fchmodat(2) follows links, and cannot be kept from it by all kernels; by this descriptor it has none to
                // follow.
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made = self.check(path, openat(place.0, place.1, flags, Mode::empty()))?;
                let entry = format!("/proc/self/fd/{}", made.as_raw_fd());
                let flags = FchmodatFlags::FollowSymlink;
                let mode = self.mode(node);
                self.check(path, fchmodat(AT_FDCWD, entry.as_str(), mode, flags))
            }
            Err(Errno::EPERM) => {
                self.leave_out(path, "only root can make device nodes");
                Ok(())
            }
            Err(error) => Err(self.target.failed(path, error)),
        }
    }

    fn leave_out(&mut self, path: &NodePath, reason: &'static str) {
        self.report.left_out = self.report.left_out.saturating_add(1);
        if self.report.skipped.len() < MAX_TOLD {
            let path = path.as_path().to_owned();
            self.report.skipped.push(Skipped { path, reason });
        }
    }

    /// Gives what was made the owner, extended attributes, permissions and time of its node.
    fn give(&self, made: impl AsFd, node: &TreeNode) -> Result<(), Errno> {
        if self.policy.owners {
            let (user, group) = owner(node);
            fchown(&made, user, group)?;
        }
        let allowed = Allowed {
            lists: self.policy.owners,
            capabilities: self.policy.special,
        };
        extended_attributes::give(&made, &node.xattrs, allowed)?;
        // After the owners, because a change of these takes set-user-ID bits and capabilities away.
        fchmod(&made, self.mode(node))?;
        futimens(&made, &TimeSpec::UTIME_OMIT, &time_spec(node.modified))
    }

    /// The same, without permissions, for what cannot be opened.
    fn give_unfollowed(
        &self,
        (parent, name): (BorrowedFd<'_>, &CStr),
        path: &NodePath,
        node: &TreeNode,
    ) -> Result<(), FilesError> {
        if self.policy.owners {
            let (user, group) = owner(node);
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            self.check(path, fchownat(parent, name, user, group, flags))?;
        }
        let modified = time_spec(node.modified);
        let flags = UtimensatFlags::NoFollowSymlink;
        let omit = TimeSpec::UTIME_OMIT;
        self.check(path, utimensat(parent, name, &omit, &modified, flags))
    }

    fn mode(&self, node: &TreeNode) -> Mode {
        let kept = match self.policy.special {
            true => 0o7777,
            false => 0o1777,
        };
        Mode::from_bits_truncate(node.mode & kept)
    }

    fn put<T>(
        &self,
        (parent, name): (BorrowedFd<'_>, &CStr),
        path: &NodePath,
        make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, FilesError> {
        self.check(path, put(parent, name, make))
    }

    fn check<T>(&self, path: &NodePath, result: Result<T, Errno>) -> Result<T, FilesError> {
        result.map_err(|error| self.target.failed(path, error))
    }
}

fn owner(node: &TreeNode) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)))
}
