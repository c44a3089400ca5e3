//! The network inside the guest.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use protocol::{Failure, Stage};

use crate::failure::OrFailed;

nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Brings up the loopback interface, whose addresses the kernel then sets by itself.
pub(crate) fn bring_up_loopback() -> Result<(), Failure> {
    match set_loopback_up() {
        // A kernel without Internet protocols has nothing to bring up.
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => Ok(()),
        result => result.or_failed(Stage::Network, || {
            "The loopback interface cannot be brought up".into()
        }),
    }
}

/// See netdevice(7).
fn set_loopback_up() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes is a valid value of this structure of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the argument points to an ifreq, as SIOCSIFFLAGS asks for, which outlives the call.
    unsafe { set_interface_flags(socket.as_raw_fd(), &request) }?;
    Ok(())
}
