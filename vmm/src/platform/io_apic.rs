//! The I/O APIC: which interrupt each line raises at which processor.
//!
//! The local APICs stay in KVM, and so does every interrupt: a line is an irqfd whose route this device programs, so raising it never
//! comes here. What is here are the registers. KVM could keep them too, but its I/O APIC has 24 pins, all of which a kernel
//! reads and writes five times while it boots, and brings along two interrupt controllers and a timer of 1981, for
//! the guest to attack and for nobody to use. This one has as many pins as there are lines.
//!
//! Source: Intel 82093AA datasheet, section 3.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use crate::ending::EndingReporter;
use crate::layout;

/// Size of the registers in the address space.
pub(crate) const SIZE: u64 = 0x20;

/// IOREGSEL and IOWIN.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// Registers behind the window.
const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const FIRST_ENTRY: u8 = 0x10;
/// Version of the 82093AA, which has no EOI register.
const VERSION_82093AA: u32 = 0x11;
const ID_BITS: u32 = 0x0f00_0000;

/// Redirection entry: what the driver may write, that is all but delivery status and remote IRR.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
const MASKED: u64 = 1 << 16;

/// The registers; all lines are edge-triggered.
struct Registers {
    select: u8,
    id: u32,
    entries: Vec<u64>,
}

impl Registers {
    fn new(pins: u8) -> Registers {
        Registers {
            select: 0,
            id: 0,
            entries: vec![MASKED; usize::from(pins)],
        }
    }

    fn read(&self) -> u32 {
        match self.select {
            ID => self.id,
            VERSION => (self.entries.len() as u32).wrapping_sub(1) << 16 | VERSION_82093AA,
            register => match self.entries.get(pin(register)) {
                Some(entry) if register % 2 == 0 => *entry as u32,
                Some(entry) => (entry >> 32) as u32,
                None => 0,
            },
        }
    }

    /// Whether the write changes what a line raises.
    fn write(&mut self, value: u32) -> bool {
        if self.select == ID {
            self.id = value & ID_BITS;
            return false;
        }
        let register = self.select;
        let Some(entry) = self.entries.get_mut(pin(register)) else {
            return false;
        };
        let before = message(*entry);
        let value = u64::from(value);
        let written = match register % 2 {
            0 => *entry & !u64::from(u32::MAX) | value,
            _ => *entry & u64::from(u32::MAX) | value << 32,
        };
        *entry = written & WRITABLE;
        message(*entry) != before
    }

    /// The messages of the lines that are not masked.
    fn routes(&self) -> Vec<kvm_irq_routing_entry> {
        (0u32..)
            .zip(&self.entries)
            .filter_map(|(gsi, entry)| {
                let (address_lo, data) = message(*entry)?;
                let msi = kvm_irq_routing_msi {
                    address_lo,
                    data,
                    ..Default::default()
                };
                Some(kvm_irq_routing_entry {
                    gsi,
                    type_: KVM_IRQ_ROUTING_MSI,
                    u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
                    ..Default::default()
                })
            })
            .collect()
    }
}

/// Index of the redirection entry of a register; out of every range for the others.
fn pin(register: u8) -> usize {
    match register.checked_sub(FIRST_ENTRY) {
        Some(offset) => usize::from(offset / 2),
        None => usize::MAX,
    }
}

/// The message that an entry stands for, address and data (Intel SDM volume 3, "Message Signalled Interrupts").
fn message(entry: u64) -> Option<(u32, u32)> {
    if entry & MASKED != 0 {
        return None;
    }
    let destination = (entry >> 56) as u32;
    let logical = (entry >> 11 & 1) as u32;
    let vector_and_delivery_mode = (entry & 0x7ff) as u32;
    Some((
        layout::LOCAL_APIC | destination << 12 | logical << 2,
        vector_and_delivery_mode,
    ))
}

/// The device, shared by the processors.
pub(crate) struct IoApic {
    registers: Mutex<Registers>,
    vm: Arc<VmFd>,
    ending: EndingReporter,
}

impl IoApic {
    /// With `pins` lines, numbered from 0, all masked.
    pub(crate) fn new(pins: u8, vm: Arc<VmFd>, ending: EndingReporter) -> IoApic {
        IoApic {
            registers: Mutex::new(Registers::new(pins)),
            vm,
            ending,
        }
    }

    /// The guest reads. Only 32-bit accesses have a meaning.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.lock();
        let value = match offset {
            SELECT => u32::from(registers.select),
            WINDOW => registers.read(),
            _ => 0,
        };
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(bytes) => *bytes = value.to_le_bytes(),
            Err(_) => data.fill(0),
        }
    }

    /// The guest writes. Only 32-bit accesses have a meaning.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        let mut registers = self.lock();
        match offset {
            SELECT => registers.select = value as u8,
            WINDOW if registers.write(value) => {
                let routes = registers.routes();
                self.set_routes(&routes);
                if routes.is_empty() {
                    self.ending.isolated();
                }
            }
            _ => {}
        }
    }

    fn set_routes(&self, routes: &[kvm_irq_routing_entry]) {
        let set = KvmIrqRouting::from_entries(routes)
            .map_err(|error| format!("{error:?}"))
            .and_then(|routes| {
                self.vm
                    .set_gsi_routing(&routes)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = set {
            self.ending
                .failed(format!("KVM refuses the routes of the interrupts: {error}"));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registers> {
        // The registers have no invariant that a panic could break.
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(registers: &mut Registers, register: u8, value: u32) -> bool {
        registers.select = register;
        registers.write(value)
    }

    fn read(registers: &mut Registers, register: u8) -> u32 {
        registers.select = register;
        registers.read()
    }

    #[test]
    fn it_tells_how_many_pins_it_has() {
        let mut registers = Registers::new(8);
        assert_eq!(read(&mut registers, VERSION), 0x0007_0011);
        assert_eq!(read(&mut registers, 0x10), 0x1_0000, "masked at first");
    }

    #[test]
    fn a_line_that_is_unmasked_has_a_route_and_one_that_is_masked_has_none() {
        let mut registers = Registers::new(8);
        assert!(!write(&mut registers, 0x1b, 3 << 24), "still masked");
        assert!(write(&mut registers, 0x1a, 0x31));
        let routes = registers.routes();
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].gsi, 5);
        // SAFETY: the route is a message.
        let msi = unsafe { routes[0].u.msi };
        assert_eq!(
            (msi.address_lo, msi.address_hi, msi.data),
            (0xfee0_3000, 0, 0x31)
        );
        assert!(!write(&mut registers, 0x1a, 0x31), "nothing changes");
        assert!(write(&mut registers, 0x1a, 0x1_0031));
        assert!(registers.routes().is_empty());
    }

    #[test]
    fn a_line_may_go_to_several_processors_by_logical_destination() {
        assert_eq!(
            message(0x0300_0000_0000_0931),
            Some((0xfee0_3004, 0x131)),
            "logical, lowest priority"
        );
    }

    proptest! {
        #[test]
        fn any_accesses_are_harmless(accesses in prop::collection::vec(any::<(u8, u32)>(), 0..200)) {
            let mut registers = Registers::new(8);
            for (register, value) in accesses {
                write(&mut registers, register, value);
                let status = read(&mut registers, register);
                if (0x10..0x20).contains(&register) && register % 2 == 0 {
                    prop_assert_eq!(status & 0x5000, 0, "read-only bits");
                }
                prop_assert!(registers.routes().len() <= 8);
            }
        }
    }
}
