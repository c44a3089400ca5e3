//! The state in which virtual processors start: CPUID, model-specific registers, registers, local APIC.

mod cpuid;
mod halted;
mod local_apic;
mod mp_table;
mod msrs;
mod registers;
mod tsc;

use std::collections::BTreeSet;

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::virtio::GuestMemory;

pub(crate) use halted::is_halted;
pub(crate) use mp_table::write_mp_table;
pub(crate) use registers::write_entry_tables;
pub(crate) use tsc::{follow_host, rewind};

/// Most virtual processors of a machine: what the MP table has room for.
pub const MAX_VCPUS: u8 = 32;

/// A step of a processor's set-up that KVM refused.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// An ioctl failed.
    #[error("KVM refuses to {0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// KVM took only some of the model-specific registers.
    #[error("KVM refuses model-specific register {0:#x}")]
    Msr(u32),
    /// The tables could not be written.
    #[error("cannot write the processor tables into guest memory")]
    Write(#[source] vm_memory::GuestMemoryError),
}

/// What every processor of a machine has in common.
pub(crate) struct CpuTemplate {
    cpuid: CpuId,
    count: u8,
}

impl CpuTemplate {
    /// Asks KVM what processors it can give.
    pub(crate) fn new(kvm: &Kvm, count: u8) -> Result<CpuTemplate, CpuError> {
        let cpuid = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| CpuError::Kvm("tell its CPUID leaves", error))?;
        Ok(CpuTemplate { cpuid, count })
    }

    /// Creates processor `index`. The first one starts at `entry`, the others wait for the kernel to start them.
    pub(crate) fn create_vcpu(&self, vm: &VmFd, index: u8, entry: u64) -> Result<VcpuFd, CpuError> {
        let vcpu = vm
            .create_vcpu(u64::from(index))
            .map_err(|error| CpuError::Kvm("create a processor", error))?;
        let cpuid = cpuid::for_vcpu(&self.cpuid, index, self.count)?;
        vcpu.set_cpuid2(&cpuid)
            .map_err(|error| CpuError::Kvm("set CPUID", error))?;
        msrs::set(&vcpu)?;
        if index == 0 {
            registers::set(&vcpu, entry)?;
        }
        // After the special registers, which carry the base address of the APIC.
        local_apic::set(&vcpu)?;
        Ok(vcpu)
    }
}

/// Writes what `count` processors read from memory: entry tables, and the MP table with the `lines` of the devices.
pub(crate) fn write_tables(
    memory: &GuestMemory,
    count: u8,
    lines: &BTreeSet<u8>,
) -> Result<(), CpuError> {
    write_entry_tables(memory)?;
    write_mp_table(memory, count, lines)
}
