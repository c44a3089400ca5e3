//! Standard output or standard error of a process, or its terminal.

use std::fs::File;
use std::io::{self, ErrorKind, Read};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::EpollFlags as Flags;

use crate::poller::Watched;

/// What a terminal may hold for its reader: more than the kernel's buffers for it.
const TERMINAL_CAPACITY: usize = 128 * 1024;

/// Where output is read from, until its end.
#[derive(Debug)]
pub(crate) struct Output {
    /// agentd's end; `None` once there is nothing more to read.
    source: Option<Watched<File>>,
    is_terminal: bool,
    /// There is something to read, or may be.
    ready: bool,
    /// Set when the process has ended: how much may still be read. Its own output is within that;
    /// what processes that it left behind write from now on has no end.
    remaining: Option<usize>,
}

impl Output {
    pub(crate) fn new(source: Watched<File>, is_terminal: bool) -> Self {
        Self {
            source: Some(source),
            is_terminal,
            ready: false,
            remaining: None,
        }
    }

    /// There is something to read.
    pub(crate) fn on_event(&mut self) {
        self.ready = true;
    }

    /// Reads once into `buffer`, if there is something. `None` is: nothing now. The end, or an
    /// error, closes the output; so does, after the end of the process, that there is nothing now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let source = self.source.as_mut().filter(|_| self.ready)?;
        let limit = self.remaining.unwrap_or(usize::MAX).min(buffer.len());
        // A terminal whose last process has closed it answers EIO, see pty(7).
        let count = match source.read(buffer.get_mut(..limit)?) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.remaining.is_none() => {
                self.ready = false;
                return None;
            }
            result => result.unwrap_or(0),
        };
        match &mut self.remaining {
            Some(remaining) => *remaining = remaining.saturating_sub(count),
            None => self.ready = count == limit,
        }
        if count == 0 || self.remaining == Some(0) {
            self.source = None;
        }
        (count > 0).then_some(count)
    }

    /// Nobody wants to read any more.
    pub(crate) fn close(&mut self) {
        self.source = None;
    }

    /// The process has ended: from now on only what it has left is read.
    pub(crate) fn finish(&mut self) {
        let Some(source) = &self.source else {
            return;
        };
        let capacity = match self.is_terminal {
            true => TERMINAL_CAPACITY,
            false => fcntl(&**source, FcntlArg::F_GETPIPE_SZ)
                .ok()
                .and_then(|size| usize::try_from(size).ok())
                .unwrap_or(TERMINAL_CAPACITY),
        };
        self.remaining = Some(capacity);
        self.ready = true;
    }

    /// Waits for output if `wanted`, else for nothing at all, not even for the hang-up.
    pub(crate) fn watch(&mut self, wanted: bool) -> io::Result<()> {
        match &mut self.source {
            Some(source) => source.watch(wanted.then_some(Flags::EPOLLIN)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;
    use crate::poller::{Poller, Source, Token};

    fn output() -> (Output, File) {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let token = Token {
            session: 1,
            source: Source::Output,
        };
        let source = Watched::new(File::from(reader), &Poller::new().unwrap(), token);
        (Output::new(source, false), File::from(writer))
    }

    fn is_open(output: &Output) -> bool {
        output.source.is_some()
    }

    #[test]
    fn nothing_now_is_not_the_end() {
        let (mut output, mut writer) = output();
        let mut buffer = [0; 16];
        output.on_event();
        assert_eq!((output.read(&mut buffer), is_open(&output)), (None, true));
        writer.write_all(b"abc").unwrap();
        assert_eq!(
            (output.read(&mut buffer), is_open(&output)),
            (None, true),
            "no event yet"
        );
        output.on_event();
        assert_eq!(
            (output.read(&mut buffer), is_open(&output)),
            (Some(3), true)
        );
        drop(writer);
        output.on_event();
        assert_eq!((output.read(&mut buffer), is_open(&output)), (None, false));
    }

    #[test]
    fn after_the_process_nothing_now_is_the_end() {
        let (mut output, mut writer) = output();
        writer.write_all(b"abc").unwrap();
        output.finish();
        let mut buffer = [0; 2];
        assert_eq!(
            (output.read(&mut buffer), is_open(&output)),
            (Some(2), true)
        );
        assert_eq!(
            (output.read(&mut buffer), is_open(&output)),
            (Some(1), true)
        );
        assert_eq!((output.read(&mut buffer), is_open(&output)), (None, false));
    }

    #[test]
    fn a_process_left_behind_cannot_write_for_ever() {
        let (mut output, mut writer) = output();
        output.finish();
        let mut buffer = [0; 4096];
        let mut total = 0;
        while is_open(&output) {
            while writer.write(&[1; 4096]).is_ok() {}
            total += output.read(&mut buffer).unwrap_or(0);
        }
        assert_eq!(total, 64 * 1024);
    }
}
