//! Directories as blocks of entries, sorted by name.

use super::format::{BLOCK, DIRENT, u16_at, u64_at};
use super::tree::{InodeId, Kind, Tree};

const BLOCK_BYTES: usize = BLOCK as usize;

/// The greatest length of a name.
pub const NAME_MAX: usize = 255;

/// A directory's entries, `.` and `..` among them, in the order of the format: by bytes.
fn entries(tree: &Tree, id: InodeId) -> Vec<(&[u8], InodeId)> {
    let mut entries: Vec<(&[u8], InodeId)> = tree.children(id).collect();
    for (name, id) in [(&b"."[..], id), (&b".."[..], tree.parent(id))] {
        let place = entries.partition_point(|(other, _)| *other < name);
        entries.insert(place, (name, id));
    }
    entries
}

/// How many of these entries fit into one block, and the bytes that they take.
fn fitting(entries: &[(&[u8], InodeId)]) -> (usize, usize) {
    let mut bytes = 0;
    for (count, (name, _)) in entries.iter().enumerate() {
        let with = bytes + DIRENT + name.len();
        if with > BLOCK_BYTES {
            return (count, bytes);
        }
        bytes = with;
    }
    (entries.len(), bytes)
}

/// The bytes of a directory.
pub(super) fn size(tree: &Tree, id: InodeId) -> u64 {
    let entries = entries(tree, id);
    let mut rest = &entries[..];
    let mut size = 0;
    loop {
        let (count, bytes) = fitting(rest);
        rest = &rest[count..];
        if rest.is_empty() {
            return size + bytes as u64;
        }
        size += BLOCK;
    }
}

/// The content of a directory, [`size`] bytes; `number` says the number that an inode has in the image.
pub(super) fn encode(tree: &Tree, id: InodeId, number: impl Fn(InodeId) -> u64) -> Vec<u8> {
    let entries = entries(tree, id);
    let mut rest = &entries[..];
    let mut content = Vec::new();
    loop {
        let (count, _) = fitting(rest);
        let (block, later) = rest.split_at(count);
        let mut name_offset = count * DIRENT;
        for (name, id) in block {
            content.extend(number(*id).to_le_bytes());
            // A block has 4096 bytes.
            content.extend((name_offset as u16).to_le_bytes());
            content.extend([file_type(&tree.inode(*id).kind), 0]);
            name_offset += name.len();
        }
        for (name, _) in block {
            content.extend_from_slice(name);
        }
        rest = later;
        if rest.is_empty() {
            return content;
        }
        content.resize(content.len().next_multiple_of(BLOCK_BYTES), 0);
    }
}

/// The generic number of a file type (`FT_*` of linux/fs_types.h).
fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::Character(_) => 3,
        Kind::Block(_) => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}

/// The entries of a block, which is shorter at a directory's end; `None` if it is damaged.
pub(super) fn decode(block: &[u8]) -> Option<Vec<(&[u8], u64)>> {
    let names = usize::from(u16_at(block, 8)?);
    if names == 0 || !names.is_multiple_of(DIRENT) {
        return None;
    }
    let count = names / DIRENT;
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let at = index * DIRENT;
        let start = usize::from(u16_at(block, at + 8)?);
        let name = if index + 1 < count {
            block.get(start..usize::from(u16_at(block, at + DIRENT + 8)?))?
        } else {
            let rest = block.get(start..)?;
            rest.split(|byte| *byte == 0).next()?
        };
        let sound = !name.is_empty() && name.len() <= NAME_MAX && !name.contains(&b'/');
        entries.push((sound.then_some(name)?, u64_at(block, at)?));
    }
    Some(entries)
}
