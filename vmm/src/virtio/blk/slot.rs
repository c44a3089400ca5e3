//! Where the image of a block device is, and how it comes and goes while the device runs.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use disk::Image;

use super::config::{CAPACITY, capacity};
use crate::virtio::ConfigSpace;

/// An image in use. Every request that works on it holds one of these.
#[derive(Debug)]
pub(super) struct Occupant {
    pub(super) image: Arc<dyn Image>,
    /// Closed with the last request that works on the image.
    _in_use: Sender<Infallible>,
}

/// The place for an image, shared by the queues and the handle.
#[derive(Debug, Default)]
pub(super) struct Slot {
    occupant: Mutex<Option<Arc<Occupant>>>,
}

impl Slot {
    /// The image that requests are for now.
    pub(super) fn occupant(&self) -> Option<Arc<Occupant>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Occupant>>> {
        // It is either there or not.
        self.occupant.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk of a running machine cannot be changed so.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// There is an image already.
    #[error("the block device has an image already")]
    Occupied,
    /// There is no image.
    #[error("the block device has no image")]
    Empty,
    /// A disk in use would lose what is behind its new end.
    #[error("a disk in use can only grow: it has {current} bytes, not fewer than {wanted}")]
    Shrinks {
        /// Its size in bytes.
        current: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// The image refuses.
    #[error("cannot resize the disk to {wanted} bytes")]
    Resize {
        /// What was asked for.
        wanted: u64,
        /// As the image reported it.
        #[source]
        source: io::Error,
    },
}

/// Changes the image of a block device, also while its machine runs. Usable from any thread.
#[derive(Clone, Debug)]
pub struct BlkHandle {
    slot: Arc<Slot>,
    config: ConfigSpace,
    /// Of the image that is attached: closed when nobody works on it. Locked by whoever changes the image.
    released: Arc<Mutex<Option<Receiver<Infallible>>>>,
}

impl BlkHandle {
    pub(super) fn new(slot: Arc<Slot>, config: ConfigSpace) -> BlkHandle {
        BlkHandle {
            slot,
            config,
            released: Arc::default(),
        }
    }

    /// Gives an empty device this image; the guest sees a disk of its size.
    ///
    /// # Errors
    /// [`HandleError::Occupied`]
    pub fn attach(&self, image: Arc<dyn Image>) -> Result<(), HandleError> {
        let mut released = self.lock();
        if released.is_some() {
            return Err(HandleError::Occupied);
        }
        let size = image.size();
        let (in_use, closed) = channel();
        *self.slot.lock() = Some(Arc::new(Occupant {
            image,
            _in_use: in_use,
        }));
        *released = Some(closed);
        // Last: the driver may use at once what it is told.
        self.config.change(CAPACITY, &capacity(size));
        Ok(())
    }

    /// Takes the image away and returns it when no request works on it any more; the guest sees a disk of size 0, and its
    /// requests fail. A guest that has the disk mounted loses what it has not written.
    ///
    /// # Errors
    /// [`HandleError::Empty`]
    pub fn detach(&self) -> Result<Arc<dyn Image>, HandleError> {
        let mut released = self.lock();
        self.config.change(CAPACITY, &capacity(0));
        let occupant = self.slot.lock().take().ok_or(HandleError::Empty)?;
        let image = Arc::clone(&occupant.image);
        drop(occupant);
        if let Some(released) = released.take() {
            // Nothing is ever sent: it is closed with the last request.
            let _ = released.recv();
        }
        Ok(image)
    }

    /// Makes the disk larger; the guest sees its new size.
    ///
    /// # Errors
    /// When there is no image, the disk would shrink, or the image refuses.
    pub fn resize(&self, size: u64) -> Result<(), HandleError> {
        let _unchanged = self.lock();
        let occupant = self.slot.occupant().ok_or(HandleError::Empty)?;
        let current = occupant.image.size();
        if size < current {
            return Err(HandleError::Shrinks {
                current,
                wanted: size,
            });
        }
        occupant
            .image
            .resize(size)
            .map_err(|source| HandleError::Resize {
                wanted: size,
                source,
            })?;
        self.config.change(CAPACITY, &capacity(size));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Receiver<Infallible>>> {
        // It is set and cleared in one step.
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
