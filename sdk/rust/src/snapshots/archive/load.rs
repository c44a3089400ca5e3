//! Makes a snapshot of an archive, which anybody may have made.
//!
//! It has exactly the files that [`save`](super::save) writes, in that order; nothing is written under a name that it gives.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use image::layer::Limits;
use tar::{Archive, Entries, Entry, EntryType};

use super::IMAGE;
use super::frames::FrameReader;
use crate::images::{Images, Unrecorded};
use crate::snapshots::descriptor::{MAX_BYTES, Snapshot};
use crate::snapshots::error::failed;
use crate::snapshots::integrity::{self, LayerHasher};
use crate::snapshots::{
    Progress, SnapshotError, SnapshotHandle, SnapshotName, SnapshotRoot, Snapshots, artifact,
};
use crate::staged::Staged;

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
        let images = Images::open(&self.home)?;
        let image = match files.next()? {
            Some(entry) => load_image(&images, entry, &staged, &snapshot, &mut *progress)?,
            None => None,
        };
        if files.next()?.is_some() {
            return Err(not_ours("it has more files than a snapshot"));
        }
        snapshot.descriptor.id = staged.id.as_str().to_owned();
        snapshot.descriptor.name = Some(name.to_string());
        let snapshot = Snapshot::check(snapshot.descriptor).map_err(|reason| not_ours(&reason))?;
        artifact::write(staged.path(), &snapshot)?;
        staged.sync()?;
        self.record(staged, snapshot, &name, options.replace, image)
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
}

/// Loads the image of an archive, to be recorded with the snapshot.
fn load_image<'i, R: Read>(
    images: &'i Images,
    entry: Entry<'_, R>,
    staged: &Staged,
    snapshot: &Snapshot,
    progress: Progress<'_>,
) -> Result<Option<Unrecorded<'i>>, SnapshotError> {
    check(&entry, IMAGE)?;
    let path = staged.path().join(IMAGE);
    copy_image(entry, &path, Limits::default().tar_bytes, progress)?;
    let image = match &snapshot.image {
        Some((name, digest)) => Some(images.load_exactly(&path, digest, name)?),
        None => None,
    };
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    Ok(image)
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

/// Writes the layer, and compares it with what was copied once.
fn copy_upper<R: Read>(
    entry: Entry<'_, R>,
    staged: &Staged,
    snapshot: &Snapshot,
    progress: Progress<'_>,
) -> Result<(), SnapshotError> {
    if entry.size() != snapshot.descriptor.upper.size_bytes {
        return Err(not_ours("its layer has another size than it says"));
    }
    let path = staged.path().join(artifact::UPPER);
    let mut hasher = LayerHasher::default();
    // Sizes are multiples of 1 MiB, and so of a block.
    let counts = |position, block: &[u8]| hasher.update(position, block);
    let file = copy_data(entry, &path, counts, progress)?;
    file.sync_all().map_err(failed("write", &path))?;
    artifact::compare(&path, &snapshot.digest, hasher.finish())
}

/// Copies an archive of an image to a new file.
fn copy_image<R: Read>(
    entry: Entry<'_, R>,
    path: &Path,
    limit: u64,
    progress: Progress<'_>,
) -> Result<(), SnapshotError> {
    // Of a sparse file that is what it becomes, however little of it is in the archive.
    if entry.size() > limit {
        return Err(not_ours(&format!(
            "its {IMAGE} has {} bytes, of which there can be {limit}",
            entry.size()
        )));
    }
    let counts = |_, block: &[u8]| !integrity::is_zero(block);
    copy_data(entry, path, counts, progress).map(drop)
}

/// Makes a new file of the blocks of an entry that count, and of holes where the others are, which are zero.
fn copy_data<R: Read>(
    mut entry: Entry<'_, R>,
    path: &Path,
    mut counts: impl FnMut(u64, &[u8]) -> bool,
    progress: Progress<'_>,
) -> Result<File, SnapshotError> {
    let size = entry.size();
    let file = artifact::create(path)?;
    file.set_len(size).map_err(failed("write", path))?;
    let mut buffer = vec![0; integrity::BLOCK];
    let mut position = 0;
    while position < size {
        let left = usize::try_from(size - position).unwrap_or(integrity::BLOCK);
        let block = buffer
            .get_mut(..left.min(integrity::BLOCK))
            .unwrap_or_default();
        entry.read_exact(block).map_err(unreadable)?;
        if counts(position, block) {
            file.write_all_at(block, position)
                .map_err(failed("write", path))?;
        }
        position += block.len() as u64;
        integrity::advance(progress, position, size).map_err(failed("write", path))?;
    }
    Ok(file)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tar::{Builder, Header};

    use super::*;
    use crate::snapshots::silent;

    const LIMIT: u64 = 4 << 20;

    /// Copies what is the only file of an archive; returns it and how many bytes of the disk it takes up.
    fn copy(archive: &[u8]) -> Result<(Vec<u8>, u64), SnapshotError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(IMAGE);
        let mut archive = Archive::new(archive);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        copy_image(entry, &path, LIMIT, &mut silent)?;
        let used = fs::metadata(&path).unwrap().blocks() * 512;
        Ok((fs::read(&path).unwrap(), used))
    }

    fn archive(contents: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_size(contents.len() as u64);
        let mut archive = Builder::new(Vec::new());
        archive.append_data(&mut header, IMAGE, contents).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn zeros_of_an_image_take_up_nothing() {
        let mut contents = vec![0; LIMIT as usize - 1];
        contents[1_000_000] = 1;
        *contents.last_mut().unwrap() = 2;
        let (copied, used) = copy(&archive(&contents)).unwrap();
        assert!(copied == contents);
        assert!(used <= 4 * integrity::BLOCK as u64, "{used}");
        assert_eq!(copy(&archive(&[])).unwrap().0, b"");
    }

    #[test]
    fn an_image_has_a_limit() {
        let at_the_limit = archive(&[0; LIMIT as usize]);
        copy(&at_the_limit).unwrap();
        let refused = |archive: &[u8]| {
            let error = copy(archive).unwrap_err().to_string();
            assert!(error.contains("of which there can be 4194304"), "{error}");
        };
        refused(&archive(&[0; LIMIT as usize + 1]));
        // A file that is one hole of an exabyte is a header alone.
        let mut header = Header::new_gnu();
        header.set_path(IMAGE).unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 60);
        gnu.sparse[0].set_offset(1 << 60);
        gnu.sparse[0].set_length(0);
        header.set_cksum();
        let mut bomb = header.as_bytes().to_vec();
        bomb.extend([0; 1024]);
        refused(&bomb);
    }
}
