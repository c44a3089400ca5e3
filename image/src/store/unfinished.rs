//! Images that are made here, and whose making was broken off.
//!
//! What a killed process got of an image from elsewhere, the next one takes up by its digest. An image that is made here has a
//! time in it, so that nobody ever makes the same again: a file in `staging/` tells that parts of one may be there.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::error::failed;
use super::{Shared, Store, StoreError};

/// How names of such files begin.
const KIND: &str = "image";

/// An image that is being made here, until [`finish`](Self::finish).
#[derive(Debug)]
#[must_use = "otherwise it stays unfinished"]
pub struct Unfinished {
    path: PathBuf,
}

impl Store {
    /// Whether somebody makes an image here, or was killed while making one: then there may be parts of it that no image needs,
    /// see [`Exclusive::prune`](super::Exclusive::prune).
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn has_unfinished(&self) -> Result<bool, StoreError> {
        let staging = self.staging();
        let entries = fs::read_dir(&staging).map_err(failed("read", &staging))?;
        for entry in entries {
            let name = entry.map_err(failed("read", &staging))?.file_name();
            if name.as_encoded_bytes().starts_with(KIND.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Shared {
    /// Notes that an image is made here.
    ///
    /// # Errors
    /// When there is no room for the note.
    pub fn begin_image(&self) -> Result<Unfinished, StoreError> {
        let (path, _) = self.stage(KIND)?;
        Ok(Unfinished { path })
    }
}

impl Unfinished {
    /// Removes the note: all parts of the image belong to one that is recorded.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn finish(self) -> Result<(), StoreError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}
