//! Many shared folders and files behind one device.
//!
//! The root of such a device is a virtual directory that nobody can change from the guest, with one entry for each
//! export. The upper 16 bits of a node ID are the number of the export that it belongs to; the virtual root is node 1
//! of number 0. Each export is a [`SharedFolder`] of its own with its own table of inodes, so nothing in one leads to
//! another. Numbers are given once: what the guest still knows of an export that was detached is stale for ever.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use fuse_backend_rs::abi::fuse_abi::{ROOT_ID, stat64};
use fuse_backend_rs::api::filesystem::{DirEntry, Entry};

use super::attributes::DeviceNumbers;
use super::entries::Entries;
use super::inodes::COUNTING_BITS;
use super::{Served, SharedFolder, errno};
use crate::traffic::Traffic;

/// Longest name of an export, in bytes: the longest name of a directory entry.
const MAX_NAME: usize = 255;

/// An export cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The name is none for an export.
    #[error("the name of an export is 1 to 255 of the characters a-z, 0-9 and '-', not {name:?}")]
    Name {
        /// As the caller gave it.
        name: String,
    },
    /// There is one with that name.
    #[error("there is an export called {name} already")]
    Exists {
        /// As the caller gave it.
        name: String,
    },
    /// There is none with that name.
    #[error("there is no export called {name}")]
    Missing {
        /// As the caller gave it.
        name: String,
    },
    /// All numbers were used: a machine can have 65,535 exports in its life.
    #[error("this machine had as many exports as it can have")]
    Exhausted,
}

/// The exports of one device, see `exports_device`. Clones are the same exports: one is kept to attach and detach
/// while the machine runs, from any thread.
#[derive(Clone, Default)]
pub struct Exports {
    table: Arc<RwLock<Table>>,
    devices: DeviceNumbers,
    traffic: Traffic,
}

#[derive(Default)]
struct Table {
    /// The number given last.
    last: u16,
    /// The guest reads directories without opening them.
    openless_directories: bool,
    exports: BTreeMap<u16, Export>,
}

struct Export {
    name: String,
    folder: Arc<SharedFolder>,
}

impl Table {
    fn number_of(&self, name: &str) -> Option<u16> {
        let mut exports = self.exports.iter();
        exports.find_map(|(number, export)| (export.name == name).then_some(*number))
    }
}

impl Exports {
    /// A device without exports yet.
    pub fn new() -> Exports {
        Exports::default()
    }

    /// Shows `folder` as entry `name` of the device's root: 1 to 255 of the characters a-z, 0-9 and '-'. A running guest
    /// sees it at once.
    ///
    /// # Errors
    /// If the name is malformed or taken, or 65,535 exports were attached before.
    pub fn attach(&self, name: &str, folder: SharedFolder) -> Result<(), ExportError> {
        let name = name.to_owned();
        let permitted = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(permitted) {
            return Err(ExportError::Name { name });
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.number_of(&name).is_some() {
            return Err(ExportError::Exists { name });
        }
        let number = table.last.checked_add(1).ok_or(ExportError::Exhausted)?;
        let folder = Arc::new(folder.into_export(number, &self.devices, &self.traffic));
        table.last = number;
        table.exports.insert(number, Export { name, folder });
        Ok(())
    }

    /// Removes entry `name`. Every later request for anything in it is answered with `ESTALE`; the descriptors that it
    /// holds on the host are closed when the requests that are under way are done, at the latest. What the guest has in
    /// its page cache it can go on reading there.
    ///
    /// # Errors
    /// If there is no such entry.
    pub fn detach(&self, name: &str) -> Result<(), ExportError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let detached = table
            .number_of(name)
            .and_then(|number| table.exports.remove(&number));
        // Closing can take long on some file systems: not under the lock.
        drop(table);
        match detached {
            Some(_) => Ok(()),
            None => Err(ExportError::Missing {
                name: name.to_owned(),
            }),
        }
    }

    /// Notes whether the guest reads directories without opening them.
    pub(super) fn set_openless_directories(&self, openless: bool) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.openless_directories = openless;
    }

    /// Whether the guest reads directories without opening them.
    pub(super) fn has_openless_directories(&self) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.openless_directories
    }

    /// The export that `node` belongs to.
    ///
    /// # Errors
    /// `of_root` for the virtual root; `ESTALE` if there is none.
    pub(super) fn export_of(&self, node: u64, of_root: i32) -> io::Result<Arc<SharedFolder>> {
        if node == ROOT_ID {
            return Err(errno(of_root));
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let export = table.exports.get(&number_of(node));
        let export = export.ok_or_else(|| errno(libc::ESTALE))?;
        Ok(Arc::clone(&export.folder))
    }

    /// The export that both nodes belong to.
    ///
    /// # Errors
    /// `EXDEV` if it is not the same; as [`Exports::export_of`], where the virtual root answers `EROFS`.
    pub(super) fn common_export(&self, one: u64, other: u64) -> io::Result<Arc<SharedFolder>> {
        if number_of(one) != number_of(other) {
            return Err(errno(libc::EXDEV));
        }
        self.export_of(one, libc::EROFS)
    }

    /// Looks up an entry of the virtual root.
    ///
    /// # Errors
    /// `ENOENT`, which the guest does not keep in mind; as fstat(2).
    pub(super) fn entry_of_root(&self, name: &[u8]) -> io::Result<Entry> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut exports = table.exports.values();
        let export = exports.find(|export| export.name.as_bytes() == name);
        export
            .ok_or_else(|| errno(libc::ENOENT))?
            .folder
            .root_entry()
    }

    /// Adds the entries of the virtual root after position `offset` to `entries`. The position of an export is its number
    /// and 2, so attaching and detaching moves no other.
    fn list_root(&self, offset: u64, entries: &mut Entries) {
        for (position, name) in [(1, b".".as_slice()), (2, b"..")] {
            let own = DirEntry {
                ino: ROOT_ID,
                offset: position,
                type_: u32::from(libc::DT_DIR),
                name,
            };
            if position > offset && !entries.add(&own, Entry::default) {
                return;
            }
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        for (number, export) in &table.exports {
            let position = u64::from(*number).saturating_add(2);
            if position <= offset {
                continue;
            }
            // One that cannot be examined does not hide the others: the guest gets the error when it looks it up.
            let entry = export.folder.root_entry().unwrap_or_default();
            let found = DirEntry {
                ino: entry.attr.st_ino.max(1),
                offset: position,
                // The type in a mode is that of an entry, 12 bits higher, see readdir(3).
                type_: (entry.attr.st_mode & libc::S_IFMT) >> 12,
                name: export.name.as_bytes(),
            };
            if !entries.add(&found, || entry) {
                return;
            }
        }
        entries.end_for_now();
    }
}

impl Served for Exports {
    fn list(&self, directory: u64, offset: u64, entries: &mut Entries) -> io::Result<()> {
        if directory == ROOT_ID {
            self.list_root(offset, entries);
            return Ok(());
        }
        self.export_of(directory, libc::EIO)?
            .list(directory, offset, entries)
    }

    fn reset(&self) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        for export in table.exports.values() {
            export.folder.reset();
        }
    }

    fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }
}

/// Number of the export to which `node` belongs.
fn number_of(node: u64) -> u16 {
    u16::try_from(node >> COUNTING_BITS).unwrap_or_default()
}

/// Attributes of the virtual root.
pub(super) fn status_of_root() -> stat64 {
    // SAFETY: stat64 is plain data, for which all zeros is a valid value.
    let mut status: stat64 = unsafe { std::mem::zeroed() };
    status.st_ino = ROOT_ID;
    status.st_mode = libc::S_IFDIR | 0o555;
    status.st_nlink = 2;
    status.st_blksize = 4096;
    status
}
