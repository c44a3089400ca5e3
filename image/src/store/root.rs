//! All layers of an image as one disk.
//!
//! A guest mounts one file system and not one per layer: a device costs it about as much as a boot's tenth, and a stack of
//! overlays is asked layer by layer for each name. An image of a single layer is that layer. Of several, a further EROFS image has the
//! merged tree, without the content of files, which it finds in the layers that follow it on the same disk; and a
//! VMDK descriptor names the files that the disk consists of. All lie in the directory of the layers, so the
//! descriptor needs no paths.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::error::failed;
use super::{Shared, Store, StoreError, lock};
use crate::digest::Digest;
use crate::erofs;

/// Bytes of a sector, in which a VMDK descriptor counts.
const SECTOR: u64 = 512;

/// The disk with an image's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootDisk {
    /// A raw image: the only layer.
    Raw(PathBuf),
    /// A VMDK descriptor of the files that it consists of.
    Vmdk(PathBuf),
}

/// Name of what is made of these layers together, without an ending.
pub(super) fn merged_name(diff_ids: &[Digest]) -> String {
    let mut names = String::new();
    for diff_id in diff_ids {
        names.push_str(&diff_id.hex());
    }
    format!("merged-{}", Digest::of(names.as_bytes()).hex())
}

/// The files that are made of these layers together.
pub(super) fn merged_files(diff_ids: &[Digest]) -> [String; 2] {
    let name = merged_name(diff_ids);
    [format!("{name}.erofs"), format!("{name}.vmdk")]
}

impl Shared {
    /// The disk with the file system of an image, made if there is none. Its layers, the lowest first, have been made.
    /// While somebody else makes it this waits: not to be called where futures are polled.
    ///
    /// # Errors
    /// When there are no layers, one is damaged, or the file system cannot be written.
    pub fn make_root(&self, diff_ids: &[Digest]) -> Result<RootDisk, StoreError> {
        if let [only] = diff_ids {
            return Ok(RootDisk::Raw(self.store.layer(only)));
        }
        let [tree, descriptor] = merged_files(diff_ids).map(|name| self.store.layers().join(name));
        // The descriptor comes last.
        if !self.is_made(&descriptor) {
            let _lock = lock(&self.store, &merged_name(diff_ids))?;
            if !self.is_made(&descriptor) {
                self.merge(diff_ids, &tree, &descriptor)?;
            }
        }
        Ok(RootDisk::Vmdk(descriptor))
    }

    fn merge(&self, diff_ids: &[Digest], tree: &Path, descriptor: &Path) -> Result<(), StoreError> {
        let mut files = Vec::new();
        let mut extents = Vec::new();
        for diff_id in diff_ids {
            let path = self.store.layer(diff_id);
            let file = File::open(&path).map_err(failed("open", &path))?;
            let size = file.metadata().map_err(failed("examine", &path))?.len();
            extents.push((Store::layer_name(diff_id), size));
            files.push(file);
        }
        let layers: Vec<_> = files.iter().collect();
        let size = self.publish_new(tree, |output| {
            erofs::merge(&layers, output).map_err(|source| StoreError::Merge { source })
        })?;
        let tree = tree.file_name().unwrap_or_default().to_string_lossy();
        extents.insert(0, (tree.into_owned(), size));
        self.publish_new(descriptor, |mut output| {
            let written = output.write_all(describe(&extents).as_bytes());
            written.map_err(failed("write", descriptor))
        })
    }
}

/// A VMDK descriptor of files that follow each other (Virtual Disk Format 1.1, "Text Descriptor").
fn describe(extents: &[(String, u64)]) -> String {
    let mut text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                    createType=\"twoGbMaxExtentFlat\"\n\n# Extent description\n"
        .to_owned();
    for (name, bytes) in extents {
        // Writing to a string does not fail.
        let _ = writeln!(text, "RDONLY {} FLAT \"{name}\" 0", bytes / SECTOR);
    }
    text
}
