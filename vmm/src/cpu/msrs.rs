//! Model-specific registers as a BIOS would leave them.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::CpuError;

/// IA32_MISC_ENABLE: fast string operations.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// IA32_MTRR_DEF_TYPE: enabled, write-back everywhere.
const MTRR_DEFAULT_TYPE: (u32, u64) = (0x2ff, (1 << 11) | 6);

pub(super) fn set(vcpu: &VcpuFd) -> Result<(), CpuError> {
    let entries = [MISC_ENABLE, MTRR_DEFAULT_TYPE].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let msrs = Msrs::from_entries(&entries).map_err(|_| CpuError::Msr(MISC_ENABLE.0))?;
    let written = vcpu
        .set_msrs(&msrs)
        .map_err(|error| CpuError::Kvm("set model-specific registers", error))?;
    match entries.get(written) {
        None => Ok(()),
        Some(refused) => Err(CpuError::Msr(refused.index)),
    }
}
