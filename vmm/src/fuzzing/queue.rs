//! Arbitrary rings through the worker.

use super::choices::Choices;
use super::driver::{BUFFERS, Driver, Promises, buffer};
use super::echo::Echo;
use crate::virtio::rng_device;
use vm_memory::{Bytes, GuestAddress};

/// Plays a script of arbitrary chains and rings against the shared queue worker, with a device that echoes or with the
/// entropy device.
pub fn queue(script: &[u8]) {
    let mut choices = Choices::new(script);
    let shape = choices.byte();
    let promises = Promises {
        always_ready: true,
        exact: true,
    };
    let mut driver = if shape & 1 == 0 {
        Driver::new(2, Box::new(Echo), promises)
    } else {
        let worker = rng_device().workers.remove(0);
        Driver::new(1, worker.executor, promises)
    };
    let queues = if shape & 1 == 0 { 2 } else { 1 };
    let size = 1 << (shape >> 1 & 7).min(6);
    let event_idx = shape & 0x10 != 0;
    driver.start(size, event_idx);
    while !choices.is_over() {
        let step = choices.byte();
        let queue = usize::from(step >> 4) % queues;
        match step & 15 {
            0..7 => driver.offer_any(queue, &mut choices),
            7 => driver.scribble(queue, &mut choices),
            8 | 9 => {
                let address = buffer(choices.byte());
                let text = choices.bytes(usize::from(step));
                driver
                    .memory
                    .write_slice(text, GuestAddress(address))
                    .unwrap();
            }
            10 => driver.start(size, event_idx),
            _ => {
                driver.settle();
                if driver.needs_reset() && step & 0x80 != 0 {
                    driver.start(size, event_idx);
                }
            }
        }
    }
    driver.settle();
    // Whatever happened, the device works again after a reset.
    driver.start(size, event_idx);
    assert!(driver.offer(0, &[(BUFFERS, 4, true)]));
    assert_eq!(driver.settle().len(), 1);
}
