//! Snapshots that are saved to archives and loaded from them.

use std::io::{Read, Write};
use std::process::Command;

use image::progress::Silent;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::images::tests::docker_archive;
use crate::snapshots::archive::frames::FrameWriter;
use crate::snapshots::descriptor::tests::sample;

impl Fixture {
    pub(super) fn assert_nothing_left_of_archives(&self, snapshots: usize) {
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
