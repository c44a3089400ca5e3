//! Transfers between files and guest memory through io_uring(7): any number at a time, on no thread of ours. The ring takes
//! nothing but reads and writes (io_uring_register(2), IORING_REGISTER_RESTRICTIONS).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{Ordering, fence};

use disk::{Access, Buffers};
use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, types};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::config::QUEUE_SIZE;
use crate::virtio::Traffic;

/// Transfers that the kernel has at a time; more wait here. The completion queue has twice as many entries, so it never
/// overflows.
const ENTRIES: usize = QUEUE_SIZE as usize;

/// A stretch of a file and the memory that it is read into or written from.
pub(super) struct Transfer {
    /// Number of the request that it is a part of.
    pub(super) request: usize,
    pub(super) access: Access,
    pub(super) file: RawFd,
    /// In the file, in bytes.
    pub(super) offset: u64,
    pub(super) buffers: Buffers<'static>,
}

/// How a transfer ended.
pub(super) struct Transferred {
    pub(super) request: usize,
    pub(super) result: io::Result<()>,
}

/// A ring of the kernel's.
///
/// Whoever pushes a transfer keeps its file open and its memory mapped until it comes back, or the ring was drained.
pub(super) struct Ring {
    uring: IoUring,
    event: EventFd,
    /// What the kernel has, by `user_data`.
    transfers: Vec<Option<Transfer>>,
    free: Vec<usize>,
    /// What waits for a place in the ring.
    waiting: VecDeque<Transfer>,
    /// The kernel knows of these.
    in_flight: usize,
    traffic: Traffic,
}

impl Ring {
    /// An empty ring, which counts what it moves as `traffic`.
    ///
    /// # Errors
    /// As io_uring_setup(2): where it is switched off, forbidden or too old.
    pub(super) fn new(traffic: Traffic) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_r_disabled()
            .build(ENTRIES as u32)?;
        // Without them completions could be lost, and vectors would have to stay for longer than a submission.
        let params = uring.params();
        if !params.is_feature_nodrop() || !params.is_feature_submit_stable() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let event = EventFd::new(EFD_NONBLOCK)?;
        let submitter = uring.submitter();
        submitter.register_eventfd(event.as_raw_fd())?;
        // seccomp does not see what a ring is asked for, which could be to open a file or a connection.
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
        ])?;
        submitter.register_enable_rings()?;
        Ok(Ring {
            uring,
            event,
            transfers: (0..ENTRIES).map(|_| None).collect(),
            free: (0..ENTRIES).collect(),
            waiting: VecDeque::new(),
            in_flight: 0,
            traffic,
        })
    }

    /// Readable when transfers may be over; it is never read, so watch it edge-triggered.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        // SAFETY: the event is open for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    /// Whether one more would not have to wait.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.free.len()
    }

    /// Whether the kernel does not know of everything yet.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Queues a transfer; the kernel learns of it by [`submit`](Self::submit).
    pub(super) fn push(&mut self, transfer: Transfer) {
        self.waiting.push_back(transfer);
    }

    /// Tells the kernel of all transfers that there is room for, in one system call. What is over when this returns, as is
    /// what the page cache had, signals no event: look at [`has_results`](Self::has_results).
    ///
    /// # Errors
    /// When the kernel takes none although it has none.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.uring.completion().disable_eventfd();
        let result = self.submit_quietly();
        self.uring.completion().enable_eventfd();
        // A completion either sees that the event is enabled, or is seen by whoever looks next.
        fence(Ordering::SeqCst);
        result
    }

    fn submit_quietly(&mut self) -> io::Result<()> {
        while let Some(transfer) = self.waiting.pop_front() {
            if let Err(transfer) = self.enter(transfer) {
                self.waiting.push_front(transfer);
                break;
            }
        }
        while !self.uring.submission().is_empty() {
            match self.uring.submit() {
                Ok(count) => self.in_flight = self.in_flight.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Short of memory: tried again when one of those that it has is over.
                Err(_) if self.in_flight > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether transfers are over.
    pub(super) fn has_results(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Puts a transfer into the submission queue, if it has room.
    fn enter(&mut self, transfer: Transfer) -> Result<(), Transfer> {
        let Some(index) = self.free.pop() else {
            return Err(transfer);
        };
        let vectors = transfer.buffers.vectors();
        let (vectors, count) = (vectors.as_ptr(), vectors.len() as u32);
        let file = types::Fd(transfer.file);
        let entry = match transfer.access {
            Access::Read => opcode::Readv::new(file, vectors, count)
                .offset(transfer.offset)
                .build(),
            Access::Write => opcode::Writev::new(file, vectors, count)
                .offset(transfer.offset)
                .build(),
        };
        let entry = entry.user_data(index as u64);
        // SAFETY: vectors, memory and file stay until the transfer is over: the vectors in `transfers`, the others by the
        // rule of this type, and `drain` waits when the ring is dropped.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        match (pushed, self.transfers.get_mut(index)) {
            (Ok(()), Some(place)) => {
                *place = Some(transfer);
                Ok(())
            }
            _ => {
                self.free.push(index);
                Err(transfer)
            }
        }
    }

    /// The next transfer that is over. One that was cut short goes on: call [`submit`](Self::submit) when there are no more.
    pub(super) fn next_over(&mut self) -> Option<Transferred> {
        loop {
            let completion = self.uring.completion().next()?;
            self.in_flight = self.in_flight.saturating_sub(1);
            let index = completion.user_data() as usize;
            let Some(transfer) = self.transfers.get_mut(index).and_then(Option::take) else {
                continue;
            };
            self.free.push(index);
            let request = transfer.request;
            if let Ok(bytes @ 1..) = u64::try_from(completion.result()) {
                match transfer.access {
                    Access::Read => self.traffic.count_read(bytes),
                    Access::Write => self.traffic.count_written(bytes),
                }
            }
            match advance(transfer, completion.result()) {
                Ok(None) => {
                    return Some(Transferred {
                        request,
                        result: Ok(()),
                    });
                }
                Ok(Some(rest)) => self.waiting.push_front(rest),
                Err(error) => {
                    return Some(Transferred {
                        request,
                        result: Err(error),
                    });
                }
            }
        }
    }

    /// Forgets what the kernel does not know of, and returns when it works on nothing any more.
    pub(super) fn drain(&mut self) {
        loop {
            self.waiting.clear();
            while self.next_over().is_some() {}
            let unsubmitted = self.uring.submission().len();
            if self.in_flight == 0 && unsubmitted == 0 {
                return;
            }
            if let Ok(count) = self.uring.submit_and_wait(1) {
                self.in_flight = self.in_flight.saturating_add(count);
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
    }
}

/// What is left of a transfer after the kernel said how much of it was done: a number of bytes or a negative error.
fn advance(transfer: Transfer, result: i32) -> io::Result<Option<Transfer>> {
    let done = match u64::try_from(result) {
        // The file ends before the disk does.
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(done) => done,
        Err(_) => match io::Error::from_raw_os_error(result.saturating_neg()) {
            error
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                0
            }
            error => return Err(error),
        },
    };
    if done >= transfer.buffers.len() {
        return Ok(None);
    }
    Ok(Some(Transfer {
        offset: transfer.offset.saturating_add(done),
        buffers: transfer.buffers.part(done, u64::MAX),
        ..transfer
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_opens_no_files() {
        let mut ring = Ring::new(Traffic::default()).unwrap();
        let path = c"/etc/passwd".as_ptr();
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path).build();
        // SAFETY: the path is a constant.
        unsafe { ring.uring.submission().push(&open) }.unwrap();
        ring.uring.submit_and_wait(1).unwrap();
        let result = ring.uring.completion().next().unwrap().result();
        assert_eq!(result, -libc::EACCES);
    }

    fn transfer(memory: &'static mut [u8]) -> Transfer {
        Transfer {
            request: 7,
            access: Access::Read,
            file: -1,
            offset: 1000,
            buffers: Buffers::of_slice(memory),
        }
    }

    #[test]
    fn what_was_cut_short_goes_on_where_it_ended() {
        let memory = || Box::leak(vec![0; 100].into_boxed_slice());
        let rest = advance(transfer(memory()), 30).unwrap().unwrap();
        assert_eq!((rest.offset, rest.buffers.len()), (1030, 70));
        let all = advance(transfer(memory()), -libc::EINTR).unwrap().unwrap();
        assert_eq!((all.offset, all.buffers.len()), (1000, 100));
        assert!(advance(transfer(memory()), 100).unwrap().is_none());
        assert!(advance(transfer(memory()), 0).is_err());
        assert!(advance(transfer(memory()), -libc::EIO).is_err());
    }
}
