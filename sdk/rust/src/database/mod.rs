//! What is kept about this user's things: `$MSB_HOME/db/msb.db`, an SQLite database.
//!
//! Any number of processes and threads use it at a time: it is in WAL mode, where readers do not wait for
//! writers, and writers wait for each other. What `Database::change` has returned from survives a crash of the
//! process and of the machine.

mod error;
mod migrations;
#[cfg(test)]
mod tests;

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, ffi};

pub use error::DatabaseError;
pub use migrations::VERSION;

use crate::home::Home;
use crate::private_directory::make_private_directory;

/// How long a writer waits for another. Every change here is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the database, for use by any number of threads.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Database {
    /// Opens the database, which is made if it is not there, and brings it to [`VERSION`].
    ///
    /// # Errors
    /// When it cannot be used: see [`DatabaseError`].
    pub fn open(home: &Home) -> Result<Database, DatabaseError> {
        Database::open_with_patience(home, PATIENCE)
    }

    fn open_with_patience(home: &Home, patience: Duration) -> Result<Database, DatabaseError> {
        let path = home.database();
        if let Some(directory) = path.parent() {
            make_private_directory(directory)?;
        }
        let mut connection =
            Connection::open(&path).map_err(|error| DatabaseError::new(&path, error))?;
        prepare(&mut connection, patience).map_err(|error| DatabaseError::new(&path, error))?;
        migrations::migrate(&mut connection, &path)?;
        Ok(Database {
            path,
            connection: Mutex::new(connection),
        })
    }

    /// Reads: all that `read` sees is of one moment.
    ///
    /// # Errors
    /// What `read` returns, in terms of this database.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        self.transaction(TransactionBehavior::Deferred, read)
    }

    /// Changes: all that `change` does happens, durably, or nothing of it if it returns an error.
    ///
    /// # Errors
    /// What `change` returns, in terms of this database.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        // A transaction that began as a reader could not wait for its turn to write (SQLITE_BUSY_SNAPSHOT).
        self.transaction(TransactionBehavior::Immediate, change)
    }

    /// Makes sure that what cannot be read now will never be. A process that dies within a commit may have written all of
    /// it to the log, but not yet to the index by which others read the log. They do not see that commit, until the
    /// index is made anew from the log. The next commit, whatever it changes, overwrites it.
    ///
    /// # Errors
    /// When the database cannot be changed.
    pub(crate) fn settle(&self) -> Result<(), DatabaseError> {
        self.change(|transaction| {
            let same =
                transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
            transaction.pragma_update(None, "user_version", same)
        })
    }

    fn transaction<T>(
        &self,
        behavior: TransactionBehavior,
        body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let mut connection = self.connection();
        let run = || {
            let transaction = connection.transaction_with_behavior(behavior)?;
            let result = body(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|error| DatabaseError::new(&self.path, error))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A transaction of a thread that panicked was rolled back when it was dropped.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets what holds for one connection.
fn prepare(connection: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(patience)?;
    // In WAL mode NORMAL would forget the last transactions when the machine loses power (pragma synchronous).
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    keep_log(connection)
}

/// Lets the log and its index stay, empty, when the last program closes them: on a disk that is full nobody could make them anew,
/// and without them nobody reads.
fn keep_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_size_limit", 0)?;
    let mut keep: c_int = 1;
    // SAFETY: the connection is open as long as it is borrowed, and this operation takes a pointer to an int
    // (sqlite.org/c3ref/c_fcntl_begin_atomic_write.html, SQLITE_FCNTL_PERSIST_WAL).
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            (&raw mut keep).cast(),
        )
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}
