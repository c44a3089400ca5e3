//! Where the files of a tar archive are (POSIX.1-2024, pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format").
//!
//! Nothing is unpacked: names are only compared with those that an archive of images has.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tar::{EntryType, Header};

use super::ArchiveError;
use super::section::Section;

const BLOCK: u64 = 512;
/// Most entries of an archive: some for each layer.
const MAX_ENTRIES: usize = 1 << 16;
/// Most bytes of what precedes an entry in a header of its own. Names are short here.
const MAX_EXTENSION: u64 = 64 << 10;
/// Most links from one name to another.
const MAX_LINKS: usize = 8;

/// The files of an archive.
#[derive(Debug)]
pub(super) struct TarIndex {
    file: Arc<File>,
    entries: HashMap<Vec<u8>, Entry>,
}

#[derive(Debug)]
enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// Another name for the file of this one.
    Link(Vec<u8>),
}

/// What headers of their own say about the next entry.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl TarIndex {
    /// Goes through the headers of an archive.
    ///
    /// # Errors
    /// When it is none, or has more entries than is permitted.
    pub(super) fn read(file: File) -> Result<TarIndex, ArchiveError> {
        let mut index = TarIndex {
            file: Arc::new(file),
            entries: HashMap::new(),
        };
        let mut position = 0;
        let mut extension = Extension::default();
        while let Some(header) = index.header(position)? {
            position += BLOCK;
            let is_extension = is_extension(&header);
            let size = match extension.size {
                Some(size) if !is_extension => size,
                _ => header
                    .entry_size()
                    .map_err(|_| damaged("a size is no number"))?,
            };
            // Links and folders have no content, whatever their header says.
            let size = if has_content(header.entry_type()) {
                size
            } else {
                0
            };
            let padded = size.checked_next_multiple_of(BLOCK);
            let end = padded.and_then(|padded| position.checked_add(padded));
            let end = end.ok_or(damaged("a size is too large"))?;
            if is_extension {
                index.extend(&mut extension, &header, position, size)?;
            } else {
                index.add(&header, std::mem::take(&mut extension), position, size)?;
            }
            position = end;
        }
        Ok(index)
    }

    /// The file of this name.
    pub(super) fn get(&self, name: &str) -> Option<Section> {
        let mut name = name.as_bytes();
        for _ in 0..MAX_LINKS {
            match self.entries.get(name)? {
                Entry::File { offset, size } => {
                    return Some(Section::new(Arc::clone(&self.file), *offset, *size));
                }
                Entry::Link(target) => name = target,
            }
        }
        None
    }

    /// The header at `position`; none at the end of the archive.
    fn header(&self, position: u64) -> Result<Option<Header>, ArchiveError> {
        let mut header = Header::new_old();
        let block = Section::new(Arc::clone(&self.file), position, BLOCK);
        let mut bytes = Vec::with_capacity(BLOCK as usize);
        // What is left of an archive that ends early is read all the same.
        let complete = block.reader().read_to_end(&mut bytes).is_ok();
        if bytes.is_empty() && position > 0 {
            return Ok(None);
        }
        if !complete {
            return Err(match position {
                0 => ArchiveError::NotAnArchive,
                _ => damaged("it ends early"),
            });
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        header.as_mut_bytes().copy_from_slice(&bytes);
        let sum: u32 = bytes
            .iter()
            .enumerate()
            // The checksum itself counts as spaces.
            .map(|(at, byte)| {
                u32::from(if (148..156).contains(&at) {
                    b' '
                } else {
                    *byte
                })
            })
            .sum();
        match header.cksum() {
            Ok(expected) if expected == sum => Ok(Some(header)),
            _ if position == 0 => Err(ArchiveError::NotAnArchive),
            _ => Err(damaged("a header is damaged")),
        }
    }

    fn extend(
        &self,
        extension: &mut Extension,
        header: &Header,
        position: u64,
        size: u64,
    ) -> Result<(), ArchiveError> {
        if size > MAX_EXTENSION {
            return Err(damaged("a name is too long"));
        }
        let section = Section::new(Arc::clone(&self.file), position, size);
        let content = section.read("bytes in a name", MAX_EXTENSION as usize)?;
        match header.entry_type() {
            EntryType::GNULongName => extension.path = Some(until_nul(content)),
            EntryType::GNULongLink => extension.link = Some(until_nul(content)),
            EntryType::XHeader => parse_records(&content, extension)?,
            // What is said about all entries is of no concern.
            _ => {}
        }
        Ok(())
    }

    fn add(
        &mut self,
        header: &Header,
        extension: Extension,
        position: u64,
        size: u64,
    ) -> Result<(), ArchiveError> {
        let path = extension
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            let own = header.link_name_bytes().map(std::borrow::Cow::into_owned);
            extension.link.clone().or(own).unwrap_or_default()
        };
        let Some(name) = resolve(&[], &path) else {
            return Ok(());
        };
        let entry = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                self.check_present(position, size)?;
                Some(Entry::File {
                    offset: position,
                    size,
                })
            }
            EntryType::Link => resolve(&[], &link()).map(Entry::Link),
            EntryType::Symlink => {
                let folder = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                resolve(name.get(..folder).unwrap_or_default(), &link()).map(Entry::Link)
            }
            EntryType::GNUSparse => return Err(damaged("it has sparse files")),
            _ => None,
        };
        if let Some(entry) = entry {
            self.entries.insert(name, entry);
        }
        if self.entries.len() > MAX_ENTRIES {
            return Err(ArchiveError::TooLarge {
                what: "entries",
                limit: MAX_ENTRIES as u64,
            });
        }
        Ok(())
    }

    /// Whether the last byte is in the file.
    fn check_present(&self, position: u64, size: u64) -> Result<(), ArchiveError> {
        let Some(last) = size.checked_sub(1) else {
            return Ok(());
        };
        let last = position
            .checked_add(last)
            .ok_or(damaged("a size is too large"))?;
        match self.file.read_at(&mut [0], last) {
            Ok(1) => Ok(()),
            _ => Err(damaged("it ends early")),
        }
    }
}

fn damaged(reason: &'static str) -> ArchiveError {
    ArchiveError::Tar { reason }
}

fn is_extension(header: &Header) -> bool {
    matches!(
        header.entry_type(),
        EntryType::XHeader
            | EntryType::XGlobalHeader
            | EntryType::GNULongName
            | EntryType::GNULongLink
    )
}

fn has_content(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    )
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

/// A name without `.`, `..` and double slashes, seen from `folder`. None if it leads out of the archive.
fn resolve(folder: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    if name.starts_with(b"/") {
        return None;
    }
    let parts = |path| <[u8]>::split(path, |byte| *byte == b'/');
    let mut resolved: Vec<&[u8]> = Vec::new();
    for part in parts(folder).chain(parts(name)) {
        match part {
            b"" | b"." => {}
            b".." => {
                resolved.pop()?;
            }
            part => resolved.push(part),
        }
    }
    Some(resolved.join(&b'/'))
}

/// Records of an extended header: `LENGTH KEY=VALUE\n`, where the length is that of all of it.
fn parse_records(content: &[u8], extension: &mut Extension) -> Result<(), ArchiveError> {
    let invalid = || damaged("an extended header is damaged");
    let mut rest = content;
    while !rest.is_empty() {
        let space = rest
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(invalid)?;
        let (length, _) = rest.split_at(space);
        let length = number(length).and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(invalid)?;
        let (record, after) = rest.split_at_checked(length).ok_or_else(invalid)?;
        let record = record
            .get(space + 1..)
            .and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or_else(invalid)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(invalid)?;
        let (key, value) = record.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        match key {
            b"path" => extension.path = Some(value.to_owned()),
            b"linkpath" => extension.link = Some(value.to_owned()),
            b"size" => extension.size = Some(number(value).ok_or_else(invalid)?),
            _ if key.starts_with(b"GNU.sparse.") => return Err(damaged("it has sparse files")),
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
