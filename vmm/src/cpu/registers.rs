//! Registers and tables of the entry state: 64-bit mode, first 1 GiB mapped one to one, interrupts off.
//!
//! Sources: Linux/x86 boot protocol, "64-bit boot protocol"; Intel SDM volume 3, "IA-32e Mode Initialization".

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::CpuError;
use crate::layout;
use crate::virtio::GuestMemory;

/// Selectors that the boot protocol asks for: __BOOT_CS and __BOOT_DS.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Descriptors behind the two unused ones: 64-bit code, data, busy task state.
const GDT: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008f_8b00_0000_ffff,
];

const CR0_PROTECTION: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
/// RFLAGS: the bit that is always one.
const RFLAGS_FIXED: u64 = 2;
/// Reset values of the x87 control word and of MXCSR.
const X87_CONTROL_WORD: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

const PAGE: u64 = 4096;
const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;

/// Writes the descriptor table and page tables that the entry state refers to.
pub(crate) fn write_entry_tables(memory: &GuestMemory) -> Result<(), CpuError> {
    let write = |address: u64, value: u64| {
        memory
            .write_obj(value, GuestAddress(address))
            .map_err(CpuError::Write)
    };
    for (address, descriptor) in (layout::GDT..).step_by(8).zip(GDT) {
        write(address, descriptor)?;
    }
    let (level4, level3, level2) = (
        layout::PAGE_TABLES,
        layout::PAGE_TABLES + PAGE,
        layout::PAGE_TABLES + 2 * PAGE,
    );
    write(level4, level3 | PRESENT_WRITABLE)?;
    write(level3, level2 | PRESENT_WRITABLE)?;
    for entry in 0..512 {
        write(
            level2 + entry * 8,
            (entry << 21) | LARGE_PAGE | PRESENT_WRITABLE,
        )?;
    }
    Ok(())
}

/// Puts the boot processor at `entry`.
pub(super) fn set(vcpu: &VcpuFd, entry: u64) -> Result<(), CpuError> {
    let registers = kvm_regs {
        rip: entry,
        rsi: layout::BOOT_PARAMS,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    vcpu.set_regs(&registers)
        .map_err(|error| CpuError::Kvm("set the registers", error))?;
    let fpu = kvm_fpu {
        fcw: X87_CONTROL_WORD,
        mxcsr: MXCSR,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(|error| CpuError::Kvm("set the floating-point state", error))?;

    let mut special = vcpu
        .get_sregs()
        .map_err(|error| CpuError::Kvm("tell the special registers", error))?;
    special.cs = segment(CODE_SELECTOR);
    let data = segment(DATA_SELECTOR);
    (special.ds, special.es, special.fs) = (data, data, data);
    (special.gs, special.ss) = (data, data);
    special.tr = segment(TASK_SELECTOR);
    special.gdt.base = layout::GDT;
    special.gdt.limit = (GDT.len() * 8 - 1) as u16;
    special.cr0 = CR0_PROTECTION | CR0_EXTENSION_TYPE | CR0_PAGING;
    special.cr3 = layout::PAGE_TABLES;
    special.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    special.efer = EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
    vcpu.set_sregs(&special)
        .map_err(|error| CpuError::Kvm("set the special registers", error))
}

/// The segment that `selector` names in [`GDT`], as the processor caches it.
fn segment(selector: u16) -> kvm_segment {
    let descriptor = GDT[usize::from(selector / 8)];
    let bits = |shift: u32, mask: u64| ((descriptor >> shift) & mask) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: bits(40, 0xf),
        s: bits(44, 1),
        dpl: bits(45, 3),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: bits(55, 1),
        ..Default::default()
    }
}
