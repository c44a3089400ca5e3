//! The thread that writes the log.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use microsandbox::launch::LogTarget;
use microsandbox::logs::{LogBatch, LogError, LogSource, LogWriter};

use super::queue::{Queue, REST, Taken, spare};

/// How long the end of the machine waits for the last entries to be written.
const LAST_ENTRIES: Duration = Duration::from_secs(2);

/// The log of a running machine.
#[derive(Debug)]
pub(in crate::vm) struct Log {
    queue: Arc<Queue>,
}

/// Where lines about the machine go; not where there is no log.
#[derive(Debug, Clone, Default)]
pub(in crate::vm) struct LogLines {
    queue: Option<Arc<Queue>>,
}

impl Log {
    /// Opens the log and writes it on a thread of its own, which opens it, too: a long log takes a moment to be checked, and a
    /// log that cannot be written is no reason not to have a machine.
    ///
    /// # Errors
    /// When there can be no more threads or descriptors.
    pub(in crate::vm) fn start(target: LogTarget) -> io::Result<Log> {
        let queue = Arc::new(Queue::new(REST)?);
        let shared = queue.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                let writer = LogWriter::open(&target.directory.0, target.limit);
                Pen { writer, missing: 0 }.write(&shared);
                shared.finish();
            })?;
        Ok(Log { queue })
    }

    /// Where the output of sessions goes.
    pub(super) fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// Becomes readable when there is room for output after there was none.
    pub(super) fn room(&self) -> BorrowedFd<'_> {
        self.queue.resumption()
    }

    /// For lines about the machine.
    pub(in crate::vm) fn lines(&self) -> LogLines {
        LogLines {
            queue: Some(self.queue.clone()),
        }
    }
}

impl LogLines {
    /// Writes a line.
    pub(in crate::vm) fn write(&self, line: &str) {
        if let Some(queue) = &self.queue {
            queue.push_line(line);
        }
    }

    /// Writes the last line, and waits until it is written: nothing more is to come.
    pub(in crate::vm) fn finish(&self, line: &str) {
        if let Some(queue) = &self.queue {
            queue.push_line(line);
            queue.close(LAST_ENTRIES);
        }
    }
}

/// What the thread has.
struct Pen {
    writer: Result<LogWriter, LogError>,
    /// Bytes that are missing and have not been told of.
    missing: u64,
}

impl Pen {
    fn write(&mut self, queue: &Queue) {
        if let Err(error) = &self.writer {
            warn(error);
        }
        let mut memory = LogBatch::new();
        loop {
            let Taken {
                mut batch,
                dropped,
                last,
            } = queue.take(memory);
            self.missing = self.missing.saturating_add(dropped);
            self.tell_what_is_missing();
            let bytes = batch.len();
            self.append(&mut batch);
            if last {
                return;
            }
            memory = spare(batch, bytes);
        }
    }

    fn append(&mut self, batch: &mut LogBatch) {
        let Ok(writer) = &mut self.writer else {
            return batch.clear();
        };
        if let Err(unwritten) = writer.write(batch) {
            if self.missing == 0 {
                warn(&unwritten.source);
            }
            self.missing = self.missing.saturating_add(unwritten.bytes);
        }
    }

    fn tell_what_is_missing(&mut self) {
        let Ok(writer) = &mut self.writer else {
            return;
        };
        if self.missing > 0 {
            let line = format!(
                "{} bytes are missing here: the log could not be written\n",
                self.missing
            );
            let mut note = LogBatch::new();
            note.push(LogSource::System, 0, SystemTime::now(), line.as_bytes());
            // A disk that is full is still full, perhaps.
            if writer.write(&mut note).is_ok() {
                self.missing = 0;
            }
        }
    }
}

fn warn(error: &LogError) {
    let causes = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!("{error}: {}", causes.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use microsandbox::launch::HostPath;
    use microsandbox::logs::{LogOptions, read_logs};
    use microsandbox::protocol::{GuestMessage, Started, encode};
    use vmm::virtio::vsock::{Flow, Observer};

    use super::*;

    fn target(directory: &Path) -> LogTarget {
        LogTarget {
            directory: HostPath(directory.to_owned()),
            limit: 1 << 20,
        }
    }

    fn texts(directory: &Path) -> Vec<(LogSource, String)> {
        let options = LogOptions {
            sources: LogSource::ALL.to_vec(),
            ..LogOptions::default()
        };
        let entries = read_logs(directory, &options).unwrap().into_iter();
        entries
            .map(|entry| (entry.source, entry.text().into_owned()))
            .collect()
    }

    #[test]
    fn all_that_was_said_before_the_end_is_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::start(target(directory.path())).unwrap();
        log.lines().write("ready");
        let mut log = log;
        let mut tap = log.connected();
        let mut bytes = Vec::new();
        let started = Started {
            pid: 1,
            session: 1,
            terminal: false,
        };
        encode(&GuestMessage::Started(started), &mut bytes).unwrap();
        encode(&GuestMessage::Stdout(b"hello"), &mut bytes).unwrap();
        assert_eq!(tap.data(&bytes), Flow::Passed);
        log.lines().finish("ended");
        assert_eq!(
            texts(directory.path()),
            [
                (LogSource::System, "ready\n".to_owned()),
                (LogSource::Stdout, "hello".to_owned()),
                (LogSource::System, "ended\n".to_owned()),
            ]
        );
    }

    #[test]
    fn a_log_that_cannot_be_opened_holds_nothing_up() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::start(target(&directory.path().join("nowhere"))).unwrap();
        for _ in 0..10_000 {
            log.lines().write(&"x".repeat(1000));
        }
        log.lines().finish("ended");
    }
}
