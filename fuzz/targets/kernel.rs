//! Files as a kernel, with an initramfs beside it: the first two bytes of the input say how large, in 4 KiB.
#![no_main]

use std::fs::File;
use std::io::Write;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&[low, high], image)) = input.split_first_chunk() else {
        return;
    };
    let mut kernel = tempfile::tempfile().expect("there is a place for temporary files");
    kernel.write_all(image).expect("and room for this one");
    let initramfs: File = tempfile::tempfile().expect("and another");
    let length = u64::from(u16::from_le_bytes([low, high])) * 4096;
    initramfs.set_len(length).expect("a file may have a hole");
    let command_line = String::from_utf8_lossy(&image[..image.len() / 8]);
    vmm::fuzzing::kernel(kernel, initramfs, &command_line);
});
