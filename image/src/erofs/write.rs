//! Everything of an image but the content of files: inodes, directories, extended attributes, superblock.
//!
//! Behind the files' content come the directories (and links) that take whole blocks, then the extended attributes
//! that several inodes share, then the inodes, from which the superblock counts: so the root's number always fits into
//! its 16 bits. Inodes of one directory lie beside each other. Small directories and the targets of links lie behind
//! their inode. The content of files never does: it would be kept in memory until its inode is written,
//! and could not be found by an image that merges several.

use std::fs::File;

use super::blocks::BlockWriter;
use super::directory;
use super::format::{
    BLOCK, DEVICE_SLOT, DataLayout, INODE, RawInode, SLOT, Superblock, XATTR_ENTRY, XATTR_HEADER,
    device_slot, xattr_count,
};
use super::tree::{InodeId, Kind, Tree};
use super::xattr::{Xattr, XattrId};
use super::{ErofsError, markers};

const BLOCK_BYTES: usize = BLOCK as usize;

/// What is shared is named by its number; an inode has room for so many.
const SHARED_MAX: usize = 255;

/// Bytes behind the last inode: fsck.erofs of erofs-utils 1.5 reads what would be the header of extended attributes also where
/// there are none, and fails at the end of the image.
const BEHIND_INODES: u64 = SLOT;

/// Slots of the device table that are enough for every image, and far from what its 16 bits can count.
const DEVICES_MAX: usize = 1000;

/// Writes the image of a tree whose files' content has been appended to `blocks`, and returns its size in bytes.
///
/// # Errors
/// Writing fails, or the format cannot hold what is there.
pub fn finish(tree: &Tree, mut blocks: BlockWriter<'_>, uuid: [u8; 16]) -> Result<u64, ErofsError> {
    let plan = Plan::new(tree)?;
    let first = blocks.next_block()?;
    let end = plan.end(first)?;
    plan.write(tree, &mut blocks, first, 0)?;
    let superblock = Superblock {
        blocks: end,
        uuid,
        ..plan.superblock(first)?
    };
    blocks.finish(&superblock.encode())
}

/// A layer that an image of metadata refers to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    /// Its size in blocks.
    pub blocks: u32,
    pub uuid: [u8; 16],
}

/// Writes an image of a tree whose files' content lies in layers: `Extent::block` counts from the first block of the
/// first layer, as if all of them followed each other. The image and, right behind it, the layers in this order are one
/// file system. Returns the image's size in bytes, a whole number of blocks.
///
/// # Errors
/// Writing fails, or the format cannot hold what is there.
pub(super) fn write_metadata(
    tree: &Tree,
    output: &File,
    layers: &[Layer],
    uuid: [u8; 16],
) -> Result<u64, ErofsError> {
    let devices = u16::try_from(layers.len())
        .ok()
        .filter(|devices| usize::from(*devices) <= DEVICES_MAX)
        .ok_or(ErofsError::TooManyLayers {
            layers: layers.len(),
        })?;
    let plan = Plan::new(tree)?;
    let mut blocks = BlockWriter::new(output);
    let table_bytes = (layers.len() * DEVICE_SLOT) as u64;
    let table = blocks.next_block()?;
    let first = u64::from(table) + table_bytes.div_ceil(BLOCK);
    let first = u32::try_from(first).map_err(|_| ErofsError::TooLarge)?;
    let end = plan.end(first)?;
    let mut mapped = end;
    for layer in layers {
        blocks.append(&device_slot(&layer.uuid, layer.blocks, mapped))?;
        mapped = mapped
            .checked_add(layer.blocks)
            .ok_or(ErofsError::TooLarge)?;
    }
    blocks.next_block()?;
    plan.write(tree, &mut blocks, first, end)?;
    let superblock = Superblock {
        blocks: end,
        uuid,
        devices,
        device_table: (BLOCK_BYTES / DEVICE_SLOT) as u16,
        ..plan.superblock(first)?
    };
    blocks.finish(&superblock.encode())
}

/// Where everything goes, counted from a first block that is not known yet.
struct Plan {
    /// The inodes that have a name, in the order in which they lie.
    order: Vec<Planned>,
    /// Number of each inode of the tree; 0 for those without a name.
    numbers: Vec<u32>,
    /// Blocks of directories and links.
    content_blocks: u64,
    shared: Shared,
    /// Bytes of all inodes.
    inode_bytes: u64,
}

/// An inode and what was decided of it.
struct Planned {
    id: InodeId,
    size: u64,
    layout: DataLayout,
    /// The first block of its content, among those of directories and links.
    content: u64,
}

impl Plan {
    fn new(tree: &Tree) -> Result<Self, ErofsError> {
        let ids = in_order(tree);
        let shared = Shared::new(tree, &ids);
        let mut plan = Self {
            order: Vec::with_capacity(ids.len()),
            numbers: vec![0; tree.capacity()],
            content_blocks: 0,
            shared,
            // Readers take an inode of number 0 for none.
            inode_bytes: INODE as u64,
        };
        for id in ids {
            plan.place(tree, id)?;
        }
        Ok(plan)
    }

    /// Decides where an inode and its content go.
    fn place(&mut self, tree: &Tree, id: InodeId) -> Result<(), ErofsError> {
        let xattrs = self.shared.bytes(tree, id);
        if xattr_count(xattrs).is_none() {
            return Err(ErofsError::XattrsTooLarge { bytes: xattrs });
        }
        let head = INODE + xattrs;
        let (size, own) = match &tree.inode(id).kind {
            Kind::File(extent) => (extent.size, false),
            Kind::Directory(_) => (directory::size(tree, id), true),
            Kind::Symlink(target) => (target.len() as u64, true),
            Kind::Character(_) | Kind::Block(_) | Kind::Fifo | Kind::Socket => (0, false),
        };
        let room = BLOCK.saturating_sub(head as u64);
        let inline = own && size > 0 && size <= room;
        let bytes = head as u64 + if inline { size } else { 0 };
        // What lies behind an inode must not reach into another block.
        let used = self.inode_bytes % BLOCK;
        if used + bytes > BLOCK {
            self.inode_bytes = self.inode_bytes.next_multiple_of(BLOCK);
        }
        self.numbers[id.index()] =
            u32::try_from(self.inode_bytes / SLOT).map_err(|_| ErofsError::TooLarge)?;
        self.inode_bytes = (self.inode_bytes + bytes).next_multiple_of(SLOT);
        let content = self.content_blocks;
        if own && !inline {
            self.content_blocks += size.div_ceil(BLOCK);
        }
        self.order.push(Planned {
            id,
            size,
            layout: if inline {
                DataLayout::Inline
            } else {
                DataLayout::Plain
            },
            content,
        });
        Ok(())
    }

    fn shared_blocks(&self) -> u64 {
        (self.shared.content.len() as u64).div_ceil(BLOCK)
    }

    /// The block behind everything, if it begins with this one.
    fn end(&self, first: u32) -> Result<u32, ErofsError> {
        let inodes = (self.inode_bytes + BEHIND_INODES).div_ceil(BLOCK);
        let blocks = self.content_blocks + self.shared_blocks() + inodes;
        u32::try_from(u64::from(first) + blocks).map_err(|_| ErofsError::TooLarge)
    }

    fn superblock(&self, first: u32) -> Result<Superblock, ErofsError> {
        let block =
            |block: u64| u32::try_from(u64::from(first) + block).map_err(|_| ErofsError::TooLarge);
        Ok(Superblock {
            // The root comes first.
            root: self.numbers[InodeId::ROOT.index()] as u16,
            inodes: self.order.len() as u64,
            meta_block: block(self.content_blocks + self.shared_blocks())?,
            xattr_block: block(self.content_blocks)?,
            ..Superblock::default()
        })
    }

    /// Appends everything; the content of files begins `data` blocks later than the tree says.
    fn write(
        &self,
        tree: &Tree,
        blocks: &mut BlockWriter<'_>,
        first: u32,
        data: u32,
    ) -> Result<(), ErofsError> {
        for planned in &self.order {
            if planned.layout == DataLayout::Plain
                && let Some(content) = self.content(tree, planned.id)
            {
                blocks.append(&content)?;
                blocks.next_block()?;
            }
        }
        blocks.append(&self.shared.content)?;
        blocks.next_block()?;
        let start = blocks.position();
        for (index, planned) in self.order.iter().enumerate() {
            let place = start + u64::from(self.numbers[planned.id.index()]) * SLOT;
            blocks.append_zeros(place - blocks.position())?;
            let inode = self.inode(tree, planned, index, first, data)?;
            blocks.append(&inode.encode())?;
            blocks.append(&self.shared.encode(tree, planned.id))?;
            if planned.layout == DataLayout::Inline
                && let Some(content) = self.content(tree, planned.id)
            {
                blocks.append(&content)?;
            }
        }
        let end = start + self.inode_bytes + BEHIND_INODES;
        blocks.append_zeros(end - blocks.position())?;
        blocks.next_block()?;
        Ok(())
    }

    /// The content of a directory or link.
    fn content(&self, tree: &Tree, id: InodeId) -> Option<Vec<u8>> {
        match &tree.inode(id).kind {
            Kind::Directory(_) => {
                let number = |id: InodeId| u64::from(self.numbers[id.index()]);
                Some(directory::encode(tree, id, number))
            }
            Kind::Symlink(target) => Some(target.to_vec()),
            _ => None,
        }
    }

    fn inode(
        &self,
        tree: &Tree,
        planned: &Planned,
        index: usize,
        first: u32,
        data: u32,
    ) -> Result<RawInode, ErofsError> {
        let inode = tree.inode(planned.id);
        let add = |base: u32, block: u64| {
            u32::try_from(u64::from(base) + block).map_err(|_| ErofsError::TooLarge)
        };
        let place = match &inode.kind {
            Kind::File(extent) if extent.size == 0 => 0,
            Kind::File(extent) => add(data, u64::from(extent.block))?,
            Kind::Character(device) | Kind::Block(device) => device.encode(),
            Kind::Directory(_) | Kind::Symlink(_) if planned.layout == DataLayout::Plain => {
                add(first, planned.content)?
            }
            _ => 0,
        };
        let links = match &inode.kind {
            Kind::Directory(_) => {
                let subdirectories = tree
                    .children(planned.id)
                    .filter(|(_, child)| tree.directory(*child).is_some())
                    .count();
                2 + subdirectories as u32
            }
            _ => inode.links,
        };
        let attributes = inode.attributes;
        Ok(RawInode {
            layout: planned.layout,
            xattr_count: xattr_count(self.shared.bytes(tree, planned.id)).unwrap_or(0),
            mode: file_mode(&inode.kind) | attributes.permissions & 0o7777,
            size: planned.size,
            place,
            number: index as u32 + 1,
            uid: attributes.uid,
            gid: attributes.gid,
            seconds: attributes.mtime.seconds,
            nanoseconds: attributes.mtime.nanoseconds,
            links,
        })
    }
}

/// The file type of a mode (inode(7)).
fn file_mode(kind: &Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::Character(_) => 0o020_000,
        Kind::Directory(_) => 0o040_000,
        Kind::Block(_) => 0o060_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Socket => 0o140_000,
    }
}

/// Every inode that has a name, the root first, those of a directory beside each other.
fn in_order(tree: &Tree) -> Vec<InodeId> {
    let mut seen = vec![false; tree.capacity()];
    let mut order = vec![InodeId::ROOT];
    let mut directories = vec![InodeId::ROOT];
    while let Some(directory) = directories.pop() {
        let before = directories.len();
        for (_, child) in tree.children(directory) {
            if !std::mem::replace(&mut seen[child.index()], true) {
                order.push(child);
                if tree.directory(child).is_some() {
                    directories.push(child);
                }
            }
        }
        directories[before..].reverse();
    }
    order
}

/// The extended attributes that more than one inode has.
struct Shared {
    /// Where each attribute of the tree lies, in units of 4 bytes, if it is shared.
    places: Vec<Option<u32>>,
    content: Vec<u8>,
    markers: markers::Markers,
}

impl Shared {
    fn new(tree: &Tree, ids: &[InodeId]) -> Self {
        let mut uses = vec![0_u32; tree.xattrs.len()];
        for id in ids {
            for xattr in &tree.inode(*id).xattrs {
                uses[xattr.index()] = uses[xattr.index()].saturating_add(1);
            }
        }
        let mut shared = Self {
            places: vec![None; uses.len()],
            content: Vec::new(),
            markers: markers::Markers::new(),
        };
        for id in ids {
            for xattr in &tree.inode(*id).xattrs {
                let place = &mut shared.places[xattr.index()];
                if uses[xattr.index()] > 1 && place.is_none() {
                    *place = u32::try_from(shared.content.len() / XATTR_ENTRY).ok();
                    tree.xattrs.get(*xattr).encode(&mut shared.content);
                }
            }
        }
        shared
    }

    /// The places of an inode's shared attributes, and those that lie behind it.
    fn split<'a>(&'a self, tree: &'a Tree, id: InodeId) -> (Vec<u32>, Vec<&'a Xattr>) {
        let (mut places, mut own) = (Vec::new(), Vec::new());
        for xattr in &tree.inode(id).xattrs {
            match self.place(*xattr) {
                Some(place) if places.len() < SHARED_MAX => places.push(place),
                _ => own.push(tree.xattrs.get(*xattr)),
            }
        }
        own.extend(self.markers.of(tree, id));
        (places, own)
    }

    fn place(&self, xattr: XattrId) -> Option<u32> {
        self.places[xattr.index()]
    }

    /// The bytes behind an inode that its attributes take.
    fn bytes(&self, tree: &Tree, id: InodeId) -> usize {
        let (places, own) = self.split(tree, id);
        if places.is_empty() && own.is_empty() {
            return 0;
        }
        let own: usize = own.iter().map(|xattr| xattr.encoded_len()).sum();
        XATTR_HEADER + places.len() * XATTR_ENTRY + own
    }

    /// Those bytes.
    fn encode(&self, tree: &Tree, id: InodeId) -> Vec<u8> {
        let (places, own) = self.split(tree, id);
        let mut bytes = Vec::new();
        if places.is_empty() && own.is_empty() {
            return bytes;
        }
        bytes.extend([0; XATTR_HEADER]);
        // At most SHARED_MAX.
        bytes[4] = places.len() as u8;
        bytes.extend(places.iter().flat_map(|place| place.to_le_bytes()));
        for xattr in own {
            xattr.encode(&mut bytes);
        }
        bytes
    }
}
