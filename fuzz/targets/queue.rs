//! Descriptor chains and rings through the shared queue worker.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| vmm::fuzzing::queue(script));
