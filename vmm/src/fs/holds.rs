//! Which files guests have open in a folder with a quota that several machines share.
//!
//! A file whose last name goes stays on the host's disk as long as anybody has it open, in whatever machine. So each has
//! a byte in the ledger, far behind its end, that every machine locks for reading whose guest has the file open: locks on
//! open file descriptions, see fcntl(2), which go with the machine. Who takes a last name looks whether others have it
//! locked.
//!
//! Taking a last name and looking is one step, and so is closing and looking for the name: the machines have turns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};

use super::inode::FileIdentity;
use super::ledger::{BEHIND_SLOTS, flock, lock};

/// The byte that is locked by whose turn it is.
const TURN: i64 = BEHIND_SLOTS;

/// The bytes of files: many enough for all numbers that file systems give in practice, in a row as they do, because
/// locks of neighbours become one.
const FIRST_FILE: i64 = 1 << 62;
const FILES: u64 = 1 << 62;

/// What guests of this machine have open.
pub(super) struct Holds {
    /// The ledger: the same description as its other locks have.
    file: File,
    /// How often each byte is held.
    counts: Mutex<HashMap<i64, usize>>,
}

impl Holds {
    /// None, with the locks in `file`.
    pub(super) fn new(file: File) -> Holds {
        Holds {
            file,
            counts: Mutex::default(),
        }
    }

    /// Begins a turn, and waits for it.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn turn(&self) -> io::Result<Turn<'_>> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        lock(&self.file, libc::F_WRLCK, TURN)?;
        Ok(Turn {
            file: &self.file,
            counts,
        })
    }
}

/// Nobody else takes last names, opens or closes.
pub(super) struct Turn<'h> {
    file: &'h File,
    counts: MutexGuard<'h, HashMap<i64, usize>>,
}

impl Turn<'_> {
    /// Notes that the guest has `file` open. Returns whether it has it open for the first time.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn hold(&mut self, file: FileIdentity) -> io::Result<bool> {
        let byte = byte_of(file);
        let count = self.counts.entry(byte).or_default();
        if *count == 0
            && let Err(error) = lock(self.file, libc::F_RDLCK, byte)
        {
            self.counts.remove(&byte);
            return Err(error);
        }
        *count = count.saturating_add(1);
        Ok(*count == 1)
    }

    /// Notes that the guest has closed `file` once. Returns whether it does not have it open any more.
    pub(super) fn let_go(&mut self, file: FileIdentity) -> bool {
        let byte = byte_of(file);
        let Entry::Occupied(mut count) = self.counts.entry(byte) else {
            return false;
        };
        if *count.get() > 1 {
            *count.get_mut() = count.get().saturating_sub(1);
            return false;
        }
        count.remove();
        // To split a lock takes memory; a file that stays locked counts as open.
        let _ = lock(self.file, libc::F_UNLCK, byte);
        true
    }

    /// Whether the guest has `file` open.
    pub(super) fn is_held(&self, file: FileIdentity) -> bool {
        self.counts.contains_key(&byte_of(file))
    }

    /// Whether a guest of another machine has `file` open.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn is_held_elsewhere(&self, file: FileIdentity) -> io::Result<bool> {
        self.is_locked(byte_of(file), 1)
    }

    /// Whether a guest of any machine has anything open.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn is_any_held(&self) -> io::Result<bool> {
        // A length of 0 is up to the last byte that there could be.
        Ok(!self.counts.is_empty() || self.is_locked(FIRST_FILE, 0)?)
    }

    /// Whether another machine has a lock in that range.
    fn is_locked(&self, begin: i64, length: i64) -> io::Result<bool> {
        let mut found = flock(libc::F_WRLCK, begin);
        found.l_len = length;
        fcntl(self.file, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Releasing a lock that is held takes no memory and does not fail.
        let _ = lock(self.file, libc::F_UNLCK, TURN);
    }
}

fn byte_of(file: FileIdentity) -> i64 {
    let index = i64::try_from(file.mixed() % FILES).unwrap_or_default();
    FIRST_FILE.saturating_add(index)
}
