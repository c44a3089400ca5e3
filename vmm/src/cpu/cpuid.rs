//! CPUID of a virtual processor: what KVM supports, with the topology of this machine.
//!
//! Sources: Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E, Linux `Documentation/virt/kvm/x86/cpuid.rst`.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::CpuError;

/// Leaf 1 ECX: the local APIC timer has the TSC-deadline mode, which KVM emulates everywhere and does not list.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: runs under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: EBX counts the logical processors.
const HYPER_THREADING: u32 = 1 << 28;
/// Leaf 6 EAX: the APIC timer never stops. With TSC-deadline it spares the guest the search for another timer.
const ALWAYS_RUNNING_TIMER: u32 = 1 << 2;
/// Topology leaves: type of a level.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The leaves of processor `index` of `count`, each a core of one package with one thread.
pub(super) fn for_vcpu(supported: &CpuId, index: u8, count: u8) -> Result<CpuId, CpuError> {
    let topology = Topology::new(index, count);
    let mut entries = Vec::with_capacity(supported.as_slice().len() + 2);
    for entry in supported.as_slice() {
        let mut entry = *entry;
        match entry.function {
            0xb | 0x1f => continue,
            _ => topology.apply(&mut entry),
        }
        entries.push(entry);
    }
    for function in [0xb, 0x1f] {
        if supported
            .as_slice()
            .iter()
            .any(|entry| entry.function == function)
        {
            entries.extend(topology.levels(function));
        }
    }
    CpuId::from_entries(&entries).map_err(|_| {
        CpuError::Kvm(
            "take as many CPUID leaves as it told",
            kvm_ioctls::Error::new(libc::E2BIG),
        )
    })
}

/// One package of `count` cores.
struct Topology {
    id: u32,
    count: u32,
    /// Bits of the APIC id that number the cores.
    core_bits: u32,
}

impl Topology {
    fn new(index: u8, count: u8) -> Topology {
        let count = u32::from(count);
        Topology {
            id: u32::from(index),
            count,
            core_bits: count.next_power_of_two().trailing_zeros(),
        }
    }

    fn apply(&self, entry: &mut kvm_cpuid_entry2) {
        match entry.function {
            0x1 => {
                entry.ebx = (entry.ebx & 0xffff) | (self.id << 24) | (self.count << 16);
                entry.ecx |= TSC_DEADLINE | HYPERVISOR;
                set_bit(&mut entry.edx, HYPER_THREADING, self.count > 1);
            }
            // Deterministic cache parameters: ids of cores in the package, and of processors that share the cache.
            0x4 if entry.eax & 0x1f != 0 => {
                let level = (entry.eax >> 5) & 7;
                let sharing = if level < 3 { 0 } else { self.count - 1 };
                entry.eax =
                    (entry.eax & 0x3fff) | (sharing << 14) | ((self.count - 1).min(63) << 26);
            }
            0x6 => {
                entry.eax = ALWAYS_RUNNING_TIMER;
                entry.ebx = 0;
                entry.ecx = 0;
            }
            // No performance counters: they are a way to observe the host, and the kernel probes them at boot.
            0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            0x8000_0008 => {
                entry.ecx = (entry.ecx & !0xf0ff) | (self.core_bits << 12) | (self.count - 1);
            }
            // AMD cache properties: processors that share the cache.
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = (entry.eax >> 5) & 7;
                let sharing = if level < 3 { 0 } else { self.count - 1 };
                entry.eax = (entry.eax & !(0xfff << 14)) | (sharing << 14);
            }
            // AMD extended APIC id: one thread a core, one node.
            0x8000_001e => {
                entry.eax = self.id;
                entry.ebx = self.id;
                entry.ecx = 0;
            }
            _ => {}
        }
    }

    /// Sub-leaves of the extended topology enumeration: threads, cores, end.
    fn levels(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index: u32, shift: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: processors,
            ecx: index | (kind << 8),
            edx: self.id,
            ..Default::default()
        };
        [
            level(0, 0, 1, LEVEL_THREAD),
            level(1, self.core_bits, self.count, LEVEL_CORE),
            level(2, 0, 0, 0),
        ]
    }
}

fn set_bit(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == function && entry.index == index)
            .unwrap()
    }

    #[test]
    fn each_processor_has_its_own_id_and_all_the_same_count() {
        let supported = CpuId::from_entries(&[0x1, 0x6, 0xa, 0xb, 0x8000_0008].map(|function| {
            kvm_cpuid_entry2 {
                function,
                ebx: u32::MAX,
                ..Default::default()
            }
        }))
        .unwrap();
        for count in [1u8, 3, 32] {
            let cpuid = for_vcpu(&supported, count - 1, count).unwrap();
            let one = leaf(&cpuid, 1, 0);
            assert_eq!(one.ebx >> 24, u32::from(count) - 1);
            assert_eq!((one.ebx >> 16) & 0xff, u32::from(count));
            assert_eq!(one.edx & HYPER_THREADING != 0, count > 1);
            let core = leaf(&cpuid, 0xb, 1);
            assert_eq!(
                (core.ebx, core.edx),
                (u32::from(count), u32::from(count) - 1)
            );
            assert!(1u32 << core.eax >= u32::from(count));
            assert_eq!(leaf(&cpuid, 0xa, 0).ebx, 0);
        }
    }
}
