//! Entries one after the other, as they are read or written.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::unistd::pipe2;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::LogError;
use super::entry::{LogEntry, LogSource};
use super::error::failed;
use super::follower::{Follower, Woken};
use super::options::{Filter, LogStreamOptions};
use super::query;
use super::reader::LogReader;

/// Entries that are read ahead of who receives them.
const AHEAD: usize = 16;

/// A log as a stream of entries. A thread reads it, which ends when this is dropped.
///
/// ```
/// # use std::time::SystemTime;
/// use logs::{LogBatch, LogSource, LogStream, LogStreamOptions, LogWriter};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let directory = directory.path();
/// let mut batch = LogBatch::new();
/// batch.push(LogSource::Stdout, 1, SystemTime::now(), b"hello\n");
/// batch.push(LogSource::Stdout, 1, SystemTime::now(), b"world\n");
/// LogWriter::open(directory, 1 << 20)?.write(&mut batch).unwrap();
///
/// let mut stream = LogStream::open(directory, LogStreamOptions::default())?;
/// let first = stream.blocking_recv()?.unwrap();
/// assert_eq!(first.text(), "hello\n");
/// // Later, perhaps in another process: strictly after it.
/// let options = LogStreamOptions { from_cursor: Some(first.cursor), ..LogStreamOptions::default() };
/// let mut rest = LogStream::open(directory, options)?;
/// assert_eq!(rest.blocking_recv()?.unwrap().text(), "world\n");
/// assert_eq!(rest.blocking_recv()?, None);
/// # Ok::<(), logs::LogError>(())
/// ```
#[derive(Debug)]
pub struct LogStream {
    entries: Receiver<Result<LogEntry, LogError>>,
    /// Its end wakes the thread.
    alive: Option<OwnedFd>,
}

impl LogStream {
    /// Reads the log of `directory`; one that does not exist has no entries.
    ///
    /// # Errors
    /// [`LogError::TwoStarts`], [`LogError::ForeignCursor`], [`LogError::Io`].
    pub fn open(directory: &Path, options: LogStreamOptions) -> Result<LogStream, LogError> {
        if options.since.is_some() && options.from_cursor.is_some() {
            return Err(LogError::TwoStarts);
        }
        let reader = LogReader::open(directory, options.from_cursor)?;
        let (cancelled, alive) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(failed("read", directory))?;
        let (sender, entries) = channel(AHEAD);
        let mut pump = Pump {
            directory: directory.to_owned(),
            reader,
            filter: filter(&options),
            options,
            cancelled,
            entries: sender,
        };
        thread::Builder::new()
            .name("log stream".to_owned())
            .spawn(move || {
                if let Err(Stopped::Failed(error)) = pump.run() {
                    let _ = pump.entries.blocking_send(Err(error));
                }
            })
            .map_err(failed("read", directory))?;
        Ok(LogStream {
            entries,
            alive: Some(alive),
        })
    }

    /// The next entry; `None` at the end, after which there is nothing more. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`LogError::Io`], which ends the stream.
    pub async fn recv(&mut self) -> Result<Option<LogEntry>, LogError> {
        self.entries.recv().await.transpose()
    }

    /// As [`recv`](Self::recv), on a thread that may block.
    ///
    /// # Errors
    /// [`LogError::Io`], which ends the stream.
    ///
    /// # Panics
    /// On a thread of an asynchronous runtime.
    pub fn blocking_recv(&mut self) -> Result<Option<LogEntry>, LogError> {
        self.entries.blocking_recv().transpose()
    }

    /// Reads no more of the log; what was read ahead can still be received.
    pub fn close(&mut self) {
        self.alive = None;
    }
}

/// What is read of the log. Of what is there already, the clock may have been set back in the middle; of what follows, moments say
/// where to begin and to end.
fn filter(options: &LogStreamOptions) -> Filter {
    let default = [LogSource::Stdout, LogSource::Stderr, LogSource::Output];
    let sources = Filter::of_sources(&options.sources, &default);
    match options.follow {
        true => sources,
        false => sources.of_moments(options.since, options.until),
    }
}

/// Reads the log on a thread of its own.
struct Pump {
    directory: PathBuf,
    reader: LogReader,
    filter: Filter,
    options: LogStreamOptions,
    cancelled: OwnedFd,
    entries: Sender<Result<LogEntry, LogError>>,
}

/// Why nothing more is read.
enum Stopped {
    /// The entry that was to be the first not to be read, or nobody wants any.
    Done,
    /// It failed.
    Failed(LogError),
}

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Stopped {
        Stopped::Failed(error)
    }
}

impl Pump {
    fn run(&mut self) -> Result<(), Stopped> {
        // Before reading, so that nothing that is written meanwhile goes unnoticed.
        let follower = match self.options.follow {
            true => Follower::open(&self.directory)?,
            false => None,
        };
        let Some(follower) = follower else {
            return self.read_to_end();
        };
        loop {
            while let Some(entry) = self.reader.next(&self.filter)? {
                self.send(entry)?;
            }
            match follower.wait(self.cancelled.as_fd())? {
                Woken::Changed => {}
                Woken::Ended => return self.read_to_end(),
                Woken::Cancelled => return Err(Stopped::Done),
            }
        }
    }

    /// Sends what there is now.
    fn read_to_end(&mut self) -> Result<(), Stopped> {
        let end = query::end(&self.directory)?;
        while let Some(entry) = self.reader.next(&self.filter)? {
            // Behind a writer that is fast enough there would be no end.
            if entry.cursor.position > end {
                break;
            }
            self.send(entry)?;
        }
        Ok(())
    }

    fn send(&mut self, entry: LogEntry) -> Result<(), Stopped> {
        if self
            .options
            .since
            .is_some_and(|since| entry.timestamp < since)
        {
            return Ok(());
        }
        self.options.since = None;
        if self
            .options
            .until
            .is_some_and(|until| entry.timestamp >= until)
        {
            return Err(Stopped::Done);
        }
        self.entries
            .blocking_send(Ok(entry))
            .map_err(|_| Stopped::Done)
    }
}
