//! Loading `vmlinux`: its segments are copied from the page cache into guest memory.
//!
//! A copy-on-write mapping of the file looks cheaper and is not: the kernel patches a quarter of its text while it boots, and
//! each of its small pages costs an exit or three (docs/performance.md), where the copy lies in a few huge pages.
//!
//! The headers are read here, because linux-loader's ELF loader asks neither for the machine, nor the class, nor whether a
//! segment would lie on the boot parameters. Format: System V ABI, "Object Files" and AMD64 supplement.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::ReadVolatile;

use super::{KernelError, LoadedKernel};
use crate::layout;
use crate::memory;
use crate::virtio::GuestMemory;

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Linux has five; the bound keeps a crafted file from costing memory.
const MAX_PROGRAM_HEADERS: usize = 64;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;

/// A loadable part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// Copies the kernel's segments into guest memory.
pub(super) fn load(memory: &GuestMemory, kernel: &File) -> Result<LoadedKernel, KernelError> {
    let read = |error| KernelError::Read {
        file: "kernel",
        error,
    };
    let length = kernel.metadata().map_err(read)?.len();
    let mut header = [0; HEADER_SIZE];
    read_exact(kernel, &mut header, 0, "the ELF header")?;
    let (entry, table, count) = parse_header(&header)?;
    let mut headers = vec![0; count * PROGRAM_HEADER_SIZE];
    read_exact(kernel, &mut headers, table, "the program header table")?;

    let mut end = None;
    for header in headers.chunks_exact(PROGRAM_HEADER_SIZE) {
        let Some(segment) = parse_segment(header) else {
            continue;
        };
        end = end.max(Some(load_segment(memory, kernel, length, segment)?));
    }
    let end = end.ok_or(KernelError::NoSegments)?;
    Ok(LoadedKernel {
        entry,
        end,
        setup_header: None,
    })
}

/// Entry point, offset of the program headers and their number.
fn parse_header(header: &[u8; HEADER_SIZE]) -> Result<(u64, u64, usize), KernelError> {
    let wrong = |why| Err(KernelError::WrongMachine(why));
    if header[4] != CLASS_64 || header[5] != LITTLE_ENDIAN {
        return wrong("not 64-bit little-endian");
    }
    if u16_at(header, 16) != TYPE_EXECUTABLE {
        return wrong("not an executable");
    }
    if u16_at(header, 18) != MACHINE_X86_64 {
        return wrong("another architecture");
    }
    let count = usize::from(u16_at(header, 56));
    if usize::from(u16_at(header, 54)) != PROGRAM_HEADER_SIZE || count > MAX_PROGRAM_HEADERS {
        return wrong("unknown program headers");
    }
    Ok((u64_at(header, 24), u64_at(header, 32), count))
}

fn parse_segment(header: &[u8]) -> Option<Segment> {
    (u32_at(header, 0) == SEGMENT_LOAD).then(|| Segment {
        offset: u64_at(header, 8),
        address: u64_at(header, 24),
        file_size: u64_at(header, 32),
        memory_size: u64_at(header, 40),
    })
}

/// Loads one segment and returns the first address behind it.
fn load_segment(
    memory: &GuestMemory,
    kernel: &File,
    length: u64,
    segment: Segment,
) -> Result<u64, KernelError> {
    let Segment {
        offset,
        address,
        file_size,
        memory_size,
    } = segment;
    if address < layout::HIGH_MEMORY {
        return Err(KernelError::TooLow(address));
    }
    if offset.checked_add(file_size).is_none_or(|end| end > length) {
        return Err(KernelError::Truncated("a segment"));
    }
    let size = memory_size.max(file_size);
    // What the file does not fill is zero already.
    memory::slice(memory, address, size).map_err(KernelError::DoesNotFit)?;

    copy(memory, kernel, offset, address, file_size)?;
    Ok(address + size)
}

fn copy(
    memory: &GuestMemory,
    kernel: &File,
    offset: u64,
    address: u64,
    size: u64,
) -> Result<(), KernelError> {
    if size == 0 {
        return Ok(());
    }
    let read = |error| KernelError::Read {
        file: "kernel",
        error,
    };
    let mut slice = memory::slice(memory, address, size).map_err(KernelError::DoesNotFit)?;
    let mut source = kernel;
    io::Seek::seek(&mut source, io::SeekFrom::Start(offset)).map_err(read)?;
    source
        .read_exact_volatile(&mut slice)
        .map_err(|error| read(io::Error::other(error)))
}

fn read_exact(
    kernel: &File,
    buffer: &mut [u8],
    offset: u64,
    what: &'static str,
) -> Result<(), KernelError> {
    kernel
        .read_exact_at(buffer, offset)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                KernelError::Truncated(what)
            }
            _ => KernelError::Read {
                file: "kernel",
                error,
            },
        })
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::{Bytes, GuestAddress};

    /// A kernel with one segment of `data` at 16 MiB.
    fn kernel(data: &[u8], memory_size: u64) -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[..4].copy_from_slice(&MAGIC);
        file[4] = CLASS_64;
        file[5] = LITTLE_ENDIAN;
        file[16..18].copy_from_slice(&TYPE_EXECUTABLE.to_le_bytes());
        file[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
        file[24..32].copy_from_slice(&0x100_0010u64.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        let segment = &mut file[64..120];
        segment[0..4].copy_from_slice(&SEGMENT_LOAD.to_le_bytes());
        segment[8..16].copy_from_slice(&4096u64.to_le_bytes());
        segment[24..32].copy_from_slice(&0x100_0000u64.to_le_bytes());
        segment[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
        segment[40..48].copy_from_slice(&memory_size.to_le_bytes());
        file.extend_from_slice(data);
        file
    }

    fn load_bytes(bytes: &[u8]) -> Result<(GuestMemory, LoadedKernel), KernelError> {
        let memory = memory::create(memory::MIN_MEMORY).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let loaded = super::super::load(&memory, file)?;
        Ok((memory, loaded))
    }

    #[test]
    fn a_segment_lands_at_its_address_and_the_rest_is_zero() {
        let data: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let (memory, loaded) = load_bytes(&kernel(&data, 20_000)).unwrap();
        assert_eq!(loaded.entry, 0x100_0010);
        assert_eq!(loaded.end, 0x100_0000 + 20_000);
        let mut seen = vec![1; 20_000];
        memory
            .read_slice(&mut seen, GuestAddress(0x100_0000))
            .unwrap();
        assert_eq!(&seen[..10_000], &data[..]);
        assert!(seen[10_000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn every_truncation_is_named_and_none_panics() {
        let whole = kernel(&[1; 9000], 9000);
        for length in [0, 3, 4, 63, 64, 100, 4096, 4097, whole.len() - 1] {
            let error = load_bytes(&whole[..length]).err().expect("an error");
            assert!(
                matches!(
                    error,
                    KernelError::UnknownFormat | KernelError::Truncated(_)
                ),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn other_machines_and_sizes_are_refused() {
        let mut arm = kernel(&[1; 10], 10);
        arm[18] = 183;
        assert!(matches!(
            load_bytes(&arm),
            Err(KernelError::WrongMachine(_))
        ));
        let huge = kernel(&[1; 10], 1 << 40);
        assert!(matches!(load_bytes(&huge), Err(KernelError::DoesNotFit(_))));
        let mut low = kernel(&[1; 10], 10);
        low[64 + 24..64 + 32].copy_from_slice(&0x1000u64.to_le_bytes());
        assert!(matches!(load_bytes(&low), Err(KernelError::TooLow(0x1000))));
    }
}
