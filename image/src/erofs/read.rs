//! Reads the images that are written here, and believes nothing that they say.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::{
    BLOCK, DataLayout, INODE, RawInode, SLOT, Superblock, XATTR_ENTRY, XATTR_HEADER, u32_at,
    xattr_bytes,
};
use super::tree::{Attributes, Device, Directory, Extent, InodeId, Kind, Time, Tree};
use super::xattr::Xattr;
use super::{ErofsError, directory, markers};

/// The greatest length of a link's target (PATH_MAX without its final NUL).
const TARGET_MAX: u64 = 4095;

/// Bytes that are read at once.
const WINDOW: u64 = 256 << 10;

/// Reads an image from its file.
#[derive(Debug)]
pub struct Reader<'file> {
    file: &'file File,
    bytes: u64,
    superblock: Superblock,
    /// The part of the file that was read last, and where it begins.
    window: Vec<u8>,
    window_start: u64,
}

fn damaged(reason: &'static str) -> ErofsError {
    ErofsError::Damaged { reason }
}

impl<'file> Reader<'file> {
    /// An image in this file.
    ///
    /// # Errors
    /// The file cannot be read, or begins with no superblock that was written here.
    pub fn open(file: &'file File) -> Result<Self, ErofsError> {
        let mut first = [0; BLOCK as usize];
        let bytes = file.metadata().map_err(ErofsError::Read)?.len();
        if bytes < BLOCK {
            return Err(damaged("it is shorter than a block"));
        }
        file.read_exact_at(&mut first, 0)
            .map_err(ErofsError::Read)?;
        let superblock =
            Superblock::decode(&first).ok_or_else(|| damaged("its superblock is not in order"))?;
        Ok(Self {
            file,
            bytes,
            superblock,
            window: Vec::new(),
            window_start: 0,
        })
    }

    /// What was given as its identity when it was written.
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u32 {
        self.superblock.blocks
    }

    /// The whole tree, with the places of the files' content.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is not in order.
    pub fn tree(&mut self) -> Result<Tree, ErofsError> {
        let mut tree = Tree::new();
        let mut known = HashMap::new();
        let root = u64::from(self.superblock.root);
        let content = self.inode(&mut tree, root, Some(InodeId::ROOT))?.1;
        known.insert(root, InodeId::ROOT);
        let mut directories = vec![(InodeId::ROOT, content)];
        while let Some((parent, content)) = directories.pop() {
            for block in content.chunks(BLOCK as usize) {
                let entries = directory::decode(block)
                    .ok_or_else(|| damaged("a directory is not in order"))?;
                for (name, number) in entries {
                    if name == b"." || name == b".." {
                        continue;
                    }
                    let id = match known.get(&number) {
                        Some(id) if tree.directory(*id).is_none() => *id,
                        Some(_) => return Err(damaged("a directory has two names")),
                        None => {
                            let (id, content) = self.inode(&mut tree, number, None)?;
                            known.insert(number, id);
                            if tree.directory(id).is_some() {
                                directories.push((id, content));
                            }
                            id
                        }
                    };
                    if tree.child(parent, name).is_some() {
                        return Err(damaged("a name is twice in a directory"));
                    }
                    tree.link(parent, name, id);
                }
            }
        }
        Ok(tree)
    }

    /// Reads an inode into the tree (as `into`, if that is given); for a directory with its content.
    fn inode(
        &mut self,
        tree: &mut Tree,
        number: u64,
        into: Option<InodeId>,
    ) -> Result<(InodeId, Vec<u8>), ErofsError> {
        let place = number
            .checked_mul(SLOT)
            .and_then(|place| place.checked_add(u64::from(self.superblock.meta_block) * BLOCK))
            .ok_or_else(|| damaged("an inode lies outside"))?;
        let raw = RawInode::decode(&self.array::<INODE>(place)?)
            .ok_or_else(|| damaged("an inode is not in order"))?;
        let xattrs_place = place + INODE as u64;
        let content_place = xattrs_place + xattr_bytes(raw.xattr_count) as u64;
        let mut content = Vec::new();
        let kind = match raw.mode & 0o170_000 {
            0o100_000 => Kind::File(self.extent(&raw)?),
            0o040_000 => {
                content = self.content(&raw, content_place, self.bytes)?;
                Kind::Directory(Directory::default())
            }
            0o120_000 => Kind::Symlink(self.content(&raw, content_place, TARGET_MAX)?.into()),
            0o020_000 => Kind::Character(Device::decode(raw.place)),
            0o060_000 => Kind::Block(Device::decode(raw.place)),
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            _ => return Err(damaged("an inode is of no known type")),
        };
        let attributes = Attributes {
            permissions: raw.mode & 0o7777,
            uid: raw.uid,
            gid: raw.gid,
            mtime: Time {
                seconds: raw.seconds,
                nanoseconds: raw.nanoseconds,
            },
        };
        let id = match into {
            None => tree.add(kind, attributes),
            Some(id) => {
                let inode = tree.inode_mut(id);
                inode.kind = kind;
                inode.attributes = attributes;
                id
            }
        };
        let mut xattrs = self.xattrs(&raw, xattrs_place)?;
        if let Some(directory) = tree.directory_mut(id) {
            xattrs.retain(|xattr| !markers::enter(xattr, directory));
        }
        tree.set_xattrs(id, xattrs);
        Ok((id, content))
    }

    /// Where a file's content lies; that the image has so many blocks is the business of who reads them.
    fn extent(&self, raw: &RawInode) -> Result<Extent, ErofsError> {
        let end = u64::from(raw.place).checked_add(raw.size.div_ceil(BLOCK));
        if raw.layout != DataLayout::Plain || end.is_none_or(|end| end > u64::from(u32::MAX)) {
            return Err(damaged("a file's content lies outside"));
        }
        Ok(Extent {
            block: raw.place,
            size: raw.size,
        })
    }

    /// The content of a directory or link.
    fn content(&mut self, raw: &RawInode, inline: u64, most: u64) -> Result<Vec<u8>, ErofsError> {
        let place = match raw.layout {
            DataLayout::Inline if raw.size <= BLOCK => inline,
            DataLayout::Plain => u64::from(raw.place) * BLOCK,
            DataLayout::Inline => return Err(damaged("content lies outside of its block")),
        };
        if raw.size > most {
            return Err(damaged("a directory or link is too large"));
        }
        self.read(place, raw.size)
    }

    /// The extended attributes of an inode, those that it shares included.
    fn xattrs(&mut self, raw: &RawInode, place: u64) -> Result<Vec<Xattr>, ErofsError> {
        let broken = || damaged("extended attributes are not in order");
        let body = self.read(place, xattr_bytes(raw.xattr_count) as u64)?;
        let Some(shared) = body.get(4).copied().map(usize::from) else {
            return Ok(Vec::new());
        };
        let mut xattrs = Vec::new();
        for index in 0..shared {
            let offset = u32_at(&body, XATTR_HEADER + index * XATTR_ENTRY).ok_or_else(broken)?;
            let place = u64::from(self.superblock.xattr_block) * BLOCK + u64::from(offset) * 4;
            let [name, _, low, high] = self.array(place)?;
            let length =
                XATTR_ENTRY as u64 + u64::from(name) + u64::from(u16::from_le_bytes([low, high]));
            xattrs.push(Xattr::decode(&self.read(place, length)?).ok_or_else(broken)?);
        }
        let mut own = body
            .get(XATTR_HEADER + shared * XATTR_ENTRY..)
            .ok_or_else(broken)?;
        while !own.is_empty() {
            let xattr = Xattr::decode(own).ok_or_else(broken)?;
            own = own.get(xattr.encoded_len()..).ok_or_else(broken)?;
            xattrs.push(xattr);
        }
        Ok(xattrs)
    }

    fn array<const LENGTH: usize>(&mut self, place: u64) -> Result<[u8; LENGTH], ErofsError> {
        let read = self.read(place, LENGTH as u64)?;
        read.first_chunk()
            .copied()
            .ok_or_else(|| damaged("something lies outside"))
    }

    /// Reads bytes, through the window if they are few.
    fn read(&mut self, place: u64, length: u64) -> Result<Vec<u8>, ErofsError> {
        let end = place.checked_add(length).filter(|end| *end <= self.bytes);
        if end.is_none() {
            return Err(damaged("something lies outside"));
        }
        if length > WINDOW / 2 {
            let mut content = vec![0; length as usize];
            self.file
                .read_exact_at(&mut content, place)
                .map_err(ErofsError::Read)?;
            return Ok(content);
        }
        if let Some(found) = self.in_window(place, length) {
            return Ok(found);
        }
        self.window
            .resize((self.bytes - place).min(WINDOW) as usize, 0);
        self.window_start = place;
        let read = self.file.read_exact_at(&mut self.window, place);
        if let Err(source) = read {
            self.window.clear();
            return Err(ErofsError::Read(source));
        }
        self.in_window(place, length)
            .ok_or_else(|| damaged("something lies outside"))
    }

    fn in_window(&self, place: u64, length: u64) -> Option<Vec<u8>> {
        let start = usize::try_from(place.checked_sub(self.window_start)?).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        Some(self.window.get(start..end)?.to_vec())
    }
}
