//! Entropy device, section 5.4: fills the driver's buffers with the host's random bytes.

use std::io;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{ReadVolatile, VolatileSlice, bitmap::BitmapSlice};

use super::{
    Chain, Completion, DeviceDescription, DeviceFailure, Executor, GuestMemory, Traffic,
    WorkerDescription,
};

const DEVICE_TYPE: u32 = 4;
/// The driver asks for few bytes at a time and keeps one request in flight.
const QUEUE_SIZE: u16 = 8;
/// A larger buffer is filled in part, which the specification allows; it keeps one request from holding the device.
const MAX_BYTES: usize = 64 * 1024;

/// An entropy device.
pub fn rng_device() -> DeviceDescription {
    DeviceDescription {
        device_type: DEVICE_TYPE,
        features: 0,
        config: Vec::new().into(),
        workers: vec![WorkerDescription {
            name: "rng".to_owned(),
            queue_sizes: vec![QUEUE_SIZE],
            system_calls: &[],
            executor: Box::new(Rng),
            gathers: false,
            helpers: Vec::new(),
        }],
        traffic: Traffic::default(),
    }
}

struct Rng;

impl Executor for Rng {
    fn execute(
        &mut self,
        memory: &GuestMemory,
        _queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure> {
        let mut written = 0usize;
        for descriptor in chain.filter(Descriptor::is_write_only) {
            let wanted = (descriptor.len() as usize).min(MAX_BYTES.saturating_sub(written));
            // A buffer outside of memory is the driver's mistake; what was filled before it counts.
            let Ok(mut slice) =
                vm_memory::GuestMemory::get_slice(memory, descriptor.addr(), wanted)
            else {
                break;
            };
            RandomBytes
                .read_exact_volatile(&mut slice)
                .map_err(|error| DeviceFailure {
                    reason: format!("the host gives no random bytes: {error}"),
                })?;
            written = written.saturating_add(wanted);
        }
        Ok(Completion::Done(u32::try_from(written).unwrap_or(u32::MAX)))
    }
}

/// getrandom(2), straight into guest memory.
struct RandomBytes;

impl ReadVolatile for RandomBytes {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buffer: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, vm_memory::VolatileMemoryError> {
        let guard = buffer.ptr_guard_mut();
        // SAFETY: the guard keeps `buffer.len()` bytes mapped and writable; nobody holds a reference to guest memory.
        let count = unsafe { libc::getrandom(guard.as_ptr().cast(), buffer.len(), 0) };
        usize::try_from(count)
            .map_err(|_| vm_memory::VolatileMemoryError::IOError(io::Error::last_os_error()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    fn execute(descriptor: Descriptor) -> (GuestMemory, u32) {
        let memory = crate::memory::map(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mock = MockSplitQueue::new(&memory, 16);
        let mut queue: virtio_queue::Queue = mock.create_queue().unwrap();
        mock.add_desc_chains(&[RawDescriptor::from(descriptor)], 0)
            .unwrap();
        let chain = Chain::next_of(&mut queue, &memory).unwrap().unwrap();
        let Completion::Done(used) = Rng.execute(&memory, 0, chain).unwrap() else {
            panic!("it waits for nothing")
        };
        (memory.clone(), used)
    }

    #[test]
    fn a_buffer_is_filled_with_different_bytes() {
        let (memory, used) = execute(Descriptor::new(0x1_0000, 256, VRING_DESC_F_WRITE as u16, 0));
        assert_eq!(used, 256);
        let mut bytes = [0u8; 256];
        memory
            .read_slice(&mut bytes, GuestAddress(0x1_0000))
            .unwrap();
        assert!(bytes.iter().any(|byte| *byte != bytes[0]));
    }

    #[test]
    fn hostile_buffers_get_nothing() {
        for (address, length, flags) in [
            (0x1_0000, 256, 0),
            (u64::MAX - 8, 256, VRING_DESC_F_WRITE),
            (2 << 20, 256, VRING_DESC_F_WRITE),
            (0x1_0000, 0, VRING_DESC_F_WRITE),
        ] {
            assert_eq!(
                execute(Descriptor::new(address, length, flags as u16, 0)).1,
                0
            );
        }
    }

    #[test]
    fn a_huge_buffer_is_filled_in_part() {
        let (_, used) = execute(Descriptor::new(
            0x1_0000,
            0x8_0000,
            VRING_DESC_F_WRITE as u16,
            0,
        ));
        assert_eq!(used as usize, MAX_BYTES);
    }
}
