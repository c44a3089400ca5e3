//! Pseudo-terminals, see pty(7).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, tcgetattr};
use protocol::TerminalSize;

nix::ioctl_write_ptr_bad!(unlock_slave, libc::TIOCSPTLCK, libc::c_int);
nix::ioctl_write_int_bad!(open_peer, libc::TIOCGPTPEER);
nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);

/// A new terminal in the devpts file system `devpts`: agentd's side, which does not block, and the
/// process's side. No path is looked up that the guest could have replaced.
pub(crate) fn open(devpts: &OwnedFd, size: TerminalSize) -> io::Result<(File, OwnedFd)> {
    let access = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = openat(devpts, "ptmx", access | OFlag::O_NONBLOCK, Mode::empty())?;
    // SAFETY: the argument points to an integer, as TIOCSPTLCK asks for.
    unsafe { unlock_slave(master.as_raw_fd(), &0) }?;
    resize(&master, size)?;
    // SAFETY: TIOCGPTPEER takes open(2) flags by value and touches no memory.
    let slave = unsafe { open_peer(master.as_raw_fd(), access.bits()) }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    Ok((File::from(master), slave))
}

/// Gives the terminal a new size; the kernel tells its foreground processes with SIGWINCH.
pub(crate) fn resize(master: &impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the argument points to a window size, as TIOCSWINSZ asks for.
    unsafe { set_window_size(master.as_fd().as_raw_fd(), &size) }?;
    Ok(())
}

/// What a user types to end the input, also where no line mode makes an end of it: a shell that edits its line itself takes it for
/// one, and would wait for ever without. `None` if the terminal has no such character.
pub(crate) fn end_of_file_character(master: &impl AsFd) -> Option<u8> {
    let settings = tcgetattr(master).ok()?;
    let character = settings
        .control_chars
        .get(SpecialCharacterIndices::VEOF as usize)?;
    (*character != libc::_POSIX_VDISABLE).then_some(*character)
}

/// Whether the terminal makes lines of its input, and an end of it where the end-of-file character is typed.
pub(crate) fn makes_lines(master: &impl AsFd) -> bool {
    tcgetattr(master).is_ok_and(|settings| settings.local_flags.contains(LocalFlags::ICANON))
}

/// Makes the terminal on standard input the controlling one of the calling session leader.
pub(crate) fn control_from_stdin() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes its argument by value: 0, do not steal the terminal.
    unsafe { set_controlling_terminal(libc::STDIN_FILENO, 0) }?;
    Ok(())
}
