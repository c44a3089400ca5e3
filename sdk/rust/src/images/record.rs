//! What the database says about images.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use image::{Digest, Reference};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::identity::Id;

/// An image as the database has it.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    pub(super) size_bytes: u64,
    pub(super) created_at: SystemTime,
    pub(super) references: Vec<Reference>,
}

/// What becomes of an image when one of its names is taken away.
#[derive(Debug)]
pub(super) enum Removal {
    /// It has other names.
    Untagged,
    /// It is gone.
    Removed,
    /// It is used: nothing has changed.
    InUse(Users),
}

/// What was made of an image, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Users {
    pub(super) sandboxes: Vec<String>,
    pub(super) snapshots: Vec<String>,
}

impl Users {
    fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.snapshots.is_empty()
    }
}

/// Adds an image, unless it is there, and gives it names; another image loses them.
pub(super) fn add(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    let manifest = record.manifest.to_string();
    let now = milliseconds(record.created_at);
    transaction.execute(
        "INSERT INTO images (manifest_digest, config_digest, size_bytes, created_at)
         VALUES (?1, ?2, ?3, ?4) ON CONFLICT (manifest_digest) DO NOTHING",
        params![
            manifest,
            record.config.to_string(),
            i64::try_from(record.size_bytes).unwrap_or(i64::MAX),
            now,
        ],
    )?;
    for reference in &record.references {
        transaction.execute(
            "INSERT INTO image_references (reference, manifest_digest, updated_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (reference) DO UPDATE SET manifest_digest = ?2, updated_at = ?3",
            params![reference.to_string(), manifest, now],
        )?;
    }
    Ok(())
}

const SELECT: &str = "SELECT manifest_digest, config_digest, size_bytes, created_at FROM images";

/// All images, newest first.
pub(super) fn all(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Record>> {
    let mut statement =
        transaction.prepare(&format!("{SELECT} ORDER BY created_at DESC, rowid DESC"))?;
    let records = statement.query_map([], read)?;
    records
        .map(|record| with_references(transaction, record?))
        .collect()
}

/// The image of this name.
pub(super) fn by_reference(
    transaction: &Transaction<'_>,
    reference: &Reference,
) -> rusqlite::Result<Option<Record>> {
    let query = format!(
        "{SELECT} WHERE manifest_digest = (SELECT manifest_digest FROM image_references WHERE reference = ?1)"
    );
    let record = transaction
        .query_row(&query, [reference.to_string()], read)
        .optional()?;
    record
        .map(|record| with_references(transaction, record))
        .transpose()
}

/// The image with the manifest that this name has the digest of, if one of its own names is of the same repository.
pub(super) fn by_content(
    transaction: &Transaction<'_>,
    name: &Reference,
) -> rusqlite::Result<Option<Record>> {
    let Some(digest) = name.digest() else {
        return Ok(None);
    };
    let query = format!("{SELECT} WHERE manifest_digest = ?1");
    let record = transaction
        .query_row(&query, [digest.to_string()], read)
        .optional()?;
    let record = record
        .map(|record| with_references(transaction, record))
        .transpose()?;
    Ok(record.filter(|record| {
        let mut names = record.references.iter();
        names.any(|other| other.is_of_repository(name))
    }))
}

/// The images whose manifest or configuration has a digest that begins with these hexadecimal digits; two at most.
pub(super) fn by_digest(
    transaction: &Transaction<'_>,
    prefix: &str,
) -> rusqlite::Result<Vec<Record>> {
    let query = format!(
        "{SELECT} WHERE substr(manifest_digest, 8, length(?1)) = ?1 OR substr(config_digest, 8, length(?1)) = ?1 LIMIT 2"
    );
    let mut statement = transaction.prepare(&query)?;
    let records = statement.query_map([prefix], read)?;
    records
        .map(|record| with_references(transaction, record?))
        .collect()
}

/// Takes names away, and with the last one the image.
pub(super) fn remove(
    transaction: &Transaction<'_>,
    manifest: &Digest,
    names: &[Reference],
) -> rusqlite::Result<Removal> {
    let digest = manifest.to_string();
    let references = references(transaction, &digest)?;
    if references.iter().any(|name| !names.contains(name)) {
        for name in names {
            transaction.execute(
                "DELETE FROM image_references WHERE reference = ?1 AND manifest_digest = ?2",
                params![name.to_string(), digest],
            )?;
        }
        return Ok(Removal::Untagged);
    }
    let users = users(transaction, manifest)?;
    if !users.is_empty() {
        return Ok(Removal::InUse(users));
    }
    transaction.execute("DELETE FROM images WHERE manifest_digest = ?1", [digest])?;
    Ok(Removal::Removed)
}

/// Forgets the images that nothing uses, and returns them: those without a name, or all.
pub(super) fn remove_unused(
    transaction: &Transaction<'_>,
    named: bool,
) -> rusqlite::Result<Vec<Record>> {
    let mut removed = Vec::new();
    for record in all(transaction)? {
        if (named || record.references.is_empty())
            && users(transaction, &record.manifest)?.is_empty()
        {
            let digest = record.manifest.to_string();
            transaction.execute("DELETE FROM images WHERE manifest_digest = ?1", [digest])?;
            removed.push(record);
        }
    }
    Ok(removed)
}

/// The manifests of all images.
pub(super) fn manifests(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Digest>> {
    let mut statement = transaction.prepare("SELECT manifest_digest FROM images")?;
    let manifests = statement.query_map([], |row| digest(row, 0))?;
    manifests.collect()
}

/// What was made of an image.
pub(super) fn users(transaction: &Transaction<'_>, manifest: &Digest) -> rusqlite::Result<Users> {
    let names = |query: &str| -> rusqlite::Result<Vec<String>> {
        let mut statement = transaction.prepare(query)?;
        let names = statement.query_map([manifest.to_string()], |row| row.get(0))?;
        names.collect()
    };
    Ok(Users {
        sandboxes: names(
            "SELECT name FROM sandboxes JOIN sandbox_images ON sandbox_id = id
             WHERE manifest_digest = ?1 ORDER BY name",
        )?,
        snapshots: names(
            "SELECT name FROM snapshots JOIN snapshot_images ON snapshot_id = id
             WHERE manifest_digest = ?1 ORDER BY name",
        )?,
    })
}

/// Notes that a sandbox was made of an image: in the transaction that records the sandbox. Fails if the image is gone.
pub(crate) fn add_use(
    transaction: &Transaction<'_>,
    sandbox: &Id,
    manifest: &Digest,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO sandbox_images (sandbox_id, manifest_digest) VALUES (?1, ?2)",
        params![sandbox.as_str(), manifest.to_string()],
    )?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let size: i64 = row.get(2)?;
    let created_at: i64 = row.get(3)?;
    Ok(Record {
        manifest: digest(row, 0)?,
        config: digest(row, 1)?,
        size_bytes: u64::try_from(size).unwrap_or(0),
        created_at: UNIX_EPOCH + Duration::from_millis(u64::try_from(created_at).unwrap_or(0)),
        references: Vec::new(),
    })
}

fn with_references(transaction: &Transaction<'_>, record: Record) -> rusqlite::Result<Record> {
    Ok(Record {
        references: references(transaction, &record.manifest.to_string())?,
        ..record
    })
}

/// The names of the image with this manifest.
fn references(transaction: &Transaction<'_>, manifest: &str) -> rusqlite::Result<Vec<Reference>> {
    let mut statement = transaction.prepare(
        "SELECT reference FROM image_references WHERE manifest_digest = ?1 ORDER BY reference",
    )?;
    let references = statement.query_map([manifest], |row| {
        let text: String = row.get(0)?;
        text.parse().map_err(|error| invalid(0, error))
    })?;
    references.collect()
}

/// Digests become part of paths: what is in the file is checked as if a user had given it.
fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| invalid(column, error))
}

fn invalid(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

fn milliseconds(time: SystemTime) -> i64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}
