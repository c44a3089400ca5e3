//! Files that the guest has open.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::errno;

/// Open files of the guest by the handle that it was given. Handle 0 is never given: it stands for reading without
/// having opened.
pub(super) struct Handles<T> {
    table: Mutex<Table<T>>,
}

struct Table<T> {
    last: u64,
    open: HashMap<u64, Open<T>>,
}

struct Open<T> {
    inode: u64,
    object: Arc<T>,
}

impl<T> Handles<T> {
    /// An empty table.
    pub(super) fn new() -> Handles<T> {
        Handles {
            table: Mutex::new(Table {
                last: 0,
                open: HashMap::new(),
            }),
        }
    }

    /// Gives out a handle for `object`, which belongs to the inode with ID `inode`.
    ///
    /// # Errors
    /// `ENFILE` when all handles were given out.
    pub(super) fn insert(&self, inode: u64, object: T) -> io::Result<u64> {
        let mut table = self.table();
        let handle = table
            .last
            .checked_add(1)
            .ok_or_else(|| errno(libc::ENFILE))?;
        table.last = handle;
        let object = Arc::new(object);
        table.open.insert(handle, Open { inode, object });
        Ok(handle)
    }

    /// What `handle` stands for.
    ///
    /// # Errors
    /// `EBADF` if it is no handle of the inode with ID `inode`.
    pub(super) fn get(&self, inode: u64, handle: u64) -> io::Result<Arc<T>> {
        let table = self.table();
        let open = table.open.get(&handle).filter(|open| open.inode == inode);
        let open = open.ok_or_else(|| errno(libc::EBADF))?;
        Ok(Arc::clone(&open.object))
    }

    /// Takes `handle` back.
    ///
    /// # Errors
    /// `EBADF` if it is no handle of the inode with ID `inode`.
    pub(super) fn remove(&self, inode: u64, handle: u64) -> io::Result<Arc<T>> {
        let mut table = self.table();
        if table
            .open
            .get(&handle)
            .is_none_or(|open| open.inode != inode)
        {
            return Err(errno(libc::EBADF));
        }
        let removed = table.open.remove(&handle);
        removed
            .map(|open| open.object)
            .ok_or_else(|| errno(libc::EBADF))
    }

    /// Takes all handles back. Numbers go on where they were, so an old one never means something new.
    pub(super) fn clear(&self) {
        let closed = std::mem::take(&mut self.table().open);
        drop(closed);
    }

    fn table(&self) -> MutexGuard<'_, Table<T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_for_its_inode_only() {
        let handles = Handles::new();
        let handle = handles.insert(7, "seven").unwrap();
        assert_ne!(handle, 0);
        assert_eq!(*handles.get(7, handle).unwrap(), "seven");
        assert!(handles.get(8, handle).is_err());
        assert!(handles.remove(8, handle).is_err());
        handles.remove(7, handle).unwrap();
        let error = handles.get(7, handle).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
