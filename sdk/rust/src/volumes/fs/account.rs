//! The account of what the files of a volume with a quota take up, as one keeps it who changes them on the host.
//!
//! It is a file that machines map; `vmm/src/fs/ledger.rs` has its format and its locks. The host needs little of it: it
//! changes the files while no machine and nobody else on the host does, and adds what it took. What it finds by itself, by
//! looking at all files, needs no account, but for files that have no name any more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// What the file begins with once a machine has used it.
const MAGIC: &[u8; 8] = b"msbquota";

/// Where numbers lie in it: bytes in use, bytes by which files have grown, and from there on those without a name.
const USED: usize = 8;
const GROWN: usize = 24;
const NAMELESS: usize = 32;
const LENGTH: usize = 512;

/// Bytes that are locked: by every machine, by who changes the files, by the machine that a number without a name is of.
const PRESENCE: i64 = 0;
const CHANGE: i64 = 1;
const FIRST_SLOT: i64 = 2;

/// Nobody else changes the files.
pub(super) struct Change {
    account: File,
}

impl Change {
    /// Waits until nobody else changes the files whose account is at `path`.
    ///
    /// # Errors
    /// As open(2) and fcntl(2).
    pub(super) fn begin(path: &Path) -> io::Result<Change> {
        let account = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        loop {
            match fcntl(
                &account,
                FcntlArg::F_OFD_SETLKW(&lock(libc::F_WRLCK, CHANGE)),
            ) {
                Ok(_) => return Ok(Change { account }),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Bytes of files that have no name any more, but that guests have.
    ///
    /// # Errors
    /// As pread(2) and fcntl(2).
    pub(super) fn nameless(&self) -> io::Result<u64> {
        let Some(numbers) = self.read()? else {
            return Ok(0);
        };
        let mut sum = 0_u64;
        for (index, bytes) in numbers[NAMELESS..].chunks_exact(8).enumerate() {
            let bytes = number(bytes);
            // The first is of all machines; a slot counts as long as its machine lives.
            let owner = match i64::try_from(index) {
                Ok(slot) if slot > 0 => FIRST_SLOT.saturating_add(slot.saturating_sub(1)),
                _ => PRESENCE,
            };
            if bytes > 0 && self.is_locked(owner)? {
                sum = sum.saturating_add(bytes);
            }
        }
        Ok(sum)
    }

    /// Counts that the files have grown by at most so many bytes.
    ///
    /// # Errors
    /// As pwrite(2).
    pub(super) fn add(&self, bytes: u64) -> io::Result<()> {
        let Some(numbers) = self.read()? else {
            // No machine has counted yet. The first one counts everything.
            return Ok(());
        };
        for place in [USED, GROWN] {
            // Who only gives bytes back does not wait for its turn: if that is lost, it counts too much until the next
            // machine that needs them looks at the files.
            let sum = number(&numbers[place..place.saturating_add(8)]).wrapping_add(bytes);
            self.account
                .write_all_at(&sum.to_ne_bytes(), u64::try_from(place).unwrap_or_default())?;
        }
        Ok(())
    }

    fn read(&self) -> io::Result<Option<[u8; LENGTH]>> {
        let mut numbers = [0; LENGTH];
        match self.account.read_exact_at(&mut numbers, 0) {
            Ok(()) if numbers.starts_with(MAGIC) => Ok(Some(numbers)),
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether somebody else has `byte` locked.
    fn is_locked(&self, byte: i64) -> io::Result<bool> {
        let mut found = lock(libc::F_WRLCK, byte);
        fcntl(&self.account, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        // Not only closed: a process that another thread is just starting may have the descriptor, too.
        let _ = fcntl(
            &self.account,
            FcntlArg::F_OFD_SETLK(&lock(libc::F_UNLCK, CHANGE)),
        );
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

fn lock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}
