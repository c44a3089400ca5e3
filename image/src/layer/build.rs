//! From the entries of an archive to a tree, and their content to the image.

use super::archive::{Archive, Entry, EntryKind};
use super::header::Stretch;
use super::path::{self, Missing, OPAQUE, WHITEOUT, refused};
use super::{LayerError, Limits};
use crate::erofs::{
    Attributes, BlockWriter, Device, Directory, Extent, InodeId, Kind, Tree, XATTR_NAME_MAX,
    XATTR_VALUE_MAX, Xattr, is_reserved,
};

/// What an inode takes in memory, roughly, besides its name.
const INODE_BYTES: u64 = 256;

/// The greatest length of a link's target (PATH_MAX without its final NUL).
const TARGET_MAX: usize = 4095;

/// The tree that a layer becomes.
pub(super) struct Builder<'limits> {
    pub tree: Tree,
    pub limits: &'limits Limits,
    entries: u64,
    metadata: u64,
    file_bytes: u64,
}

impl<'limits> Builder<'limits> {
    pub(super) fn new(limits: &'limits Limits) -> Self {
        Self {
            tree: Tree::new(),
            limits,
            entries: 0,
            metadata: 0,
            file_bytes: 0,
        }
    }

    /// How many entries the archive had so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Enters an entry, and takes its content from the archive.
    pub(super) fn add(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<'_>,
        blocks: &mut BlockWriter<'_>,
    ) -> Result<(), LayerError> {
        self.entries += 1;
        self.charge(entry)?;
        let parts = path::parts(&entry.path, &entry.path)?;
        if path::is_of_aufs(&parts) {
            return Ok(());
        }
        let Some((name, above)) = parts.split_last() else {
            return self.root(entry);
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let parent = self.directory(above, Missing::Make, &entry.path)?;
            return self.whiteout(parent, name, hidden, &entry.path);
        }
        // Before anything is made: the target may lie in what the entry replaces.
        let attributes = attributes(entry)?;
        let linked = match entry.kind {
            EntryKind::HardLink => Some(self.link_target(entry)?),
            _ => None,
        };
        let parent = self.directory(above, Missing::Make, &entry.path)?;
        let existing = self.tree.child(parent, name);
        if entry.kind == EntryKind::Directory {
            return self.add_directory(parent, name, existing, entry, attributes);
        }
        let id = match linked {
            Some(linked) => linked,
            None => {
                let kind = self.content(entry, archive, blocks)?;
                let id = self.tree.add(kind, attributes);
                self.describe(id, entry)?;
                id
            }
        };
        if existing != Some(id) {
            self.tree.link(parent, name, id);
        }
        Ok(())
    }

    /// What is kept of an entry counts, whether it is replaced later or not.
    fn charge(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.path.len() > self.limits.path_bytes {
            return Err(LayerError::Limit {
                what: "longer paths",
                limit: self.limits.path_bytes as u64,
            });
        }
        let xattrs: usize = entry
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if xattrs > self.limits.xattr_bytes {
            return Err(LayerError::Limit {
                what: "more bytes in the extended attributes of one file",
                limit: self.limits.xattr_bytes as u64,
            });
        }
        self.charge_bytes((entry.path.len() + entry.link.len() + xattrs) as u64)
    }

    fn charge_bytes(&mut self, bytes: u64) -> Result<(), LayerError> {
        if self.entries > self.limits.entries {
            return Err(LayerError::Limit {
                what: "more entries",
                limit: self.limits.entries,
            });
        }
        self.metadata += bytes + INODE_BYTES;
        if self.metadata > self.limits.metadata_bytes {
            return Err(LayerError::Limit {
                what: "more bytes of names, links and attributes",
                limit: self.limits.metadata_bytes,
            });
        }
        Ok(())
    }

    /// An entry for the root itself.
    fn root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != EntryKind::Directory {
            return Err(refused(&entry.path, "would replace the root directory"));
        }
        self.describe_directory(InodeId::ROOT, entry, attributes(entry)?)
    }

    /// A directory that no entry has named so far.
    pub(super) fn imply(
        &mut self,
        parent: InodeId,
        name: &[u8],
        opaque: bool,
    ) -> Result<InodeId, LayerError> {
        self.charge_bytes(name.len() as u64)?;
        let directory = Directory::new(opaque, !opaque);
        let attributes = Attributes {
            permissions: 0o755,
            ..Attributes::default()
        };
        let id = self.tree.add(Kind::Directory(directory), attributes);
        self.tree.link(parent, name, id);
        Ok(id)
    }

    fn add_directory(
        &mut self,
        parent: InodeId,
        name: &[u8],
        existing: Option<InodeId>,
        entry: &Entry,
        attributes: Attributes,
    ) -> Result<(), LayerError> {
        let kept = existing.filter(|existing| self.tree.directory(*existing).is_some());
        let id = match kept {
            Some(kept) => kept,
            None => {
                // What was here, a whiteout or a file, hid what the layers below have.
                let directory = Directory::new(existing.is_some(), false);
                let id = self.tree.add(Kind::Directory(directory), attributes);
                self.tree.link(parent, name, id);
                id
            }
        };
        self.describe_directory(id, entry, attributes)
    }

    fn describe_directory(
        &mut self,
        id: InodeId,
        entry: &Entry,
        attributes: Attributes,
    ) -> Result<(), LayerError> {
        self.tree.inode_mut(id).attributes = attributes;
        if let Some(directory) = self.tree.directory_mut(id) {
            directory.implied = false;
        }
        self.describe(id, entry)
    }

    /// An entry that hides something of the layers below, and nothing of this one.
    fn whiteout(
        &mut self,
        parent: InodeId,
        name: &[u8],
        hidden: &[u8],
        entry: &[u8],
    ) -> Result<(), LayerError> {
        if name == OPAQUE {
            if let Some(directory) = self.tree.directory_mut(parent) {
                directory.opaque = true;
            }
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(entry, "hides no name that a file can have"));
        }
        match self.tree.child(parent, hidden) {
            None => {
                let kind = Kind::Character(Device::WHITEOUT);
                let id = self.tree.add(kind, Attributes::default());
                self.tree.link(parent, hidden, id);
            }
            Some(existing) => {
                if let Some(directory) = self.tree.directory_mut(existing) {
                    directory.opaque = true;
                    directory.implied = false;
                }
            }
        }
        Ok(())
    }

    /// What a hard link leads to, which must be in the layer already.
    fn link_target(&mut self, entry: &Entry) -> Result<InodeId, LayerError> {
        let parts = path::parts(&entry.link, &entry.path)?;
        let Some((name, above)) = parts.split_last() else {
            return Err(refused(&entry.path, "is a hard link to a directory"));
        };
        let parent = self.directory(above, Missing::Refuse, &entry.path)?;
        let target = self.tree.child(parent, name);
        match target.map(|target| (target, &self.tree.inode(target).kind)) {
            Some((_, Kind::Directory(_))) => {
                Err(refused(&entry.path, "is a hard link to a directory"))
            }
            Some((target, kind)) if !kind.is_whiteout() => Ok(target),
            _ => Err(refused(
                &entry.path,
                "is a link to something that the layer does not have",
            )),
        }
    }

    /// What an entry that is no directory and no hard link becomes.
    fn content(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<'_>,
        blocks: &mut BlockWriter<'_>,
    ) -> Result<Kind, LayerError> {
        Ok(match &entry.kind {
            EntryKind::File { size, map } => {
                let extent = self.file(*size, map.as_deref(), archive, blocks)?;
                Kind::File(extent)
            }
            EntryKind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > TARGET_MAX || entry.link.contains(&0)
                {
                    return Err(refused(
                        &entry.path,
                        "is a symbolic link whose target is empty, has a NUL or more than 4095 bytes",
                    ));
                }
                Kind::Symlink(entry.link.as_slice().into())
            }
            EntryKind::Character => Kind::Character(device(entry)?),
            EntryKind::Block => Kind::Block(device(entry)?),
            // The others do not come here.
            EntryKind::Fifo | EntryKind::HardLink | EntryKind::Directory => Kind::Fifo,
        })
    }

    /// Writes the content of a file.
    fn file(
        &mut self,
        size: u64,
        map: Option<&[Stretch]>,
        archive: &mut Archive<'_>,
        blocks: &mut BlockWriter<'_>,
    ) -> Result<Extent, LayerError> {
        let total = self.file_bytes.checked_add(size);
        self.file_bytes = total
            .filter(|total| *total <= self.limits.file_bytes)
            .ok_or(LayerError::Limit {
                what: "more bytes in its files, holes included",
                limit: self.limits.file_bytes,
            })?;
        if size == 0 {
            return Ok(Extent::default());
        }
        let block = blocks.next_block()?;
        match map {
            None => archive.content(size, |piece| Ok(blocks.append(piece)?))?,
            Some(map) => {
                let mut at = 0;
                for stretch in map {
                    blocks.append_zeros(stretch.offset.saturating_sub(at))?;
                    archive.content(stretch.length, |piece| Ok(blocks.append(piece)?))?;
                    at = stretch.offset + stretch.length;
                }
                blocks.append_zeros(size.saturating_sub(at))?;
            }
        }
        Ok(Extent { block, size })
    }

    /// Gives an inode the extended attributes of an entry, as far as a file on Linux can have them.
    fn describe(&mut self, id: InodeId, entry: &Entry) -> Result<(), LayerError> {
        let may_have_user = matches!(self.tree.inode(id).kind, Kind::File(_) | Kind::Directory(_));
        let mut xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            if name.len() > XATTR_NAME_MAX || value.len() > XATTR_VALUE_MAX {
                return Err(refused(
                    &entry.path,
                    "has an extended attribute that is longer than Linux allows",
                ));
            }
            let allowed = !is_reserved(name) && (may_have_user || !name.starts_with(b"user."));
            if allowed {
                // Docker leaves out those that the file system does not know, too.
                xattrs.extend(Xattr::new(name, value));
            }
        }
        self.tree.set_xattrs(id, xattrs);
        Ok(())
    }
}

fn device(entry: &Entry) -> Result<Device, LayerError> {
    let number = |number: u64| u32::try_from(number).ok();
    number(entry.major)
        .zip(number(entry.minor))
        .and_then(|(major, minor)| Device::new(major, minor))
        .ok_or_else(|| refused(&entry.path, "has a device number that Linux does not have"))
}

fn attributes(entry: &Entry) -> Result<Attributes, LayerError> {
    // The greatest number stands for no owner (chown(2)).
    let owner = |number: u64| {
        u32::try_from(number)
            .ok()
            .filter(|number| *number < u32::MAX)
            .ok_or_else(|| refused(&entry.path, "has an owner that Linux does not have"))
    };
    Ok(Attributes {
        permissions: (entry.mode & 0o7777) as u16,
        uid: owner(entry.uid)?,
        gid: owner(entry.gid)?,
        mtime: entry.mtime,
    })
}
