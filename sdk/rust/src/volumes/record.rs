//! What the database says about a volume.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

pub(super) use crate::identity::Id;

use super::{VolumeConfig, VolumeKind, VolumeName};

/// A volume as the database has it.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) id: Id,
    pub(super) name: VolumeName,
    pub(super) kind: VolumeKind,
    pub(super) quota_mib: Option<u32>,
    pub(super) size_mib: Option<u32>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) created_at: SystemTime,
}

impl Record {
    /// Of a volume that is made now.
    pub(super) fn new(id: Id, name: &VolumeName, config: &VolumeConfig) -> Record {
        Record {
            id,
            name: name.clone(),
            kind: config.kind,
            quota_mib: config.quota(),
            size_mib: config.size(),
            labels: config.labels.clone(),
            created_at: SystemTime::now(),
        }
    }

    /// Adds it to the database; returns false if there is one of its name.
    pub(super) fn insert(&self, transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
        let since_1970 = self.created_at.duration_since(UNIX_EPOCH);
        let milliseconds = since_1970.unwrap_or_default().as_millis();
        let inserted = transaction.execute(
            "INSERT INTO volumes (id, name, kind, quota_mib, size_mib, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING",
            params![
                self.id.as_str(),
                self.name.as_str(),
                self.kind.name(),
                self.quota_mib,
                self.size_mib,
                i64::try_from(milliseconds).unwrap_or(i64::MAX),
            ],
        )?;
        if inserted == 0 {
            return Ok(false);
        }
        for (key, value) in &self.labels {
            transaction.execute(
                "INSERT INTO volume_labels (volume_id, key, value) VALUES (?1, ?2, ?3)",
                params![self.id.as_str(), key, value],
            )?;
        }
        Ok(true)
    }
}

const SELECT: &str = "SELECT id, name, kind, quota_mib, size_mib, created_at FROM volumes";

/// The volume of this name.
pub(super) fn by_name(
    transaction: &Transaction<'_>,
    name: &VolumeName,
) -> rusqlite::Result<Option<Record>> {
    let query = format!("{SELECT} WHERE name = ?1");
    let record = transaction
        .query_row(&query, [name.as_str()], read)
        .optional()?;
    record
        .map(|record| with_labels(transaction, record))
        .transpose()
}

/// The name of the volume with this identity.
pub(super) fn name_of(
    transaction: &Transaction<'_>,
    id: &Id,
) -> rusqlite::Result<Option<VolumeName>> {
    let query = format!("{SELECT} WHERE id = ?1");
    let record = transaction
        .query_row(&query, [id.as_str()], read)
        .optional()?;
    Ok(record.map(|record| record.name))
}

/// All volumes, by name.
pub(super) fn all(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Record>> {
    let mut statement = transaction.prepare(&format!("{SELECT} ORDER BY name"))?;
    let records = statement.query_map([], read)?;
    records
        .map(|record| with_labels(transaction, record?))
        .collect()
}

/// Forgets a volume.
pub(super) fn delete(transaction: &Transaction<'_>, id: &Id) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM volumes WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let invalid = |column: usize, error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
    };
    let id: String = row.get(0)?;
    let name: String = row.get(1)?;
    let kind: String = row.get(2)?;
    let created_at: i64 = row.get(5)?;
    Ok(Record {
        id: Id::parse(&id).ok_or_else(|| invalid(0, "no identity".into()))?,
        // The name becomes part of a path: what is in the file is checked as if a user had given it.
        name: name.parse().map_err(|error| invalid(1, Box::new(error)))?,
        kind: kind.parse().map_err(|error| invalid(2, Box::new(error)))?,
        quota_mib: row.get(3)?,
        size_mib: row.get(4)?,
        labels: BTreeMap::new(),
        created_at: UNIX_EPOCH + Duration::from_millis(u64::try_from(created_at).unwrap_or(0)),
    })
}

fn with_labels(transaction: &Transaction<'_>, record: Record) -> rusqlite::Result<Record> {
    let mut statement =
        transaction.prepare("SELECT key, value FROM volume_labels WHERE volume_id = ?1")?;
    let labels = statement.query_map([record.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Record {
        labels: labels.collect::<rusqlite::Result<_>>()?,
        ..record
    })
}
