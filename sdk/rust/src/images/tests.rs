use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use image::store::RootDisk;
use serde_json::json;
use tar::{Archive, Builder, Header};

use super::resolve::{DOCKER_ARCHIVE, OCI};
use super::*;
use crate::registry::{self, Registry};

/// A home; an archive of `docker save` with the images `one` and `two`, and one with `two` alone; a layout with both.
struct Fixture {
    root: tempfile::TempDir,
    home: Home,
}

fn add(archive: &mut Builder<File>, name: &str, contents: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, contents).unwrap();
}

/// The layer of the image of this name.
fn layer(name: &str) -> Vec<u8> {
    let mut layer = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    layer
        .append_data(&mut header, "name", name.as_bytes())
        .unwrap();
    layer.into_inner().unwrap()
}

pub(crate) fn docker_archive(path: &Path, names: &[&str]) {
    let mut archive = Builder::new(File::create(path).unwrap());
    let mut list = Vec::new();
    for name in names {
        let layer = layer(name);
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": [format!("NAME={name}")]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
        });
        add(&mut archive, &format!("{name}.layer"), &layer);
        let config = config.to_string();
        add(&mut archive, &format!("{name}.json"), config.as_bytes());
        let tag = format!("{name}:latest");
        list.push(json!({
            "Config": format!("{name}.json"), "RepoTags": [tag], "Layers": [format!("{name}.layer")],
        }));
    }
    let list = serde_json::to_string(&list).unwrap();
    add(&mut archive, "manifest.json", list.as_bytes());
    archive.finish().unwrap();
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    docker_archive(&root.path().join("both.tar"), &["one", "two"]);
    docker_archive(&root.path().join("two.tar"), &["two"]);
    // As the store writes it, which is nobody's here.
    let other = Images::open(&Home::at(root.path().join("other"))).unwrap();
    other
        .load(
            Input::Path(&root.path().join("both.tar")),
            None,
            &[],
            &Silent,
        )
        .unwrap();
    let (saved, layout) = (root.path().join("oci.tar"), root.path().join("layout"));
    other
        .save_file(&["one", "two"], archive::Format::Oci, &saved, &Silent)
        .unwrap();
    Archive::new(File::open(saved).unwrap())
        .unpack(&layout)
        .unwrap();
    let home = Home::at(root.path().join("home"));
    Fixture { root, home }
}

impl Fixture {
    /// The files of the store, without locks.
    fn stored(&self) -> Vec<PathBuf> {
        let store = self.home.images();
        let directories = ["blobs/sha256", "layers/v1", "partial", "staging"];
        let mut files = Vec::new();
        for directory in directories.map(|directory| store.join(directory)) {
            let entries = fs::read_dir(directory).unwrap();
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
        files.sort();
        files
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn resolve(&self, prefix: &str, name: &str, behind: &str) -> Result<ResolvedImage, ImageError> {
        let image = format!("{prefix}{}{behind}", self.at(name).display());
        resolve(&self.home, &image)
    }
}

#[test]
fn archives_and_layouts_are_roots_without_a_name() {
    let fixture = fixture();
    for (prefix, name, behind, variable) in [
        (DOCKER_ARCHIVE, "two.tar", "", "NAME=two"),
        (DOCKER_ARCHIVE, "both.tar", ":one", "NAME=one"),
        (DOCKER_ARCHIVE, "both.tar", ":two:latest", "NAME=two"),
        (OCI, "layout", ":one", "NAME=one"),
        (OCI, "layout", ":two", "NAME=two"),
        (OCI, "oci.tar", ":two", "NAME=two"),
    ] {
        let found = fixture.resolve(prefix, name, behind).unwrap();
        assert_eq!(found.config.config.env, [variable], "{name}{behind}");
        let RootDisk::Raw(disk) = &found.root else {
            panic!("one layer is one file: {found:?}")
        };
        assert!(disk.exists());
        // It is the image that it is by any other way.
        let digest = found.manifest_digest;
        drop(found);
        let again = resolve(&fixture.home, &digest.to_string()).unwrap();
        assert_eq!(again.config.config.env, [variable]);
    }
    let images = Images::open(&fixture.home).unwrap().list().unwrap();
    assert!(images.iter().all(|image| image.references().is_empty()));
}

#[test]
fn which_image_of_an_archive_is_meant_must_be_said() {
    let fixture = fixture();
    for (prefix, name, behind) in [
        (DOCKER_ARCHIVE, "both.tar", ""),
        (OCI, "layout", ""),
        (DOCKER_ARCHIVE, "both.tar", ":three"),
        (OCI, "layout", ":three"),
        (OCI, "none", ""),
        (DOCKER_ARCHIVE, "none.tar", ":one"),
    ] {
        let error = fixture.resolve(prefix, name, behind).unwrap_err();
        assert!(
            matches!(error, ImageError::Archive { .. }),
            "{name}{behind}: {error:?}"
        );
    }
    fs::create_dir(fixture.at("empty")).unwrap();
    fixture.resolve(OCI, "empty", "").unwrap_err();
}

/// A home with the images `one` and `two`, and the digest of the first.
fn loaded() -> (Fixture, Images, Digest) {
    let fixture = fixture();
    let images = Images::open(&fixture.home).unwrap();
    let archive = fixture.at("both.tar");
    images
        .load(Input::Path(&archive), None, &[], &Silent)
        .unwrap();
    let digest = *images.get("one").unwrap().digest();
    (fixture, images, digest)
}

#[tokio::test]
async fn an_image_is_found_by_its_repository_and_its_digest() {
    let (fixture, images, digest) = loaded();
    for name in ["one", "one:latest", "one:other", "docker.io/library/one"] {
        let name = format!("{name}@{digest}");
        assert_eq!(*images.get(&name).unwrap().digest(), digest, "{name}");
        let found = resolve(&fixture.home, &name).unwrap();
        assert_eq!(found.manifest_digest, digest);
        // There is nobody who could be asked.
        for policy in [PullPolicy::IfMissing, PullPolicy::Never] {
            let options = PullOptions {
                policy,
                ..PullOptions::default()
            };
            let reference = name.parse().unwrap();
            let found = pull(&fixture.home, &reference, options.clone(), Arc::new(Silent)).await;
            assert_eq!(*found.unwrap().digest(), digest);
            provide(&fixture.home, &name, options, Arc::new(Silent))
                .await
                .unwrap();
        }
    }
    let config = images.inspect("one").unwrap().manifest.config.digest;
    for (repository, digest) in [
        ("two", digest),
        ("localhost:5000/one", digest),
        ("one", config),
        ("one", Digest::of(b"another")),
    ] {
        let error = images.get(&format!("{repository}@{digest}")).unwrap_err();
        assert!(matches!(error, ImageError::ImageNotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn what_is_provided_stays_as_long_as_it_is_held() {
    let (fixture, images, digest) = loaded();
    let archive = format!("{DOCKER_ARCHIVE}{}", fixture.at("two.tar").display());
    for image in ["one", &digest.to_string(), &archive] {
        let options = PullOptions::default();
        let provided = provide(&fixture.home, image, options, Arc::new(Silent));
        let provided = provided.await.unwrap();
        // Who prunes waits for this.
        assert!(images.store().try_exclude().unwrap().is_none(), "{image}");
        drop(provided);
        assert!(images.store().try_exclude().unwrap().is_some(), "{image}");
    }
}

#[test]
fn who_removes_an_image_hears_of_the_sandbox_that_is_being_made_of_it() {
    let (fixture, images, digest) = loaded();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let making = images.resolve("one", &Silent).unwrap();
        scope.spawn(|| tell.send(images.remove("one")));
        // It waits; others that have to do with another image do not.
        told.recv_timeout(Duration::from_millis(100)).unwrap_err();
        images.remove("two").unwrap();
        let name = "box".parse().unwrap();
        let id = Registry::new_id().unwrap();
        let record = registry::Record {
            image: Some(digest),
            ..registry::Record::new(id, &name, "{}".to_owned(), false)
        };
        let registry = Registry::open(&fixture.home).unwrap();
        registry.create(&record, &BTreeMap::new()).unwrap();
        drop(making);
        let error = told.recv().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "The image \"one\" is used by box");
    });
    images.get("one").unwrap();
}

#[test]
fn an_image_that_is_removed_while_it_is_looked_for_is_not_found() {
    let (_fixture, images, digest) = loaded();
    let store = images.store().share().unwrap();
    images.remove("one").unwrap();
    let error = images.resolve_held(store, digest, &Silent).unwrap_err();
    assert!(matches!(error, ImageError::ImageNotFound { .. }), "{error}");
}

#[test]
fn names_of_other_repositories_stay() {
    let (_fixture, images, digest) = loaded();
    for name in ["one:2", "other", "other:2"] {
        images.tag("one", &name.parse().unwrap()).unwrap();
    }
    let names = |removed: &RemovedImages| -> Vec<_> {
        removed.references.iter().map(Reference::familiar).collect()
    };
    let removed = images.remove(&format!("one@{digest}")).unwrap();
    assert_eq!(names(&removed), ["one:2", "one"]);
    assert!(removed.images.is_empty());
    let removed = images.remove(&format!("other@{digest}")).unwrap();
    assert_eq!(names(&removed), ["other:2", "other"]);
    assert_eq!(removed.images, [digest]);
}

#[test]
fn where_an_image_was_is_not_its_name() {
    let (fixture, images, digest) = loaded();
    for (name, references) in [
        ("oci:layout", &[][..]),
        ("docker-archive:one.tar", &[]),
        ("/a/path", &[]),
        ("two", &[]),
        ("three", &["three"]),
    ] {
        images.remove(&digest.to_string()).unwrap();
        let archive = fixture.at("both.tar");
        let loaded = images.load_exactly(&archive, &digest, name).unwrap();
        let record = |transaction: &rusqlite::Transaction<'_>| loaded.record(transaction);
        images.database.change(record).unwrap();
        loaded.keep();
        let image = images.get(&digest.to_string()).unwrap();
        let found: Vec<_> = image.references().iter().map(Reference::familiar).collect();
        assert_eq!(found, references, "{name}");
    }
}

#[test]
fn what_failed_loads_left_for_others_goes_with_the_next_prune() {
    let fixture = fixture();
    let images = Images::open(&fixture.home).unwrap();
    let fail = || {
        // Which of the two is meant is not said.
        let loaded = fixture.resolve(DOCKER_ARCHIVE, "both.tar", "");
        loaded.unwrap_err();
    };
    let other = images.store().share().unwrap();
    fail();
    assert_eq!(fixture.stored().len(), 2 * 4, "the other may need it");
    drop(other);
    let pruned = images.prune(false).unwrap().pruned;
    assert_eq!((pruned.blobs, pruned.layers), (2 * 3, 2));
    assert!(fixture.stored().is_empty());

    let other = images.store().share().unwrap();
    fail();
    // The other needs half of it.
    let archive = fixture.at("two.tar");
    images
        .load(Input::Path(&archive), None, &[], &Silent)
        .unwrap();
    drop(other);
    let pruned = images.prune(false).unwrap().pruned;
    assert_eq!((pruned.blobs, pruned.layers), (3, 1));
    assert_eq!(fixture.stored().len(), 4);
    resolve(&fixture.home, "two").unwrap();
    assert_eq!(images.prune(false).unwrap().pruned, Pruned::default());
}

/// Replaces the first `old` of an archive by as many other bytes.
fn damage(archive: &Path, old: &[u8], new: &[u8]) {
    let mut bytes = fs::read(archive).unwrap();
    let mut places = bytes.windows(old.len());
    let at = places.position(|place| place == old).unwrap();
    bytes[at..at + old.len()].copy_from_slice(new);
    fs::write(archive, bytes).unwrap();
}

#[test]
fn a_load_that_fails_leaves_what_was_there() {
    let fixture = fixture();
    let images = Images::open(&fixture.home).unwrap();
    let load = |name: &str| {
        let archive = fixture.at(name);
        images.load(Input::Path(&archive), None, &[], &Silent)
    };
    load("two.tar").unwrap();
    // Somebody began to pull an image with a layer of those that follow.
    let store = images.store().share().unwrap();
    store.add(b"pulled", "a/type").unwrap();
    let layer = layer("three");
    let part = image::Descriptor::of(&layer, "a/type");
    let image::store::BlobState::Write(mut writer) = store.blob_writer(&part).unwrap() else {
        panic!("it is there");
    };
    writer.write(&layer[..600]).unwrap();
    drop((writer, store));
    let before = fixture.stored();
    let begun = format!("partial/{}", part.digest.hex());
    let begun = fixture.home.images().join(begun);
    let check = |what: &str| {
        assert_eq!(fixture.stored(), before, "{what}");
        assert_eq!(fs::metadata(&begun).unwrap().len(), 600, "{what}");
        assert_eq!(images.list().unwrap().len(), 1, "{what}");
    };

    let three = fixture.at("three.tar");
    let names = ["one", "two", "three"];
    let damages: [(&str, &[u8], &[u8]); 3] = [
        ("a layer", b"three\0", b"THREE\0"),
        ("a configuration", b"NAME=three", b"NAME=\"hree"),
        ("a name", b"three:latest", b"three/LATEST"),
    ];
    for (what, old, new) in damages {
        docker_archive(&three, &names);
        damage(&three, old, new);
        load("three.tar").unwrap_err();
        check(what);
    }
    docker_archive(&three, &names);
    for (prefix, behind) in [(DOCKER_ARCHIVE, ""), (DOCKER_ARCHIVE, ":four")] {
        fixture.resolve(prefix, "three.tar", behind).unwrap_err();
        check(behind);
    }
    let change = |statement: &'static str| {
        let change = |transaction: &rusqlite::Transaction<'_>| transaction.execute(statement, []);
        images.database.change(change).unwrap();
    };
    change(
        "CREATE TRIGGER refuse BEFORE INSERT ON image_references WHEN NEW.reference LIKE '%three%'
         BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    load("three.tar").unwrap_err();
    check("the last record");
    change("DROP TRIGGER refuse");
    // What others use they may have recorded before long.
    let other = images.store().share().unwrap();
    fixture
        .resolve(DOCKER_ARCHIVE, "three.tar", "")
        .unwrap_err();
    assert!(fixture.stored().len() > before.len());
    drop(other);
    images.sweep().unwrap();
    assert_eq!(load("three.tar").unwrap().len(), 3);
    assert!(!begun.exists());
}
