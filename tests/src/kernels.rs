//! Kernels that do on command what no kernel should.

use std::fs;
use std::path::{Path, PathBuf};

use crate::product;

/// What the kernel says when it is asked to crash, by `echo c >/proc/sysrq-trigger`.
const CRASH: &[u8] = b"sysrq triggered crash\n\0";

/// `cli; jmp $`
const CIRCLE: [u8; 3] = [0xfa, 0xeb, 0xfe];

/// Makes a kernel in `folder` that is the guest's, but where it is asked to crash, its processor goes in a circle with interrupts
/// off, so that nothing in the guest can do anything about it.
///
/// # Panics
/// When the place where it crashes is not found.
pub fn hanging(folder: &Path) -> PathBuf {
    let mut kernel = fs::read(product::kernel()).unwrap();
    let message = address(&kernel, find(&kernel, CRASH));
    // mov rdi, message: the argument of panic().
    let mut call = vec![0x48, 0xc7, 0xc7];
    call.extend(&message.to_le_bytes()[..4]);
    let place = find(&kernel, &call);
    kernel[place..place + CIRCLE.len()].copy_from_slice(&CIRCLE);
    let path = folder.join("hanging");
    fs::write(&path, kernel).unwrap();
    path
}

/// Where the only `bytes` are.
#[track_caller]
fn find(kernel: &[u8], bytes: &[u8]) -> usize {
    let place = first(kernel, bytes).expect("it is there");
    let behind = &kernel[place + 1..];
    assert!(first(behind, bytes).is_none(), "it is there more than once");
    place
}

/// Where the first `bytes` are. By the C library, because a loop that is not optimised takes seconds.
fn first(kernel: &[u8], bytes: &[u8]) -> Option<usize> {
    let start = kernel.as_ptr();
    // SAFETY: memmem(3) reads as many bytes as it is told, which are those of the two slices.
    let found = unsafe {
        libc::memmem(
            start.cast(),
            kernel.len(),
            bytes.as_ptr().cast(),
            bytes.len(),
        )
    };
    (!found.is_null()).then(|| found.addr() - start.addr())
}

/// The address at which the byte at `offset` of an ELF64 file is in memory.
fn address(file: &[u8], offset: usize) -> u64 {
    let number = |place: usize| u64::from_le_bytes(file[place..place + 8].try_into().unwrap());
    let short = |place: usize| usize::from(u16::from_le_bytes([file[place], file[place + 1]]));
    let headers = usize::try_from(number(32)).unwrap();
    (0..short(56))
        .map(|index| headers + index * short(54))
        .find_map(|header| {
            let within = (offset as u64).checked_sub(number(header + 8))?;
            (within < number(header + 32)).then(|| number(header + 16) + within)
        })
        .expect("it is loaded")
}
