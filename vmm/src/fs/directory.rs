//! Directories: open and read.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use fuse_backend_rs::abi::fuse_abi::{Dirent, EntryOut, OpenOptions};
use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek64};

use super::attributes::status_of;
use super::beneath::Component;
use super::descriptors::Permit;
use super::inode::{Inode, Opened};
use super::lookup::check_directory;
use super::{SharedFolder, errno};

/// Bytes of entries taken from the host at once, and kept for the next request where the guest had no room for all.
/// Linux guests ask for one page at a time.
const BUFFER: usize = 4096;

/// Most bytes of a reply, whatever room the guest offers: a request is not to take long.
const MAX_REPLY: u32 = 1 << 20;

/// A directory, open on the host.
pub(super) struct OpenDirectory {
    descriptor: OwnedFd,
    stream: Mutex<Stream>,
    _permit: Option<Permit>,
    _opened: Option<Opened>,
}

impl AsFd for OpenDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Where reading stands. Positions are those of the host's file system, see the `d_off` of getdents(2): the guest can
/// come back to any of them, and entries that come and go meanwhile move no other.
#[derive(Default)]
struct Stream {
    /// Position of the first entry that was taken from the host but not given to the guest.
    position: u64,
    taken: Vec<u8>,
    /// Where that entry begins in `taken`.
    begin: usize,
}

/// An entry as getdents64(2) returns it.
pub(super) struct HostEntry<'b> {
    number: u64,
    /// Position of the next one.
    pub(super) next: u64,
    kind: u8,
    /// May be "." or "..".
    pub(super) name: &'b CStr,
    length: usize,
}

impl<'b> HostEntry<'b> {
    /// Length of the fields before the name.
    const HEADER: usize = 19;

    /// Takes the entry at the beginning of `bytes`; `None` if there is no whole one.
    fn parse(bytes: &'b [u8]) -> Option<HostEntry<'b>> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (next, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let name = bytes.get(Self::HEADER..length)?;
        Some(HostEntry {
            number: u64::from_ne_bytes(*number),
            next: u64::from_ne_bytes(*next),
            kind: *kind,
            name: CStr::from_bytes_until_nul(name).ok()?,
            length,
        })
    }
}

impl OpenDirectory {
    /// For a walk of this process's own: `descriptor` is open for reading.
    pub(super) fn new(descriptor: OwnedFd) -> OpenDirectory {
        OpenDirectory {
            descriptor,
            stream: Mutex::default(),
            _permit: None,
            _opened: None,
        }
    }

    /// Hands the entries from position `offset` on to `take`, until it declines one or there is no more.
    pub(super) fn read(
        &self,
        offset: u64,
        mut take: impl FnMut(&HostEntry<'_>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = &mut *stream;
        if offset != stream.position {
            let target = i64::try_from(offset).map_err(|_| errno(libc::EINVAL))?;
            *stream = Stream::default();
            lseek64(&self.descriptor, target, Whence::SeekSet)?;
            stream.position = offset;
        }
        loop {
            let rest = stream.taken.get(stream.begin..).unwrap_or_default();
            if rest.is_empty() {
                stream.begin = 0;
                self.refill(&mut stream.taken)?;
                if stream.taken.is_empty() {
                    return Ok(());
                }
                continue;
            }
            let entry = HostEntry::parse(rest).ok_or_else(|| errno(libc::EIO))?;
            if !take(&entry)? {
                return Ok(());
            }
            stream.position = entry.next;
            stream.begin = stream.begin.saturating_add(entry.length);
        }
    }

    /// Takes the next entries from the host; none at the end.
    fn refill(&self, taken: &mut Vec<u8>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        // SAFETY: the kernel writes at most as many bytes to the buffer as it is told that it has.
        let result = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                self.descriptor.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        let filled = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        buffer.truncate(filled);
        // At the end nothing is allocated, so that an open directory that nobody reads takes no memory.
        *taken = if filled == 0 { Vec::new() } else { buffer };
        Ok(())
    }
}

impl SharedFolder {
    /// Opens the directory with ID `inode` and gives out a handle, or tells the guest by `ENOSYS` that it need not.
    pub(super) fn open_directory(&self, inode: u64) -> io::Result<(u64, OpenOptions)> {
        let inode = self.inodes.get(inode)?;
        if self.openless.directories.load(Ordering::Relaxed) {
            return Err(errno(libc::ENOSYS));
        }
        let permit = self.inodes.permit()?;
        let descriptor = self.reopen_directory(&inode)?;
        let directory = OpenDirectory {
            descriptor,
            stream: Mutex::default(),
            _permit: Some(permit),
            _opened: Some(inode.opened(self.meter.as_ref())?),
        };
        let handle = self.directories.insert(inode.id(), directory)?;
        let options = if self.options.cache.is_always() {
            OpenOptions::KEEP_CACHE | OpenOptions::CACHE_DIR
        } else {
            OpenOptions::empty()
        };
        Ok((handle, options))
    }

    /// Opens `inode` for reading, if it is a directory.
    pub(super) fn reopen_directory(&self, inode: &Inode) -> io::Result<OwnedFd> {
        check_directory(inode)?;
        inode.check_contents()?;
        self.reopen(inode, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// The open directory that `handle` of the inode with ID `inode` stands for; 0 as for files, see `file`.
    pub(super) fn directory(&self, inode: u64, handle: u64) -> io::Result<Arc<OpenDirectory>> {
        if handle != 0 || !self.openless.directories.load(Ordering::Relaxed) {
            return self.directories.get(inode, handle);
        }
        let inode = self.inodes.get(inode)?;
        if let Some(directory) = inode.pin().directory.get() {
            return Ok(Arc::clone(directory));
        }
        let permit = self.inodes.spare_permit();
        let keep = permit.is_some();
        let descriptor = self.reopen_directory(&inode)?;
        let directory = Arc::new(OpenDirectory {
            descriptor,
            stream: Mutex::default(),
            _permit: permit,
            _opened: None,
        });
        if keep {
            return Ok(Arc::clone(inode.pin().directory.get_or_init(|| directory)));
        }
        Ok(directory)
    }

    /// Reads entries of a directory: `add` returns 0 when the guest has no more room.
    pub(super) fn read_directory(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let directory = self.directory(inode, handle)?;
        let shown = self.shown_numbers(inode, &directory)?;
        directory.read(offset, |entry| Ok(add(shown.entry(entry))? != 0))
    }

    /// Reads entries of a directory together with what a lookup of each would say. The guest was told once more of each
    /// inode that `add` took, except of those of "." and "..", which come without.
    pub(super) fn read_directory_plus(
        &self,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let parent = self.inodes.get(inode)?;
        let directory = self.directory(inode, handle)?;
        let shown = self.shown_numbers(inode, &directory)?;
        let mut room = usize::try_from(size.min(MAX_REPLY)).unwrap_or_default();
        let mut any = false;
        let result = directory.read(offset, |entry| {
            if room < reply_length(entry.name) {
                return Ok(false);
            }
            let found = self.entry_if_any(&parent, entry.name);
            let told = found.inode;
            let length = match add(shown.entry(entry), found) {
                Ok(length) => length,
                Err(error) => {
                    self.inodes.forget(told, 1);
                    return Err(error);
                }
            };
            if length == 0 {
                self.inodes.forget(told, 1);
            }
            room = room.saturating_sub(length);
            any |= length != 0;
            Ok(length != 0)
        });
        // Once the guest was told of an entry, it must get the reply. An error that lasts comes back next time.
        if any { Ok(()) } else { result }
    }

    /// What a lookup of `name` says; without an inode for "." and "..", and where the lookup fails: the guest then makes
    /// its own and gets the error for that name only.
    fn entry_if_any(&self, parent: &Inode, name: &CStr) -> Entry {
        Component::new(name)
            .and_then(|name| self.entry_beneath(parent, name))
            .unwrap_or_default()
    }

    fn shown_numbers(&self, inode: u64, directory: &OpenDirectory) -> io::Result<ShownNumbers<'_>> {
        let status = status_of(directory)?;
        Ok(ShownNumbers {
            folder: self,
            device: status.st_dev,
            own: status.st_ino,
            is_root: inode == self.inodes.root().id(),
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

/// Bytes that an entry with its attributes takes in the reply.
fn reply_length(name: &CStr) -> usize {
    size_of::<Dirent>()
        .saturating_add(name.count_bytes())
        .next_multiple_of(8)
        .saturating_add(size_of::<EntryOut>())
}
