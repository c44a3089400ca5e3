//! Whether a processor can ever run again.

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::VcpuFd;

/// RFLAGS.IF (Intel SDM volume 1, "EFLAGS Register").
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Whether the processor does nothing unless another one, or nobody, interrupts it: it has halted with interrupts off, or was
/// never started. The calling thread is the processor's.
pub(crate) fn is_halted(vcpu: &VcpuFd) -> bool {
    match vcpu.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_HALTED) => vcpu
            .get_regs()
            .is_ok_and(|registers| registers.rflags & INTERRUPT_FLAG == 0),
        Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => true,
        Ok(_) | Err(_) => false,
    }
}
