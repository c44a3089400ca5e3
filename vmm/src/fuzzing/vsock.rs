//! Arbitrary packets and chains through the vsock device, while host programs come and go.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use vm_memory::{Bytes, GuestAddress};

use super::choices::Choices;
use super::driver::{BUFFERS, Driver, Promises};
use super::taps::{Taps, watcher};
use super::witness::Executed;
use crate::virtio::vsock::{Route, VsockConfig, vsock_device};

const GUEST: u64 = 3;
const HOST: u64 = 2;
const HEADER: usize = 44;
const PORT: u32 = 1024;
const QUEUE_SIZE: u16 = 32;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const PACKETS: u64 = BUFFERS;
const RECEIVED: u64 = BUFFERS + 0x1_0000;

/// Plays a script of packets, chains and host programs against the vsock device.
pub fn vsock(script: &[u8]) {
    let mut choices = Choices::new(script);
    let mut scene = Scene::new();
    let event_idx = choices.byte() & 1 != 0;
    scene.driver.start(QUEUE_SIZE, event_idx);
    while !choices.is_over() {
        let step = choices.byte();
        match step & 15 {
            0..6 => scene.transmit(&mut choices),
            6..9 => scene.offer_receive_buffers(&mut choices),
            9 => scene
                .driver
                .offer_any(usize::from(step >> 4) % 3, &mut choices),
            10 => scene
                .driver
                .scribble(usize::from(step >> 4) % 3, &mut choices),
            11 => scene.driver.start(QUEUE_SIZE, event_idx),
            _ => scene.host(&mut choices),
        }
        scene.settle();
        if scene.driver.needs_reset() {
            scene.driver.start(QUEUE_SIZE, event_idx);
        }
    }
    scene.driver.start(QUEUE_SIZE, event_idx);
    assert_eq!(
        scene.taps.count(),
        0,
        "a connection is over, its tap is not"
    );
    scene.assert_alive();
}

/// The device, and the host programs at its other side.
struct Scene {
    driver: Driver,
    accepted: Receiver<UnixStream>,
    listener: SocketAddr,
    hosts: Vec<UnixStream>,
    /// They watch the connections of the listener.
    taps: Taps,
    /// Where the next packet and receive buffer go.
    next: u64,
}

impl Scene {
    fn new() -> Scene {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (sender, accepted) = channel();
        let accept = Box::new(move || {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            sender.send(ours).map_err(std::io::Error::other)?;
            Ok(theirs)
        });
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("msb-vsock-{}-{count}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let (watcher, taps) = watcher().unwrap();
        let routes = vec![
            Route::FromGuest { port: PORT, accept },
            Route::ToGuest {
                listener,
                port: PORT,
                observer: Some(Box::new(watcher)),
            },
        ];
        let config = VsockConfig {
            guest_cid: GUEST,
            routes,
        };
        let worker = vsock_device(config).unwrap().workers.remove(0);
        let promises = Promises {
            always_ready: false,
            exact: true,
        };
        Scene {
            driver: Driver::new(3, worker.executor, promises),
            accepted,
            listener: address,
            hosts: Vec::new(),
            taps,
            next: 0,
        }
    }

    /// Lets the device work, and checks the form of the packets that it gave.
    fn settle(&mut self) -> Vec<Executed> {
        let executed = self.driver.settle();
        for chain in &executed {
            assert!(chain.length.is_some(), "no chain stops the device");
            if chain.queue == RECEIVE {
                check_packet(chain);
            } else {
                assert_eq!(chain.length, Some(0));
            }
        }
        self.hosts.extend(self.accepted.try_iter());
        executed
    }

    /// A packet that is right in part.
    fn transmit(&mut self, choices: &mut Choices<'_>) {
        let length = usize::from(choices.byte());
        let payload = choices.bytes(length).to_vec();
        let header = Fields {
            src_cid: if choices.rarely(16) {
                choices.long()
            } else {
                GUEST
            },
            dst_cid: if choices.rarely(16) {
                choices.long()
            } else {
                HOST
            },
            src_port: u32::from(choices.byte() % 4) + 5000,
            dst_port: if choices.rarely(8) {
                choices.word()
            } else {
                PORT
            },
            length: if choices.rarely(8) {
                choices.word()
            } else {
                payload.len() as u32
            },
            kind: if choices.rarely(16) {
                choices.short()
            } else {
                1
            },
            operation: u16::from(choices.byte() % 9),
            flags: u32::from(choices.byte() % 4),
            buffer: choices.one_of(&[1 << 18, 4096, 1, 0, u32::MAX, 64]),
            forwarded: match choices.byte() {
                255 => choices.word(),
                small => u32::from(small),
            },
        };
        self.send(header, &payload, choices.below(60));
    }

    /// Puts a packet into the transmit queue, cut at `cut`.
    fn send(&mut self, header: Fields, payload: &[u8], cut: usize) {
        let mut bytes = header.encode();
        bytes.extend(payload);
        let address = PACKETS + self.next % 64 * 0x200;
        self.next += 1;
        let memory = &self.driver.memory;
        memory.write_slice(&bytes, GuestAddress(address)).unwrap();
        let (cut, length) = (cut as u32, bytes.len() as u32);
        let mut pieces = vec![(address, cut, false)];
        pieces.push((address + u64::from(cut), length - cut.min(length), false));
        pieces.retain(|(_, length, _)| *length > 0);
        self.driver.offer(TRANSMIT, &pieces);
    }

    fn offer_receive_buffers(&mut self, choices: &mut Choices<'_>) {
        let length = choices.one_of(&[4096, 44, 45, 43, 100, 0, 8192]);
        for _ in 0..choices.below(8) + 1 {
            let address = RECEIVED + self.next % 8 * 0x1000;
            self.next += 1;
            let pieces = [(address, 20, true), (address + 20, length, true)];
            self.driver.offer(RECEIVE, &pieces);
        }
    }

    /// A host program does something.
    fn host(&mut self, choices: &mut Choices<'_>) {
        let deed = choices.byte();
        if deed.is_multiple_of(7) {
            self.taps.resume();
        }
        if deed.is_multiple_of(5) && self.hosts.len() < 8 {
            let host = UnixStream::connect_addr(&self.listener);
            // It fails when the backlog is full.
            self.hosts.extend(host);
        }
        if self.hosts.is_empty() {
            return;
        }
        let which = usize::from(deed >> 4) % self.hosts.len();
        let host = &mut self.hosts[which];
        host.set_nonblocking(true).unwrap();
        match deed % 5 {
            1 => drop(host.write(&vec![7; usize::from(choices.short())])),
            2 => drop(host.read(&mut vec![0; usize::from(choices.short())])),
            3 => drop(host.shutdown(choices.one_of(&[
                std::net::Shutdown::Read,
                std::net::Shutdown::Write,
                std::net::Shutdown::Both,
            ]))),
            4 => drop(self.hosts.remove(which)),
            _ => {}
        }
    }

    /// The device still serves a guest that behaves.
    fn assert_alive(&mut self) {
        self.settle();
        self.hosts.clear();
        let header = |operation, length| Fields {
            src_cid: GUEST,
            dst_cid: HOST,
            src_port: 9999,
            dst_port: PORT,
            length,
            kind: 1,
            operation,
            flags: 0,
            buffer: 4096,
            forwarded: 0,
        };
        self.send(header(1, 0), &[], 44);
        self.settle();
        self.send(header(5, 5), b"alive", 44);
        self.settle();
        let mut bytes = [0; 5];
        let host = self.hosts.last_mut().expect("the connection is accepted");
        host.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"alive");
    }
}

/// A packet to the guest is whole, and from the host to it.
fn check_packet(chain: &Executed) {
    let length = chain.length.unwrap_or(0) as usize;
    // The payload may have been written over the header.
    if length == 0 || chain.overlaps() {
        return;
    }
    assert!(length >= HEADER, "half a header");
    let header = &chain.contents[..HEADER];
    let number = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&header[at..at + length]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!((number(0, 8), number(8, 8)), (HOST, GUEST));
    assert_eq!(number(24, 4) as usize, length - HEADER);
    assert!((1..=7).contains(&number(30, 2)), "an unknown operation");
}

/// A header, section 5.10.6.
struct Fields {
    src_cid: u64,
    dst_cid: u64,
    src_port: u32,
    dst_port: u32,
    length: u32,
    kind: u16,
    operation: u16,
    flags: u32,
    buffer: u32,
    forwarded: u32,
}

impl Fields {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.operation.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buffer.to_le_bytes());
        bytes.extend(self.forwarded.to_le_bytes());
        bytes
    }
}
