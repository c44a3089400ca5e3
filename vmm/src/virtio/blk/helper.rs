//! A thread for what may take long, so that other requests of the queue need not wait: flushes, discards, zeroes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use disk::Image;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::request::Range;
use super::slot::Occupant;

/// What the thread does.
pub(super) enum Task {
    Flush,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
}

impl Task {
    /// `durable`: it is over only when what it changed is durable.
    fn carry_out(self, image: &dyn Image, durable: bool) -> io::Result<()> {
        match self {
            Task::Flush => return image.flush(),
            Task::Discard(ranges) => {
                for Range { offset, length, .. } in ranges {
                    image.discard(offset, length)?;
                }
            }
            Task::WriteZeroes(ranges) => {
                for range in ranges {
                    image.write_zeroes(range.offset, range.length, range.unmap)?;
                }
            }
        }
        if durable { image.flush() } else { Ok(()) }
    }
}

/// A task for a request.
pub(super) struct Job {
    /// Number of the request.
    pub(super) request: usize,
    pub(super) occupant: Arc<Occupant>,
    pub(super) task: Task,
    pub(super) durable: bool,
}

/// How a job ended.
pub(super) struct JobResult {
    pub(super) request: usize,
    pub(super) result: io::Result<()>,
}

/// The executor's end of the thread, which ends when this is dropped.
pub(super) struct Helper {
    jobs: Sender<Job>,
    results: Receiver<JobResult>,
    event: EventFd,
    in_flight: usize,
}

impl Helper {
    /// The executor's end, and what the thread runs.
    ///
    /// # Errors
    /// As eventfd(2).
    pub(super) fn new() -> io::Result<(Helper, impl FnOnce() + Send + 'static)> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let done = event.try_clone()?;
        let (jobs, to_do) = channel::<Job>();
        let (sender, results) = channel();
        let body = move || {
            for job in to_do {
                let result = job.task.carry_out(&*job.occupant.image, job.durable);
                // Before anybody learns of it: the image may be detached as soon as the request is answered.
                drop(job.occupant);
                let request = job.request;
                let _ = sender.send(JobResult { request, result });
                // It refuses only at its maximum, and then it is readable anyway.
                let _ = done.write(1);
            }
        };
        let helper = Helper {
            jobs,
            results,
            event,
            in_flight: 0,
        };
        Ok((helper, body))
    }

    /// Readable when jobs may be over; it is never read, so watch it edge-triggered.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        // SAFETY: the event is open for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    /// Has a job done; false when the thread is gone, and the machine about to end.
    pub(super) fn begin(&mut self, job: Job) -> bool {
        let accepted = self.jobs.send(job).is_ok();
        self.in_flight = self.in_flight.saturating_add(usize::from(accepted));
        accepted
    }

    /// The next job that is over.
    pub(super) fn next_over(&mut self) -> Option<JobResult> {
        let result = self.results.try_recv().ok()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(result)
    }

    /// Returns when all jobs are over.
    pub(super) fn drain(&mut self) {
        while self.in_flight > 0 {
            // An error means that the thread is gone, and with it every job.
            if self.results.recv().is_err() {
                self.in_flight = 0;
                return;
            }
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }
}
