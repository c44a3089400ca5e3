//! The time-stamp counters of the processors: how fast they count, and what one shows that stood still.

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_device_attr, kvm_msr_entry,
};
use kvm_ioctls::{Error, VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

/// IA32_TIME_STAMP_COUNTER.
const TIME_STAMP_COUNTER: u32 = 0x10;

// kvm-ioctls has this one for processors only.
ioctl_io_nr!(KVM_SET_TSC_KHZ, KVMIO, 0xa2);
// And these for other architectures only.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// Lets processors that are created from here on count as fast as the host's do.
///
/// Otherwise they count as fast as the host's did when KVM was loaded, and Linux may have measured that anew since. Where the two differ by more
/// than 250 millionths and the host's processors cannot scale, KVM's set-up of a processor stops half-way (Linux 6.1 `arch/x86/kvm/x86.c`,
/// `set_tsc_khz`): it takes the guest's counter for zero for ever, and so each timer of the guest comes too late by the time that the
/// host has been up.
///
/// # Errors
/// When KVM refuses. Before Linux 5.16 it cannot do this, which is no error.
pub(crate) fn follow_host(vm: &VmFd) -> Result<(), Error> {
    // Not asked before: KVM_CAP_VM_TSC_CONTROL says only whether the processors can scale. Zero stands for the host's frequency.
    // SAFETY: the argument is a number.
    if unsafe { ioctl_with_val(vm, KVM_SET_TSC_KHZ(), 0) } == 0 {
        return Ok(());
    }
    match Error::last() {
        error if error.errno() == libc::ENOTTY => Ok(()),
        error => Err(error),
    }
}

/// Takes `ticks` back from the processor's counter, and tells the guest's watchdogs that it stood still.
///
/// The offset of the counter is set (Linux `Documentation/virt/kvm/devices/vcpu.rst`, KVM_VCPU_TSC_CTRL): the same change leaves
/// processors as far apart as they were. Before Linux 5.16 the counter itself is written, and KVM takes a value within a second of what it
/// expects for an attempt to synchronize processors, so that there a guest notices a pause that was shorter.
///
/// # Errors
/// When KVM refuses.
pub(crate) fn rewind(vcpu: &VcpuFd, ticks: u64) -> Result<(), Error> {
    match offset(vcpu) {
        Some(offset) => set_offset(vcpu, offset.wrapping_sub(ticks))?,
        None => set_counter(vcpu, counter(vcpu)?.wrapping_sub(ticks))?,
    }
    // Fails for a guest that does not use kvmclock, and has no flag for this.
    let _ = vcpu.kvmclock_ctrl();
    Ok(())
}

fn attribute(value: &u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_ref(value) as u64,
        flags: 0,
    }
}

/// What is added to the host's counter; `None` where KVM does not tell.
fn offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut value = 0u64;
    let attribute = kvm_device_attr {
        addr: &raw mut value as u64,
        ..attribute(&0)
    };
    // SAFETY: KVM writes the eight bytes of `value`.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) };
    (result == 0).then_some(value)
}

fn set_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), Error> {
    // SAFETY: KVM reads the eight bytes of `offset`.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute(&offset)) };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::last())
    }
}

fn counter(vcpu: &VcpuFd) -> Result<u64, Error> {
    let mut msrs = counter_with(0)?;
    match vcpu.get_msrs(&mut msrs)? {
        1 => Ok(msrs.as_slice().first().map_or(0, |entry| entry.data)),
        _ => Err(Error::new(libc::EINVAL)),
    }
}

fn set_counter(vcpu: &VcpuFd, value: u64) -> Result<(), Error> {
    match vcpu.set_msrs(&counter_with(value)?)? {
        1 => Ok(()),
        _ => Err(Error::new(libc::EINVAL)),
    }
}

fn counter_with(data: u64) -> Result<Msrs, Error> {
    Msrs::from_entries(&[kvm_msr_entry {
        index: TIME_STAMP_COUNTER,
        data,
        ..Default::default()
    }])
    .map_err(|_| Error::new(libc::ENOMEM))
}
