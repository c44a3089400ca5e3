//! The driver's side of the device for tests: encodes requests, puts them into a queue, decodes replies.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{
    AttrOut, CreateIn, Dirent, EntryOut, ForgetIn, FsOptions, GetattrIn, InHeader, InitIn, InitOut,
    Opcode, OpenIn, OpenOut, OutHeader, ReadIn, ReleaseIn, WriteIn, WriteOut,
};
use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{GuestMemory, exports_device, fs_device};
use crate::fs::{Exports, FolderOptions, SharedFolder};
use crate::virtio::{Chain, Completion, DeviceDescription, Traffic};

/// Where requests and replies lie in the memory of the guest; the ring is below.
const REQUEST: u64 = 1 << 20;
const REPLY: u64 = 4 << 20;
const MEMORY: usize = 8 << 20;

/// Node ID of the root.
pub(super) const ROOT: u64 = 1;

/// The workers of the device.
pub(super) const HIGH_PRIORITY: usize = 0;
pub(super) const REQUESTS: usize = 1;

/// What a reply holds after its header, or the error number in it.
pub(super) type Reply = Result<Vec<u8>, i32>;

/// A guest that talks to the device.
pub(super) struct Driver {
    pub(super) memory: GuestMemory,
    pub(super) device: DeviceDescription,
    /// User and group for the next requests.
    pub(super) caller: (u32, u32),
    /// Worker that gets the requests of the methods below.
    request_worker: usize,
    unique: u64,
}

impl Driver {
    /// A device for `folder` to which nothing was said yet.
    pub(super) fn silent(folder: SharedFolder) -> Driver {
        Driver::of_device(fs_device("tag", folder).unwrap())
    }

    /// A device for `exports`, after FUSE_INIT.
    pub(super) fn of_exports(exports: &Exports) -> Driver {
        let mut driver = Driver::of_device(exports_device("tag", exports.clone()).unwrap());
        driver.init(FsOptions::all());
        driver
    }

    fn of_device(device: DeviceDescription) -> Driver {
        Driver {
            memory: crate::memory::map(&[(GuestAddress(0), MEMORY as u64)]).unwrap(),
            device,
            caller: (0, 0),
            request_worker: REQUESTS,
            unique: 1,
        }
    }

    /// A device for the folder at `path`, after FUSE_INIT as Linux 6.12 sends it but without `without`.
    pub(super) fn new(path: &Path, options: FolderOptions) -> Driver {
        Driver::initialised(SharedFolder::open(path, options).unwrap())
    }

    /// The same for a folder that is open already.
    pub(super) fn initialised(folder: SharedFolder) -> Driver {
        let mut driver = Driver::silent(folder);
        driver.init(FsOptions::all());
        driver
    }

    /// What the device has moved.
    pub(super) fn traffic(&self) -> &Traffic {
        &self.device.traffic
    }

    /// Another driver for the queue with high priority of the same device, for another thread. This one is left with
    /// the other.
    pub(super) fn second_queue(&mut self) -> Driver {
        let workers = self.device.workers.drain(..1).collect();
        self.request_worker = 0;
        Driver {
            memory: crate::memory::map(&[(GuestAddress(0), MEMORY as u64)]).unwrap(),
            device: DeviceDescription {
                config: self.device.config.clone(),
                workers,
                traffic: self.device.traffic.clone(),
                ..self.device
            },
            caller: self.caller,
            request_worker: 0,
            unique: 1,
        }
    }

    /// Begins a session, offering `capable`.
    pub(super) fn init(&mut self, capable: FsOptions) -> InitOut {
        let fields = InitIn {
            major: 7,
            minor: 40,
            max_readahead: 1 << 17,
            flags: capable.bits() as u32,
        };
        let mut body = fields.as_slice().to_vec();
        body.extend_from_slice(&((capable.bits() >> 32) as u32).to_le_bytes());
        body.resize(64, 0);
        let reply = self.call(Opcode::Init, 0, &body, 256).unwrap();
        decode(&reply)
    }

    /// A request with a correct header.
    pub(super) fn request(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 2;
        let header = InHeader {
            len: (size_of::<InHeader>() + body.len()) as u32,
            opcode,
            unique: self.unique,
            nodeid: node,
            uid: self.caller.0,
            gid: self.caller.1,
            pid: 1,
            padding: 0,
        };
        [header.as_slice(), body].concat()
    }

    /// Sends `bytes` as a request with room for a reply of `room` bytes, and returns the reply as far as it was written.
    pub(super) fn send(&mut self, worker: usize, bytes: &[u8], room: usize) -> Vec<u8> {
        // As Linux does: the header and the rest of either side in buffers of their own.
        let mut descriptors = Vec::new();
        for (begin, length) in cut(bytes.len(), size_of::<InHeader>()) {
            let address = REQUEST + begin as u64;
            descriptors.push(Descriptor::new(address, length as u32, 0, 0));
        }
        for (begin, length) in cut(room, size_of::<OutHeader>()) {
            let address = REPLY + begin as u64;
            let flags = VRING_DESC_F_WRITE as u16;
            descriptors.push(Descriptor::new(address, length as u32, flags, 0));
        }
        self.memory
            .write_slice(bytes, GuestAddress(REQUEST))
            .unwrap();
        let used = self.send_descriptors(worker, &descriptors);
        assert!(used as usize <= room, "used length {used} of {room}");
        let mut reply = vec![0; used as usize];
        self.memory
            .read_slice(&mut reply, GuestAddress(REPLY))
            .unwrap();
        reply
    }

    /// Sends a chain of `descriptors` and returns the used length.
    pub(super) fn send_descriptors(&mut self, worker: usize, descriptors: &[Descriptor]) -> u32 {
        let descriptors: Vec<RawDescriptor> = descriptors
            .iter()
            .copied()
            .map(RawDescriptor::from)
            .collect();
        let queue = MockSplitQueue::new(&self.memory, 16);
        let chain = queue.build_desc_chain(&descriptors).unwrap();
        let chain = Chain::new(&self.memory, chain, queue.desc_table_addr(), 16);
        let executor = &mut self.device.workers[worker].executor;
        let Completion::Done(used) = executor.execute(&self.memory, 0, chain).unwrap() else {
            panic!("it keeps no chains")
        };
        used
    }

    /// Carries out a request and checks the form of the reply.
    pub(super) fn call(&mut self, opcode: Opcode, node: u64, body: &[u8], room: usize) -> Reply {
        let request = self.request(opcode as u32, node, body);
        let room = size_of::<OutHeader>() + room;
        let reply = self.send(self.request_worker, &request, room);
        let (header, rest) = reply.split_at(size_of::<OutHeader>());
        let header: OutHeader = decode(header);
        assert_eq!(header.len as usize, reply.len());
        assert_eq!(header.unique, self.unique);
        if header.error == 0 {
            return Ok(rest.to_vec());
        }
        assert!(rest.is_empty(), "an error has no more than a header");
        Err(-header.error)
    }

    /// Carries out a request whose body is `fields` and then `names`, each ended by a NUL.
    pub(super) fn ask(
        &mut self,
        opcode: Opcode,
        node: u64,
        fields: &[u8],
        names: &[impl AsRef<OsStr>],
    ) -> Reply {
        let mut body = fields.to_vec();
        for name in names {
            body.extend_from_slice(name.as_ref().as_bytes());
            body.push(0);
        }
        self.call(opcode, node, &body, 1 << 17)
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &str) -> Result<EntryOut, i32> {
        let reply = self.ask(Opcode::Lookup, parent, &[], &[name])?;
        Ok(decode(&reply))
    }

    /// Node ID of the file at `path` beneath the root, looked up name by name.
    pub(super) fn walk(&mut self, path: &str) -> u64 {
        path.split('/')
            .fold(ROOT, |node, name| self.lookup(node, name).unwrap().nodeid)
    }

    pub(super) fn getattr(&mut self, node: u64) -> Result<AttrOut, i32> {
        let fields = GetattrIn::default();
        let reply = self.call(Opcode::Getattr, node, fields.as_slice(), 256)?;
        Ok(decode(&reply))
    }

    pub(super) fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        Ok(self.open_whole(node, flags)?.fh)
    }

    /// As `open`, with all that is said of the open file.
    pub(super) fn open_whole(&mut self, node: u64, flags: i32) -> Result<OpenOut, i32> {
        let fields = OpenIn {
            flags: flags as u32,
            fuse_flags: 0,
        };
        let reply = self.call(Opcode::Open, node, fields.as_slice(), 256)?;
        Ok(decode::<OpenOut>(&reply))
    }

    pub(super) fn opendir(&mut self, node: u64) -> Result<u64, i32> {
        Ok(self.opendir_whole(node)?.fh)
    }

    /// As `opendir`, with all that is said of the open directory.
    pub(super) fn opendir_whole(&mut self, node: u64) -> Result<OpenOut, i32> {
        let fields = OpenIn::default();
        let reply = self.call(Opcode::Opendir, node, fields.as_slice(), 256)?;
        Ok(decode::<OpenOut>(&reply))
    }

    pub(super) fn release(&mut self, node: u64, handle: u64) -> Result<(), i32> {
        let fields = ReleaseIn {
            fh: handle,
            ..ReleaseIn::default()
        };
        self.call(Opcode::Release, node, fields.as_slice(), 256)
            .map(drop)
    }

    pub(super) fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(EntryOut, u64), i32> {
        let (entry, open) = self.create_whole(parent, name, flags, mode)?;
        Ok((entry, open.fh))
    }

    pub(super) fn create_whole(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(EntryOut, OpenOut), i32> {
        let fields = CreateIn {
            flags: flags as u32,
            mode,
            umask: 0o22,
            fuse_flags: 0,
        };
        let reply = self.ask(Opcode::Create, parent, fields.as_slice(), &[name])?;
        let (entry, open) = reply.split_at(size_of::<EntryOut>());
        Ok((decode(entry), decode(open)))
    }

    pub(super) fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Reply {
        let fields = ReadIn {
            fh: handle,
            offset,
            size,
            ..ReadIn::default()
        };
        self.call(Opcode::Read, node, fields.as_slice(), size as usize)
    }

    pub(super) fn write(&mut self, node: u64, fields: WriteIn, data: &[u8]) -> Result<usize, i32> {
        let body = [
            WriteIn {
                size: data.len() as u32,
                ..fields
            }
            .as_slice(),
            data,
        ]
        .concat();
        let reply = self.call(Opcode::Write, node, &body, 256)?;
        Ok(decode::<WriteOut>(&reply).size as usize)
    }

    pub(super) fn forget(&mut self, node: u64, count: u64) {
        let fields = ForgetIn { nlookup: count };
        let request = self.request(Opcode::Forget as u32, node, fields.as_slice());
        assert_eq!(self.send(HIGH_PRIORITY, &request, 0), []);
    }

    /// Names of a directory's entries with their positions, read in requests of `size` bytes.
    pub(super) fn names(&mut self, node: u64, size: u32) -> Vec<(String, Dirent)> {
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let reply = self.readdir(Opcode::Readdir, node, offset, size);
            let entries = dirents(&reply.unwrap(), 0);
            let Some((_, last, _)) = entries.last() else {
                return names;
            };
            offset = last.off;
            let entries = entries.into_iter();
            names.extend(entries.map(|(name, dirent, _)| (name, dirent)));
        }
    }

    /// Reads a directory that was not opened.
    pub(super) fn readdir(&mut self, opcode: Opcode, node: u64, offset: u64, size: u32) -> Reply {
        let fields = ReadIn {
            offset,
            size,
            ..ReadIn::default()
        };
        self.call(opcode, node, fields.as_slice(), size as usize)
    }
}

/// Entries of a reply to READDIR, or with `prefix` bytes of attributes before each of one to READDIRPLUS. As in Linux,
/// fewer bytes than an entry has are the end.
pub(super) fn dirents(mut reply: &[u8], prefix: usize) -> Vec<(String, Dirent, Vec<u8>)> {
    let mut entries = Vec::new();
    while reply.len() >= prefix + size_of::<Dirent>() {
        let (attributes, rest) = reply.split_at(prefix);
        let (header, rest) = rest.split_at(size_of::<Dirent>());
        let dirent: Dirent = decode(header);
        let length = dirent.namelen as usize;
        let name = String::from_utf8(rest[..length].to_vec()).unwrap();
        entries.push((name, dirent, attributes.to_vec()));
        reply = &rest[length.next_multiple_of(8)..];
    }
    entries
}

/// The structure at the beginning of `bytes`.
pub(super) fn decode<T: ByteValued + Default>(bytes: &[u8]) -> T {
    let mut value = T::default();
    let length = size_of::<T>();
    value.as_mut_slice().copy_from_slice(&bytes[..length]);
    value
}

/// Beginning and length of the parts of `length` bytes, cut at `at`.
fn cut(length: usize, at: usize) -> Vec<(usize, usize)> {
    let first = length.min(at);
    [(0, first), (first, length - first)]
        .into_iter()
        .filter(|(_, length)| *length > 0)
        .collect()
}
