//! Rings in memory, the driver's hold on them, and the loop of a queue worker.

use std::collections::HashMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{Epoll, EpollEvent};

use super::super::executor::VsockExecutor;
use super::super::packet::{HEADER_LEN, Header};
use super::super::switchboard::Limits;
use super::super::{QUEUE_RX, QUEUE_TX, Route, VsockConfig, executor};
use crate::virtio::{Chain, Completion, Events, Executor, GuestMemory};

pub(super) const GUEST: u64 = 3;
const QUEUE_SIZE: u16 = 64;
/// Bytes that belong to every descriptor.
pub(super) const BUFFER: usize = 4096;
const WRITE: u16 = 2;
const NEXT: u16 = 1;

/// The driver's view of one queue; descriptor `i` always has buffer `i`.
struct Ring {
    base: u64,
    queue: Queue,
    avail: u16,
    used: u16,
    free: Vec<u16>,
    /// Descriptors and lengths of each chain that the device has.
    chains: HashMap<u16, Vec<(u16, usize)>>,
}

impl Ring {
    fn new(base: u64) -> Ring {
        let mut queue = Queue::new(QUEUE_SIZE).unwrap();
        queue.set_desc_table_address(Some(base as u32), Some(0));
        queue.set_avail_ring_address(Some(base as u32 + 0x1000), Some(0));
        queue.set_used_ring_address(Some(base as u32 + 0x2000), Some(0));
        queue.set_ready(true);
        Ring {
            base,
            queue,
            avail: 0,
            used: 0,
            free: (0..QUEUE_SIZE).rev().collect(),
            chains: HashMap::new(),
        }
    }

    fn buffer(&self, descriptor: u16) -> GuestAddress {
        GuestAddress(self.base + 0x1_0000 + u64::from(descriptor) * BUFFER as u64)
    }

    /// Makes a chain of pieces of these lengths available; false when the ring is full.
    fn offer(&mut self, memory: &GuestMemory, lens: &[usize], flags: u16) -> bool {
        if self.free.len() < lens.len() {
            return false;
        }
        let chain = self.free.split_off(self.free.len() - lens.len());
        for (position, (&index, &len)) in chain.iter().zip(lens).enumerate() {
            let next = chain.get(position + 1).copied();
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            let address = self.buffer(index).0;
            let next = next.unwrap_or(0);
            self.store(
                memory,
                index,
                Descriptor::new(address, len as u32, flags, next),
            );
        }
        self.publish(memory, chain[0]);
        self.chains.insert(
            chain[0],
            chain.iter().copied().zip(lens.iter().copied()).collect(),
        );
        true
    }

    fn store(&self, memory: &GuestMemory, index: u16, descriptor: Descriptor) {
        let address = GuestAddress(self.base + u64::from(index) * 16);
        memory
            .write_obj(RawDescriptor::from(descriptor), address)
            .unwrap();
    }

    fn publish(&mut self, memory: &GuestMemory, head: u16) {
        let ring = self.base + 0x1004 + u64::from(self.avail % QUEUE_SIZE) * 2;
        memory.write_obj(head, GuestAddress(ring)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        memory
            .write_obj(self.avail, GuestAddress(self.base + 0x1002))
            .unwrap();
    }

    /// The next chain that the device returned: its pieces and the length that it reported.
    fn take(&mut self, memory: &GuestMemory) -> Option<(Vec<(u16, usize)>, u32)> {
        let used: u16 = memory.read_obj(GuestAddress(self.base + 0x2002)).unwrap();
        if used == self.used {
            return None;
        }
        let entry = self.base + 0x2004 + u64::from(self.used % QUEUE_SIZE) * 8;
        let head: u32 = memory.read_obj(GuestAddress(entry)).unwrap();
        let len: u32 = memory.read_obj(GuestAddress(entry + 4)).unwrap();
        self.used = self.used.wrapping_add(1);
        let chain = self
            .chains
            .remove(&(head as u16))
            .expect("a chain came back twice");
        self.free.extend(chain.iter().map(|(index, _)| index));
        Some((chain, len))
    }
}

/// The device, its driver's rings, and the worker between them.
pub(super) struct Machine {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) executor: VsockExecutor,
    rings: Vec<Ring>,
    epoll: Arc<Epoll>,
    /// Whether the driver gives receive buffers back to the device.
    pub(super) refill: bool,
    /// How the driver divides its receive buffers.
    receive_layout: Vec<usize>,
    /// Events that the worker saw.
    pub(super) wakeups: usize,
}

impl Machine {
    pub(super) fn new(routes: Vec<Route>, limits: Limits) -> Machine {
        let memory = crate::memory::map(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let config = VsockConfig {
            guest_cid: GUEST,
            routes,
        };
        let mut machine = Machine {
            memory: Arc::new(memory),
            executor: executor(config, limits).unwrap(),
            rings: Vec::new(),
            epoll: Arc::new(Epoll::new().unwrap()),
            refill: true,
            receive_layout: vec![BUFFER],
            wakeups: 0,
        };
        machine.start();
        machine
    }

    /// The driver takes the device into service.
    pub(super) fn start(&mut self) {
        self.memory
            .write_slice(&[0; 0x3000], GuestAddress(0))
            .unwrap();
        self.memory
            .write_slice(&[0; 0x3000], GuestAddress(1 << 20))
            .unwrap();
        self.rings = vec![Ring::new(0), Ring::new(1 << 20)];
        let events = Events::new(self.epoll.clone());
        self.executor.start(&self.memory, 0, &events).unwrap();
    }

    /// Gives the device all receive buffers that the driver has.
    pub(super) fn offer_receive_buffers(&mut self, at_most: usize) {
        let layout = self.receive_layout.clone();
        for _ in 0..at_most {
            if !self.rings[QUEUE_RX].offer(&self.memory, &layout, WRITE) {
                break;
            }
        }
    }

    /// Receive buffers that the device has.
    pub(super) fn receive_buffers(&self) -> usize {
        self.rings[QUEUE_RX].chains.len()
    }

    /// The driver divides the receive buffers that it offers from now on.
    pub(super) fn set_receive_layout(&mut self, layout: Vec<usize>) {
        self.receive_layout = layout;
    }

    /// Takes what the device gave without a look at it.
    pub(super) fn discard_received(&mut self) {
        while self.rings[QUEUE_RX].take(&self.memory).is_some() {}
        self.offer_receive_buffers(usize::MAX);
    }

    /// Sends `bytes`, divided into pieces of at most `piece` bytes; false when the queue is full.
    pub(super) fn transmit_bytes(&mut self, bytes: &[u8], piece: usize) -> bool {
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        let lens: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        let ring = &mut self.rings[QUEUE_TX];
        while ring.take(&self.memory).is_some() {}
        if ring.free.len() < lens.len() {
            return false;
        }
        // The buffers are filled before the chain is made available, which takes the last free descriptors.
        let chain = ring.free[ring.free.len() - lens.len()..].to_vec();
        for (&index, piece) in chain.iter().zip(&pieces) {
            self.memory.write_slice(piece, ring.buffer(index)).unwrap();
        }
        ring.offer(&self.memory, &lens, 0)
    }

    /// Sends a packet.
    pub(super) fn transmit(&mut self, header: &Header, payload: &[u8], piece: usize) -> bool {
        let mut bytes = header.encode().to_vec();
        bytes.extend(payload);
        self.transmit_bytes(&bytes, piece)
    }

    /// The next packet that the device gave to the driver.
    pub(super) fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (chain, len) = self.rings[QUEUE_RX].take(&self.memory)?;
        let mut bytes = Vec::new();
        for (index, len) in chain {
            let mut piece = vec![0; len];
            self.memory
                .read_slice(&mut piece, self.rings[QUEUE_RX].buffer(index))
                .unwrap();
            bytes.extend(piece);
        }
        assert!(
            len as usize <= bytes.len(),
            "the device reported more than the buffer holds"
        );
        bytes.truncate(len as usize);
        let payload = bytes.split_off(HEADER_LEN);
        let header = Header::decode(bytes.try_into().unwrap());
        assert_eq!(header.len as usize, payload.len());
        if self.refill {
            self.offer_receive_buffers(1);
        }
        Some((header, payload))
    }

    /// Runs the worker until it would sleep for longer than `patience`.
    pub(super) fn run(&mut self, patience: Duration) {
        let mut timeout = i32::try_from(patience.as_millis()).unwrap();
        self.serve();
        let mut events = [EpollEvent::default(); 16];
        loop {
            let count = self.epoll.wait(timeout, &mut events).unwrap();
            for event in &events[..count] {
                assert_ne!(event.data() & Events::EXECUTOR_BIT, 0);
                self.executor
                    .event(event.data() as u32, event.event_set())
                    .unwrap();
            }
            self.wakeups += count;
            if !self.serve() && count == 0 {
                return;
            }
            timeout = 0;
        }
    }

    /// Carries out what can be carried out; returns whether there was anything.
    fn serve(&mut self) -> bool {
        let memory = self.memory.clone();
        let mut progress = false;
        loop {
            let mut idle = true;
            for index in 0..self.rings.len() {
                while self.executor.ready(index) {
                    let queue = &mut self.rings[index].queue;
                    let Some(chain) = Chain::next_of(queue, &memory).unwrap() else {
                        break;
                    };
                    let head = chain.head_index();
                    let Completion::Done(len) =
                        self.executor.execute(&memory, index, chain).unwrap()
                    else {
                        panic!("it keeps no chains")
                    };
                    queue.add_used(&*memory, head, len).unwrap();
                    idle = false;
                    progress = true;
                }
            }
            if idle {
                return progress;
            }
        }
    }

    /// The driver resets the device and takes it into service again.
    pub(super) fn restart(&mut self) {
        self.executor.reset();
        self.start();
    }
}

/// A route for connections of the guest, and the host's ends of those connections.
pub(super) fn from_guest(port: u32) -> (Route, Receiver<UnixStream>) {
    let (sender, receiver) = channel();
    let accept = Box::new(move || {
        let (ours, theirs) = UnixStream::pair()?;
        // A test that waits in vain fails instead of waiting for ever.
        ours.set_read_timeout(Some(Duration::from_secs(20)))?;
        sender.send(ours).map_err(std::io::Error::other)?;
        Ok(theirs)
    });
    (Route::FromGuest { port, accept }, receiver)
}

/// A route for connections to the guest, and the path where host programs open them.
pub(super) fn to_guest(directory: &tempfile::TempDir, port: u32) -> (Route, std::path::PathBuf) {
    let path = directory.path().join(format!("{port}.sock"));
    let listener = UnixListener::bind(&path).unwrap();
    (
        Route::ToGuest {
            listener,
            port,
            observer: None,
        },
        path,
    )
}
