//! Reads the console's input into the serial port, no faster than the guest takes it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Ports;
use crate::ending::EndingReporter;
use crate::threads;

const INPUT: u64 = 0;
const DRAINED: u64 = 1;
const STOP: u64 = 2;
/// What is read at once; the serial port's own buffer is smaller.
const PIECE: usize = 256;

/// The reader's thread; dropping it ends the thread.
pub(crate) struct ConsoleInput {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl ConsoleInput {
    /// Starts reading `input`.
    pub(crate) fn spawn(
        input: OwnedFd,
        ports: Ports,
        ending: EndingReporter,
    ) -> io::Result<ConsoleInput> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        let drained = ports.input_drained().as_raw_fd();
        for (fd, token) in [(drained, DRAINED), (stop.as_raw_fd(), STOP)] {
            epoll.ctl(
                ControlOperation::Add,
                fd,
                EpollEvent::new(EventSet::IN, token),
            )?;
        }
        let reader = Reader {
            epoll,
            input: File::from(input),
            ports,
            waiting: Vec::new(),
        };
        let thread = threads::spawn("console-input", &[], ending, move || {
            // Without its input the machine goes on.
            if let Err(error) = reader.run() {
                tracing::warn!("the console's input is lost: {error}");
            }
        })?;
        Ok(ConsoleInput {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for ConsoleInput {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Reader {
    epoll: Epoll,
    input: File,
    ports: Ports,
    waiting: Vec<u8>,
}

impl Reader {
    /// Until the input ends or the machine does.
    fn run(mut self) -> io::Result<()> {
        self.watch_input(ControlOperation::Add)?;
        let mut event = [EpollEvent::default()];
        loop {
            match self.epoll.wait(-1, &mut event) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            match event[0].data() {
                STOP => return Ok(()),
                DRAINED => {
                    let _ = self.ports.input_drained().read();
                    if self.feed() {
                        self.watch_input(ControlOperation::Add)?;
                    }
                }
                _ => {
                    if !self.read()? {
                        return Ok(());
                    }
                    if !self.feed() {
                        self.watch_input(ControlOperation::Delete)?;
                    }
                }
            }
        }
    }

    /// Reads a piece; false at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut piece = [0; PIECE];
        let count = match self.input.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            other => other?,
        };
        self.waiting
            .extend_from_slice(piece.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// Hands over what the serial port takes; true when nothing waits any more.
    fn feed(&mut self) -> bool {
        let taken = self.ports.feed_serial(&self.waiting);
        self.waiting.drain(..taken);
        self.waiting.is_empty()
    }

    fn watch_input(&self, operation: ControlOperation) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, INPUT);
        match self.epoll.ctl(operation, self.input.as_raw_fd(), event) {
            // DRAINED may come when the input is watched already.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }
}
