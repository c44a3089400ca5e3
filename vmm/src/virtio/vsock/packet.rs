//! The header of a packet, section 5.10.6 of the virtio specification 1.2.
//!
//! The `virtio-vsock` crate ties the header to the first descriptor of a chain and the payload to the second, which the
//! specification does not promise (section 2.7.4); so the header is only decoded here, from a copy.

use vm_memory::{ByteValued, Le16, Le32, Le64};

/// Address of the host, the device's end of every connection.
pub(super) const HOST_CID: u64 = 2;

/// Bytes of an encoded header.
pub(super) const HEADER_LEN: usize = 44;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the one type that the device knows.
pub(super) const TYPE_STREAM: u16 = 1;

/// What a packet asks for or tells, `VIRTIO_VSOCK_OP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    ReadWrite,
    CreditUpdate,
    CreditRequest,
}

impl Op {
    /// The operation with this number, if there is one.
    pub(super) fn from_number(number: u16) -> Option<Op> {
        Some(match number {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Reset,
            4 => Op::Shutdown,
            5 => Op::ReadWrite,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }

    /// The number of the operation in a header.
    pub(super) fn number(self) -> u16 {
        match self {
            Op::Request => 1,
            Op::Response => 2,
            Op::Reset => 3,
            Op::Shutdown => 4,
            Op::ReadWrite => 5,
            Op::CreditUpdate => 6,
            Op::CreditRequest => 7,
        }
    }
}

/// Which directions the sender of an `Op::Shutdown` is done with. Hints are permanent: they only ever accumulate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shutdown {
    /// The sender of the packet receives nothing more, `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`.
    pub(super) receive: bool,
    /// The sender of the packet sends nothing more, `VIRTIO_VSOCK_SHUTDOWN_F_SEND`.
    pub(super) send: bool,
}

impl Shutdown {
    /// Decodes the flags of a header; unknown bits are ignored.
    pub(super) fn from_flags(flags: u32) -> Shutdown {
        Shutdown {
            receive: flags & 1 != 0,
            send: flags & 2 != 0,
        }
    }

    /// The flags for a header.
    pub(super) fn flags(self) -> u32 {
        u32::from(self.receive) | (u32::from(self.send) << 1)
    }

    /// Both hints together.
    pub(super) fn union(self, other: Shutdown) -> Shutdown {
        Shutdown {
            receive: self.receive || other.receive,
            send: self.send || other.send,
        }
    }

    /// Whether both directions are over.
    pub(super) fn is_both(self) -> bool {
        self.receive && self.send
    }
}

/// A decoded header. Every value in it may be a lie of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of payload that follow the header.
    pub(super) len: u32,
    /// `TYPE_STREAM` or something that the device does not know.
    pub(super) socket_type: u16,
    /// Number of an `Op`.
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Size of the sender's receive buffer for this connection in bytes.
    pub(super) buf_alloc: u32,
    /// Bytes that left the sender's receive buffer since the connection began, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// Decodes a header.
    pub(super) fn decode(bytes: [u8; HEADER_LEN]) -> Header {
        let mut encoded = Encoded::default();
        encoded.as_mut_slice().copy_from_slice(&bytes);
        Header {
            src_cid: encoded.src_cid.to_native(),
            dst_cid: encoded.dst_cid.to_native(),
            src_port: encoded.src_port.to_native(),
            dst_port: encoded.dst_port.to_native(),
            len: encoded.len.to_native(),
            socket_type: encoded.socket_type.to_native(),
            op: encoded.op.to_native(),
            flags: encoded.flags.to_native(),
            buf_alloc: encoded.buf_alloc.to_native(),
            fwd_cnt: encoded.fwd_cnt.to_native(),
        }
    }

    /// Encodes the header.
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let encoded = Encoded {
            src_cid: self.src_cid.into(),
            dst_cid: self.dst_cid.into(),
            src_port: self.src_port.into(),
            dst_port: self.dst_port.into(),
            len: self.len.into(),
            socket_type: self.socket_type.into(),
            op: self.op.into(),
            flags: self.flags.into(),
            buf_alloc: self.buf_alloc.into(),
            fwd_cnt: self.fwd_cnt.into(),
        };
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(encoded.as_slice());
        bytes
    }

    /// Bytes of the header and its payload.
    pub(super) fn packet_len(&self) -> u32 {
        const { assert!(HEADER_LEN == size_of::<Encoded>()) };
        self.len.saturating_add(HEADER_LEN as u32)
    }

    /// The reset that answers a packet of no known connection. It keeps the type of the packet, because the driver looks
    /// for the connection among the sockets of that type.
    pub(super) fn reset(&self) -> Header {
        Header {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            socket_type: self.socket_type,
            op: Op::Reset.number(),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

/// `struct virtio_vsock_hdr` as it lies in memory.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
struct Encoded {
    src_cid: Le64,
    dst_cid: Le64,
    src_port: Le32,
    dst_port: Le32,
    len: Le32,
    socket_type: Le16,
    op: Le16,
    flags: Le32,
    buf_alloc: Le32,
    fwd_cnt: Le32,
}

// SAFETY: the struct is packed, so it has no padding, and any bytes are a valid value of its integers.
unsafe impl ByteValued for Encoded {}
