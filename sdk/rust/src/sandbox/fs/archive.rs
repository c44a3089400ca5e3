//! Trees of a guest as tar archives, as `docker cp -` has them.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use files::{Skipped, TreeReport, TreeSink};
use protocol::{Bytes, ClockTime, ExtendedAttribute, MAX_DATA, NodeKind, TreeNode};
use tar::{Archive, Builder, Entry, EntryType, Header};
use tokio::sync::mpsc;

use super::SandboxFs;
use super::copying::{Outgoing, Part, Stopped};
use super::error::{in_guest, odd};
use super::nesting::Nesting;
use crate::error::{MicrosandboxError, failed};

/// What errors of an archive are about.
const ARCHIVE: &str = "the archive";

/// What names of records with extended attributes begin with (tar(1), `--xattrs`).
const XATTR: &str = "SCHILY.xattr.";

impl SandboxFs {
    /// Writes what is at `from` in the guest, with everything beneath it, as a tar archive. Names in it begin with the last
    /// component of `from`. Sockets have no place in an archive and are left out; holes become zeros.
    ///
    /// # Errors
    /// See [`SandboxFs`]; when `archive` cannot be written.
    pub async fn read_archive(
        &self,
        from: impl AsRef<Path>,
        archive: impl Write + Send + 'static,
    ) -> Result<TreeReport, MicrosandboxError> {
        let from = from.as_ref();
        let top = match from.file_name() {
            Some(name) => PathBuf::from(name),
            None => PathBuf::from("."),
        };
        self.read_tree(from, move |parts| pack(&top, parts, archive))
            .await
    }

    /// Writes the contents of a tar archive to the directory `to` of the guest, which must exist, with owners. Names are beneath
    /// it: a leading `/` counts for nothing, `..` is refused. Of extended attributes those are taken that come before one whose value
    /// has a line break.
    ///
    /// # Errors
    /// See [`SandboxFs`]; when `archive` cannot be read or understood.
    pub async fn write_archive(
        &self,
        archive: impl Read + Send + 'static,
        to: impl AsRef<Path>,
    ) -> Result<(), MicrosandboxError> {
        self.write_tree(to.as_ref(), move |outgoing| {
            match unpack(archive, outgoing) {
                Ok(()) | Err(Unpacked::Stopped(Stopped::GuestHasEnough)) => Ok(()),
                Err(Unpacked::Stopped(Stopped::Files(error))) => Err(in_guest(error)),
                Err(Unpacked::Archive(error)) => Err(failed("read", Path::new(ARCHIVE))(error)),
                Err(Unpacked::Name(name)) => {
                    let message = format!("The archive names {name:?}, which leads out of it");
                    Err(odd(name, message))
                }
            }
        })
        .await
    }
}

/// Writes an archive of a tree whose names begin with `top`.
fn pack(
    top: &Path,
    mut parts: mpsc::Receiver<Part>,
    archive: impl Write,
) -> Result<TreeReport, MicrosandboxError> {
    let mut builder = Builder::new(archive);
    let mut report = TreeReport::default();
    // Who unpacks the archive may take it at its word.
    let mut nesting = Nesting::default();
    while let Some(part) = parts.blocking_recv() {
        let Part::Node(node) = part else {
            return Err(super::session::out_of_turn());
        };
        nesting.take(&node)?;
        let packed = pack_node(top, &node, &mut parts, &mut builder, &mut report);
        packed.map_err(failed("write", Path::new(ARCHIVE)))?;
    }
    let ended = builder.into_inner().and_then(|mut archive| archive.flush());
    ended.map_err(failed("write", Path::new(ARCHIVE)))?;
    Ok(report)
}

fn pack_node(
    top: &Path,
    node: &TreeNode,
    parts: &mut mpsc::Receiver<Part>,
    builder: &mut Builder<impl Write>,
    report: &mut TreeReport,
) -> io::Result<()> {
    let path = beneath(top, &node.path);
    append_xattrs(node, builder)?;
    let mut header = header(node);
    let mut empty = |kind: EntryType, builder: &mut Builder<_>| {
        header.set_entry_type(kind);
        builder.append_data(&mut header, &path, io::empty())
    };
    match &node.kind {
        NodeKind::Directory => empty(EntryType::Directory, builder)?,
        NodeKind::File { size } => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(*size);
            let mut contents = Contents {
                parts,
                data: bytes::Bytes::new(),
                zeros: 0,
                left: *size,
            };
            builder.append_data(&mut header, &path, &mut contents)?;
            report.bytes = report.bytes.saturating_add(*size);
        }
        NodeKind::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, &path, OsStr::from_bytes(&target.0))?;
        }
        NodeKind::HardLink { to } => {
            header.set_entry_type(EntryType::Link);
            builder.append_link(&mut header, &path, beneath(top, to))?;
        }
        NodeKind::Fifo => empty(EntryType::Fifo, builder)?,
        NodeKind::Socket => {
            report.left_out = report.left_out.saturating_add(1);
            report.skipped.push(Skipped {
                path,
                reason: "an archive has no sockets",
            });
            report.skipped.truncate(MAX_TOLD);
            return Ok(());
        }
        NodeKind::CharacterDevice { major, minor } => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            header.set_entry_type(EntryType::Char);
            builder.append_data(&mut header, &path, io::empty())?;
        }
        NodeKind::BlockDevice { major, minor } => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            header.set_entry_type(EntryType::Block);
            builder.append_data(&mut header, &path, io::empty())?;
        }
    }
    report.nodes = report.nodes.saturating_add(1);
    Ok(())
}

/// How many of the files that were left out are told by name.
const MAX_TOLD: usize = 100;

/// A path of a tree in its archive.
fn beneath(top: &Path, path: &Bytes) -> PathBuf {
    match path.0.is_empty() {
        true => top.to_owned(),
        false => top.join(OsStr::from_bytes(&path.0)),
    }
}

/// Extended attributes, as tar(1) has them in records before the entry.
fn append_xattrs(node: &TreeNode, builder: &mut Builder<impl Write>) -> io::Result<()> {
    let records: Vec<_> = node
        .xattrs
        .iter()
        // A record ends its name with the first `=`.
        .filter(|xattr| !xattr.name.0.contains(&b'='))
        .filter_map(|xattr| {
            let name = std::str::from_utf8(&xattr.name.0).ok()?;
            Some((format!("{XATTR}{name}"), &xattr.value.0[..]))
        })
        .collect();
    builder.append_pax_extensions(records.iter().map(|(name, value)| (&name[..], *value)))
}

fn header(node: &TreeNode) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(u64::try_from(node.modified.seconds).unwrap_or(0));
    header.set_size(0);
    header
}

/// The contents of a file, from the parts that come.
struct Contents<'p> {
    parts: &'p mut mpsc::Receiver<Part>,
    data: bytes::Bytes,
    zeros: u64,
    left: u64,
}

impl Read for Contents<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.data.is_empty() && self.zeros == 0 {
            if self.left == 0 {
                return Ok(0);
            }
            let length = match self.parts.blocking_recv() {
                Some(Part::Data(data)) => {
                    self.data = data;
                    u64::try_from(self.data.len()).unwrap_or(u64::MAX)
                }
                Some(Part::Hole(length)) => {
                    self.zeros = length;
                    length
                }
                Some(Part::Node(_)) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            self.left = self
                .left
                .checked_sub(length)
                .ok_or(io::ErrorKind::InvalidData)?;
        }
        if !self.data.is_empty() {
            let count = self.data.len().min(buffer.len());
            let part = self.data.split_to(count);
            buffer
                .get_mut(..count)
                .unwrap_or_default()
                .copy_from_slice(&part);
            return Ok(count);
        }
        let count = usize::try_from(self.zeros).unwrap_or(usize::MAX);
        let count = count.min(buffer.len());
        buffer.get_mut(..count).unwrap_or_default().fill(0);
        let used = u64::try_from(count).unwrap_or(u64::MAX);
        self.zeros = self.zeros.saturating_sub(used);
        Ok(count)
    }
}

/// Why an archive is not unpacked to its end.
#[derive(Debug)]
enum Unpacked {
    Stopped(Stopped),
    Archive(io::Error),
    Name(PathBuf),
}

impl From<Stopped> for Unpacked {
    fn from(stopped: Stopped) -> Unpacked {
        Unpacked::Stopped(stopped)
    }
}

impl From<io::Error> for Unpacked {
    fn from(error: io::Error) -> Unpacked {
        Unpacked::Archive(error)
    }
}

/// Sends the contents of an archive as a tree.
fn unpack(archive: impl Read, outgoing: &mut Outgoing) -> Result<(), Unpacked> {
    let mut archive = Archive::new(archive);
    let mut part = vec![0; MAX_DATA];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(kind) = kind(&entry)? else {
            continue;
        };
        let size = match kind {
            NodeKind::File { size } => size,
            _ => 0,
        };
        let xattrs = match kind {
            NodeKind::File { .. } | NodeKind::Directory => xattrs(&mut entry)?,
            _ => Vec::new(),
        };
        outgoing.node(node(&entry, kind, xattrs)?)?;
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
            let room = part.get_mut(..wanted).unwrap_or_default();
            entry.read_exact(room)?;
            outgoing.data(room)?;
            left = left.saturating_sub(u64::try_from(wanted).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}

/// What an entry is; `None` for one that says something about others.
fn kind(entry: &Entry<'_, impl Read>) -> Result<Option<NodeKind>, Unpacked> {
    let header = entry.header();
    let link = || entry.link_name_bytes().unwrap_or_default().into_owned();
    let device = || -> io::Result<(u32, u32)> {
        let (major, minor) = (header.device_major()?, header.device_minor()?);
        Ok((major.unwrap_or(0), minor.unwrap_or(0)))
    };
    Ok(Some(match header.entry_type() {
        EntryType::Directory => NodeKind::Directory,
        EntryType::Symlink => NodeKind::Symlink {
            target: Bytes(link()),
        },
        EntryType::Link => NodeKind::HardLink {
            to: Bytes(relative(&link())?),
        },
        EntryType::Fifo => NodeKind::Fifo,
        EntryType::Char => {
            let (major, minor) = device()?;
            NodeKind::CharacterDevice { major, minor }
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            NodeKind::BlockDevice { major, minor }
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            NodeKind::File { size: entry.size() }
        }
        _ => return Ok(None),
    }))
}

/// The extended attributes of an entry, from the records before it.
fn xattrs(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<ExtendedAttribute>> {
    let mut xattrs = Vec::new();
    // The crate cuts records at line breaks: it cannot read on behind a value with one.
    let records = entry.pax_extensions()?.into_iter().flatten();
    for record in records.map_while(Result::ok) {
        if let Some(name) = record.key_bytes().strip_prefix(XATTR.as_bytes()) {
            xattrs.push(ExtendedAttribute {
                name: Bytes(name.to_vec()),
                value: Bytes(record.value_bytes().to_vec()),
            });
        }
    }
    Ok(xattrs)
}

fn node(
    entry: &Entry<'_, impl Read>,
    kind: NodeKind,
    xattrs: Vec<ExtendedAttribute>,
) -> Result<TreeNode, Unpacked> {
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).unwrap_or(0);
    Ok(TreeNode {
        path: Bytes(relative(&entry.path_bytes())?),
        mode: header.mode()? & 0o7777,
        uid: id(header.uid()?),
        gid: id(header.gid()?),
        modified: ClockTime {
            seconds: i64::try_from(header.mtime()?).unwrap_or(0),
            nanoseconds: 0,
        },
        kind,
        xattrs,
    })
}

/// A name of an archive as the path of a node: without what means nothing.
fn relative(name: &[u8]) -> Result<Vec<u8>, Unpacked> {
    let names = name
        .split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."));
    let names: Vec<_> = names.collect();
    if names.contains(&&b".."[..]) {
        let name = OsString::from_vec(name.to_vec());
        return Err(Unpacked::Name(PathBuf::from(name)));
    }
    Ok(names.join(&b'/'))
}
