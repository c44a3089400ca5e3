//! The end of the machine.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::sync;
use protocol::GuestMessage;

use crate::connection::Connection;
use crate::kernel_log;
use crate::upper::Upper;

/// How long the host may take to close the control connection after the last frame.
const LAST_FRAME_TIME: Duration = Duration::from_secs(2);

/// Writes everything back and unmounts what can be unmounted, in the end `upper`, which is beneath the root. No process is
/// left to prevent it.
pub(crate) fn leave_file_systems(upper: Option<&Upper>) {
    sync();
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    for target in mount_points(&table).iter().rev() {
        let unmounted = umount2(target, MntFlags::empty());
        if unmounted.is_err()
            && let Err(error) = remount_read_only(target)
        {
            kernel_log::debug(format_args!("{} stays as it is: {error}", target.display()));
        }
    }
    if let Some(upper) = upper
        && let Err(error) = upper.make_read_only()
    {
        kernel_log::debug(format_args!("the private layer stays as it is: {error}"));
    }
    sync();
}

fn remount_read_only(target: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
}

/// The mount points of a mountinfo table in the order of mounting, see proc_pid_mountinfo(5).
fn mount_points(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|&byte| byte == b'\n');
    let fields = lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    fields
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .collect()
}

/// Space, tab, newline and backslash are written there as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.first_chunk::<3>().filter(|_| first == b'\\');
        let code = octal.and_then(|digits| str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                name.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                name.push(first);
                rest = tail;
            }
        }
    }
    name
}

/// Sends the last frame and waits for the host to have it: only then it closes its side. The
/// machine, and with it what the socket still holds, ends right after.
pub(crate) fn say_last(control: &mut Connection, message: &GuestMessage) {
    let attempt = set_blocking(control).and_then(|()| {
        control.send(message).map_err(io::Error::other)?;
        control.end_sending();
        let mut rest = [0; 64];
        while control.discard(&mut rest)? > 0 {}
        Ok(())
    });
    if let Err(error) = attempt {
        kernel_log::debug(format_args!(
            "the host did not take the last frame: {error}"
        ));
    }
}

/// Makes the socket block, but not for long.
fn set_blocking(socket: &impl AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let time = TimeVal::new(LAST_FRAME_TIME.as_secs().cast_signed(), 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &time)?;
    setsockopt(socket, sockopt::SendTimeout, &time)?;
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Ends the machine in the way that the kernel's `reboot=` parameter names.
pub(crate) fn end_machine() -> io::Result<Infallible> {
    Ok(reboot(RebootMode::RB_AUTOBOOT)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_points_in_order() {
        let table = b"21 1 0:19 / / rw - overlay overlay rw\n\
            22 21 0:20 / /proc rw,nosuid - proc proc rw\n\
            23 21 0:21 / /with\\040space\\134 rw - tmpfs tmpfs rw\n\
            broken\n";
        let expected = ["/", "/proc", "/with space\\"].map(PathBuf::from);
        assert_eq!(mount_points(table), expected);
    }

    #[test]
    fn unescapes_only_whole_escapes() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999\\011"), b"\\999\t");
        assert_eq!(unescape(b"\\777"), b"\\777");
    }
}
