//! The transport, the worker and an executor together, driven through the registers as a driver would.
#![allow(clippy::arithmetic_side_effects)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::epoll::EpollEvent;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::ending::{Ending, EndingReporter, Endings};

const QUEUE_SIZE: u16 = 16;
const STATUS: u64 = 0x70;
const NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const CONFIG_GENERATION: u64 = 0xfc;
/// Longer than any thread on a busy machine needs; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fills the writable part with the number of the request; a readable byte 0xee makes it fail, 0xdd panic.
struct Numbering {
    count: u8,
    done: Sender<u8>,
}

impl Executor for Numbering {
    fn execute(
        &mut self,
        memory: &GuestMemory,
        _queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure> {
        let mut written = 0;
        for descriptor in chain {
            if descriptor.is_write_only() {
                if memory.write_obj(self.count, descriptor.addr()).is_ok() {
                    written += 1;
                }
                continue;
            }
            match memory.read_obj::<u8>(descriptor.addr()) {
                Ok(0xee) => {
                    return Err(DeviceFailure {
                        reason: "asked to fail".to_owned(),
                    });
                }
                // As a panic, but without the hook, whose backtrace takes more system calls than the thread has.
                Ok(0xdd) => std::panic::resume_unwind(Box::new("asked to panic")),
                _ => {}
            }
        }
        self.count += 1;
        self.done.send(self.count).unwrap();
        Ok(Completion::Done(written))
    }

    fn reset(&mut self) {
        self.count = 0;
    }
}

struct Rig {
    memory: Arc<GuestMemory>,
    transport: MmioTransport,
    interrupt: Arc<Interrupt>,
    config: ConfigSpace,
    done: Receiver<u8>,
    endings: Endings,
}

impl Rig {
    fn new() -> Rig {
        let memory = Arc::new(crate::memory::map(&[(GuestAddress(0), 1 << 20)]).unwrap());
        let interrupt = Arc::new(Interrupt::of_lone_device().unwrap());
        let (ending, endings) = EndingReporter::new();
        let (sender, done) = channel();
        let description = WorkerDescription {
            name: "numbering".to_owned(),
            queue_sizes: vec![QUEUE_SIZE],
            system_calls: &[],
            executor: Box::new(Numbering {
                count: 0,
                done: sender,
            }),
            gathers: false,
            helpers: Vec::new(),
        };
        let worker = Worker::spawn(
            description,
            Arc::clone(&memory),
            Arc::clone(&interrupt),
            ending,
        )
        .unwrap();
        let config = ConfigSpace::new(vec![1, 2, 3]);
        let transport = MmioTransport::new(Parts {
            device_type: 42,
            features: 1,
            config: config.clone(),
            queue_sizes: vec![QUEUE_SIZE],
            kicks: vec![Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())],
            interrupt: Arc::clone(&interrupt),
            memory: Arc::clone(&memory),
            workers: vec![worker],
        });
        Rig {
            memory,
            transport,
            interrupt,
            config,
            done,
            endings,
        }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Reset, features, one queue where the mock has it, DRIVER_OK.
    fn start(&mut self, mock: &MockSplitQueue<'_, GuestMemory>) {
        self.write(STATUS, 0);
        self.write(STATUS, 1);
        self.write(STATUS, 3);
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(STATUS, 11);
        assert_eq!(self.read(STATUS), 11, "VERSION_1 alone is enough");
        self.write(0x30, 0);
        self.write(0x38, u32::from(QUEUE_SIZE));
        for (offset, address) in [
            (0x80, mock.desc_table_addr()),
            (0x90, mock.avail_addr()),
            (0xa0, mock.used_addr()),
        ] {
            self.write(offset, address.raw_value() as u32);
            self.write(offset + 4, (address.raw_value() >> 32) as u32);
        }
        self.write(0x44, 1);
        self.write(STATUS, 15);
    }

    fn used(&self, mock: &MockSplitQueue<'_, GuestMemory>) -> u16 {
        self.memory
            .read_obj(mock.used_addr().unchecked_add(2))
            .unwrap()
    }
}

fn request(address: u64) -> [RawDescriptor; 2] {
    [
        Descriptor::new(address, 1, VRING_DESC_F_NEXT as u16, 1).into(),
        Descriptor::new(address + 1, 1, VRING_DESC_F_WRITE as u16, 0).into(),
    ]
}

#[test]
fn a_request_is_carried_out_given_back_and_announced() {
    let mut rig = Rig::new();
    let memory = Arc::clone(&rig.memory);
    memory.write_obj(0x77u8, GuestAddress(0x8_0001)).unwrap();
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    rig.start(&mock);
    mock.add_desc_chains(&request(0x8_0000), 0).unwrap();
    rig.write(NOTIFY, 0);
    assert_eq!(rig.done.recv_timeout(PATIENCE), Ok(1));
    rig.interrupt.line().read_when_raised();
    assert_eq!(rig.used(&mock), 1);
    assert_eq!(
        rig.memory.read_obj::<u8>(GuestAddress(0x8_0001)).unwrap(),
        0
    );
    assert_eq!(rig.read(INTERRUPT_STATUS), 1);
    // KVM swallows the answer, so nothing depends on it.
    rig.write(0x64, 1);
    assert_eq!(rig.read(INTERRUPT_STATUS), 1);
    rig.write(STATUS, 0);
    assert_eq!(rig.read(INTERRUPT_STATUS), 0);
}

#[test]
fn a_worker_that_served_a_kick_sleeps_until_the_next() {
    let memory = Arc::new(crate::memory::map(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    let (sender, done) = channel();
    let executor = Numbering {
        count: 0,
        done: sender,
    };
    let interrupt = Arc::new(Interrupt::of_lone_device().unwrap());
    let (worker, mut state) =
        Worker::prepare(1, Box::new(executor), Arc::clone(&memory), interrupt).unwrap();
    let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let queue = WorkerQueue {
        queue: mock.create_queue().unwrap(),
        kick: Arc::clone(&kick),
    };
    worker.start(vec![Some(queue)], 0);
    assert_eq!(state.turn(-1).unwrap(), Some(false));
    for number in 1..=3 {
        mock.add_desc_chains(&request(0x8_0000), 2 * (number - 1))
            .unwrap();
        kick.write(1).unwrap();
        assert_eq!(state.turn(-1).unwrap(), Some(false), "nothing is left");
        assert_eq!(done.try_recv(), Ok(number as u8));
        // Were the kick reported again, a wait would be over at once, and the thread would never sleep.
        let mut events = [EpollEvent::default(); 4];
        assert_eq!(state.epoll.wait(0, &mut events).unwrap(), 0);
    }
}

#[test]
fn buffers_that_were_there_before_the_start_need_no_kick() {
    let mut rig = Rig::new();
    let memory = Arc::clone(&rig.memory);
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    mock.add_desc_chains(&request(0x8_0000), 0).unwrap();
    rig.start(&mock);
    assert_eq!(rig.done.recv_timeout(PATIENCE), Ok(1));
}

#[test]
fn a_failing_device_asks_for_a_reset_and_works_again_after_it() {
    let mut rig = Rig::new();
    let memory = Arc::clone(&rig.memory);
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    memory.write_obj(0xeeu8, GuestAddress(0x8_0000)).unwrap();
    mock.add_desc_chains(&request(0x8_0000), 0).unwrap();
    rig.start(&mock);
    // The failed request comes back first; a configuration interrupt tells the driver of the failure.
    while rig.read(INTERRUPT_STATUS) & 2 == 0 {
        rig.interrupt.line().read_when_raised();
    }
    assert_eq!(rig.read(STATUS) & 64, 64);

    rig.write(STATUS, 0);
    assert_eq!(rig.read(STATUS), 0);
    memory.write_obj(0u8, GuestAddress(0x8_0000)).unwrap();
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    mock.add_desc_chains(&request(0x8_0000), 0).unwrap();
    rig.start(&mock);
    assert_eq!(rig.done.recv_timeout(PATIENCE), Ok(1));
}

#[test]
fn an_available_index_out_of_range_breaks_the_device_and_not_the_monitor() {
    let mut rig = Rig::new();
    let memory = Arc::clone(&rig.memory);
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    memory
        .write_obj(QUEUE_SIZE + 1, mock.avail_addr().unchecked_add(2))
        .unwrap();
    rig.start(&mock);
    rig.interrupt.line().read_when_raised();
    assert_eq!(rig.read(STATUS) & 64, 64);
    assert!(rig.endings.try_recv().is_err());
}

#[test]
fn a_panicking_device_ends_the_machine() {
    let mut rig = Rig::new();
    let memory = Arc::clone(&rig.memory);
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    memory.write_obj(0xddu8, GuestAddress(0x8_0000)).unwrap();
    mock.add_desc_chains(&request(0x8_0000), 0).unwrap();
    rig.start(&mock);
    assert!(matches!(
        rig.endings.recv_timeout(PATIENCE),
        Ok(Ending::Failed { .. })
    ));
    // And a reset of its device is not waited for in vain.
    rig.write(STATUS, 0);
}

#[test]
fn a_queue_outside_of_memory_asks_for_a_reset() {
    let mut rig = Rig::new();
    let memory = Arc::clone(&rig.memory);
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    rig.start(&mock);
    rig.write(STATUS, 0);
    for step in [1, 3] {
        rig.write(STATUS, step);
    }
    rig.write(0x24, 1);
    rig.write(0x20, 1);
    rig.write(STATUS, 11);
    rig.write(0x84, 1);
    rig.write(0x44, 1);
    rig.write(STATUS, 15);
    assert_eq!(rig.read(STATUS) & 64, 64);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut rig = Rig::new();
    rig.write(STATUS, 1);
    rig.write(STATUS, 3);
    rig.write(0x24, 1);
    rig.write(0x20, 1);
    rig.write(0x24, 0);
    rig.write(0x20, 2);
    rig.write(STATUS, 11);
    assert_eq!(rig.read(STATUS), 3);
}

#[test]
fn registers_read_as_the_specification_says() {
    let mut rig = Rig::new();
    assert_eq!(rig.read(0), 0x7472_6976);
    assert_eq!(rig.read(4), 2);
    assert_eq!(rig.read(8), 42);
    assert_eq!(rig.read(0x34), u32::from(QUEUE_SIZE));
    rig.write(0x30, 7);
    assert_eq!(rig.read(0x34), 0, "a queue that is not there");
    assert_eq!(rig.read(0xb0), u32::MAX, "no shared memory");
    let mut config = [0; 4];
    rig.transport.read(0x101, &mut config);
    assert_eq!(config, [2, 3, 0xff, 0xff]);
}

#[test]
fn a_changed_configuration_is_announced_and_has_another_generation() {
    let mut rig = Rig::new();
    let memory = Arc::clone(&rig.memory);
    let mock = MockSplitQueue::new(&*memory, QUEUE_SIZE);
    let before = rig.read(CONFIG_GENERATION);
    rig.config.change(1, &[7]);
    assert_eq!(rig.read(INTERRUPT_STATUS), 0, "no driver is ready");
    rig.start(&mock);
    let ready = rig.read(CONFIG_GENERATION);
    rig.config.change(2, &[9, 9, 9]);
    assert_eq!(rig.read(INTERRUPT_STATUS), 3);
    rig.interrupt.line().read_when_raised();
    let mut config = [0; 4];
    rig.transport.read(0x100, &mut config);
    assert_eq!(config, [1, 7, 9, 0xff]);
    rig.write(0x64, 3);
    assert_eq!(rig.read(INTERRUPT_STATUS), 1);
    // Another one each time, also across a reset (section 2.5.1).
    rig.write(STATUS, 0);
    let after = rig.read(CONFIG_GENERATION);
    assert!(before != ready && ready != after && before != after);
}

proptest! {
    /// Whatever a guest does to the registers, at whatever width, the monitor stays.
    #[test]
    fn no_access_panics(accesses in proptest::collection::vec(
        (any::<bool>(), prop_oneof![0u64..0x110, 0u64..0x1000], proptest::collection::vec(any::<u8>(), 0..9)), 1..200,
    )) {
        let mut rig = Rig::new();
        for (write, offset, mut data) in accesses {
            if write {
                rig.transport.write(offset, &data);
            } else {
                rig.transport.read(offset, &mut data);
            }
        }
        prop_assert!(rig.endings.try_recv().is_err());
    }
}

/// Waits for an interrupt.
trait ReadWhenRaised {
    fn read_when_raised(&self);
}

impl ReadWhenRaised for EventFd {
    fn read_when_raised(&self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::{AsRawFd, BorrowedFd};
        // SAFETY: the event outlives the call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) };
        let ready = poll(
            &mut [PollFd::new(fd, PollFlags::POLLIN)],
            PollTimeout::try_from(PATIENCE).unwrap(),
        );
        assert_eq!(ready, Ok(1), "no interrupt came");
        self.read().unwrap();
    }
}
