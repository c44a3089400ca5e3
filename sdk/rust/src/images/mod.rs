//! Images that are here: blobs and file systems in `$MSB_HOME/images/`, see [`image::store`], and their names in the
//! database.
//!
//! An image exists when the database has a record of it. What it consists of is in the store before that, and the store is
//! shared until then, so that nobody removes it. Removing goes the other way: the record goes first, then what no
//! record needs. Whoever dies in between leaves what the next [`Images::prune`] removes, and never half of an image.

mod addition;
mod derive;
mod error;
mod handle;
mod login;
pub(crate) mod output;
mod pull;
pub(crate) mod record;
mod resolve;
mod selector;
#[cfg(test)]
pub(crate) mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image::archive::{self, Format, Input, SavedImage};
use image::progress::Silent;
use image::store::{Added, Pruned, Shared};
use image::{Digest, Manifest, Progress, Reference, Store, StoreError};

pub(crate) use addition::Unrecorded;
pub(crate) use derive::Derivation;
pub use distribution;
pub use error::ImageError;
pub use handle::{ImageDetails, ImageHandle};
pub use image;
pub use login::{login, logins, logout};
pub use pull::{
    PullOptions, PullPolicy, RegistryAuth, RegistryOptions, UnknownPullPolicy, provide, pull,
};
pub(crate) use resolve::is_archive;
pub use resolve::{ResolvedImage, resolve};

use crate::database::Database;
use crate::home::Home;
use crate::private_directory::make_private_directory;
use record::{Record, Removal};
use selector::Selector;

/// The images of a home. Any number of threads and processes may use one home at a time. Every call may wait for the
/// disk, and those that change something for each other.
#[derive(Debug)]
pub struct Images {
    store: Store,
    database: Database,
}

/// What was removed.
#[derive(Debug, Clone, Default)]
pub struct RemovedImages {
    /// Names that are gone.
    pub references: Vec<Reference>,
    /// Manifests of images that are gone.
    pub images: Vec<Digest>,
    /// What is gone with them from the disk.
    pub pruned: Pruned,
}

impl Images {
    /// Opens them.
    ///
    /// # Errors
    /// When the database or the store cannot be used.
    pub fn open(home: &Home) -> Result<Images, ImageError> {
        let directory = home.images();
        make_private_directory(&directory)?;
        Ok(Images {
            store: Store::open(directory)?,
            database: Database::open(home)?,
        })
    }

    /// Where they are kept. What is added to it has to be recorded, by [`record`](Self::record), while it is shared.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes file systems of the layers of an image whose blobs are in the store, records it, and gives it names, which
    /// another image loses. It is durable when this returns.
    ///
    /// # Errors
    /// When a blob is missing or no layer, or the database cannot be changed.
    pub fn record(
        &self,
        store: &Shared,
        manifest: &Digest,
        references: &[Reference],
        progress: &dyn Progress,
    ) -> Result<ImageHandle, ImageError> {
        let record = complete(store, manifest, references, progress)?;
        self.database
            .change(|transaction| record::add(transaction, &record))?;
        self.find(&Selector::of_digest(manifest))
    }

    /// Adds the images of a directory or an archive, or only the one that is called `wanted` there. They get the
    /// names that they have there, and `references`. If this fails nothing of them remains, as long as nobody else uses the
    /// store; then the next [`prune`](Self::prune) removes it.
    ///
    /// # Errors
    /// [`ImageError::Archive`].
    pub fn load(
        &self,
        input: Input<'_>,
        wanted: Option<&str>,
        references: &[Reference],
        progress: &dyn Progress,
    ) -> Result<Vec<ImageHandle>, ImageError> {
        let path = match &input {
            Input::Path(path) => path.to_path_buf(),
            Input::Open(_) => PathBuf::from("The archive"),
        };
        for reference in references {
            check_tag(reference)?;
        }
        let addition = self.adding()?;
        let loaded = archive::load(&addition.store, input, wanted, progress);
        let loaded = loaded.map_err(archive_failed(path))?;
        let mut records = Vec::new();
        for image in &loaded {
            let names = [&image.references[..], references].concat();
            let record = complete(&addition.store, &image.manifest, &names, progress)?;
            records.push(record);
        }
        self.database.change(|transaction| {
            let mut records = records.iter();
            records.try_for_each(|record| record::add(transaction, record))
        })?;
        let _store = addition.keep();
        let images = loaded.iter();
        images
            .map(|image| self.find(&Selector::of_digest(&image.manifest)))
            .collect()
    }

    /// Loads the image with this digest from an archive, without the names that it has there; it remains to be recorded. It
    /// gets `name` then, unless that is an archive or no name at all, or another image has it.
    ///
    /// # Errors
    /// [`ImageError::Archive`]; [`ImageError::ImageNotFound`] when it is not in the archive.
    pub(crate) fn load_exactly(
        &self,
        path: &Path,
        digest: &Digest,
        name: &str,
    ) -> Result<Unrecorded<'_>, ImageError> {
        let addition = self.adding()?;
        let loaded = archive::load(&addition.store, Input::Path(path), None, &Silent)
            .map_err(archive_failed(PathBuf::from("The archive of the image")))?;
        if loaded.iter().all(|image| image.manifest != *digest) {
            return Err(ImageError::ImageNotFound {
                image: digest.to_string(),
            });
        }
        let name = pull::registry_name(name).filter(|name| {
            let taken = self.get(&name.to_string());
            name.digest().is_none() && matches!(taken, Err(ImageError::ImageNotFound { .. }))
        });
        let record = complete(&addition.store, digest, name.as_slice(), &Silent)?;
        Ok(Unrecorded { addition, record })
    }

    /// Writes images to a tar archive. Those that are given by name have that name in it.
    ///
    /// # Errors
    /// [`ImageError::ImageNotFound`], [`ImageError::Archive`].
    pub fn save(
        &self,
        images: &[&str],
        format: Format,
        output: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let shared = self.store.share()?;
        let mut saved: Vec<SavedImage> = Vec::new();
        for text in images {
            let selector: Selector = text.parse()?;
            let found = self.find(&selector)?;
            let name = selector
                .reference
                .filter(|name| found.references().contains(name));
            match saved
                .iter_mut()
                .find(|image| image.manifest == *found.digest())
            {
                Some(image) => image.references.extend(name),
                None => saved.push(SavedImage {
                    manifest: *found.digest(),
                    references: name.into_iter().collect(),
                }),
            }
        }
        archive::save(&shared, &saved, format, output, progress)
            .map_err(archive_failed(PathBuf::from("The archive")))
    }

    /// As [`save`](Self::save), to a file that appears when it is complete.
    ///
    /// # Errors
    /// As there.
    pub fn save_file(
        &self,
        images: &[&str],
        format: Format,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        output::write(path, |output| self.save(images, format, output, progress))
    }

    /// The image of this name, or with this digest. The beginning of a digest is enough, if it has 6 digits. `NAME@DIGEST` is
    /// also an image that has another name of the same repository.
    ///
    /// # Errors
    /// [`ImageError::ImageNotFound`], [`ImageError::Ambiguous`].
    pub fn get(&self, image: &str) -> Result<ImageHandle, ImageError> {
        self.find(&image.parse()?)
    }

    /// All images, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn list(&self) -> Result<Vec<ImageHandle>, ImageError> {
        let records = self.database.read(record::all)?;
        Ok(records.into_iter().map(ImageHandle::new).collect())
    }

    /// All that is known of an image.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`ImageError::Damaged`].
    pub fn inspect(&self, image: &str) -> Result<ImageDetails, ImageError> {
        let shared = self.store.share()?;
        let image = self.get(image)?;
        let digest = *image.digest();
        let (manifest, config) = read(&shared, &digest)?;
        let users = self
            .database
            .read(|transaction| record::users(transaction, &digest))?;
        Ok(ImageDetails {
            image,
            manifest,
            config,
            sandboxes: users.sandboxes,
            snapshots: users.snapshots,
        })
    }

    /// Gives an image a further name, which another image loses.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`ImageError::NotATag`].
    pub fn tag(&self, image: &str, reference: &Reference) -> Result<ImageHandle, ImageError> {
        check_tag(reference)?;
        let shared = self.store.share()?;
        let digest = *self.get(image)?.digest();
        self.record(&shared, &digest, std::slice::from_ref(reference), &Silent)
    }

    /// Takes a name away from an image; all of a repository if it is given as `NAME@DIGEST`, and all names if it is given by
    /// its digest alone. With its last name the image goes, and what of it no other image needs. Waits for those who are
    /// about to make a sandbox of the image, which uses it then.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`ImageError::ImageInUse`] when a sandbox or a snapshot was made of it.
    pub fn remove(&self, image: &str) -> Result<RemovedImages, ImageError> {
        let selector: Selector = image.parse()?;
        let found = self.find(&selector)?;
        let names = selector.names_of(&found);
        let shared = self.store.share()?;
        let alone = shared.exclude_image(found.digest())?;
        let removal = self
            .database
            .change(|transaction| record::remove(transaction, found.digest(), &names))?;
        drop((alone, shared));
        let mut removed = RemovedImages::default();
        match removal {
            Removal::InUse(users) => {
                return Err(ImageError::ImageInUse {
                    image: image.to_owned(),
                    sandboxes: users.sandboxes,
                    snapshots: users.snapshots,
                });
            }
            Removal::Untagged => removed.references = names,
            Removal::Removed => {
                removed.references.extend_from_slice(found.references());
                removed.images.push(*found.digest());
                removed.pruned = self.sweep()?;
            }
        }
        Ok(removed)
    }

    /// Removes images that no sandbox and no snapshot was made of: those without a name, or all if `named`; and all that is left of
    /// downloads that were broken off. Waits for those who are adding images.
    ///
    /// # Errors
    /// [`ImageError::Store`] when an image that stays is damaged: what it needs cannot be told.
    pub fn prune(&self, named: bool) -> Result<RemovedImages, ImageError> {
        let store = self.store.exclude()?;
        let (gone, kept) = self.database.change(|transaction| {
            let gone = record::remove_unused(transaction, named)?;
            Ok((gone, record::manifests(transaction)?))
        })?;
        let pruned = store.prune(&kept, true)?;
        let references = gone.iter().flat_map(|record| record.references.clone());
        Ok(RemovedImages {
            references: references.collect(),
            images: gone.iter().map(|record| record.manifest).collect(),
            pruned,
        })
    }

    /// Removes what no image needs, unless somebody is adding one: then the next one to remove something does.
    fn sweep(&self) -> Result<Pruned, ImageError> {
        let Some(store) = self.store.try_exclude()? else {
            return Ok(Pruned::default());
        };
        let kept = self.database.read(record::manifests)?;
        match store.prune(&kept, false) {
            Ok(pruned) => Ok(pruned),
            // Another image is damaged. This one is gone, and that one is not what was asked about.
            Err(StoreError::Missing { .. } | StoreError::WrongDigest { .. }) => {
                Ok(Pruned::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what was added in vain, and no image needs; not if others use the store, perhaps that very thing.
    fn take_back(&self, added: &Added) -> Result<(), ImageError> {
        if !added.is_empty()
            && let Some(store) = self.store.try_exclude()?
        {
            store.take_back(added, &self.database.read(record::manifests)?)?;
        }
        Ok(())
    }

    fn find(&self, selector: &Selector) -> Result<ImageHandle, ImageError> {
        let found = self.database.read(|transaction| {
            if let Some(reference) = &selector.reference {
                let named = match record::by_reference(transaction, reference)? {
                    None => record::by_content(transaction, reference)?,
                    named => named,
                };
                if let Some(record) = named {
                    return Ok(vec![record]);
                }
            }
            match &selector.digits {
                Some(digits) => record::by_digest(transaction, digits),
                None => Ok(Vec::new()),
            }
        })?;
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(ImageHandle::new(record)),
            (None, _) => Err(ImageError::ImageNotFound {
                image: selector.text().to_owned(),
            }),
            (Some(_), Some(_)) => Err(ImageError::Ambiguous {
                prefix: selector.text().to_owned(),
            }),
        }
    }
}

/// Makes the file systems of an image whose blobs are in the store. Returns what is to be recorded.
fn complete(
    store: &Shared,
    manifest: &Digest,
    references: &[Reference],
    progress: &dyn Progress,
) -> Result<Record, ImageError> {
    let document = store.manifest(manifest)?;
    let config = store.config(&document)?;
    store.make_layers(&document, &config, progress)?;
    store.make_root(&config.diff_ids)?;
    let mut size_bytes: u64 = 0;
    for diff_id in &config.diff_ids {
        size_bytes = size_bytes.saturating_add(store.layer_size(diff_id)?);
    }
    Ok(Record {
        manifest: *manifest,
        config: document.config.digest,
        size_bytes,
        created_at: SystemTime::now(),
        references: references.to_vec(),
    })
}

/// The documents of an image that the database has.
fn read(store: &Shared, digest: &Digest) -> Result<(Manifest, image::ImageConfig), ImageError> {
    let manifest = store.manifest(digest).map_err(damaged(digest))?;
    let config = store.config(&manifest).map_err(damaged(digest))?;
    Ok((manifest, config))
}

fn damaged(digest: &Digest) -> impl FnOnce(StoreError) -> ImageError + use<> {
    let digest = *digest;
    move |source| ImageError::Damaged {
        digest,
        source: Box::new(source),
    }
}

fn archive_failed(path: PathBuf) -> impl FnOnce(image::ArchiveError) -> ImageError {
    move |source| ImageError::Archive {
        path,
        source: Box::new(source),
    }
}

/// A name with a digest says what it is the name of.
fn check_tag(reference: &Reference) -> Result<(), ImageError> {
    match reference.digest() {
        None => Ok(()),
        Some(_) => Err(ImageError::NotATag {
            reference: reference.familiar(),
        }),
    }
}
