//! What a session that serves files carries: requests in its standard input, replies in its standard output.
//!
//! postcard numbers the variants by their position, so the enums only ever grow at the end.

use serde::{Deserialize, Serialize};

use crate::Bytes;

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
}
