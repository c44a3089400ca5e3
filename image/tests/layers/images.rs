//! Images of layers, and what is in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use image::erofs::{BLOCK, Device, Extent, InodeId, Kind, Reader, Tree};
use image::layer::{Converted, LayerError, Limits, convert};
use image::{Compression, Digest};
use tempfile::NamedTempFile;

use crate::archives::output;

/// An image that was made of a layer.
pub(crate) struct Image {
    pub(crate) file: NamedTempFile,
    pub(crate) converted: Converted,
    pub(crate) tree: Tree,
}

pub(crate) fn converted(
    blob: &[u8],
    limits: &Limits,
) -> Result<(NamedTempFile, Converted), LayerError> {
    let file = NamedTempFile::new().unwrap();
    convert(blob, Compression::of(blob), file.as_file(), limits).map(|converted| (file, converted))
}

/// The image of a layer, which fsck.erofs finds in order.
#[track_caller]
pub(crate) fn image(blob: &[u8]) -> Image {
    let (file, converted) = converted(blob, &Limits::default()).unwrap();
    let image = opened(file, converted);
    judge(image.file.path());
    image
}

pub(crate) fn opened(file: NamedTempFile, converted: Converted) -> Image {
    let tree = Reader::open(file.as_file()).unwrap().tree().unwrap();
    assert_eq!(
        file.as_file().metadata().unwrap().len(),
        converted.image_bytes
    );
    assert_eq!(converted.image_bytes % BLOCK, 0);
    Image {
        file,
        converted,
        tree,
    }
}

/// Why a layer is refused.
#[track_caller]
pub(crate) fn refusal(blob: &[u8]) -> String {
    refusal_within(blob, &Limits::default())
}

#[track_caller]
pub(crate) fn refusal_within(blob: &[u8], limits: &Limits) -> String {
    match converted(blob, limits) {
        Ok((file, converted)) => {
            panic!("it was accepted: {:?}", opened(file, converted).listing())
        }
        Err(error) => error.to_string(),
    }
}

/// Asserts that fsck.erofs finds an image in order and can read all of it.
#[track_caller]
pub(crate) fn judge(image: &Path) {
    output(
        Path::new("/"),
        "fsck.erofs",
        &["--extract", image.to_str().unwrap()],
    );
}

/// The same of what an image that is merged from `layers` has itself. The content is not read: fsck.erofs 1.5, unlike the
/// kernel, looks for it in the first disk.
#[track_caller]
pub(crate) fn judge_merged(image: &Path, layers: &[&Path]) {
    let disks = layers
        .iter()
        .map(|layer| format!("--device={}", layer.display()));
    let arguments: Vec<_> = disks.chain([image.display().to_string()]).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    output(Path::new("/"), "fsck.erofs", &arguments);
}

impl Image {
    /// Everything in the image: paths and what is there.
    pub(crate) fn listing(&self) -> BTreeMap<String, String> {
        listing(&self.tree, self.file.as_file())
    }

    /// What is said of one path.
    #[track_caller]
    pub(crate) fn line(&self, path: &str) -> String {
        self.listing()
            .remove(path)
            .unwrap_or_else(|| panic!("there is no {path}"))
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.listing().into_keys().collect()
    }

    #[track_caller]
    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        let id = self.find(path);
        match &self.tree.inode(id).kind {
            Kind::File(extent) => content(self.file.as_file(), *extent),
            other => panic!("{path} is no file: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn find(&self, path: &str) -> InodeId {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.fold(InodeId::ROOT, |at, part| {
            let child = self.tree.child(at, part.as_bytes());
            child.unwrap_or_else(|| panic!("there is no {path}"))
        })
    }

    pub(crate) fn diff_id(&self) -> Digest {
        self.converted.diff_id
    }
}

pub(crate) fn content(file: &File, extent: Extent) -> Vec<u8> {
    let mut content = vec![0; extent.size as usize];
    file.read_exact_at(&mut content, u64::from(extent.block) * BLOCK)
        .unwrap();
    content
}

/// `type mode owner:group mtime links`, then what the type has, then extended attributes.
pub(crate) fn listing(tree: &Tree, file: &File) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut directories = vec![(InodeId::ROOT, String::new())];
    lines.insert("/".to_owned(), line(tree, file, InodeId::ROOT));
    while let Some((directory, path)) = directories.pop() {
        for (name, child) in tree.children(directory) {
            let path = format!("{path}/{}", name.escape_ascii());
            lines.insert(path.clone(), line(tree, file, child));
            if tree.directory(child).is_some() {
                directories.push((child, path));
            }
        }
    }
    lines
}

fn line(tree: &Tree, file: &File, id: InodeId) -> String {
    let inode = tree.inode(id);
    let attributes = inode.attributes;
    let device = |device: &Device| format!("{}:{}", device.major(), device.minor());
    let (kind, detail) = match &inode.kind {
        Kind::File(extent) if extent.size > 1 << 30 => ("file", format!("{} bytes", extent.size)),
        Kind::File(extent) => {
            let content = content(file, *extent);
            (
                "file",
                match content.len() {
                    0..=40 => content.escape_ascii().to_string(),
                    _ => Digest::of(&content).hex(),
                },
            )
        }
        Kind::Directory(directory) => {
            let opaque = if directory.opaque { "opaque" } else { "" };
            (
                "dir",
                if directory.implied {
                    format!("{opaque}implied")
                } else {
                    opaque.to_owned()
                },
            )
        }
        Kind::Symlink(target) => ("link", target.escape_ascii().to_string()),
        Kind::Character(number) => ("char", device(number)),
        Kind::Block(number) => ("block", device(number)),
        Kind::Fifo => ("fifo", String::new()),
        Kind::Socket => ("socket", String::new()),
    };
    let links = if kind == "dir" {
        String::new()
    } else {
        format!(" {}", inode.links())
    };
    let mut xattrs: Vec<_> = tree
        .xattrs(id)
        .map(|xattr| {
            let (name, value) = (xattr.name(), xattr.value());
            format!(" {}={}", name.escape_ascii(), value.escape_ascii())
        })
        .collect();
    xattrs.sort();
    let mtime = attributes.mtime;
    let text = format!(
        "{kind} {:04o} {}:{} {}.{:09}{links} {detail}{}",
        attributes.permissions,
        attributes.uid,
        attributes.gid,
        mtime.seconds,
        mtime.nanoseconds,
        xattrs.concat()
    );
    text.trim_end().to_owned()
}

/// The compression that an archive is not of.
pub(crate) fn convert_as(blob: &[u8], compression: Compression) -> Result<Converted, LayerError> {
    let file = NamedTempFile::new().unwrap();
    convert(blob, compression, file.as_file(), &Limits::default())
}
