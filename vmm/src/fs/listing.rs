//! Listing directories for the guest.
//!
//! A guest that can do so never tells that it opens or closes a directory: it just reads, from the beginning or from
//! the position of an entry that it was told of. So what a listing has open on the host is kept between two of its
//! requests and found by the position that it has come to. That saves opening a large directory again for each page, and
//! there are file systems whose positions mean little to another opening of the same directory once it has changed,
//! such as overlayfs.
//!
//! Which of two listings at the same position a request belongs to cannot be told, and does not matter: when a listing
//! begins, what was read ahead for others is dropped, so that all of them go on with what is there from then on.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuse_backend_rs::abi::fuse_abi::OpenOptions;
use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use nix::fcntl::OFlag;

use super::SharedFolder;
use super::attributes::status_of;
use super::beneath::Component;
use super::descriptors::Permit;
use super::directory::{HostEntry, OpenDirectory, Progress};
use super::entries::Entries;
use super::inode::Inode;
use super::lookup::check_directory;

/// Listings of one directory that are kept open between requests. A program may stop in the middle of one, of which
/// nobody is told.
const KEPT_OPEN: usize = 4;

/// Listings of a directory that are in progress. They are closed with the directory's own descriptor at the latest:
/// when the guest forgets the directory, or it is parked.
#[derive(Default)]
pub(super) struct Listings(Mutex<Vec<Listing>>);

struct Listing {
    directory: OpenDirectory,
    /// Without one it is for a single request.
    permit: Option<Permit>,
}

impl Listings {
    /// Takes out one that has come to `position`.
    fn take(&self, position: u64) -> Option<Listing> {
        let mut kept = self.lock();
        let found = kept
            .iter()
            .rposition(|listing| listing.directory.position() == position)?;
        Some(kept.remove(found))
    }

    /// Keeps `listing` for the next request.
    fn keep(&self, listing: Listing) {
        if listing.permit.is_none() {
            return;
        }
        let mut kept = self.lock();
        let oldest = (kept.len() >= KEPT_OPEN).then(|| kept.remove(0));
        kept.push(listing);
        // Closing can take long on some file systems: not under the lock.
        drop(kept);
        drop(oldest);
    }

    /// Notes that another begins: none goes on with entries that were taken from the host before.
    fn another_begins(&self) {
        self.lock()
            .retain_mut(|listing| listing.directory.drop_taken().is_ok());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Listing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedFolder {
    /// For a guest that must open directories: whether it may open the one with ID `inode`, and what it may do then. The
    /// host opens it when it is read.
    pub(super) fn open_directory(&self, inode: u64) -> io::Result<OpenOptions> {
        let inode = self.inodes.get(inode)?;
        self.reopen_directory(&inode)?;
        Ok(if self.options.cache.is_always() {
            OpenOptions::KEEP_CACHE | OpenOptions::CACHE_DIR
        } else {
            OpenOptions::empty()
        })
    }

    /// Opens `inode` for reading, if it is a directory.
    pub(super) fn reopen_directory(&self, inode: &Inode) -> io::Result<OwnedFd> {
        check_directory(inode)?;
        inode.check_contents()?;
        self.reopen(inode, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// Adds the entries of directory `inode` from position `offset` on to `entries`. The guest was told once more of each
    /// inode among them, except of those of "." and "..", which come without.
    pub(super) fn list_directory(
        &self,
        inode: u64,
        offset: u64,
        entries: &mut Entries,
    ) -> io::Result<()> {
        let inode = self.inodes.get(inode)?;
        let mut listing = self.listing(&inode, offset)?;
        let shown = self.shown_numbers(&inode, &listing.directory)?;
        let progress = listing.directory.read(offset, |_, entry| {
            let found = || self.entry_if_any(&inode, entry.name);
            Ok(entries.add(&shown.entry(entry), found))
        });
        match progress {
            // Once the guest was told of an entry, it must get the reply. An error that lasts comes back next time.
            Err(error) if entries.is_empty() => return Err(error),
            Err(_) => {}
            Ok(Progress::End) if entries.is_empty() => {
                // The end of a listing that may be kept is a reply without anything.
                if !self.options.cache.is_always() {
                    entries.end_for_now();
                }
            }
            Ok(_) => inode.pin().listings.keep(listing),
        }
        Ok(())
    }

    /// A listing of `inode` that is to go on at position `offset`; at the beginning always a new one.
    fn listing(&self, inode: &Inode, offset: u64) -> io::Result<Listing> {
        let listings = &inode.pin().listings;
        if offset == 0 {
            listings.another_begins();
        } else if let Some(listing) = listings.take(offset) {
            return Ok(listing);
        }
        let permit = self.inodes.permit().ok();
        let descriptor = self.reopen_directory(inode)?;
        Ok(Listing {
            directory: OpenDirectory::new(descriptor),
            permit,
        })
    }

    /// What a lookup of `name` says; without an inode for "." and "..", and where the lookup fails: the guest then makes
    /// its own and gets the error for that name only.
    fn entry_if_any(&self, parent: &Inode, name: &CStr) -> Entry {
        Component::new(name)
            .and_then(|name| self.entry_beneath(parent, name))
            .unwrap_or_default()
    }

    fn shown_numbers(
        &self,
        inode: &Inode,
        directory: &OpenDirectory,
    ) -> io::Result<ShownNumbers<'_>> {
        let status = status_of(directory)?;
        Ok(ShownNumbers {
            folder: self,
            device: status.st_dev,
            own: status.st_ino,
            is_root: inode.id() == self.inodes.root().id(),
        })
    }
}

/// Inode numbers of a directory's entries as the guest sees them.
struct ShownNumbers<'f> {
    folder: &'f SharedFolder,
    device: u64,
    own: u64,
    is_root: bool,
}

impl ShownNumbers<'_> {
    fn entry<'e>(&self, entry: &'e HostEntry<'_>) -> DirEntry<'e> {
        // What lies above the folder is not the guest's business: the root is its own parent.
        let number = if self.is_root && entry.name == c".." {
            self.own
        } else {
            entry.number
        };
        DirEntry {
            ino: self.folder.numbers.shown(self.device, number),
            offset: entry.next,
            type_: u32::from(entry.kind),
            name: entry.name.to_bytes(),
        }
    }
}
