//! A device's configuration space, section 2.5: written by the device, read by the driver, and it may change while the device
//! runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::interrupt::Interrupt;
use super::registers::offset;

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
        contents.show();
        if let Some(interrupt) = &contents.interrupt {
            interrupt.configuration_changed();
        }
    }

    /// From now on the bytes are among the registers of the device with this interrupt, and changes raise it.
    pub(crate) fn connect(&self, interrupt: Arc<Interrupt>) {
        let mut contents = self.lock();
        contents.interrupt = Some(interrupt);
        contents.show();
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // Every byte sequence is a valid content.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// Shows the driver what there is. The ConfigGeneration register is another one after each change, whatever is reset, and changes
    /// before the bytes do and after them: a driver that reads meanwhile begins again, or is told by the interrupt that follows.
    fn show(&self) {
        let Some(interrupt) = &self.interrupt else {
            return;
        };
        let registers = interrupt.registers();
        let after = self.generation.wrapping_mul(2);
        registers.set(offset::CONFIG_GENERATION, after.wrapping_sub(1));
        registers.set_bytes(offset::CONFIG, &self.bytes);
        registers.set(offset::CONFIG_GENERATION, after);
    }
}

impl From<Vec<u8>> for ConfigSpace {
    fn from(bytes: Vec<u8>) -> ConfigSpace {
        ConfigSpace::new(bytes)
    }
}
