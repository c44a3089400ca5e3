//! Several layers as one tree, as overlayfs would show them.

use std::fs::File;

use super::tree::{Extent, InodeId, Kind, Tree};
use super::write::{Layer, write_metadata};
use super::{ErofsError, Reader, Xattr};
use crate::digest::Hasher;

/// Merges images of layers, the lowest first, into an image without content of its own, which is written to an empty
/// file. That image and, right behind it, the layers in the same order are one file system: as one disk, or
/// as several that are named to the kernel in this order (mount option `device=`). Returns the image's size in bytes, a
/// whole number of blocks.
///
/// Whiteouts and opaque directories have been applied and are gone. A directory that no entry of a layer names (see
/// [`Directory::implied`](super::Directory::implied)) stays as the layers below have it, which overlayfs cannot know.
///
/// # Errors
/// An image cannot be read or is none of a layer, the layers have more blocks than the format can count, or writing fails.
pub fn merge(layers: &[&File], output: &File) -> Result<u64, ErofsError> {
    let mut tree = Tree::new();
    let (mut first, mut slots, mut identity) = (0_u32, Vec::new(), Hasher::new());
    for layer in layers {
        let mut reader = Reader::open(layer)?;
        overlay(&mut tree, &reader.tree()?, first)?;
        let blocks = reader.blocks();
        first = first.checked_add(blocks).ok_or(ErofsError::TooLarge)?;
        identity.update(&reader.uuid());
        slots.push(Layer {
            blocks,
            uuid: reader.uuid(),
        });
    }
    if let Some(root) = tree.directory_mut(InodeId::ROOT) {
        root.implied = false;
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&identity.finish().bytes()[..16]);
    write_metadata(&tree, output, &slots, uuid)
}

/// Puts a layer over what the layers below it are together; `first` is where the layer's blocks begin, counted from the
/// first block of the lowest layer.
///
/// # Errors
/// The layers have more blocks than the format can count.
fn overlay(below: &mut Tree, layer: &Tree, first: u32) -> Result<(), ErofsError> {
    let mut merge = Merge {
        below,
        layer,
        first,
        copies: vec![None; layer.capacity()],
    };
    merge.directory(InodeId::ROOT, InodeId::ROOT);
    let mut directories = vec![(InodeId::ROOT, InodeId::ROOT)];
    while let Some((target, source)) = directories.pop() {
        for (name, child) in layer.children(source) {
            if let Some(target) = merge.child(target, name, child)? {
                directories.push((target, child));
            }
        }
    }
    Ok(())
}

struct Merge<'trees> {
    below: &'trees mut Tree,
    layer: &'trees Tree,
    first: u32,
    /// What the layer's inodes became: files with several names stay one.
    copies: Vec<Option<InodeId>>,
}

impl Merge<'_> {
    /// Enters one name of the layer; returns the directory whose content is to follow.
    fn child(
        &mut self,
        parent: InodeId,
        name: &[u8],
        source: InodeId,
    ) -> Result<Option<InodeId>, ErofsError> {
        let inode = self.layer.inode(source);
        if inode.kind.is_whiteout() {
            self.below.unlink(parent, name);
            return Ok(None);
        }
        if self.layer.directory(source).is_none() {
            let copy = self.copy(source)?;
            self.below.link(parent, name, copy);
            return Ok(None);
        }
        let existing = self
            .below
            .child(parent, name)
            .filter(|existing| self.below.directory(*existing).is_some());
        let target = match existing {
            Some(existing) => existing,
            None => {
                let added = self
                    .below
                    .add(Kind::Directory(Default::default()), inode.attributes);
                self.below.link(parent, name, added);
                self.describe(added, source);
                added
            }
        };
        self.directory(target, source);
        Ok(Some(target))
    }

    /// Brings what is said of a directory to one that is there.
    fn directory(&mut self, target: InodeId, source: InodeId) {
        let Some(directory) = self.layer.directory(source) else {
            return;
        };
        if directory.opaque {
            let names: Vec<Box<[u8]>> = self
                .below
                .children(target)
                .map(|(name, _)| name.into())
                .collect();
            for name in names {
                self.below.unlink(target, &name);
            }
        }
        if !directory.implied {
            self.describe(target, source);
            if let Some(target) = self.below.directory_mut(target) {
                target.implied = false;
            }
        }
    }

    /// Gives an inode the attributes of the layer's.
    fn describe(&mut self, target: InodeId, source: InodeId) {
        self.below.inode_mut(target).attributes = self.layer.inode(source).attributes;
        let xattrs: Vec<Xattr> = self.layer.xattrs(source).cloned().collect();
        self.below.set_xattrs(target, xattrs);
    }

    /// The layer's inode, which is no directory, in the tree of all layers.
    fn copy(&mut self, source: InodeId) -> Result<InodeId, ErofsError> {
        if let Some(copy) = self.copies[source.index()] {
            return Ok(copy);
        }
        let inode = self.layer.inode(source);
        let kind = match &inode.kind {
            Kind::File(extent) => Kind::File(Extent {
                block: extent
                    .block
                    .checked_add(self.first)
                    .ok_or(ErofsError::TooLarge)?,
                size: extent.size,
            }),
            Kind::Symlink(target) => Kind::Symlink(target.clone()),
            Kind::Character(device) => Kind::Character(*device),
            Kind::Block(device) => Kind::Block(*device),
            Kind::Fifo => Kind::Fifo,
            // Directories do not come here.
            Kind::Socket | Kind::Directory(_) => Kind::Socket,
        };
        let copy = self.below.add(kind, inode.attributes);
        self.describe(copy, source);
        self.copies[source.index()] = Some(copy);
        Ok(copy)
    }
}
