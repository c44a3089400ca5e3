//! send(2) and recv(2) on guest memory: the kernel copies between a socket and the buffers of a chain, and nobody else.
//!
//! Every call passes `MSG_DONTWAIT`, so it does not matter whether the file descriptor blocks; sends pass `MSG_NOSIGNAL`,
//! so a peer that is gone is an error and not a signal to the monitor.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use disk::Buffers;
use nix::sys::socket::MsgFlags;

/// What one call transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Bytes that were transferred.
    pub(super) bytes: usize,
    /// Whether these are all the bytes that the call was offered. Otherwise the socket is full, or empty: calling again
    /// at once would fail with `WouldBlock`.
    pub(super) complete: bool,
}

/// Sends the start of `buffers`.
///
/// # Errors
/// As send(2), `WouldBlock` when the socket is full.
pub(super) fn send(socket: BorrowedFd<'_>, buffers: &Buffers<'_>) -> io::Result<Transfer> {
    with_message(buffers, |message| {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the message is valid for the call, and its pieces lie in guest memory that `buffers` keeps mapped. The
        // kernel copies from there as another processor would; it does not mind concurrent changes.
        unsafe { libc::sendmsg(socket.as_raw_fd(), message, flags) }
    })
}

/// Receives at most `limit` bytes into the start of `buffers`; 0 bytes at the end of the stream.
///
/// # Errors
/// As recv(2), `WouldBlock` when the socket is empty.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffers: &Buffers<'_>,
    limit: usize,
) -> io::Result<Transfer> {
    with_message(&buffers.part(0, limit as u64), |message| {
        // SAFETY: as in `send`; guest memory may be written at any time because nobody holds a reference into it.
        unsafe { libc::recvmsg(socket.as_raw_fd(), message, libc::MSG_DONTWAIT) }
    })
}

/// Sends the start of `bytes`, at most `limit` of them; returns how many bytes the socket took.
///
/// # Errors
/// As send(2), `WouldBlock` when the socket is full.
pub(super) fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &VecDeque<u8>,
    limit: usize,
) -> io::Result<usize> {
    let (front, _) = bytes.as_slices();
    let front = front.get(..limit).unwrap_or(front);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(nix::sys::socket::send(socket.as_raw_fd(), front, flags)?)
}

/// Calls `transfer` with a message over `buffers`, again when a signal interrupts it. They are fewer pieces than a call may
/// have (IOV_MAX, 1024), because no chain is longer than the queue.
fn with_message(
    buffers: &Buffers<'_>,
    transfer: impl Fn(*mut libc::msghdr) -> isize,
) -> io::Result<Transfer> {
    let pieces = buffers.vectors();
    // SAFETY: a message header of zeros is valid: no address, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    // sendmsg(2) and recvmsg(2) do not change the pieces.
    message.msg_iov = pieces.as_ptr().cast_mut();
    message.msg_iovlen = pieces.len();
    loop {
        if let Ok(bytes) = usize::try_from(transfer(&raw mut message)) {
            return Ok(Transfer {
                bytes,
                complete: bytes as u64 == buffers.len(),
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
