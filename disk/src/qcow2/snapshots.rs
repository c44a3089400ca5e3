//! The table of internal snapshots (docs/interop/qcow2.txt, "Snapshots"). They are kept as they are.

use std::fs::File;
use std::io;

use super::damaged;
use super::header::{Header, L1_BYTES_MAX};
use super::opening::read_part;

/// Bytes of a snapshot's entry without its names and extra data.
const FIXED: u64 = 40;
/// The largest table, the same as QEMU's bound for its entries with the largest names.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// What the snapshot table occupies and refers to.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Bytes of the table.
    pub(super) length: u64,
    /// Offset and length in bytes of each L1 table.
    pub(super) l1: Vec<(u64, u64)>,
}

impl Snapshots {
    pub(super) fn read(file: &File, header: &Header) -> io::Result<Snapshots> {
        let mut snapshots = Snapshots::default();
        for _ in 0..header.snapshots {
            let at = header.snapshots_offset.saturating_add(snapshots.length);
            let entry = read_part(file, at, FIXED)?;
            let l1_offset = number(&entry, 0, 8);
            let l1_bytes = number(&entry, 8, 4).saturating_mul(8);
            let names = number(&entry, 12, 2).saturating_add(number(&entry, 14, 2));
            let extra = number(&entry, 36, 4);
            if l1_bytes > L1_BYTES_MAX {
                return Err(damaged("the L1 table of a snapshot is too large"));
            }
            snapshots.l1.push((l1_offset, l1_bytes));
            let bytes = FIXED.saturating_add(names).saturating_add(extra);
            snapshots.length = snapshots.length.saturating_add(bytes.next_multiple_of(8));
            if snapshots.length > TABLE_BYTES_MAX {
                return Err(damaged("the snapshot table is too large"));
            }
        }
        Ok(snapshots)
    }
}

/// A big-endian number; what is cut short is 0.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.get(at..at.saturating_add(length)).unwrap_or_default();
    bytes
        .iter()
        .fold(0, |sum, byte| sum.wrapping_shl(8) | u64::from(*byte))
}
