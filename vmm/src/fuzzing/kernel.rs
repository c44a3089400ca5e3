//! Arbitrary files as kernel and initramfs.

use std::fs::File;

use crate::kernel::{load, load_initramfs, write_boot_params, write_command_line};
use crate::layout;
use crate::memory;

/// Memory of the guest in bytes.
const MEMORY: u64 = memory::MIN_MEMORY;

/// Loads `image` as a kernel and, when it is one, `initramfs` beside it, and writes the boot parameters.
pub fn kernel(image: File, initramfs: File, command_line: &str) {
    let memory = memory::create(MEMORY).unwrap();
    let size = initramfs.metadata().unwrap().len() + 7;
    let Ok(kernel) = load(&memory, image) else {
        return;
    };
    assert!(
        kernel.end <= MEMORY,
        "the kernel ends at {:#x}, outside of memory",
        kernel.end
    );
    let low_memory_end = MEMORY.min(layout::HOLE_START);
    let initramfs = load_initramfs(
        &memory,
        initramfs,
        |_| b"trailer".into(),
        kernel.end,
        low_memory_end,
    )
    .ok();
    if let Some(loaded) = initramfs {
        assert_eq!(loaded.size, size);
        assert!(loaded.address >= kernel.end, "over the kernel: {loaded:?}");
        assert!(
            loaded.address + size <= MEMORY,
            "outside of memory: {loaded:?}"
        );
    }
    write_boot_params(&memory, MEMORY, &kernel, initramfs).unwrap();
    let _ = write_command_line(&memory, command_line);
}
