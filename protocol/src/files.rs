//! What a session that serves files carries: requests in its standard input, replies in its standard output.
//!
//! postcard numbers the variants by their position, so the enums only ever grow at the end.

use serde::{Deserialize, Serialize};

use crate::{Bytes, ClockTime};

/// What a client asks of the files beneath the session's directory. Paths are relative to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileRequest<'a> {
    /// The contents of a file: [`FileReply::Data`], any number of times, and [`FileReply::Done`].
    Read(Bytes),
    /// A file to be made or overwritten with the [`Data`](Self::Data) that follows, up to [`End`](Self::End).
    Write(Bytes),
    /// A part of the contents, at most [`MAX_DATA`](crate::MAX_DATA).
    Data(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// There are no more contents.
    End,
    /// The entries of a directory: [`FileReply::Entry`], any number of times in any order, and [`FileReply::Done`].
    List(Bytes),
    /// What is told about a file: [`FileReply::Entry`], [`FileReply::Done`]. Links are followed.
    Stat(Bytes),
    /// Makes a directory and those above it that are missing.
    MakeDirectory(Bytes),
    /// Removes a file, a link or an empty directory.
    Remove(Bytes),
    /// Removes a file or a link.
    RemoveFile(Bytes),
    /// Removes whatever is there, with everything beneath it.
    RemoveAll(Bytes),
    /// Copies the first to the second.
    Copy(Bytes, Bytes),
    /// Gives the first the name of the second.
    Rename(Bytes, Bytes),
    /// All that inode(7) tells: [`FileReply::Attributes`], [`FileReply::Done`]. Whether a link is followed.
    Examine(Bytes, bool),
    /// Where a link leads: [`FileReply::Data`], [`FileReply::Done`].
    ReadLink(Bytes),
    /// Makes the second a link to the first.
    MakeSymlink(Bytes, Bytes),
    /// Sets the lower twelve bits of `st_mode`. Links are followed, as by all that sets something.
    SetMode(Bytes, u32),
    /// Sets the user and the group that own it, those that are given.
    SetOwner(Bytes, Option<u32>, Option<u32>),
    /// Sets when it was read last and when its contents were changed last, those that are given.
    SetTimes(Bytes, Option<ClockTime>, Option<ClockTime>),
    /// A part of a file of any size: from an offset in bytes, at most so many bytes. Answered as [`Read`](Self::Read).
    ReadFrom(Bytes, u64, u64),
    /// As [`Write`](Self::Write); the file then has these permissions.
    WriteWithMode(Bytes, u32),
    /// Whatever is there, with everything beneath it: for each [`FileReply::Node`], and behind a file's its contents in
    /// [`FileReply::Data`] and [`FileReply::Hole`]. A directory comes before what is in it.
    ReadTree(Bytes),
    /// Makes the tree that follows, from there on: [`Node`](Self::Node), [`Data`](Self::Data) and [`Hole`](Self::Hole) as
    /// [`FileReply`] has them, up to [`End`](Self::End).
    WriteTree(Bytes),
    /// A node of a tree.
    Node(TreeNode),
    /// So many bytes of a tree's file that are zero and take up no space.
    Hole(u64),
    /// The private layer of a root, as a layer of an image is distributed, a tar archive: [`FileReply::Data`], any number of
    /// times, and [`FileReply::Done`]. The first is where the file system with the layer is mounted, the second what the
    /// layer lies over. That file system cannot be written any more then.
    ReadLayer(Bytes, Bytes),
}

/// What is answered to a [`FileRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileReply<'a> {
    /// A part of a file's contents, at most [`MAX_DATA`](crate::MAX_DATA).
    Data(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// A file.
    Entry(FileStatus),
    /// The request is carried out; its last reply.
    Done,
    /// It could not be carried out; its last reply.
    Failed(FileFailure),
    /// All that inode(7) tells of a file.
    Attributes(FileAttributes),
    /// A node of a tree.
    Node(TreeNode),
    /// So many bytes of a tree's file that are zero and take up no space.
    Hole(u64),
}

/// What is told about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// Its name in its directory.
    pub name: Bytes,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// The lower twelve bits of `st_mode`, see inode(7).
    pub mode: u32,
    /// When its contents were changed last: seconds since 1970, rounded down.
    pub modified_s: i64,
    /// Nanoseconds to be added, less than a second.
    pub modified_ns: u32,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, a device or a socket.
    Other,
}

/// All that inode(7) tells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAttributes {
    /// `st_mode`: its type and its permissions.
    pub mode: u32,
    /// User that owns it.
    pub uid: u32,
    /// Group that owns it.
    pub gid: u32,
    /// How many names it has.
    pub links: u64,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it takes up.
    pub allocated: u64,
    /// When it was read last.
    pub accessed: ClockTime,
    /// When its contents were changed last.
    pub modified: ClockTime,
    /// When it was changed last in any way.
    pub changed: ClockTime,
}

/// One name of a tree of files, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Path from where the tree begins, without `.`, `..` and empty components; empty for the beginning itself.
    pub path: Bytes,
    /// The lower twelve bits of `st_mode`, see inode(7).
    pub mode: u32,
    /// User that owns it.
    pub uid: u32,
    /// Group that owns it.
    pub gid: u32,
    /// When its contents were changed last.
    pub modified: ClockTime,
    /// What it is.
    pub kind: NodeKind,
    /// Extended attributes of a file or a directory, see xattr(7).
    pub xattrs: Vec<ExtendedAttribute>,
}

/// An extended attribute of a file, see xattr(7).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExtendedAttribute {
    /// The whole name, with its name space, without zero bytes.
    pub name: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// What a name of a tree stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A regular file, whose contents follow.
    File {
        /// Bytes of [`Data`](FileReply::Data) and [`Hole`](FileReply::Hole), together.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Bytes,
    },
    /// Another name for a file that came before in the same tree.
    HardLink {
        /// The path that it had there.
        to: Bytes,
    },
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFailure {
    /// The path of the request that it is about.
    pub path: Bytes,
    /// Why.
    pub problem: FileProblem,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileProblem {
    /// A system call failed with this Linux error number.
    Errno(i32),
    /// It is absolute, or leads out of the directory.
    Escape,
    /// Nothing is there.
    NotFound,
    /// It names no entry of a directory.
    NotAnEntry,
    /// It is a FIFO, a device or a socket.
    NotRegular,
    /// A file has so many bytes, which is too many to be read.
    TooManyBytes(u64),
    /// A directory has so many entries, which is too many to be listed.
    TooManyEntries(u64),
    /// A directory would be copied into itself.
    IntoItself,
    /// It has more than so many directories within each other, which is too many to be copied.
    TooDeep(u64),
    /// Its name means a deletion in a layer of an image.
    ReservedName,
    /// It cannot be told in a layer of an image.
    NotInLayer,
}
