//! send(2) and recv(2) on guest memory: the kernel copies between a socket and the buffers of a chain, and nobody else.
//!
//! Every call passes `MSG_DONTWAIT`, so it does not matter whether the file descriptor blocks; sends pass `MSG_NOSIGNAL`,
//! so a peer that is gone is an error and not a signal to the monitor.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::MsgFlags;

use super::buffers::{Buffers, Slice};

/// Pieces that one call transfers at most, far below the limit of the kernel (IOV_MAX, 1024). Linux makes packets of at
/// most 18 pieces.
const MAX_PIECES: usize = 64;

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
    with_pieces(buffers, usize::MAX, |message| {
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
    let received = with_pieces(buffers, limit, |message| {
        // SAFETY: as in `send`; guest memory may be written at any time because nobody holds a reference into it.
        unsafe { libc::recvmsg(socket.as_raw_fd(), message, libc::MSG_DONTWAIT) }
    })?;
    buffers.mark_dirty(received.bytes);
    Ok(received)
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

/// Calls `transfer` with a message over the first `limit` bytes of `buffers`, again when a signal interrupts it.
fn with_pieces(
    buffers: &Buffers<'_>,
    limit: usize,
    transfer: impl Fn(*mut libc::msghdr) -> isize,
) -> io::Result<Transfer> {
    let mut pieces = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; MAX_PIECES];
    let mut count = 0_usize;
    let mut offered = 0_usize;
    for (piece, slice) in pieces.iter_mut().zip(buffers.slices()) {
        piece.iov_base = start_of(slice);
        piece.iov_len = slice.len().min(limit.saturating_sub(offered));
        offered = offered.saturating_add(piece.iov_len);
        count = count.saturating_add(1);
        if offered == limit {
            break;
        }
    }
    // SAFETY: a message header of zeros is valid: no address, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = count;
    loop {
        if let Ok(bytes) = usize::try_from(transfer(&raw mut message)) {
            return Ok(Transfer {
                bytes,
                complete: bytes == offered,
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Guest memory is mapped as long as the machine lives, so the guard has nothing to hold beyond this function.
fn start_of(slice: &Slice<'_>) -> *mut libc::c_void {
    slice.ptr_guard_mut().as_ptr().cast()
}
