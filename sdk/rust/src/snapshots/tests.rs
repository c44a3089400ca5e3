mod archives;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Barrier;

use image::Digest;

use super::*;
use crate::control::StopReason;
use crate::error::{ErrorKind, MicrosandboxError};
use crate::images::Images;
use crate::names::Name;
use crate::registry::{Record, Registry};
use crate::run_directory::{Claim, RunDirectory};
use crate::sandbox::SandboxConfig;

struct Fixture {
    _root: tempfile::TempDir,
    home: Home,
    snapshots: Snapshots,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    let fixture = Fixture {
        snapshots: Snapshots::open(&home).unwrap(),
        home,
        _root: root,
    };
    fixture.add_image();
    fixture
}

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

fn web() -> Name {
    "web".parse().unwrap()
}

fn manifest() -> Digest {
    Digest::of(b"manifest")
}

impl Fixture {
    /// An image is recorded, as far as the database is concerned.
    fn add_image(&self) {
        self.change(
            "INSERT INTO images (manifest_digest, config_digest, size_bytes, created_at) VALUES (?1, ?1, 0, 0)",
            Some(&manifest().to_string()),
        );
    }

    fn change(&self, statement: &str, parameter: Option<&str>) {
        let change = |transaction: &rusqlite::Transaction<'_>| {
            transaction.execute(statement, rusqlite::params_from_iter(parameter))
        };
        self.snapshots.database.change(change).unwrap();
    }

    /// A sandbox of an image in whose directory there is a layer of 8 MiB, unless `layer` is false. It runs as long as the
    /// claim lasts.
    fn begin(&self, layer: bool) -> (Record, Claim) {
        let registry = Registry::open(&self.home).unwrap();
        let claim = RunDirectory::claim(&self.home, &web()).unwrap();
        let mut config = SandboxConfig::new("web", "debian");
        config.image_digest = Some(manifest().to_string());
        let config = serde_json::to_string(&config).unwrap();
        let record = Record {
            image: Some(manifest()),
            ..Record::new(Registry::new_id().unwrap(), &web(), config, false)
        };
        registry.create(&record, &BTreeMap::new()).unwrap();
        let directory = registry.directory(&record);
        directory.make(&self.home).unwrap();
        if layer {
            let upper = File::create_new(directory.upper()).unwrap();
            upper.set_len(8 << 20).unwrap();
            upper.write_all_at(b"data", 1 << 20).unwrap();
            upper.write_all_at(&[7; 100_000], 5_000_000).unwrap();
        }
        registry.set_ready(&record).unwrap();
        (record, claim)
    }

    fn stopped(&self) -> Record {
        let (record, claim) = self.begin(true);
        drop(claim);
        let registry = Registry::open(&self.home).unwrap();
        registry
            .conclude_dead(&record, StopReason::Completed)
            .unwrap();
        record
    }

    fn create(&self, text: &str) -> Result<SnapshotHandle, MicrosandboxError> {
        let options = SnapshotOptions::default();
        self.snapshots
            .create(&name(text), &web(), &options, &mut silent)
    }

    fn directories(&self) -> usize {
        fs::read_dir(self.home.snapshots()).unwrap().count()
    }

    /// Nothing of a snapshot that failed is left.
    fn assert_nothing_left(&self, snapshots: usize) {
        assert_eq!(self.snapshots.list().unwrap().len(), snapshots);
        assert_eq!(self.directories(), snapshots);
        // The sandbox can be used again.
        drop(RunDirectory::claim(&self.home, &web()).unwrap());
    }

    fn save(&self, text: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        self.snapshots
            .save(text, false, &mut archive, &mut silent)
            .unwrap();
        archive
    }

    fn load(&self, archive: &[u8]) -> Result<SnapshotHandle, SnapshotError> {
        let options = LoadOptions {
            name: Some(name("loaded")),
            replace: false,
        };
        self.snapshots.load(archive, &options, &mut silent)
    }
}

fn contents(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_snapshot_is_what_the_sandbox_has_changed() {
    let fixture = fixture();
    let record = fixture.stopped();
    let made = fixture.create("base").unwrap();
    let registry = Registry::open(&fixture.home).unwrap();
    let upper = registry.directory(&record).upper();
    let copy = made.path().join("upper.img");
    assert!(contents(&upper) == contents(&copy));
    let (used, mode) = {
        let metadata = fs::metadata(&copy).unwrap();
        (metadata.blocks() * 512, metadata.permissions().mode())
    };
    assert!(used < 1 << 20, "it takes up {used} bytes");
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(made.used_bytes().unwrap(), used);
    let found = fixture.snapshots.get("base").unwrap();
    assert_eq!((found.sandbox(), found.size_mib()), ("web", 8));
    let root = SnapshotRoot::Image {
        reference: "debian".to_owned(),
        manifest_digest: manifest().to_string(),
    };
    assert_eq!(*found.root(), root);
    // As a directory it says the same, and has no name.
    let path = made.path().display().to_string();
    let by_path = fixture.snapshots.get(&path).unwrap();
    assert_eq!((by_path.id(), by_path.name()), (found.id(), None));
    fixture.snapshots.verify("base", &mut silent).unwrap();
    fixture.snapshots.verify(&path, &mut silent).unwrap();
    fixture.assert_nothing_left(1);
    fixture.snapshots.remove(&name("base")).unwrap();
    fixture.assert_nothing_left(0);
    let error = fixture.snapshots.remove(&name("base")).unwrap_err();
    assert!(matches!(error, SnapshotError::SnapshotNotFound { .. }));
}

#[test]
fn only_a_stopped_sandbox_with_a_layer_has_snapshots() {
    let fixture = fixture();
    assert_eq!(
        fixture.create("base").unwrap_err().kind(),
        ErrorKind::SandboxNotFound
    );
    let (_, claim) = fixture.begin(false);
    assert_eq!(
        fixture.create("base").unwrap_err().kind(),
        ErrorKind::SandboxRunning
    );
    drop(claim);
    let error = fixture.create("base").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    fixture.assert_nothing_left(0);
}

#[test]
fn a_name_is_taken_once_and_can_be_replaced() {
    let fixture = fixture();
    fixture.stopped();
    let first = fixture.create("base").unwrap();
    let error = fixture.create("base").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SnapshotAlreadyExists);
    let options = SnapshotOptions {
        replace: true,
        labels: [("a".to_owned(), "1".to_owned())].into(),
    };
    let replaced = fixture
        .snapshots
        .create(&name("base"), &web(), &options, &mut silent)
        .unwrap();
    assert_ne!(replaced.id(), first.id());
    let found = fixture.snapshots.get("base").unwrap();
    assert_eq!(
        (found.id(), found.labels()),
        (replaced.id(), &options.labels)
    );
    fixture.assert_nothing_left(1);
}

#[test]
fn of_many_with_one_name_one_is_made() {
    let fixture = fixture();
    fixture.stopped();
    let archive = {
        fixture.create("first").unwrap();
        fixture.save("first")
    };
    let start = Barrier::new(6);
    let made = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let snapshots = Snapshots::open(&fixture.home).unwrap();
                    let options = LoadOptions {
                        name: Some(name("base")),
                        replace: false,
                    };
                    start.wait();
                    match snapshots.load(&archive[..], &options, &mut silent) {
                        Ok(_) => 1,
                        Err(SnapshotError::SnapshotAlreadyExists { .. }) => 0,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        let made = threads.into_iter().map(|thread| thread.join().unwrap());
        made.sum::<usize>()
    });
    assert_eq!(made, 1);
    fixture.assert_nothing_left(2);
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let fixture = fixture();
    fixture.stopped();
    fixture.create("base").unwrap();
    let archive = fixture.save("base");
    let mut stop = |_, _| ControlFlow::Break(());
    let options = SnapshotOptions::default();
    let made = fixture
        .snapshots
        .create(&name("other"), &web(), &options, &mut stop);
    assert!(matches!(
        made.unwrap_err(),
        MicrosandboxError::Snapshot(SnapshotError::Stopped)
    ));
    let loaded = fixture.snapshots.load(
        &archive[..],
        &LoadOptions {
            name: Some(name("other")),
            replace: false,
        },
        &mut stop,
    );
    assert!(matches!(loaded.unwrap_err(), SnapshotError::Stopped));
    let path = fixture.home.path().join("archive");
    let saved = fixture.snapshots.save_file("base", false, &path, &mut stop);
    assert!(matches!(saved.unwrap_err(), SnapshotError::Stopped));
    assert!(!path.exists());
    let here = fixture.home.path().join("here");
    let made = fixture
        .snapshots
        .create_at(&here, &web(), &options, &mut stop);
    assert!(made.is_err());
    let left = fs::read_dir(fixture.home.path()).unwrap();
    let mut left = left.map(|entry| entry.unwrap().file_name());
    assert!(left.all(|name| !name.as_encoded_bytes().starts_with(b".")));
    fixture.assert_nothing_left(1);
}

#[test]
fn left_overs_of_the_dead_are_removed_and_others_are_not() {
    let fixture = fixture();
    fixture.stopped();
    let dead = fixture.home.snapshots().join("0123456789abcdef");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("upper.img"), "half").unwrap();
    let alive = Staged::new(&fixture.home.snapshots()).unwrap();
    let foreign = fixture.home.snapshots().join("notes");
    fs::write(&foreign, "").unwrap();
    fixture.create("base").unwrap();
    assert!(!dead.exists());
    assert!(alive.path().exists() && foreign.exists());
    // The same beside a path.
    let target = fixture.home.path().join("here");
    let dead = fixture.home.path().join(".here.0123456789abcdef.partial");
    fs::create_dir(&dead).unwrap();
    let alive = Staged::beside(&target).unwrap();
    assert!(!dead.exists());
    let options = SnapshotOptions::default();
    fixture
        .snapshots
        .create_at(&target, &web(), &options, &mut silent)
        .unwrap();
    assert!(alive.path().exists());
}

#[test]
fn a_path_is_a_snapshot_without_a_record() {
    let fixture = fixture();
    fixture.stopped();
    let create = |path: &Path, replace| {
        let options = SnapshotOptions {
            replace,
            ..SnapshotOptions::default()
        };
        fixture
            .snapshots
            .create_at(path, &web(), &options, &mut silent)
    };
    let target = fixture.home.path().join("here");
    let first = create(&target, false).unwrap();
    assert_eq!(first.name(), None);
    assert!(fixture.snapshots.list().unwrap().is_empty());
    assert!(matches!(
        create(&target, false).unwrap_err(),
        MicrosandboxError::Snapshot(SnapshotError::PathExists { .. })
    ));
    let second = create(&target, true).unwrap();
    assert_ne!(second.id(), first.id());
    let found = fixture.snapshots.get(target.to_str().unwrap()).unwrap();
    assert_eq!(found.id(), second.id());
    // What is no snapshot is not replaced by one.
    let folder = fixture.home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    assert!(create(&folder, true).is_err());
    assert!(folder.exists());
}

#[test]
fn a_damaged_layer_is_noticed_and_not_saved() {
    let fixture = fixture();
    fixture.stopped();
    let made = fixture.create("base").unwrap();
    let path = made.path().join("upper.img");
    let upper = File::options().write(true).open(&path).unwrap();
    upper.write_all_at(&[1], 3 << 20).unwrap();
    let error = fixture.snapshots.verify("base", &mut silent).unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
    let mut archive = Vec::new();
    let error = fixture
        .snapshots
        .save("base", false, &mut archive, &mut silent)
        .unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
    assert!(archive.is_empty());
    upper.set_len(4 << 20).unwrap();
    let error = fixture.snapshots.verify("base", &mut silent).unwrap_err();
    assert!(matches!(error, SnapshotError::Invalid { .. }), "{error}");
}

#[test]
fn nothing_in_a_directory_leads_elsewhere() {
    let fixture = fixture();
    fixture.stopped();
    let secret = fixture.home.path().join("secret");
    fs::write(&secret, vec![1; 8 << 20]).unwrap();
    let target = fixture.home.path().join("here");
    let options = SnapshotOptions::default();
    fixture
        .snapshots
        .create_at(&target, &web(), &options, &mut silent)
        .unwrap();
    let path = target.to_str().unwrap();
    fs::remove_file(target.join("upper.img")).unwrap();
    symlink(&secret, target.join("upper.img")).unwrap();
    assert!(fixture.snapshots.get(path).unwrap().open_upper().is_err());
    fs::rename(target.join("snapshot.json"), &secret).unwrap();
    symlink(&secret, target.join("snapshot.json")).unwrap();
    assert!(fixture.snapshots.get(path).is_err());
    assert!(fixture.snapshots.get("/dev/null").is_err());
    let error = fixture.snapshots.get("./nothing/here").unwrap_err();
    assert!(matches!(error, SnapshotError::SnapshotNotFound { .. }));
}

#[test]
fn an_image_stays_as_long_as_a_snapshot_is_based_on_it() {
    let fixture = fixture();
    let record = fixture.stopped();
    fixture.create("base").unwrap();
    Registry::open(&fixture.home)
        .unwrap()
        .forget(&record)
        .unwrap();
    let digest = manifest().to_string();
    let remove = |transaction: &rusqlite::Transaction<'_>| {
        transaction.execute("DELETE FROM images WHERE manifest_digest = ?1", [&digest])
    };
    fixture.snapshots.database.change(remove).unwrap_err();
    let images = crate::images::Images::open(&fixture.home).unwrap();
    let error = images.remove(&digest).unwrap_err();
    assert!(
        error.to_string().ends_with("is used by the snapshot base"),
        "{error}"
    );
    let archive = fixture.save("base");
    fixture.snapshots.remove(&name("base")).unwrap();
    fixture.snapshots.database.change(remove).unwrap();
    // Without it, the archive cannot be used either.
    let error = fixture.load(&archive).unwrap_err();
    assert!(
        matches!(error, SnapshotError::ImageMissing { .. }),
        "{error}"
    );
    fixture.assert_nothing_left_of_archives(0);
}
