//! A device's configuration space, section 2.5: written by the device, read by the driver, and it may change while the device
//! runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::interrupt::Interrupt;

/// The bytes that the driver reads. Clones are the same space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug)]
struct Contents {
    bytes: Vec<u8>,
    generation: u32,
    /// Tells the driver of changes, as soon as the device has a place in a machine.
    interrupt: Option<Arc<Interrupt>>,
}

impl ConfigSpace {
    /// A space that begins with these bytes.
    pub fn new(bytes: Vec<u8>) -> ConfigSpace {
        ConfigSpace {
            contents: Arc::new(Mutex::new(Contents {
                bytes,
                generation: 0,
                interrupt: None,
            })),
        }
    }

    /// Replaces bytes from `offset` on, as far as there are any, and tells the driver. A driver that reads a field in
    /// several accesses sees by the generation that it must begin again (section 2.5.3).
    pub(crate) fn change(&self, offset: usize, bytes: &[u8]) {
        let mut contents = self.lock();
        let place = contents.bytes.iter_mut().skip(offset);
        for (to, from) in place.zip(bytes) {
            *to = *from;
        }
        contents.generation = contents.generation.wrapping_add(1);
        if let Some(interrupt) = &contents.interrupt {
            interrupt.configuration_changed();
        }
    }

    /// From now on changes raise this interrupt.
    pub(crate) fn connect(&self, interrupt: Arc<Interrupt>) {
        self.lock().interrupt = Some(interrupt);
    }

    /// Copies bytes from `offset` on into `data` and leaves alone what is beyond the end.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) {
        let contents = self.lock();
        let bytes = contents.bytes.get(offset..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// The ConfigGeneration register: another one after each change, whatever is reset.
    pub(crate) fn generation(&self) -> u32 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // Every byte sequence is a valid content.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Vec<u8>> for ConfigSpace {
    fn from(bytes: Vec<u8>) -> ConfigSpace {
        ConfigSpace::new(bytes)
    }
}
