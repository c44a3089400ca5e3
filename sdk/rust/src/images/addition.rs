//! Images that are being added, of which nothing remains if that fails.

use image::store::{Added, Shared};
use rusqlite::Transaction;

use super::record::{self, Record};
use super::{ImageError, Images};

/// The store, while something is added to it. Unless it is [kept](Self::keep), what was added goes when this is dropped, except
/// for what recorded images need.
#[derive(Debug)]
pub(super) struct Addition<'i> {
    // The first one to go: what was added is removed by who has the store alone.
    pub(super) store: Shared,
    undo: Undo<'i>,
}

#[derive(Debug)]
struct Undo<'i> {
    images: &'i Images,
    added: Option<Added>,
}

/// An image that is complete but for its record.
#[derive(Debug)]
pub(crate) struct Unrecorded<'i> {
    pub(super) addition: Addition<'i>,
    pub(super) record: Record,
}

impl Images {
    /// Begins to add something.
    ///
    /// # Errors
    /// When the store cannot be shared.
    pub(super) fn adding(&self) -> Result<Addition<'_>, ImageError> {
        let store = self.store().share()?;
        let added = Some(store.added());
        Ok(Addition {
            store,
            undo: Undo {
                images: self,
                added,
            },
        })
    }
}

impl Addition<'_> {
    /// What was added is recorded, and stays.
    pub(super) fn keep(self) -> Shared {
        let Addition { store, mut undo } = self;
        undo.added = None;
        store.forget_parts();
        store
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(added) = &self.added {
            // Why nothing was recorded is what counts. What cannot be removed, the next prune removes.
            let _ = self.images.take_back(added);
        }
    }
}

impl Unrecorded<'_> {
    /// Records it, in a transaction that records what is made of it.
    pub(crate) fn record(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        record::add(transaction, &self.record)
    }

    /// The transaction is over: the image stays.
    pub(crate) fn keep(self) {
        drop(self.addition.keep());
    }
}
