use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

use image::Digest;
use image::progress::Silent;
use tar::{Builder, EntryType, Header};

use super::archive::frames::FrameWriter;
use super::descriptor::tests::sample;
use super::*;
use crate::control::StopReason;
use crate::error::{ErrorKind, MicrosandboxError};
use crate::images::Images;
use crate::images::tests::docker_archive;
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

impl Fixture {
    fn assert_nothing_left_of_archives(&self, snapshots: usize) {
        assert_eq!(self.snapshots.list().unwrap().len(), snapshots);
        assert_eq!(self.directories(), snapshots);
    }
}

#[test]
fn what_was_saved_is_loaded_again() {
    let fixture = fixture();
    fixture.stopped();
    let made = fixture.create("base").unwrap();
    let archive = fixture.save("base");
    assert!(archive.len() < 100_000, "it has {} bytes", archive.len());
    let loaded = fixture.load(&archive).unwrap();
    assert_eq!(loaded.name(), Some("loaded"));
    assert_ne!(loaded.id(), made.id());
    assert_eq!(loaded.digest(), made.digest());
    assert_eq!(loaded.root(), made.root());
    assert_eq!(loaded.created_at(), made.created_at());
    let upper = |snapshot: &SnapshotHandle| contents(&snapshot.path().join("upper.img"));
    assert!(upper(&loaded) == upper(&made));
    assert!(loaded.used_bytes().unwrap() < 1 << 20);
    // Without another name it has its own, which is taken.
    let error = fixture
        .snapshots
        .load(&archive[..], &LoadOptions::default(), &mut silent)
        .unwrap_err();
    assert!(matches!(error, SnapshotError::SnapshotAlreadyExists { .. }));
    fixture.assert_nothing_left(2);
}

#[test]
fn tar_makes_a_snapshot_of_an_archive() {
    let fixture = fixture();
    fixture.stopped();
    let made = fixture.create("base").unwrap();
    let folder = fixture.home.path().join("unpacked");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("archive.tar.zst");
    fixture
        .snapshots
        .save_file("base", false, &path, &mut silent)
        .unwrap();
    let unpacked = Command::new("tar")
        .args(["--zstd", "-xf", "archive.tar.zst"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    let found = fixture
        .snapshots
        .verify(folder.to_str().unwrap(), &mut silent)
        .unwrap();
    assert_eq!(found.digest(), made.digest());
    let used = found.used_bytes().unwrap();
    assert!(used < 1 << 20, "it takes up {used} bytes");
}

/// Name, type and contents.
type TestEntry<'a> = (&'a str, EntryType, &'a [u8]);

/// An archive with these entries.
fn archive(entries: &[TestEntry<'_>]) -> Vec<u8> {
    let mut compressed = Vec::new();
    let mut archive = Builder::new(FrameWriter::new(&mut compressed));
    for (path, kind, contents) in entries {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(contents.len() as u64);
        header.set_entry_type(*kind);
        if kind.is_symlink() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, *contents).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
    compressed
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let fixture = fixture();
    let file = EntryType::Regular;
    let upper = vec![0; 8 << 20];
    let sample = |change: fn(&mut descriptor::Descriptor)| {
        let mut descriptor = sample();
        change(&mut descriptor);
        serde_json::to_vec(&descriptor).unwrap()
    };
    let good = sample(|_| {});
    let folder = sample(|snapshot| {
        snapshot.root = SnapshotRoot::Path {
            path: "/etc".into(),
            format: None,
            fstype: None,
            partition: None,
            cache: crate::sandbox::DiskCache::Writeback,
            allow: Vec::new(),
        };
    });
    let wrong_digest = sample(|snapshot| snapshot.upper.digest = Digest::of(b"other").to_string());
    let large = sample(|snapshot| snapshot.upper.size_bytes = 1 << 40);
    let long = vec![b' '; 2 << 20];
    let (json, img) = ("snapshot.json", "upper.img");
    let link = EntryType::Symlink;
    let archives: [(&str, &[TestEntry<'_>]); 16] = [
        ("nothing", &[]),
        ("no layer", &[(json, file, &good)]),
        ("another order", &[(img, file, &upper), (json, file, &good)]),
        (
            "another name",
            &[("../snapshot.json", file, &good), (img, file, &upper)],
        ),
        (
            "an absolute name",
            &[(json, file, &good), ("/upper.img", file, &upper)],
        ),
        ("a link", &[(json, link, &[]), (img, file, &upper)]),
        ("a link as layer", &[(json, file, &good), (img, link, &[])]),
        (
            "a hard link",
            &[(json, file, &good), (img, EntryType::Link, &[])],
        ),
        (
            "a short layer",
            &[(json, file, &good), (img, file, &upper[1..])],
        ),
        (
            "a layer that is too small",
            &[(json, file, &large), (img, file, &upper)],
        ),
        (
            "other data",
            &[(json, file, &wrong_digest), (img, file, &upper)],
        ),
        (
            "a path of the host",
            &[(json, file, &folder), (img, file, &upper)],
        ),
        ("no JSON", &[(json, file, b"{"), (img, file, &upper)]),
        ("much JSON", &[(json, file, &long), (img, file, &upper)]),
        (
            "no image",
            &[
                (json, file, &good),
                (img, file, &upper),
                ("image.tar", file, b"x"),
            ],
        ),
        (
            "a third file",
            &[(json, file, &good), (img, file, &upper), ("x", file, b"")],
        ),
    ];
    for (what, entries) in archives {
        let error = fixture.load(&archive(entries)).unwrap_err();
        assert!(!error.to_string().is_empty(), "{what}");
        fixture.assert_nothing_left_of_archives(0);
    }
    let good = archive(&[(json, file, &good), (img, file, &upper)]);
    for part in 0..12 {
        let cut = &good[..good.len() * part / 12];
        assert!(fixture.load(cut).is_err(), "{part}");
    }
    fixture.assert_nothing_left_of_archives(0);
    fixture.load(&good).unwrap();
}

#[test]
fn an_image_stays_only_with_the_snapshot_that_it_came_with() {
    let fixture = fixture();
    // What an image needs that is not there cannot be told.
    fixture.change("DELETE FROM images", None);
    let images = Images::open(&fixture.home).unwrap();
    let path = fixture.home.path().join("one.tar");
    docker_archive(&path, &["one"]);
    let tar = contents(&path);
    // Its digest is that by any way.
    let loaded = images.load(image::archive::Input::Path(&path), None, &[], &Silent);
    let digest = *loaded.unwrap()[0].digest();
    images.remove("one").unwrap();
    let stored = || {
        let blobs = fs::read_dir(fixture.home.images().join("blobs/sha256"));
        let layers = fs::read_dir(fixture.home.images().join("layers/v1"));
        blobs.unwrap().count() + layers.unwrap().count()
    };
    assert_eq!((stored(), images.list().unwrap().len()), (0, 0));

    let mut descriptor = sample();
    descriptor.root = SnapshotRoot::Image {
        reference: "uno".to_owned(),
        manifest_digest: digest.to_string(),
    };
    let json = serde_json::to_vec(&descriptor).unwrap();
    let (file, upper) = (EntryType::Regular, vec![0; 8 << 20]);
    let mut entries: Vec<TestEntry<'_>> = vec![
        ("snapshot.json", file, &json),
        ("upper.img", file, &upper),
        ("image.tar", file, &tar),
        ("more", file, b""),
    ];
    fixture.load(&archive(&entries)).unwrap_err();
    assert_eq!((stored(), images.list().unwrap().len()), (0, 0));
    fixture.assert_nothing_left_of_archives(0);
    entries.pop();
    let whole = archive(&entries);
    fixture.change(
        "CREATE TRIGGER refuse BEFORE INSERT ON snapshots BEGIN SELECT RAISE(ABORT, 'no'); END",
        None,
    );
    fixture.load(&whole).unwrap_err();
    assert_eq!((stored(), images.list().unwrap().len()), (0, 0));
    fixture.assert_nothing_left_of_archives(0);
    fixture.change("DROP TRIGGER refuse", None);
    fixture.load(&whole).unwrap();
    assert_eq!(*images.get("uno").unwrap().digest(), digest);
    // The second time the name is taken, and the image stays.
    fixture.load(&whole).unwrap_err();
    assert_eq!(*images.get("uno").unwrap().digest(), digest);
    assert_eq!((stored(), images.list().unwrap().len()), (4, 1));
}

/// Headers that never end use no more memory than headers may.
#[test]
fn a_bomb_of_headers_is_refused() {
    let fixture = fixture();
    let text = serde_json::to_vec(&sample()).unwrap();
    let mut compressed = archive(&[("snapshot.json", EntryType::Regular, &text)]);
    let mut writer = FrameWriter::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_path("upper.img").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(8 << 20);
    gnu.set_is_extended(true);
    header.set_cksum();
    writer.write_all(header.as_bytes()).unwrap();
    let mut more = [0; 512];
    more[504] = 1;
    for _ in 0..100_000 {
        writer.write_all(&more).unwrap();
    }
    // The end of the first archive would be that of all.
    let mut decompressed = Vec::new();
    super::archive::frames::FrameReader::new(&compressed[..])
        .read_to_end(&mut decompressed)
        .unwrap();
    decompressed.truncate(decompressed.len() - 1024);
    let mut whole = FrameWriter::new(Vec::new());
    whole.write_all(&decompressed).unwrap();
    compressed = whole.finish().unwrap();
    compressed.extend(writer.finish().unwrap());
    let error = fixture.load(&compressed).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    fixture.assert_nothing_left_of_archives(0);
}

/// A disk that has room for so many bytes.
struct Disk(usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.min(bytes.len()) {
            0 if !bytes.is_empty() => Err(std::io::Error::from_raw_os_error(libc::ENOSPC)),
            length => {
                self.0 -= length;
                Ok(length)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_for_an_archive_is_told_at_every_stage() {
    let fixture = fixture();
    fixture.stopped();
    fixture.create("base").unwrap();
    let size = fixture.save("base").len();
    let save = |bytes| {
        fixture
            .snapshots
            .save("base", false, &mut Disk(bytes), &mut silent)
    };
    for bytes in (0..size).step_by(size / 10) {
        let error = save(bytes).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("No space left"), "{bytes}: {error}: {cause}");
    }
    save(size).unwrap();
    fixture.snapshots.verify("base", &mut silent).unwrap();
    fixture.assert_nothing_left(1);
}
