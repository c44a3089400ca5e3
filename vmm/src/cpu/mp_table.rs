//! The MP table: how a kernel without ACPI learns of the processors and interrupt lines.
//!
//! Source: Intel MultiProcessor Specification 1.4, chapter 4.

use std::collections::BTreeSet;

use vm_memory::{Bytes, GuestAddress};

use super::CpuError;
use crate::layout;
use crate::virtio::GuestMemory;

const SPECIFICATION_1_4: u8 = 4;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const CPU_ENABLED: u8 = 1;
const CPU_BOOT_PROCESSOR: u8 = 2;
const ENABLED: u8 = 1;
const ALL_LOCAL_APICS: u8 = 0xff;
/// Interrupt types.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
/// Entry types.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Writes the floating pointer and the configuration table behind it. Each of the `lines` is the input of the I/O APIC with its number;
/// a kernel sets up those that are named, whether anybody uses them or not.
pub(crate) fn write_mp_table(
    memory: &GuestMemory,
    vcpus: u8,
    lines: &BTreeSet<u8>,
) -> Result<(), CpuError> {
    let table = table(vcpus, lines);
    memory
        .write_slice(&table, GuestAddress(layout::MP_TABLE))
        .map_err(CpuError::Write)
}

fn table(vcpus: u8, lines: &BTreeSet<u8>) -> Vec<u8> {
    let pointer_size = 16;
    let mut configuration = configuration(vcpus, lines);
    let mut table = Vec::with_capacity(layout::MP_TABLE_SIZE);
    table.extend_from_slice(b"_MP_");
    table.extend_from_slice(&(layout::MP_TABLE as u32 + pointer_size).to_le_bytes());
    // Length in paragraphs of 16 bytes, version, checksum, features: none.
    table.extend_from_slice(&[1, SPECIFICATION_1_4, 0, 0, 0, 0, 0, 0]);
    table[10] = checksum(&table);
    table.append(&mut configuration);
    table
}

fn configuration(vcpus: u8, lines: &BTreeSet<u8>) -> Vec<u8> {
    let io_apic = vcpus;
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        let boot = if id == 0 { CPU_BOOT_PROCESSOR } else { 0 };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[PROCESSOR, id, LOCAL_APIC_VERSION, CPU_ENABLED | boot]);
        add(&entry);
    }
    add(&[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = layout::IO_APIC.to_le_bytes();
    add(&[IO_APIC, io_apic, IO_APIC_VERSION, ENABLED, a, b, c, d]);
    for &line in lines {
        add(&[IO_INTERRUPT, VECTORED, 0, 0, 0, line, io_apic, line]);
    }
    add(&[LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, ALL_LOCAL_APICS, 1]);

    let mut table = Vec::new();
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&(44 + entries.len() as u16).to_le_bytes());
    table.extend_from_slice(&[SPECIFICATION_1_4, 0]);
    table.extend_from_slice(b"MSB     ");
    table.extend_from_slice(b"microVM     ");
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.append(&mut entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::MAX_VCPUS;

    #[test]
    fn the_largest_table_fits_and_sums_to_zero() {
        for vcpus in [1, 2, MAX_VCPUS] {
            let table = table(vcpus, &(0..24).collect());
            assert!(
                table.len() <= layout::MP_TABLE_SIZE,
                "{} bytes",
                table.len()
            );
            assert_eq!(checksum(&table[..16]), 0);
            assert_eq!(checksum(&table[16..]), 0);
            let length = usize::from(u16::from_le_bytes([table[20], table[21]]));
            assert_eq!(length, table.len() - 16);
        }
    }
}
