use std::fs;

use super::*;
use crate::control::Ended;
use crate::database::DatabaseError;
use crate::run_directory::Claim;

struct Fixture {
    _root: tempfile::TempDir,
    registry: Registry,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    Fixture {
        _root: root,
        registry: Registry::open(&home).unwrap(),
    }
}

impl Fixture {
    /// A sandbox in the making: its name is locked as long as the claim lasts.
    fn begin(&self, name: &str, ephemeral: bool) -> (Record, Claim) {
        let name = name.parse().unwrap();
        let claim = RunDirectory::claim(self.registry.home(), &name).unwrap();
        let id = Registry::new_id().unwrap();
        let record = Record::new(id, &name, "{}".to_owned(), ephemeral);
        self.registry.create(&record, &BTreeMap::new()).unwrap();
        let directory = self.registry.directory(&record);
        directory.make(self.registry.home()).unwrap();
        (record, claim)
    }

    fn get(&self, name: &str) -> Option<Observed> {
        self.registry.get(&name.parse().unwrap()).ok()
    }

    fn directories(&self) -> usize {
        fs::read_dir(self.registry.home().sandboxes())
            .unwrap()
            .count()
    }
}

fn completed() -> Ended {
    Ended {
        reason: StopReason::Completed,
        exit: None,
        detail: None,
        console: None,
        clean: true,
        at: 1,
    }
}

#[test]
fn a_creation_that_never_came_to_its_end_is_forgotten() {
    let fixture = fixture();
    let (_, claim) = fixture.begin("web", false);
    assert_eq!(fixture.get("web").unwrap().status, SandboxStatus::Starting);
    drop(claim);
    assert!(fixture.get("web").is_none());
    assert_eq!(fixture.directories(), 0);
}

#[test]
fn a_run_is_concluded_once_with_what_the_machine_said() {
    let fixture = fixture();
    let (record, claim) = fixture.begin("web", false);
    fixture.registry.set_ready(&record).unwrap();
    let directory = fixture.registry.directory(&record);
    completed().write(directory.path()).unwrap();
    drop(claim);
    let observed = fixture.get("web").unwrap();
    assert_eq!(observed.status, SandboxStatus::Stopped);
    assert_eq!(observed.record.ended, Some(End::told(completed())));
    // Whoever is late changes nothing.
    fixture
        .registry
        .conclude_dead(&record, StopReason::Killed)
        .unwrap();
    conclude(fixture.registry.home(), &record.name).unwrap();
    let observed = fixture.get("web").unwrap();
    assert_eq!(observed.record.ended, Some(End::told(completed())));
}

#[test]
fn the_end_of_a_run_says_nothing_about_the_next() {
    let fixture = fixture();
    let (record, claim) = fixture.begin("web", false);
    fixture.registry.set_ready(&record).unwrap();
    let directory = fixture.registry.directory(&record);
    completed().write(directory.path()).unwrap();
    drop(claim);
    let claim = RunDirectory::claim(fixture.registry.home(), &record.name).unwrap();
    let next = fixture.registry.begin_run(&record.name).unwrap();
    assert_eq!(next.run, 2);
    // Somebody who waited for the first run concludes it only now.
    fixture
        .registry
        .conclude_dead(&record, StopReason::Crashed)
        .unwrap();
    assert_eq!(fixture.get("web").unwrap().status, SandboxStatus::Starting);
    drop(claim);
    let observed = fixture.get("web").unwrap();
    assert_eq!(observed.status, SandboxStatus::Crashed);
    assert_eq!(observed.record.ended.unwrap().source, end::EndSource::Host);
}

#[test]
fn ends_are_told_also_where_they_cannot_be_recorded() {
    let fixture = fixture();
    for (name, ephemeral) in [("told", false), ("killed", false), ("job", true)] {
        let (record, _claim) = fixture.begin(name, ephemeral);
        fixture.registry.set_ready(&record).unwrap();
        if name == "told" {
            let directory = fixture.registry.directory(&record);
            completed().write(directory.path()).unwrap();
        }
    }
    // One whose creator died.
    fixture.begin("half", false);
    let can_write = |can: bool| {
        let database = &fixture.registry.database;
        let set = |transaction: &rusqlite::Transaction<'_>| {
            transaction.pragma_update(None, "query_only", !can)
        };
        database.read(set).unwrap();
    };
    let listed = || {
        let observed = fixture.registry.list(&BTreeMap::new()).unwrap().observed;
        let told = observed.into_iter().map(|observed| {
            let Observed { record, status } = observed;
            let reason = record.ended.map(|end| end.ended.reason);
            assert_eq!(fixture.get(record.name.as_str()).unwrap().status, status);
            (record.name.to_string(), status, reason)
        });
        told.collect::<Vec<_>>()
    };
    let expected = [
        ("killed", SandboxStatus::Crashed, Some(StopReason::Crashed)),
        ("told", SandboxStatus::Stopped, Some(StopReason::Completed)),
    ];
    let expected = expected.map(|(name, status, reason)| (name.to_owned(), status, reason));
    can_write(false);
    assert_eq!(listed(), expected);
    for forgotten in ["job", "half"] {
        assert!(fixture.get(forgotten).is_none());
    }
    // Nothing of it is lost.
    can_write(true);
    assert_eq!(listed(), expected);
    assert_eq!(fixture.directories(), 2);
}

#[test]
fn an_ephemeral_sandbox_is_forgotten_with_its_end() {
    let fixture = fixture();
    let (record, claim) = fixture.begin("job", true);
    fixture.registry.set_ready(&record).unwrap();
    drop(claim);
    conclude(fixture.registry.home(), &record.name).unwrap();
    assert!(fixture.get("job").is_none());
    assert_eq!(fixture.directories(), 0);
}

#[test]
fn directories_without_a_record_are_removed_and_others_are_not() {
    let fixture = fixture();
    let (record, _claim) = fixture.begin("web", false);
    let sandboxes = fixture.registry.home().sandboxes();
    let orphan = sandboxes.join("0123456789abcdef");
    fs::create_dir_all(orphan.join("logs")).unwrap();
    let foreign = sandboxes.join("notes");
    fs::create_dir(&foreign).unwrap();
    fixture.registry.remove_orphans().unwrap();
    assert!(!orphan.exists());
    assert!(foreign.exists());
    assert!(fixture.registry.directory(&record).path().exists());
}

#[test]
fn a_sandbox_takes_the_name_of_another_in_one_step() {
    let fixture = fixture();
    let (old, claim) = fixture.begin("web", false);
    fixture.registry.set_ready(&old).unwrap();
    let new = Record::new(
        Registry::new_id().unwrap(),
        &old.name,
        "{}".to_owned(),
        false,
    );
    let error = fixture.registry.create(&new, &BTreeMap::new()).unwrap_err();
    assert!(matches!(
        error,
        MicrosandboxError::SandboxAlreadyExists { .. }
    ));
    fixture.registry.replace(&new, &BTreeMap::new()).unwrap();
    assert_eq!(fixture.get("web").unwrap().record.id, new.id);
    assert!(!fixture.registry.directory(&old).path().exists());
    drop(claim);
}

/// Damages the record of the sandbox that was created first.
fn damage(fixture: &Fixture, column: &str, value: &str) {
    let query = format!(
        "UPDATE sandboxes SET {column} = ?1 WHERE rowid = (SELECT min(rowid) FROM sandboxes)"
    );
    let changed = fixture
        .registry
        .database
        .change(|transaction| transaction.execute(&query, [value]));
    assert_eq!(changed.unwrap(), 1);
}

#[test]
fn a_record_that_makes_no_sense_is_told_and_hides_no_other() {
    let fixture = fixture();
    let (bad, _claim) = fixture.begin("bad", false);
    let (_, _other_claim) = fixture.begin("good", false);
    let list = || {
        let listing = fixture.registry.list(&BTreeMap::new()).unwrap();
        let names = listing.observed.into_iter();
        let names = names.map(|observed| observed.record.name.to_string());
        let unreadable = listing.unreadable.into_iter().map(|error| match error {
            DatabaseError::Record { name, .. } => name,
            error => panic!("{error}"),
        });
        (names.collect::<Vec<_>>(), unreadable.collect::<Vec<_>>())
    };
    damage(&fixture, "name", "a/b");
    assert_eq!(list(), (vec!["good".to_owned()], vec!["a/b".to_owned()]));
    damage(&fixture, "name", "bad");
    damage(&fixture, "id", "../../etc");
    assert_eq!(list(), (vec!["good".to_owned()], vec!["bad".to_owned()]));
    assert!(matches!(
        fixture.registry.get(&bad.name),
        Err(MicrosandboxError::Database(DatabaseError::Record { .. }))
    ));
    // As every creation does. Which directory is that of the damaged one nobody can say: none is removed.
    let directory = fixture.registry.directory(&bad);
    fixture.registry.remove_orphans().unwrap();
    assert!(directory.path().is_dir());
}

#[test]
fn an_end_that_makes_no_sense_is_told_and_hides_no_sandbox() {
    let fixture = fixture();
    let (record, claim) = fixture.begin("web", false);
    fixture.registry.set_ready(&record).unwrap();
    drop(claim);
    assert_eq!(fixture.get("web").unwrap().status, SandboxStatus::Crashed);
    damage(&fixture, "ended", "{\"reason\":");
    let Observed { record, status } = fixture.get("web").unwrap();
    assert_eq!(status, SandboxStatus::Crashed);
    let ended = record.ended.unwrap().ended;
    let detail = ended.detail.unwrap();
    assert!(detail.contains("cannot be read: EOF"), "{detail}");
    let listing = fixture.registry.list(&BTreeMap::new()).unwrap();
    assert_eq!(listing.observed.len(), 1);
}
