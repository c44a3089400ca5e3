//! Makes a snapshot of an archive, which anybody may have made.
//!
//! It has exactly the files that [`save`](super::save) writes, in that order; nothing is written under a name that it gives.

use std::cell::Cell;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use image::store::Shared;
use tar::{Archive, Entries, Entry, EntryType};

use super::IMAGE;
use super::frames::FrameReader;
use crate::images::Images;
use crate::snapshots::descriptor::{MAX_BYTES, Snapshot};
use crate::snapshots::error::failed;
use crate::snapshots::integrity::{self, LayerHasher};
use crate::snapshots::staged::Staged;
use crate::snapshots::{
    Progress, SnapshotError, SnapshotHandle, SnapshotName, SnapshotRoot, Snapshots, artifact,
};

/// Bytes that are read at once.
const INPUT: usize = 256 << 10;

/// Most bytes of the headers of one entry. Those of a layer tell where its data is: 12 KiB for 500 places.
const MAX_HEADERS: u64 = 16 << 20;

/// What can be chosen about a snapshot that is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Its name here; `None` is the one that it had.
    pub name: Option<SnapshotName>,
    /// Whether it takes the place of a snapshot of the same name.
    pub replace: bool,
}

impl Snapshots {
    /// Makes a snapshot of an archive. It is verified, and durable when this returns. An image that comes with it gets the
    /// name that it had, unless another image has it.
    ///
    /// # Errors
    /// [`SnapshotError::Archive`], [`SnapshotError::Damaged`], [`SnapshotError::SnapshotAlreadyExists`];
    /// [`SnapshotError::ImageMissing`] when its image is neither in the archive nor here. Nothing remains then.
    pub fn load(
        &self,
        input: impl Read,
        options: &LoadOptions,
        progress: Progress<'_>,
    ) -> Result<SnapshotHandle, SnapshotError> {
        let staged = self.stage()?;
        let budget = Rc::new(Cell::new(MAX_HEADERS));
        let mut archive = Archive::new(Metered {
            input: FrameReader::new(BufReader::with_capacity(INPUT, input)),
            budget: Rc::clone(&budget),
        });
        let mut files = Files {
            entries: archive.entries().map_err(unreadable)?,
            budget,
        };
        let (mut snapshot, name) = self.descriptor(&mut files, options)?;
        let upper = files.expect(artifact::UPPER)?;
        copy_upper(upper, &staged, &snapshot, &mut *progress)?;
        let image = files.next()?;
        // As long as the store is shared, nobody removes what is added to it and not recorded yet.
        let _store = image
            .map(|entry| self.load_image(entry, &staged, &snapshot, &mut *progress))
            .transpose()?;
        if files.next()?.is_some() {
            return Err(not_ours("it has more files than a snapshot"));
        }
        snapshot.descriptor.id = staged.id.as_str().to_owned();
        snapshot.descriptor.name = Some(name.to_string());
        let snapshot = Snapshot::check(snapshot.descriptor).map_err(|reason| not_ours(&reason))?;
        artifact::write(staged.path(), &snapshot)?;
        staged.sync()?;
        self.record(staged, snapshot, &name, options.replace)
    }

    /// What the snapshot says of itself, and what it is to be called.
    fn descriptor<R: Read>(
        &self,
        files: &mut Files<'_, R>,
        options: &LoadOptions,
    ) -> Result<(Snapshot, SnapshotName), SnapshotError> {
        let entry = files.expect(artifact::DESCRIPTOR)?;
        let mut text = Vec::new();
        entry
            .take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(not_ours("its snapshot.json is too long"));
        }
        let snapshot = Snapshot::parse(&text, Path::new("The archive"))?;
        // A path would lead to whatever this machine has there.
        if let SnapshotRoot::Path { path, .. } = &snapshot.descriptor.root {
            return Err(SnapshotError::NotPortable { root: path.clone() });
        }
        let name = options.name.clone().or_else(|| snapshot.name.clone());
        let name = name.ok_or_else(|| not_ours("its snapshot has no name, and none was given"))?;
        if !options.replace {
            self.check_absent(&name)?;
        }
        Ok((snapshot, name))
    }

    /// Adds the image of an archive to those that are here.
    fn load_image<R: Read>(
        &self,
        entry: Entry<'_, R>,
        staged: &Staged,
        snapshot: &Snapshot,
        progress: Progress<'_>,
    ) -> Result<Shared, SnapshotError> {
        check(&entry, IMAGE)?;
        let path = staged.path().join(IMAGE);
        spool(entry, &path, progress)?;
        let images = Images::open(&self.home)?;
        let store = images
            .store()
            .share()
            .map_err(crate::images::ImageError::from)?;
        if let Some((name, digest)) = &snapshot.image {
            images.load_exactly(&store, &path, digest, name)?;
        }
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(store)
    }
}

/// The files of an archive, one after another.
struct Files<'a, R: Read> {
    entries: Entries<'a, Metered<R>>,
    budget: Rc<Cell<u64>>,
}

impl<'a, R: Read> Files<'a, R> {
    /// The next file.
    fn next(&mut self) -> Result<Option<Entry<'a, Metered<R>>>, SnapshotError> {
        self.budget.set(MAX_HEADERS);
        let entry = self.entries.next().transpose().map_err(unreadable)?;
        self.budget.set(u64::MAX);
        Ok(entry)
    }

    /// The next file, which has to have this name.
    fn expect(&mut self, name: &str) -> Result<Entry<'a, Metered<R>>, SnapshotError> {
        let missing = || not_ours(&format!("it has no {name}"));
        let entry = self.next()?.ok_or_else(missing)?;
        check(&entry, name)?;
        Ok(entry)
    }
}

/// Whether an entry is the file of this name.
fn check<R: Read>(entry: &Entry<'_, R>, name: &str) -> Result<(), SnapshotError> {
    let kind = entry.header().entry_type();
    let is_file = matches!(kind, EntryType::Regular | EntryType::GNUSparse);
    if is_file && *entry.path_bytes() == *name.as_bytes() {
        return Ok(());
    }
    Err(not_ours(&format!("{name} is not where it has to be")))
}

/// Writes the layer, without what is zero, and compares it with what was copied once.
fn copy_upper<R: Read>(
    mut entry: Entry<'_, R>,
    staged: &Staged,
    snapshot: &Snapshot,
    progress: Progress<'_>,
) -> Result<(), SnapshotError> {
    let size = snapshot.descriptor.upper.size_bytes;
    if entry.size() != size {
        return Err(not_ours("its layer has another size than it says"));
    }
    let path = staged.path().join(artifact::UPPER);
    let file = artifact::create(&path)?;
    file.set_len(size).map_err(failed("write", &path))?;
    let mut hasher = LayerHasher::default();
    let mut block = vec![0; integrity::BLOCK];
    let mut position = 0;
    // Sizes are multiples of 1 MiB, and so of a block.
    while position < size {
        entry.read_exact(&mut block).map_err(unreadable)?;
        if hasher.update(position, &block) {
            file.write_all_at(&block, position)
                .map_err(failed("write", &path))?;
        }
        position += block.len() as u64;
        integrity::advance(progress, position, size).map_err(failed("write", &path))?;
    }
    file.sync_all().map_err(failed("write", &path))?;
    artifact::compare(&path, &snapshot.digest, hasher.finish())
}

/// Copies an entry to a new file.
fn spool<R: Read>(
    mut entry: Entry<'_, R>,
    path: &Path,
    progress: Progress<'_>,
) -> Result<(), SnapshotError> {
    let mut file = artifact::create(path)?;
    let mut chunk = vec![0; INPUT];
    let (mut done, total) = (0_u64, entry.size());
    loop {
        let count = entry.read(&mut chunk).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        done = done.saturating_add(count as u64);
        file.write_all(chunk.get(..count).unwrap_or_default())
            .and_then(|()| integrity::advance(progress, done, total))
            .map_err(failed("write", path))?;
    }
    match done == total {
        true => Ok(()),
        false => Err(not_ours("it is cut off")),
    }
}

/// A reader that yields so many bytes at most.
struct Metered<R> {
    input: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        let left = self.budget.get().checked_sub(count as u64);
        let left = left.ok_or_else(|| io::Error::other("its headers are too long"))?;
        self.budget.set(left);
        Ok(count)
    }
}

fn not_ours(reason: &str) -> SnapshotError {
    SnapshotError::Archive {
        reason: reason.to_owned(),
    }
}

/// What was read is no archive, or the input failed.
fn unreadable(error: io::Error) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => not_ours("it is cut off"),
        _ => not_ours(&error.to_string()),
    }
}
