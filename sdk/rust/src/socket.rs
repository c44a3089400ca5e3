//! Unix sockets in directories with long names.
//!
//! A socket's address holds at most 107 bytes of path (unix(7)), a directory's name many more. Where
//! the path is too long, it goes through `/proc/self/fd`, which is short and names the same file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, socket,
};

/// Longest path in `sockaddr_un`: 108 bytes with the NUL.
const MAX_PATH: usize = 107;

/// Makes the socket `name` in `directory` and listens on it.
///
/// # Errors
/// As bind(2) and listen(2).
pub(crate) fn listen(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let address = Address::of(directory, name)?;
    UnixListener::bind(&address.path)
}

/// Connects to the socket `name` in `directory`.
///
/// # Errors
/// As connect(2).
pub(crate) fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let address = Address::of(directory, name)?;
    UnixStream::connect(&address.path)
}

/// Connects to the socket `name` in `directory` without ever waiting. The stream does not wait either.
///
/// # Errors
/// As connect(2): `WouldBlock` when the listener has too many that wait already.
pub(crate) fn connect_at_once(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let address = Address::of(directory, name)?;
    let socket = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    connect_socket(socket.as_raw_fd(), &UnixAddr::new(&address.path)?)?;
    Ok(UnixStream::from(socket))
}

/// A path that is short enough, and the directory that it goes through.
struct Address {
    path: PathBuf,
    /// Must be open while `path` is used.
    _directory: Option<File>,
}

impl Address {
    fn of(directory: &Path, name: &str) -> io::Result<Address> {
        let path = directory.join(name);
        if path.as_os_str().as_bytes().len() <= MAX_PATH {
            return Ok(Address {
                path,
                _directory: None,
            });
        }
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()));
        Ok(Address {
            path,
            _directory: Some(directory),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_directory_may_have_a_long_name() {
        let root = tempfile::tempdir().unwrap();
        for length in [1, 200] {
            let directory = root.path().join("d".repeat(length));
            std::fs::create_dir(&directory).unwrap();
            let listener = listen(&directory, "agent.sock").unwrap();
            connect(&directory, "agent.sock")
                .unwrap()
                .write_all(b"hello")
                .unwrap();
            let mut text = String::new();
            listener
                .accept()
                .unwrap()
                .0
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "hello");
            connect_at_once(&directory, "agent.sock").unwrap();
            assert!(directory.join("agent.sock").exists());
        }
    }
}
