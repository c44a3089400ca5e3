//! Looks at what the guest sends in a session.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm::virtio::vsock::{Flow, Observer, Tap};

use super::Log;
use super::frames::Frames;
use super::queue::Queue;

/// How long a session waits for the log in a row, before its output goes unlogged.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of entries that `bytes` bytes of frames become at most: the smallest frame with data has 7 bytes, its entry 30.
fn entries_of(bytes: usize) -> usize {
    bytes.saturating_mul(5).saturating_add(64)
}

impl Observer for Log {
    fn connected(&mut self) -> Box<dyn Tap> {
        Box::new(SessionTap::new(self.queue()))
    }

    fn resumption(&self) -> BorrowedFd<'_> {
        self.room()
    }
}

/// Copies the output of one session to the log.
#[derive(Debug)]
struct SessionTap {
    queue: Arc<Queue>,
    frames: Frames,
    /// Until when it waits for room, or has waited in vain.
    waits_until: Option<Instant>,
}

impl SessionTap {
    /// For a connection on which nothing was sent yet.
    fn new(queue: Arc<Queue>) -> SessionTap {
        SessionTap {
            queue,
            frames: Frames::new(),
            waits_until: None,
        }
    }
}

impl Tap for SessionTap {
    fn data(&mut self, bytes: &[u8]) -> Flow {
        if let Some(mut room) = self.queue.room_for(entries_of(bytes.len())) {
            self.waits_until = None;
            let were_over = self.frames.are_over();
            self.frames.feed(bytes, |source, session, data| {
                room.push(source, session, data)
            });
            if self.frames.are_over() && !were_over {
                room.hurry();
            }
            return Flow::Passed;
        }
        let now = Instant::now();
        let until = *self.waits_until.get_or_insert(now + PATIENCE);
        if now < until {
            return Flow::Stalled { taken: 0, until };
        }
        let mut dropped = 0;
        self.frames.feed(bytes, |_, _, data| dropped += data.len());
        self.queue.drop_output(dropped);
        Flow::Passed
    }
}

#[cfg(test)]
mod tests {
    use microsandbox::logs::LogBatch;
    use microsandbox::protocol::{Exit, ExitStatus, GuestMessage, Started, encode};

    use super::super::queue::{ENOUGH, REST};
    use super::*;

    fn frame(message: &GuestMessage) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        bytes
    }

    fn started() -> Vec<u8> {
        frame(&GuestMessage::Started(Started {
            pid: 1,
            session: 1,
            terminal: false,
        }))
    }

    #[test]
    fn a_queue_that_nobody_empties_holds_output_back_and_then_loses_it() {
        let queue = Arc::new(Queue::new(REST).unwrap());
        let mut tap = SessionTap::new(queue.clone());
        tap.data(&started());
        let output = frame(&GuestMessage::Stdout(&[7; 60_000]));
        let mut passed = 0;
        let until = loop {
            match tap.data(&output) {
                Flow::Passed => passed += 1,
                Flow::Stalled { taken, until } => {
                    assert_eq!(taken, 0);
                    break until;
                }
            }
        };
        // It is asked again and again, by others' news too: the time does not begin anew.
        match tap.data(&output) {
            Flow::Stalled { until: again, .. } => assert_eq!(again, until),
            Flow::Passed => assert!(Instant::now() >= until),
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        assert_eq!(tap.data(&output), Flow::Passed);
        assert_eq!(tap.data(&output), Flow::Passed);
        let taken = queue.take(LogBatch::new());
        assert_eq!(taken.batch.data_len(), passed * 60_000);
        assert_eq!(taken.dropped, 120_000);
        // There is room again.
        assert_eq!(tap.data(&output), Flow::Passed);
        let taken = queue.take(LogBatch::new());
        assert_eq!((taken.batch.data_len(), taken.dropped), (60_000, 0));
    }

    #[test]
    fn output_is_gathered_until_it_is_enough_or_complete() {
        let queue = Arc::new(Queue::new(Duration::from_secs(3600)).unwrap());
        let (sender, taken) = std::sync::mpsc::channel();
        let writer = std::thread::spawn({
            let queue = queue.clone();
            move || {
                loop {
                    let taken = queue.take(LogBatch::new());
                    sender.send(taken.batch.data_len()).unwrap();
                    if taken.last {
                        return queue.finish();
                    }
                }
            }
        });
        let next = || taken.recv_timeout(Duration::from_secs(20)).unwrap();

        let mut tap = SessionTap::new(queue.clone());
        tap.data(&started());
        tap.data(&frame(&GuestMessage::Stdout(b"one")));
        tap.data(&frame(&GuestMessage::Stdout(b"two")));
        taken.recv_timeout(Duration::from_millis(50)).unwrap_err();
        tap.data(&frame(&GuestMessage::Exited(Exit {
            status: ExitStatus::Code(0),
            timed_out: false,
        })));
        assert_eq!(next(), 6);

        let mut tap = SessionTap::new(queue.clone());
        tap.data(&started());
        let piece = frame(&GuestMessage::Stdout(&[7; 32 << 10]));
        for _ in 0..ENOUGH / (32 << 10) {
            tap.data(&piece);
        }
        assert_eq!(next(), ENOUGH as u64);

        queue.push_line("line");
        assert_eq!(next(), 5);
        queue.close(Duration::from_secs(20));
        writer.join().unwrap();
    }

    #[test]
    fn the_most_frames_that_there_can_be_fit() {
        let queue = Arc::new(Queue::new(REST).unwrap());
        let mut tap = SessionTap::new(queue.clone());
        tap.data(&started());
        let bytes = frame(&GuestMessage::Stdout(b"x")).repeat(9_000);
        assert_eq!(tap.data(&bytes), Flow::Passed);
        let taken = queue.take(LogBatch::new());
        assert!(taken.batch.len() <= entries_of(bytes.len()));
        assert_eq!(taken.batch.data_len(), 9_000);
    }
}
