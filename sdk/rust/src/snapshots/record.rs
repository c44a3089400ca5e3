//! What the database says about snapshots.

use image::Digest;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::SnapshotName;
use super::descriptor::Snapshot;
use crate::identity::Id;

/// Adds a snapshot that has a name. Fails if there is one of that name, or its image is gone.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    snapshot: &Snapshot,
    name: &SnapshotName,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO snapshots (id, name, descriptor, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![
            snapshot.id.as_str(),
            name.as_str(),
            snapshot.to_json(),
            i64::try_from(snapshot.descriptor.created_at).unwrap_or(i64::MAX),
        ],
    )?;
    if let Some((_, image)) = &snapshot.image {
        transaction.execute(
            "INSERT INTO snapshot_images (snapshot_id, manifest_digest) VALUES (?1, ?2)",
            params![snapshot.id.as_str(), image.to_string()],
        )?;
    }
    Ok(())
}

/// Whether an image is recorded.
pub(super) fn has_image(transaction: &Transaction<'_>, image: &Digest) -> rusqlite::Result<bool> {
    transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM images WHERE manifest_digest = ?1)",
        [image.to_string()],
        |row| row.get(0),
    )
}

/// The snapshot of this name.
pub(super) fn by_name(
    transaction: &Transaction<'_>,
    name: &SnapshotName,
) -> rusqlite::Result<Option<Snapshot>> {
    let query = "SELECT descriptor FROM snapshots WHERE name = ?1";
    transaction
        .query_row(query, [name.as_str()], read)
        .optional()
}

/// All snapshots, newest first.
pub(super) fn all(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Snapshot>> {
    let query = "SELECT descriptor FROM snapshots ORDER BY created_at DESC, rowid DESC";
    let mut statement = transaction.prepare(query)?;
    let snapshots = statement.query_map([], read)?;
    snapshots.collect()
}

/// Whether there is a snapshot with this identity.
pub(super) fn exists(transaction: &Transaction<'_>, id: &Id) -> rusqlite::Result<bool> {
    transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM snapshots WHERE id = ?1)",
        [id.as_str()],
        |row| row.get(0),
    )
}

/// Forgets a snapshot, and returns whether there was one.
pub(super) fn delete(transaction: &Transaction<'_>, id: &Id) -> rusqlite::Result<bool> {
    let deleted = transaction.execute("DELETE FROM snapshots WHERE id = ?1", [id.as_str()])?;
    Ok(deleted == 1)
}

/// What is in the file is checked as if a user had given it.
fn read(row: &Row<'_>) -> rusqlite::Result<Snapshot> {
    let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error)
    };
    let text: String = row.get(0)?;
    let descriptor = serde_json::from_str(&text).map_err(|error| invalid(Box::new(error)))?;
    Snapshot::check(descriptor).map_err(|reason| invalid(reason.into()))
}
