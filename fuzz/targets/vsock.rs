//! Packets, chains and host programs around the vsock device.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| vmm::fuzzing::vsock(script));
