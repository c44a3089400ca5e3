use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use image::store::RootDisk;
use serde_json::json;
use tar::{Archive, Builder, Header};

use super::resolve::{DOCKER_ARCHIVE, OCI};
use super::*;

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

fn docker_archive(path: &Path, names: &[&str]) {
    let mut archive = Builder::new(File::create(path).unwrap());
    let mut list = Vec::new();
    for name in names {
        let mut layer = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(name.len() as u64);
        header.set_mode(0o644);
        layer
            .append_data(&mut header, "name", name.as_bytes())
            .unwrap();
        let layer = layer.into_inner().unwrap();
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
        let store = images.store().share().unwrap();
        let archive = fixture.at("both.tar");
        images
            .load_exactly(&store, &archive, &digest, name)
            .unwrap();
        drop(store);
        let image = images.get(&digest.to_string()).unwrap();
        let found: Vec<_> = image.references().iter().map(Reference::familiar).collect();
        assert_eq!(found, references, "{name}");
    }
}
