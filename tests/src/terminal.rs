//! A terminal with `msb` in it and the test at its keyboard.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::fcntl::{OFlag, open};
use nix::pty::{PtyMaster, Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::termios::{self, Termios};
use nix::unistd::{Pid, setsid};

use crate::transcript::Transcript;
use crate::{LIMIT, processes};

/// Height and width at the start.
pub const SIZE: (u16, u16) = (30, 100);

/// A pseudo-terminal and the program whose controlling terminal it is. When the value is dropped, the program is
/// killed; if it has ended before, it must have left the terminal as it was.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: Option<File>,
    /// The program's side, which keeps the attributes when the program has ended. `None` once it is over.
    device: Option<OwnedFd>,
    before: Termios,
    /// What is on the screen, and what was.
    pub screen: Transcript,
}

/// How a program in a terminal ended.
#[derive(Debug)]
pub struct Closed {
    /// Its exit status.
    pub code: i32,
    /// What was on the screen.
    pub screen: String,
}

/// The two sides of a new pseudo-terminal: the window's and the program's. No program inherits the window's, which would keep it
/// open: openpty(3) cannot promise that while other tests start programs.
pub fn open_pair() -> (OwnedFd, OwnedFd) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master: PtyMaster = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let device = open(ptsname_r(&master).unwrap().as_str(), flags, Mode::empty()).unwrap();
    (master.into(), device)
}

impl Terminal {
    /// Starts `command` in a terminal, all three standard streams of it.
    pub fn start(command: Command) -> Terminal {
        Terminal::start_with(command, |command, device| {
            command
                .stdin(device.try_clone().unwrap())
                .stdout(device.try_clone().unwrap())
                .stderr(device.try_clone().unwrap());
        })
    }

    /// Starts `command` in a terminal; `connect` gives it the streams that are to be the terminal.
    pub fn start_with(
        mut command: Command,
        connect: impl FnOnce(&mut Command, &OwnedFd),
    ) -> Terminal {
        let (master, device) = open_pair();
        resize(&master, SIZE);
        let before = termios::tcgetattr(&device).unwrap();
        connect(&mut command, &device);
        let controlling = device.try_clone().unwrap();
        // SAFETY: setsid(2) and ioctl(2) are system calls that neither allocate nor lock.
        unsafe { command.pre_exec(move || take_terminal(&controlling)) };
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // It holds the terminal, too.
        drop(command);
        let keyboard = File::from(master.try_clone().unwrap());
        Terminal {
            child,
            keyboard: Some(keyboard),
            device: Some(device),
            before,
            screen: Transcript::of(master),
        }
    }

    /// The program.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Presses keys. Enter is `\r`.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard
            .as_mut()
            .expect("it is open")
            .write_all(keys.as_bytes())
            .unwrap();
    }

    /// Gives the terminal another height and width, and the program SIGWINCH.
    pub fn resize(&self, size: (u16, u16)) {
        resize(self.keyboard.as_ref().expect("it is open"), size);
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Whether the terminal is as it was before the program started.
    pub fn is_as_before(&self) -> bool {
        let device = self.device.as_ref().expect("it is open");
        termios::tcgetattr(device).unwrap() == self.before
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// When it does not come within [`LIMIT`], a signal ended it, or the terminal is not as it was before.
    #[track_caller]
    pub fn finish(mut self) -> Closed {
        let ended = processes::wait_for_end(self.pid(), LIMIT);
        assert!(
            ended,
            "it did not end; on the screen: {:?}",
            self.screen.so_far()
        );
        let status = self.child.wait().unwrap();
        assert!(self.is_as_before(), "the terminal is not as it was");
        self.device = None;
        let screen = String::from_utf8_lossy(&self.screen.to_end()).into_owned();
        let code = status
            .code()
            .unwrap_or_else(|| panic!("{status}, on the screen: {screen:?}"));
        Closed { code, screen }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail for a process that has ended and been waited for, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &impl AsRawFd, size: (u16, u16)) {
    let size = window(size);
    // SAFETY: TIOCSWINSZ reads one `winsize` from where the pointer leads (ioctl_tty(2)).
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn window((rows, columns): (u16, u16)) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Makes the calling process the leader of a session whose controlling terminal is `device`.
fn take_terminal(device: &OwnedFd) -> io::Result<()> {
    setsid()?;
    // SAFETY: TIOCSCTTY takes an integer (ioctl_tty(2)).
    match unsafe { libc::ioctl(device.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
