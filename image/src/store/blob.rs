//! Blobs that are being added, in one go or with interruptions.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use super::error::failed;
use super::{
    Added, Shared, Staged, Store, StoreError, create_staged, lock, open_unfinished, publish,
};
use crate::digest::{Digest, Hasher};
use crate::manifest::Descriptor;

/// Bytes that are hashed at a time when an interrupted blob is taken up again.
const BUFFER: usize = 1 << 20;

/// Whether a blob has to be written.
#[derive(Debug)]
pub enum BlobState {
    /// It is there.
    Present,
    /// It is not, or a part of it is.
    Write(Box<BlobWriter>),
}

/// Takes the bytes of a blob in their order. What it has when it is dropped, or when its process is killed, the next one
/// takes up, unless the blob is at hand as a whole. While it lives others who want the same blob wait.
pub struct BlobWriter {
    digest: Digest,
    size: u64,
    offset: u64,
    hasher: Hasher,
    file: File,
    path: PathBuf,
    target: PathBuf,
    added: Added,
    /// Of a blob that is at hand as a whole.
    _staged: Option<Staged>,
    // The last one to go: until then nobody else has these files.
    _lock: File,
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("BlobWriter")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

pub(super) fn begin(shared: &Shared, descriptor: &Descriptor) -> Result<BlobState, StoreError> {
    let (store, digest) = (&shared.store, descriptor.digest);
    let Some(lock) = wanted(shared, descriptor)? else {
        return Ok(BlobState::Present);
    };
    let path = store.partial().join(digest.hex());
    let mut file = open_unfinished(&path)?;
    let (hasher, offset) = hash(&mut file).map_err(failed("read", &path))?;
    let mut writer = BlobWriter {
        digest,
        size: descriptor.size,
        offset,
        hasher,
        file,
        path,
        target: store.blob(&digest),
        added: shared.added(),
        _staged: None,
        _lock: lock,
    };
    if offset > writer.size {
        writer.restart()?;
    }
    Ok(BlobState::Write(Box::new(writer)))
}

pub(super) fn begin_whole(
    shared: &Shared,
    descriptor: &Descriptor,
) -> Result<BlobState, StoreError> {
    let (store, digest) = (&shared.store, descriptor.digest);
    let Some(lock) = wanted(shared, descriptor)? else {
        return Ok(BlobState::Present);
    };
    let target = store.blob(&digest);
    let path = store.staged(&target);
    let file = create_staged(&path)?;
    Ok(BlobState::Write(Box::new(BlobWriter {
        digest,
        size: descriptor.size,
        offset: 0,
        hasher: Hasher::new(),
        file,
        _staged: Some(Staged(path.clone())),
        path,
        target,
        added: shared.added(),
        _lock: lock,
    })))
}

/// The lock of a blob that is to be made; `None` if it is there.
pub(super) fn wanted(shared: &Shared, descriptor: &Descriptor) -> Result<Option<File>, StoreError> {
    let is_made = || -> Result<bool, StoreError> {
        Ok(!shared.renewing && is_present(&shared.store, descriptor)?)
    };
    if is_made()? {
        return Ok(None);
    }
    let lock = lock(&shared.store, &format!("blob-{}", descriptor.digest.hex()))?;
    // Who waited may find it made.
    Ok((!is_made()?).then_some(lock))
}

/// What is there has its digest. So if its size is another, the descriptor is wrong.
fn is_present(store: &Store, descriptor: &Descriptor) -> Result<bool, StoreError> {
    let path = store.blob(&descriptor.digest);
    match fs::metadata(&path) {
        Ok(found) if found.len() == descriptor.size => Ok(true),
        Ok(found) => Err(StoreError::WrongSize {
            digest: descriptor.digest,
            expected: descriptor.size,
            found: found.len(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("examine", &path)(error)),
    }
}

/// Reads a file to its end, where the next bytes belong.
fn hash(file: &mut File) -> io::Result<(Hasher, u64)> {
    let (mut hasher, mut offset) = (Hasher::new(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher, offset)),
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl BlobWriter {
    /// How many bytes are here. The next ones that are written must be those that follow.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes the blob has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Forgets all bytes that are here.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(failed("write", &self.path))?;
        self.offset = 0;
        self.hasher = Hasher::new();
        Ok(())
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when they are more than the blob has; as write(2).
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let offset = self.offset.saturating_add(bytes.len() as u64);
        if offset > self.size {
            return Err(StoreError::WrongSize {
                digest: self.digest,
                expected: self.size,
                found: offset,
            });
        }
        if let Err(error) = self.file.write_all(bytes) {
            // Some of them may have been written: the hash and the file must agree.
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(io::SeekFrom::Start(self.offset));
            return Err(failed("write", &self.path)(error));
        }
        self.hasher.update(bytes);
        self.offset = offset;
        Ok(())
    }

    /// Checks the blob, and adds it to the store, durably.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when bytes are missing; they can come later. [`StoreError::WrongDigest`]: nothing of it
    /// is kept then.
    pub fn commit(self) -> Result<(), StoreError> {
        if self.offset != self.size {
            return Err(StoreError::Incomplete {
                digest: self.digest,
                expected: self.size,
                found: self.offset,
            });
        }
        let found = self.hasher.finish();
        if found != self.digest {
            fs::remove_file(&self.path).map_err(failed("remove", &self.path))?;
            return Err(StoreError::WrongDigest {
                expected: self.digest,
                found,
            });
        }
        publish(&self.file, &self.path, &self.target, &self.added)
    }
}
