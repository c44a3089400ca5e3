//! The tables, and how a database of an earlier version gets them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::DatabaseError;

/// Step `n` leads from version `n` to `n + 1`. A step that was released is never changed, only followed by another.
const STEPS: &[&str] = &[
    // Times are milliseconds since 1970-01-01 00:00 UTC. `id` names the directory while it is made and removed.
    "CREATE TABLE volumes (
         id TEXT PRIMARY KEY,
         name TEXT NOT NULL UNIQUE,
         kind TEXT NOT NULL CHECK (kind IN ('dir', 'disk')),
         quota_mib INTEGER CHECK (quota_mib > 0),
         size_mib INTEGER CHECK (size_mib > 0),
         created_at INTEGER NOT NULL,
         CHECK ((kind = 'disk') = (size_mib IS NOT NULL)),
         CHECK (kind = 'dir' OR quota_mib IS NULL)
     ) STRICT;
     CREATE TABLE volume_labels (
         volume_id TEXT NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
         key TEXT NOT NULL,
         value TEXT NOT NULL,
         PRIMARY KEY (volume_id, key)
     ) STRICT, WITHOUT ROWID;",
    // `config` and `ended` are JSON. `run` is the number of the last run that was begun; `active` says that it is supposed to
    // have a machine, `ever_ready` that the creation came to its end.
    "CREATE TABLE sandboxes (
         id TEXT PRIMARY KEY,
         name TEXT NOT NULL UNIQUE,
         config TEXT NOT NULL,
         ephemeral INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
         created_at INTEGER NOT NULL,
         updated_at INTEGER NOT NULL,
         ever_ready INTEGER NOT NULL CHECK (ever_ready IN (0, 1)),
         run INTEGER NOT NULL CHECK (run > 0),
         active INTEGER NOT NULL CHECK (active IN (0, 1)),
         ended TEXT
     ) STRICT;
     CREATE TABLE sandbox_labels (
         sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
         key TEXT NOT NULL,
         value TEXT NOT NULL,
         PRIMARY KEY (sandbox_id, key)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX sandbox_labels_by_value ON sandbox_labels (key, value);",
    // An image that a sandbox was made of cannot be removed: `sandbox_images` refers to it.
    "CREATE TABLE images (
         manifest_digest TEXT PRIMARY KEY,
         config_digest TEXT NOT NULL,
         size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
         created_at INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE image_references (
         reference TEXT PRIMARY KEY,
         manifest_digest TEXT NOT NULL REFERENCES images (manifest_digest) ON DELETE CASCADE,
         updated_at INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX image_references_by_image ON image_references (manifest_digest);
     CREATE TABLE sandbox_images (
         sandbox_id TEXT PRIMARY KEY REFERENCES sandboxes (id) ON DELETE CASCADE,
         manifest_digest TEXT NOT NULL REFERENCES images (manifest_digest)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX sandbox_images_by_image ON sandbox_images (manifest_digest);",
    // `id` names the directory. `descriptor` is JSON, the same that is in the directory. An image that a snapshot is based
    // on cannot be removed: `snapshot_images` refers to it.
    "CREATE TABLE snapshots (
         id TEXT PRIMARY KEY,
         name TEXT NOT NULL UNIQUE,
         descriptor TEXT NOT NULL,
         created_at INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE snapshot_images (
         snapshot_id TEXT PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
         manifest_digest TEXT NOT NULL REFERENCES images (manifest_digest)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX snapshot_images_by_image ON snapshot_images (manifest_digest);",
];

/// Version of the database that this program makes: `PRAGMA user_version`.
pub const VERSION: i64 = STEPS.len() as i64;

/// Brings the database at `path` to [`VERSION`].
///
/// # Errors
/// When it is of a later version, or cannot be changed.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new(path, error);
    if version(connection).map_err(failed)? == VERSION {
        return Ok(());
    }
    // SQLite does not always wait when two connections change the journal mode at a time.
    let _alone = lock(&path.with_extension("lock"))?;
    let found = version(connection).map_err(failed)?;
    if found > VERSION {
        return Err(DatabaseError::Newer {
            path: path.to_owned(),
            found,
            known: VERSION,
        });
    }
    // It stays in this mode, whoever opens it.
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(failed)?;
    step(connection, found).map_err(failed)
}

fn step(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (version, step) in (1_i64..).zip(STEPS) {
        if version > found {
            transaction.execute_batch(step)?;
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Released when the file is dropped.
fn lock(path: &Path) -> Result<File, DatabaseError> {
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    open.and_then(|file| file.lock().map(|()| file))
        .map_err(|source| DatabaseError::Lock {
            path: path.to_owned(),
            source,
        })
}
