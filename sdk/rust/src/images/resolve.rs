//! What a sandbox is made of.

use std::path::Path;

use image::archive::{self, Input};
use image::progress::Silent;
use image::store::{RootDisk, Shared};
use image::{ArchiveError, Digest, ImageConfig, Progress, Reference};

use super::{ImageError, Images, archive_failed, damaged, read};
use crate::home::Home;

/// An OCI image layout in a directory or a tar archive: `oci:PATH[:TAG]`.
const OCI: &str = "oci:";
/// An archive of `docker save`: `docker-archive:PATH[:NAME]`.
const DOCKER_ARCHIVE: &str = "docker-archive:";

/// An image, and where its layers are. They stay there as long as this lives; for longer if a sandbox is recorded
/// as made of it meanwhile.
#[derive(Debug)]
pub struct ResolvedImage {
    /// Digest of its manifest.
    pub manifest_digest: Digest,
    /// The disk with its file system.
    pub root: RootDisk,
    /// How it is run.
    pub config: ImageConfig,
    _store: Shared,
}

/// The image that is called `image` and is here, or is in the layout or archive that is named as `oci:PATH[:TAG]` or
/// `docker-archive:PATH[:NAME]`. Layers whose file system is missing are made anew from their blobs.
///
/// # Errors
/// [`ImageError::ImageNotFound`], [`ImageError::Archive`]; [`ImageError::Damaged`] when a blob is missing, too.
pub fn resolve(home: &Home, image: &str) -> Result<ResolvedImage, ImageError> {
    Images::open(home)?.resolve(image, &Silent)
}

impl Images {
    /// See [`resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(
        &self,
        image: &str,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, ImageError> {
        // Before it is looked up: from then on nobody removes it.
        let store = self.store().share()?;
        let manifest_digest = match source(image) {
            Some((path, wanted)) => self.load_one(&store, path, wanted, progress)?,
            None => *self.get(image)?.digest(),
        };
        let (manifest, config) = read(&store, &manifest_digest)?;
        let root = store
            .make_layers(&manifest, &config, progress)
            .and_then(|_| store.make_root(&config.diff_ids));
        Ok(ResolvedImage {
            manifest_digest,
            root: root.map_err(damaged(&manifest_digest))?,
            config,
            _store: store,
        })
    }

    /// Loads the one image of an archive, or the one of several that is wanted. It gets no name here.
    fn load_one(
        &self,
        store: &Shared,
        path: &Path,
        wanted: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Digest, ImageError> {
        let loaded = archive::load(store, Input::Path(path), wanted, progress);
        let loaded = loaded.map_err(archive_failed(path.to_owned()))?;
        let [image] = &loaded[..] else {
            let names = loaded.iter().flat_map(|image| &image.references);
            return Err(archive_failed(path.to_owned())(ArchiveError::Several {
                available: names.map(Reference::familiar_tagged).collect(),
            }));
        };
        Ok(*self.record(store, &image.manifest, &[], progress)?.digest())
    }
}

/// Whether `image` names an archive or a layout, and not an image that is here or in a registry.
pub(crate) fn is_archive(image: &str) -> bool {
    image.starts_with(OCI) || image.starts_with(DOCKER_ARCHIVE)
}

/// The path and the name of `oci:PATH[:TAG]` and `docker-archive:PATH[:NAME]`. A path that exists has no name behind it.
fn source(image: &str) -> Option<(&Path, Option<&str>)> {
    let rest = image
        .strip_prefix(OCI)
        .or_else(|| image.strip_prefix(DOCKER_ARCHIVE))?;
    if Path::new(rest).exists() {
        return Some((Path::new(rest), None));
    }
    // A name may have colons, too: the path is the shortest beginning that exists.
    let named = rest.match_indices(':').find_map(|(at, _)| {
        let (path, name) = (rest.get(..at)?, rest.get(at + 1..)?);
        Path::new(path)
            .exists()
            .then_some((Path::new(path), Some(name)))
    });
    Some(named.unwrap_or((Path::new(rest), None)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;

    use serde_json::json;
    use tar::{Archive, Builder, Header};

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

        fn resolve(
            &self,
            prefix: &str,
            name: &str,
            behind: &str,
        ) -> Result<ResolvedImage, ImageError> {
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
}
