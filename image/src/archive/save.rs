//! Writes images to an archive.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::ArchiveError;
use super::container::blob_name;
use super::docker::{self, Listed};
use super::error::failed;
use super::layout::{CONTAINERD_NAME, INDEX, MARKER, REF_NAME};
use crate::digest::{Digest, Hasher};
use crate::manifest::{Descriptor, MAX_MANIFEST_BYTES, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::{Shared, StoreError};

/// What an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout, for anything that knows the image specification.
    Oci,
    /// As `docker save` makes it: the same, with a list for older programs.
    Docker,
}

/// An image that is to be written.
#[derive(Debug, Clone)]
pub struct SavedImage {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its names in the archive.
    pub references: Vec<Reference>,
}

/// Writes images to `output` as a tar archive. The same images give the same bytes.
///
/// # Errors
/// When a blob is missing or damaged, or the archive cannot be written.
pub fn save(
    store: &Shared,
    images: &[SavedImage],
    format: Format,
    output: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    let mut archive = Archive {
        tar: Builder::new(output),
        written: HashSet::new(),
        store,
        progress,
    };
    let mut entries = Vec::new();
    let mut list = Vec::new();
    archive.add_folder("blobs/")?;
    archive.add_folder("blobs/sha256/")?;
    for image in images {
        let manifest = archive.add_image(&image.manifest)?;
        entries.extend(index_entries(store, image)?);
        list.push(listed(&manifest, image));
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    archive.add_text(INDEX, &index.to_string())?;
    if format == Format::Docker {
        let list = serde_json::to_string(&list).unwrap_or_default();
        archive.add_text(docker::MANIFEST, &list)?;
    }
    archive.add_text(MARKER, &json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    let output = archive.tar.into_inner().map_err(write_failed)?;
    output.flush().map_err(write_failed)
}

struct Archive<'a> {
    tar: Builder<&'a mut dyn Write>,
    /// Blobs that are in it.
    written: HashSet<Digest>,
    store: &'a Shared,
    progress: &'a dyn Progress,
}

impl Archive<'_> {
    fn add_image(&mut self, digest: &Digest) -> Result<Manifest, ArchiveError> {
        let manifest = self.store.manifest(digest)?;
        for layer in &manifest.layers {
            self.add_blob(&layer.descriptor.digest)?;
        }
        self.add_blob(&manifest.config.digest)?;
        self.add_blob(digest)?;
        Ok(manifest)
    }

    fn add_blob(&mut self, digest: &Digest) -> Result<(), ArchiveError> {
        if !self.written.insert(*digest) {
            return Ok(());
        }
        let (file, size) = self.store.open_blob(digest)?;
        let mut checked = Checked {
            file: file.take(size),
            hasher: Hasher::new(),
            done: 0,
            size,
            digest,
            progress: self.progress,
        };
        let name = blob_name(digest);
        self.tar
            .append_data(&mut header(EntryType::Regular, size), &name, &mut checked)
            .map_err(write_failed)?;
        let found = checked.hasher.finish();
        if found != *digest {
            return Err(ArchiveError::Store(StoreError::WrongDigest {
                expected: *digest,
                found,
            }));
        }
        Ok(())
    }

    fn add_text(&mut self, name: &str, text: &str) -> Result<(), ArchiveError> {
        let mut header = header(EntryType::Regular, text.len() as u64);
        self.tar
            .append_data(&mut header, name, text.as_bytes())
            .map_err(write_failed)
    }

    fn add_folder(&mut self, name: &str) -> Result<(), ArchiveError> {
        let mut header = header(EntryType::Directory, 0);
        self.tar
            .append_data(&mut header, name, io::empty())
            .map_err(write_failed)
    }
}

/// A blob that is read, and its digest.
struct Checked<'a, R> {
    file: R,
    hasher: Hasher,
    done: u64,
    size: u64,
    digest: &'a Digest,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.done = self.done.saturating_add(count as u64);
        self.progress.blob(self.digest, self.done, self.size);
        Ok(count)
    }
}

/// Of a file of nobody's, and of no time.
fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o444
    });
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// An entry for each name, or one without.
fn index_entries(store: &Shared, image: &SavedImage) -> Result<Vec<Descriptor>, ArchiveError> {
    let content = store.read_blob(&image.manifest, MAX_MANIFEST_BYTES)?;
    let media_type = media_type(&content);
    let entry = |annotations| Descriptor {
        annotations,
        ..Descriptor::of(&content, &media_type)
    };
    if image.references.is_empty() {
        return Ok(vec![entry(BTreeMap::new())]);
    }
    let names = image.references.iter().map(|reference| {
        let name = reference.to_string();
        BTreeMap::from([
            (CONTAINERD_NAME.to_owned(), name.clone()),
            (REF_NAME.to_owned(), name),
        ])
    });
    Ok(names.map(entry).collect())
}

/// What a manifest says that it is; old ones of OCI say nothing.
fn media_type(manifest: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
    }
    let typed: Option<Typed> = serde_json::from_slice(manifest).ok();
    typed
        .and_then(|typed| typed.media_type)
        .unwrap_or_else(|| OCI_MANIFEST.to_owned())
}

fn listed(manifest: &Manifest, image: &SavedImage) -> Listed {
    let layers = manifest.layers.iter();
    // `docker load` takes no other names than tags.
    let tags = image
        .references
        .iter()
        .filter(|name| name.digest().is_none());
    Listed {
        config: blob_name(&manifest.config.digest),
        repo_tags: Some(tags.map(Reference::familiar_tagged).collect()),
        layers: Some(
            layers
                .map(|layer| blob_name(&layer.descriptor.digest))
                .collect(),
        ),
    }
}

fn write_failed(source: io::Error) -> ArchiveError {
    failed("write", Path::new("the archive"))(source)
}
