//! Stream sockets between the guest and its host.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, VsockAddr, accept4, bind, connect,
    getpeername, listen, socket,
};

use crate::poller::set_nonblocking;

/// Bytes that the kernel buffers for a session before agentd reads them: all of a client's credit
/// for standard input and the frames around it.
const BUFFER_SIZE: u64 = 2 * protocol::INITIAL_STDIN_CREDIT as u64;

/// Options of `linux/vm_sockets.h` that the libc crate does not have.
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

/// A blocking connection to `port` of the host.
pub(crate) fn dial(port: u32) -> io::Result<OwnedFd> {
    let stream = stream_socket()?;
    connect(
        stream.as_raw_fd(),
        &VsockAddr::new(libc::VMADDR_CID_HOST, port),
    )?;
    Ok(stream)
}

/// A listener on `port` of the guest, which does not block.
pub(crate) fn listen_on(port: u32) -> io::Result<OwnedFd> {
    let listener = stream_socket()?;
    set_nonblocking(&listener)?;
    // Accepted sockets inherit the size.
    set_buffer_option(&listener, SO_VM_SOCKETS_BUFFER_MAX_SIZE, BUFFER_SIZE)?;
    set_buffer_option(&listener, SO_VM_SOCKETS_BUFFER_SIZE, BUFFER_SIZE)?;
    bind(
        listener.as_raw_fd(),
        &VsockAddr::new(libc::VMADDR_CID_ANY, port),
    )?;
    // As many as /proc/sys/net/core/somaxconn says, 4096: a connection beyond them is reset, whatever the host has
    // sent on it. With musl `MAXCONN` is 128, of which a crowd of clients has more.
    listen(&listener, Backlog::MAXALLOWABLE)?;
    Ok(listener)
}

/// The next waiting connection, which does not block either; `WouldBlock` when there is none.
///
/// Only the host may have sessions: a process of the guest, whatever its user, could otherwise
/// reach agentd through the loopback transport of vsock and run programs as root. Such a peer is
/// `PermissionDenied`.
pub(crate) fn accept_from(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: accept4 has just made this descriptor, and nobody else knows it.
    let stream = unsafe { OwnedFd::from_raw_fd(stream) };
    let peer: SockaddrStorage = getpeername(stream.as_raw_fd())?;
    match peer.as_vsock_addr() {
        Some(address) if address.cid() != libc::VMADDR_CID_HOST => {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        _ => Ok(stream),
    }
}

fn stream_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Sets one of the size options of vsock(7), which are 64 bits wide.
fn set_buffer_option(socket: &OwnedFd, option: libc::c_int, value: u64) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::AF_VSOCK,
            option,
            (&raw const value).cast(),
            size_of::<u64>() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}
