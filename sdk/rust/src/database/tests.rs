use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::unistd::{Uid, geteuid, setfsuid};

use super::*;

struct Fixture {
    _root: tempfile::TempDir,
    home: Home,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    Fixture { _root: root, home }
}

fn insert(database: &Database, id: &str) -> Result<usize, DatabaseError> {
    database.change(|transaction| {
        transaction.execute(
            "INSERT INTO volumes (id, name, kind, created_at) VALUES (?1, ?1, 'dir', 0)",
            [id],
        )
    })
}

fn count(database: &Database) -> i64 {
    database
        .read(|transaction| {
            transaction.query_row("SELECT count(*) FROM volumes", [], |row| row.get(0))
        })
        .unwrap()
}

#[test]
fn what_was_changed_is_there_for_the_next() {
    let Fixture { home, _root } = fixture();
    let database = Database::open(&home).unwrap();
    insert(&database, "a").unwrap();
    drop(database);
    assert_eq!(count(&Database::open(&home).unwrap()), 1);
    let mode = fs::metadata(home.path().join("db"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let Fixture { home, _root } = fixture();
    let database = Database::open(&home).unwrap();
    let result = database.change(|transaction| {
        transaction.execute(
            "INSERT INTO volumes (id, name, kind, created_at) VALUES ('a', 'a', 'dir', 0)",
            [],
        )?;
        transaction.execute("INSERT INTO no_such_table VALUES (1)", [])
    });
    assert!(matches!(result, Err(DatabaseError::Failed { .. })));
    assert_eq!(count(&database), 0);
}

#[test]
fn many_threads_open_and_change_it_at_once() {
    let Fixture { home, _root } = fixture();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let home = &home;
            scope.spawn(move || {
                for round in 0..10 {
                    let database = Database::open(home).unwrap();
                    insert(&database, &format!("{thread} {round}")).unwrap();
                }
            });
        }
    });
    assert_eq!(count(&Database::open(&home).unwrap()), 80);
}

#[test]
fn an_earlier_version_keeps_what_it_has_and_gets_what_is_new() {
    let Fixture { home, _root } = fixture();
    let database = Database::open(&home).unwrap();
    insert(&database, "a").unwrap();
    // As version 1 was.
    let to_version_1 = "DROP TABLE snapshot_images; DROP TABLE snapshots; DROP TABLE sandbox_images; DROP TABLE image_references; DROP TABLE images;
         DROP TABLE sandbox_labels; DROP TABLE sandboxes; PRAGMA user_version = 1;";
    database.connection().execute_batch(to_version_1).unwrap();
    drop(database);
    let database = Database::open(&home).unwrap();
    assert_eq!(count(&database), 1);
    let sandboxes: i64 = database
        .read(|transaction| {
            transaction.query_row("SELECT count(*) FROM sandboxes", [], |row| row.get(0))
        })
        .unwrap();
    assert_eq!(sandboxes, 0);
}

#[test]
fn a_later_version_is_left_alone() {
    let Fixture { home, _root } = fixture();
    let database = Database::open(&home).unwrap();
    database
        .connection()
        .pragma_update(None, "user_version", VERSION + 1)
        .unwrap();
    let error = Database::open(&home).unwrap_err();
    assert!(
        matches!(error, DatabaseError::Newer { found, known, .. } if found == VERSION + 1 && known == VERSION),
        "{error}"
    );
}

#[test]
fn damage_is_told_and_not_repaired() {
    let Fixture { home, _root } = fixture();
    drop(Database::open(&home).unwrap());
    fs::write(
        home.database(),
        "no database at all, but long enough to have a header",
    )
    .unwrap();
    let error = Database::open(&home).unwrap_err();
    assert!(matches!(error, DatabaseError::Damaged { .. }), "{error}");
    assert!(
        fs::read(home.database())
            .unwrap()
            .starts_with(b"no database")
    );
}

#[test]
fn a_page_that_is_damaged_is_told_when_it_is_read() {
    let Fixture { home, _root } = fixture();
    let database = Database::open(&home).unwrap();
    insert(&database, "a").unwrap();
    drop(database);
    let mut bytes = fs::read(home.database()).unwrap();
    // All pages but the first, which has the header.
    bytes[4096..].fill(0xa5);
    fs::write(home.database(), bytes).unwrap();
    let database = Database::open(&home).unwrap();
    let error = insert(&database, "b").unwrap_err();
    assert!(matches!(error, DatabaseError::Damaged { .. }), "{error}");
}

#[test]
fn nobody_waits_for_ever() {
    let Fixture { home, _root } = fixture();
    let database = Database::open(&home).unwrap();
    let patience = Duration::from_millis(20);
    let other = Database::open_with_patience(&home, patience).unwrap();
    let error = database
        .change(|_| Ok(insert(&other, "a").unwrap_err()))
        .unwrap();
    assert!(matches!(error, DatabaseError::Locked { .. }), "{error}");
    insert(&other, "a").unwrap();
}

#[test]
fn a_database_that_cannot_be_written_is_told() {
    let Fixture { home, _root } = fixture();
    drop(Database::open(&home).unwrap());
    let directory = home.path().join("db");
    for path in [_root.path(), home.path()] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(home.database(), Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o555)).unwrap();
    let error = std::thread::scope(|scope| {
        let open = || {
            // Permissions do not hold for root; on Linux each thread has a user for files of its own, see setfsuid(2).
            if geteuid().is_root() {
                setfsuid(Uid::from_raw(65534));
            }
            let database = Database::open(&home)?;
            insert(&database, "a")
        };
        scope.spawn(open).join().unwrap().unwrap_err()
    });
    assert!(matches!(error, DatabaseError::ReadOnly { .. }), "{error}");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_log_stays_and_is_empty() {
    let Fixture { home, _root } = fixture();
    insert(&Database::open(&home).unwrap(), "a").unwrap();
    let log = home.path().join("db/msb.db-wal");
    assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    assert_eq!(count(&Database::open(&home).unwrap()), 1);
    assert_eq!(fs::metadata(&log).unwrap().len(), 0);
}

#[test]
fn settling_changes_the_log_and_nothing_else() {
    let Fixture { home, _root } = fixture();
    let database = Database::open(&home).unwrap();
    insert(&database, "a").unwrap();
    let log = home.database().with_extension("db-wal");
    let before = fs::metadata(&log).unwrap().len();
    database.settle().unwrap();
    assert!(
        fs::metadata(&log).unwrap().len() > before,
        "nothing was committed"
    );
    assert_eq!(count(&Database::open(&home).unwrap()), 1);
}
