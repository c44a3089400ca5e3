//! Where images are kept: the blobs they came as, and the file systems that were made of their layers.
//!
//! Everything is named for its content, and gets its name when it is complete and durable: whoever finds a name finds all
//! of it, whenever anybody crashed or the machine lost power.
//!
//! | directory | what it holds |
//! |---|---|
//! | `blobs/sha256/` | manifests, configurations and layers as they came |
//! | `layers/v1/` | an EROFS image for each layer, named for the digest of its tar archive; what joins those of an image |
//! | `partial/` | blobs of which a part is here |
//! | `staging/` | EROFS images and layers in the making, and notes of images that are made here |
//! | `locks/` | a file for each blob and layer that is being made: of several who want it, one makes it; and for each image that something was made of, see [`ImageLock`] |
//!
//! Who adds or uses something shares the store's lock until a record spares it, see [`Store::share`]; who removes
//! what no record spares has it alone, see [`Store::exclude`].

mod added;
mod blob;
mod error;
mod layers;
mod new_layer;
mod prune;
mod root;
#[cfg(test)]
mod tests;
mod unfinished;
mod uses;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use added::Added;
pub use blob::{BlobState, BlobWriter};
pub use error::StoreError;
pub use new_layer::NewLayer;
pub use prune::{Exclusive, Pruned};
pub use root::RootDisk;
pub use unfinished::Unfinished;
pub use uses::ImageLock;

use crate::digest::Digest;
use crate::manifest::{
    Descriptor, Document, ImageConfig, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest,
};
use error::failed;

/// Version of the file systems that are made of layers. Those of another are not used.
const LAYERS_VERSION: &str = "v1";

/// A directory with images. Any number of threads and processes may use one at a time.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// The store, of which nothing is removed while this lives.
#[derive(Debug)]
pub struct Shared {
    store: Store,
    /// What is there is made again.
    renewing: bool,
    added: Added,
    _lock: File,
}

impl Store {
    /// Opens the store at `root`, which is made if it is not there. Nobody but this user must be able to write to the
    /// directory that it is in.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store, StoreError> {
        let store = Store { root: root.into() };
        let places = [
            store.blobs(),
            store.layers(),
            store.partial(),
            store.staging(),
            store.locks(),
        ];
        for place in places {
            make_directory(&place)?;
        }
        Ok(store)
    }

    /// Sees to it that nothing is removed until the returned value is dropped. Waits for those who remove something.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn share(&self) -> Result<Shared, StoreError> {
        let path = self.root.join("lock");
        let lock = open_lock(&path)?;
        lock.lock_shared().map_err(failed("lock", &path))?;
        Ok(Shared {
            store: self.clone(),
            renewing: false,
            added: Added::default(),
            _lock: lock,
        })
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn layers(&self) -> PathBuf {
        self.root.join("layers").join(LAYERS_VERSION)
    }

    fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Where a file is made that gets its name when it is complete.
    fn staged(&self, path: &Path) -> PathBuf {
        self.staging().join(path.file_name().unwrap_or_default())
    }

    fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layers().join(Store::layer_name(diff_id))
    }

    fn layer_name(diff_id: &Digest) -> String {
        format!("{}.erofs", diff_id.hex())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }
}

impl Shared {
    /// From now on all that is added, and every file system, is made as if it was not there. It takes the place of what was there when
    /// it is complete: whoever uses that goes on with it, and everybody else finds one or the other, whole.
    #[must_use]
    pub fn renewing(self) -> Shared {
        Shared {
            renewing: true,
            ..self
        }
    }

    /// Begins to add a blob, or says that it is there. While somebody else is adding it this waits, without bound: not to
    /// be called where futures are polled.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when it is there, but of another size.
    pub fn blob_writer(&self, descriptor: &Descriptor) -> Result<BlobState, StoreError> {
        blob::begin(self, descriptor)
    }

    /// As [`blob_writer`](Self::blob_writer), for a blob that is at hand as a whole: its writer begins anew, and leaves nothing
    /// if it does not come to the end.
    ///
    /// # Errors
    /// As there.
    pub fn whole_blob_writer(&self, descriptor: &Descriptor) -> Result<BlobState, StoreError> {
        blob::begin_whole(self, descriptor)
    }

    /// What has been added through this value, and through writers that it gave, whenever that is asked for.
    pub fn added(&self) -> Added {
        self.added.clone()
    }

    /// Adds a blob that is in memory.
    ///
    /// # Errors
    /// As [`blob_writer`](Self::blob_writer).
    pub fn add(&self, content: &[u8], media_type: &str) -> Result<Descriptor, StoreError> {
        let descriptor = Descriptor::of(content, media_type);
        if let Some(_lock) = blob::wanted(self, &descriptor)? {
            let path = self.store.blob(&descriptor.digest);
            // Nobody is helped by a part of it.
            self.publish_new(&path, |mut output| {
                output.write_all(content).map_err(failed("write", &path))
            })?;
        }
        Ok(descriptor)
    }

    /// Whether a blob is there, and need not be added.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.is_made(&self.store.blob(digest))
    }

    /// Whether a file is there, and is not to be made again.
    fn is_made(&self, path: &Path) -> bool {
        !self.renewing && path.exists()
    }

    /// A blob, and its size.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub fn open_blob(&self, digest: &Digest) -> Result<(File, u64), StoreError> {
        let path = self.store.blob(digest);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing { digest: *digest },
            _ => failed("open", &path)(error),
        })?;
        let size = file.metadata().map_err(failed("examine", &path))?.len();
        Ok((file, size))
    }

    /// The bytes of a small blob, checked against its digest.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::WrongSize`] when it has more than `limit` bytes, and
    /// [`StoreError::WrongDigest`] when the disk has changed it.
    pub fn read_blob(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, StoreError> {
        let (file, size) = self.open_blob(digest)?;
        let limit = limit as u64;
        if size > limit {
            return Err(StoreError::WrongSize {
                digest: *digest,
                expected: limit,
                found: size,
            });
        }
        let mut content = Vec::new();
        file.take(limit)
            .read_to_end(&mut content)
            .map_err(failed("read", &self.store.blob(digest)))?;
        let found = Digest::of(&content);
        if found != *digest {
            return Err(StoreError::WrongDigest {
                expected: *digest,
                found,
            });
        }
        Ok(content)
    }

    /// Makes a file that is complete when it has its name.
    fn publish_new<T>(
        &self,
        path: &Path,
        fill: impl FnOnce(&File) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Whoever was killed while making it has left a part of it.
        let staged = self.store.staged(path);
        let output = create_staged(&staged)?;
        let staged = Staged(staged);
        let result = fill(&output)?;
        publish(&output, &staged.0, path, &self.added)?;
        Ok(result)
    }

    /// Bytes of the EROFS image of a layer.
    ///
    /// # Errors
    /// When it was not made.
    pub fn layer_size(&self, diff_id: &Digest) -> Result<u64, StoreError> {
        let path = self.store.layer(diff_id);
        let metadata = fs::metadata(&path).map_err(failed("examine", &path))?;
        Ok(metadata.len())
    }

    /// A file without a name, on the file system of the store.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn scratch(&self) -> Result<File, StoreError> {
        let (path, file) = self.stage("scratch")?;
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(file)
    }

    /// A file that nobody else makes, under a name that begins with `kind`. Whoever had this process id before may have left one.
    fn stage(&self, kind: &str) -> Result<(PathBuf, File), StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-{}-{number}", std::process::id());
        let path = self.store.staging().join(name);
        let file = create_staged(&path)?;
        Ok((path, file))
    }

    /// The EROFS image of a layer, if one was made.
    pub fn layer(&self, diff_id: &Digest) -> Option<PathBuf> {
        Some(self.store.layer(diff_id)).filter(|path| path.exists())
    }

    /// A manifest or an index.
    ///
    /// # Errors
    /// When it is missing, damaged, or no such document.
    pub fn document(&self, digest: &Digest) -> Result<Document, StoreError> {
        let content = self.read_blob(digest, MAX_MANIFEST_BYTES)?;
        Document::parse(&content, None).map_err(|source| StoreError::Document {
            digest: *digest,
            source,
        })
    }

    /// The manifest of an image.
    ///
    /// # Errors
    /// When it is missing, damaged, or no manifest.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        let content = self.read_blob(digest, MAX_MANIFEST_BYTES)?;
        Manifest::parse(&content).map_err(|source| StoreError::Document {
            digest: *digest,
            source,
        })
    }

    /// The configuration of the image with this manifest.
    ///
    /// # Errors
    /// When it is missing, damaged, or does not fit the manifest.
    pub fn config(&self, manifest: &Manifest) -> Result<ImageConfig, StoreError> {
        let digest = manifest.config.digest;
        let content = self.read_blob(&digest, MAX_CONFIG_BYTES)?;
        ImageConfig::parse(&content, manifest)
            .map_err(|source| StoreError::Document { digest, source })
    }
}

/// A file in the making. If it has not got its name when this is dropped, it is removed.
#[derive(Debug)]
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // What cannot be removed is truncated by the next one.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a directory for this user alone, and its name durable.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("create", path)(error))
        }
        _ => sync_directory(parent),
    }
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("write", path))
}

/// An empty file for this user alone, in the place of one that somebody left.
fn create_staged(path: &Path) -> Result<File, StoreError> {
    let file = open_unfinished(path)?;
    file.set_len(0).map_err(failed("write", path))?;
    Ok(file)
}

/// A file for this user alone that is not complete: a new one, or what somebody left of it.
fn open_unfinished(path: &Path) -> Result<File, StoreError> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
    };
    let opened = match open() {
        // Left by releases that made files read-only before they had their names.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).and_then(|()| open())
        }
        opened => opened,
    };
    opened.map_err(failed("create", path))
}

/// Gives a complete file its name, durably, for reading only. What had the name before had the same content, unless the disk
/// has changed it.
fn publish(file: &File, from: &Path, to: &Path, added: &Added) -> Result<(), StoreError> {
    file.sync_all().map_err(failed("write", from))?;
    fs::rename(from, to).map_err(failed("create", to))?;
    added.note(to);
    // Not before: whoever goes on with what is left under the other name must be able to write to it. That a crash
    // may leave a complete file writable takes nothing from it.
    file.set_permissions(fs::Permissions::from_mode(0o444))
        .map_err(failed("write", to))?;
    sync_directory(to.parent().unwrap_or(Path::new("/")))
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed("open", path))
}

/// Waits until nobody else makes `what`.
fn lock(store: &Store, what: &str) -> Result<File, StoreError> {
    lock_by(store, what, File::lock)
}

/// Locks `what` by `how`. The file stays: only who has the store alone may remove it, because others may be about to lock
/// it.
fn lock_by(
    store: &Store,
    what: &str,
    how: fn(&File) -> io::Result<()>,
) -> Result<File, StoreError> {
    let path = store.locks().join(what);
    let lock = open_lock(&path)?;
    how(&lock).map_err(failed("lock", &path))?;
    Ok(lock)
}
