//! The keys by which a user leaves a process alone.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::options::DetachKeys;

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(super) struct KeyWatch {
    /// Hangs up when they were pressed.
    pressed: OwnedFd,
}

impl KeyWatch {
    /// Reads `source` from now on. Returns what is left of it for the process: everything but the keys.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub(super) fn start(source: File, keys: &DetachKeys) -> io::Result<(KeyWatch, File)> {
        let (rest, rest_writer) = pipe2(OFlag::O_CLOEXEC)?;
        let (pressed, pressed_writer) = pipe2(OFlag::O_CLOEXEC)?;
        let scanner = Scanner::new(keys);
        // Nobody waits for this thread: it may sit in a read that only another process can end.
        thread::Builder::new()
            .name("detach-keys".to_owned())
            .spawn(move || pass_on(source, File::from(rest_writer), scanner, pressed_writer))?;
        Ok((KeyWatch { pressed }, File::from(rest)))
    }

    /// Readable (hung up) when the keys were pressed.
    pub(super) fn pressed(&self) -> BorrowedFd<'_> {
        self.pressed.as_fd()
    }
}

fn pass_on(mut source: File, mut rest: File, mut scanner: Scanner, pressed: OwnedFd) {
    let mut typed = [0; 4096];
    loop {
        let count = match source.read(&mut typed) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(count @ 1..) => count,
            Ok(0) | Err(_) => {
                // Neither pressed nor will be: the end of what is typed is for the process.
                std::mem::forget(pressed);
                return;
            }
        };
        let (passed, found) = scanner.scan(typed.get(..count).unwrap_or_default());
        if rest.write_all(&passed).is_err() {
            std::mem::forget(pressed);
            return;
        }
        if found {
            // The process is to go on, so it must not see an end of its input.
            std::mem::forget(rest);
            return;
        }
    }
}

/// Finds the keys, also where they come in pieces.
#[derive(Debug)]
struct Scanner {
    keys: Vec<u8>,
    /// How many of them have come, one after the other.
    matched: usize,
}

impl Scanner {
    fn new(keys: &DetachKeys) -> Scanner {
        Scanner {
            keys: keys.as_bytes().to_vec(),
            matched: 0,
        }
    }

    /// What of `typed` is for the process, and whether all keys have come. A key that may be the first of them is kept
    /// back until the next one tells.
    fn scan(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            self.keep_what_fits(byte, &mut passed);
            if self.matched == self.keys.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }

    /// Adds a byte to what has matched, and gives up of that what does not fit any more.
    fn keep_what_fits(&mut self, byte: u8, passed: &mut Vec<u8>) {
        let mut kept: Vec<u8> = self.keys.iter().take(self.matched).copied().collect();
        kept.push(byte);
        while !self.keys.starts_with(&kept) {
            passed.push(kept.remove(0));
        }
        self.matched = kept.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut scanner = Scanner::new(&keys.parse().unwrap());
        let mut all = Vec::new();
        for piece in pieces {
            let (passed, found) = scanner.scan(piece);
            all.extend(passed);
            if found {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn keys_are_found_wherever_they_begin() {
        let keys = "ctrl-p,ctrl-q";
        assert_eq!(scan(keys, &[b"ls\n\x10\x11rest"]), (b"ls\n".to_vec(), true));
        assert_eq!(scan(keys, &[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(scan(keys, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(scan("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
    }

    #[test]
    fn what_only_begins_like_them_reaches_the_process() {
        let keys = "ctrl-p,ctrl-q";
        assert_eq!(scan(keys, &[b"\x10x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(scan(keys, &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
    }

    #[test]
    fn the_process_sees_no_end_when_it_is_left_alone() {
        let (source, mut typist) = io::pipe().unwrap();
        let source = File::from(OwnedFd::from(source));
        let (watch, mut rest) = KeyWatch::start(source, &"q".parse().unwrap()).unwrap();
        typist.write_all(b"abq").unwrap();
        let mut pressed = File::from(watch.pressed);
        assert_eq!(pressed.read(&mut [0]).unwrap(), 0);
        let mut passed = [0; 2];
        rest.read_exact(&mut passed).unwrap();
        assert_eq!(&passed, b"ab");
        let waiting = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&rest, waiting).unwrap();
        let error = rest.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
