//! What the database says about a sandbox.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params, params_from_iter};

use image::Digest;

use super::End;
use crate::identity::Id;
use crate::images;
use crate::names::Name;

/// A sandbox as the database has it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: Id,
    pub(crate) name: Name,
    /// Its configuration in JSON.
    pub(crate) config: String,
    /// The manifest of the image that it is made of. Only who records a new sandbox says so.
    pub(crate) image: Option<Digest>,
    /// Whether nothing of it remains when it has ended.
    pub(crate) ephemeral: bool,
    pub(crate) created_at: SystemTime,
    pub(crate) updated_at: SystemTime,
    /// Whether its guest was ever up. Until then, its creation has not come to its end.
    pub(crate) ever_ready: bool,
    /// Number of the last run that was begun, from 1.
    pub(crate) run: i64,
    /// Whether that run has a machine, as far as anybody has noticed.
    pub(crate) active: bool,
    /// How the last run ended that did.
    pub(crate) ended: Option<End>,
}

impl Record {
    /// Of a sandbox that is created now, and whose first run begins.
    pub(crate) fn new(id: Id, name: &Name, config: String, ephemeral: bool) -> Record {
        let now = SystemTime::now();
        Record {
            id,
            name: name.clone(),
            config,
            image: None,
            ephemeral,
            created_at: now,
            updated_at: now,
            ever_ready: false,
            run: 1,
            active: true,
            ended: None,
        }
    }
}

/// Adds a sandbox; returns false if there is one of its name.
pub(crate) fn insert(
    transaction: &Transaction<'_>,
    record: &Record,
    labels: &BTreeMap<String, String>,
) -> rusqlite::Result<bool> {
    let inserted = transaction.execute(
        "INSERT INTO sandboxes (id, name, config, ephemeral, created_at, updated_at, ever_ready, run, active)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0, 1, 1) ON CONFLICT (name) DO NOTHING",
        params![
            record.id.as_str(),
            record.name.as_str(),
            record.config,
            record.ephemeral,
            milliseconds(record.created_at),
        ],
    )?;
    if inserted == 0 {
        return Ok(false);
    }
    if let Some(image) = &record.image {
        images::record::add_use(transaction, &record.id, image)?;
    }
    for (key, value) in labels {
        transaction.execute(
            "INSERT INTO sandbox_labels (sandbox_id, key, value) VALUES (?1, ?2, ?3)",
            params![record.id.as_str(), key, value],
        )?;
    }
    Ok(true)
}

/// Notes that the guest of a run came up; returns false if that run is over already.
pub(crate) fn set_ready(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<bool> {
    let changed = transaction.execute(
        "UPDATE sandboxes SET ever_ready = 1 WHERE id = ?1 AND run = ?2 AND active = 1",
        params![record.id.as_str(), record.run],
    )?;
    Ok(changed == 1)
}

/// Begins the next run of a sandbox that has none; returns false if it is gone or has one.
pub(crate) fn begin_run(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<bool> {
    let changed = transaction.execute(
        "UPDATE sandboxes SET run = run + 1, active = 1, updated_at = ?3
         WHERE id = ?1 AND run = ?2 AND active = 0",
        params![
            record.id.as_str(),
            record.run,
            milliseconds(SystemTime::now())
        ],
    )?;
    Ok(changed == 1)
}

/// Takes back the beginning of a run that never had a machine.
pub(crate) fn cancel_run(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE sandboxes SET run = run - 1, active = 0 WHERE id = ?1 AND run = ?2 AND active = 1",
        params![record.id.as_str(), record.run],
    )?;
    Ok(())
}

/// Ends a run, unless somebody has done so. A sandbox that is ephemeral, or whose creation never came to an end, is
/// forgotten; returns whether it was.
pub(crate) fn end_run(
    transaction: &Transaction<'_>,
    record: &Record,
    ended: &str,
) -> rusqlite::Result<bool> {
    let this = params![record.id.as_str(), record.run];
    let forgotten = transaction.execute(
        "DELETE FROM sandboxes WHERE id = ?1 AND run = ?2 AND active = 1 AND (ephemeral = 1 OR ever_ready = 0)",
        this,
    )?;
    if forgotten == 1 {
        return Ok(true);
    }
    transaction.execute(
        "UPDATE sandboxes SET active = 0, ended = ?3, updated_at = ?4 WHERE id = ?1 AND run = ?2 AND active = 1",
        params![
            record.id.as_str(),
            record.run,
            ended,
            milliseconds(SystemTime::now())
        ],
    )?;
    Ok(false)
}

/// Forgets a sandbox.
pub(crate) fn delete(transaction: &Transaction<'_>, id: &Id) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM sandboxes WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

/// The identities of all sandboxes; `None` if one of them is damaged, so that it cannot be said which directory is its.
pub(crate) fn ids(transaction: &Transaction<'_>) -> rusqlite::Result<Option<HashSet<Id>>> {
    let mut statement = transaction.prepare("SELECT id FROM sandboxes")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    ids.map(|id| Ok(Id::parse(&id?))).collect()
}

const SELECT: &str = "SELECT id, name, config, ephemeral, created_at, updated_at, run, active, ended, ever_ready FROM sandboxes";

/// The sandbox of this name.
pub(crate) fn by_name(
    transaction: &Transaction<'_>,
    name: &Name,
) -> rusqlite::Result<Option<Result<Record, Unreadable>>> {
    let query = format!("{SELECT} WHERE name = ?1");
    transaction
        .query_row(&query, [name.as_str()], |row| Ok(read_or_tell(row)))
        .optional()
}

/// A sandbox of which something is recorded that makes no sense.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) name: String,
    pub(crate) reason: rusqlite::Error,
}

/// The sandboxes that have all of these labels, newest first.
pub(crate) fn with_labels(
    transaction: &Transaction<'_>,
    labels: &BTreeMap<String, String>,
) -> rusqlite::Result<Vec<Result<Record, Unreadable>>> {
    let mut query = format!("{SELECT} WHERE 1");
    for _ in labels {
        query += " AND id IN (SELECT sandbox_id FROM sandbox_labels WHERE key = ? AND value = ?)";
    }
    // Of one millisecond, the one that was added later.
    query += " ORDER BY created_at DESC, rowid DESC";
    let mut statement = transaction.prepare(&query)?;
    let parameters = labels.iter().flat_map(|(key, value)| [key, value]);
    let records = statement.query_map(params_from_iter(parameters), |row| Ok(read_or_tell(row)))?;
    records.collect()
}

fn read_or_tell(row: &Row<'_>) -> Result<Record, Unreadable> {
    read(row).map_err(|reason| Unreadable {
        name: name(row).unwrap_or_default(),
        reason,
    })
}

/// The name as it is recorded, whatever that is.
fn name(row: &Row<'_>) -> rusqlite::Result<String> {
    let name = row.get_ref(1)?.as_bytes()?;
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let name: String = row.get(1)?;
    let ended: Option<String> = row.get(8)?;
    let updated_at = time(row, 5)?;
    Ok(Record {
        id: id(row, 0)?,
        name: name.parse().map_err(|error| invalid(1, error))?,
        config: row.get(2)?,
        image: None,
        ephemeral: row.get(3)?,
        created_at: time(row, 4)?,
        updated_at,
        run: row.get(6)?,
        active: row.get(7)?,
        // Whoever cannot be told how a run ended has the sandbox all the same.
        ended: ended.map(|ended| {
            serde_json::from_str(&ended).unwrap_or_else(|error| End::unreadable(updated_at, &error))
        }),
        ever_ready: row.get(9)?,
    })
}

/// The identity becomes part of a path: what is in the file is checked as if a user had given it.
fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<Id> {
    let text: String = row.get(column)?;
    Id::parse(&text).ok_or_else(|| invalid(column, "no identity"))
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<SystemTime> {
    let since_1970: i64 = row.get(column)?;
    Ok(UNIX_EPOCH + Duration::from_millis(u64::try_from(since_1970).unwrap_or(0)))
}

fn milliseconds(time: SystemTime) -> i64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

fn invalid(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
