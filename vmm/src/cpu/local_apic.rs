//! Local APIC: its second pin as a BIOS leaves it. Nothing is connected to the first, there being no legacy controller.

use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;

use super::CpuError;

/// Offset of the local vector table entry, Intel SDM volume 3 table "Local APIC Register Address Map".
const LVT_LINT1: usize = 0x360;
const DELIVERY_MODE_MASK: u32 = 0x700;
const DELIVERY_NMI: u32 = 0x400;

/// LINT1 takes the non-maskable interrupt.
pub(super) fn set(vcpu: &VcpuFd) -> Result<(), CpuError> {
    let mut state = vcpu
        .get_lapic()
        .map_err(|error| CpuError::Kvm("tell the local APIC", error))?;
    set_delivery_mode(&mut state, LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&state)
        .map_err(|error| CpuError::Kvm("set the local APIC", error))
}

fn set_delivery_mode(state: &mut kvm_lapic_state, at: usize, mode: u32) {
    let bytes = [0, 1, 2, 3].map(|byte| state.regs[at + byte] as u8);
    let register = (u32::from_le_bytes(bytes) & !DELIVERY_MODE_MASK) | mode;
    for (byte, value) in register.to_le_bytes().into_iter().enumerate() {
        state.regs[at + byte] = value as _;
    }
}
