//! One session: a task that reads from its connection, and a task that writes to it.
//!
//! The reading task keeps at most [`EVENTS`] messages that nobody has taken. Then it reads no more, and by the flow control of
//! the connection the session's process stops when it has filled what lies in between; no other session notices. The
//! writing task sends whole frames, so that whoever gives up waiting leaves none half sent.

use std::sync::Arc;

use bytes::Bytes;
use protocol::{
    Exit, Failure, FrameError, GuestMessage, HostMessage, INITIAL_STDIN_CREDIT, MAX_DATA, Started,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::connection::{Connection, HangUp, Reader, Writer, encoded};

/// Messages that wait for somebody to take them, each at most a frame.
const EVENTS: usize = 16;

/// Frames that wait to be sent.
const FRAMES: usize = 4;

/// Most credit that is counted, in bytes: a guest can grant more than a number holds.
const MAX_CREDIT: usize = 1 << 30;

/// What comes from a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// Its process runs.
    Started(Started),
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// Its process ended. The last event.
    Exited(Exit),
    /// It could not be begun. The last event.
    Failed(Failure),
}

/// What is wrong with a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The connection ended before the session.
    #[error("The connection to the sandbox ended")]
    Disconnected,
    /// The agent is of another release.
    #[error("The agent in the guest cannot be talked to")]
    Hello(#[from] protocol::HelloError),
    /// Something came that cannot be understood.
    #[error("The agent in the guest cannot be understood")]
    Frame(#[from] FrameError),
    /// Something came that means nothing at this point.
    #[error("The agent in the guest sent a message out of turn")]
    Unexpected,
}

/// A session. Dropping it ends the connection, before anything that comes after: who comes back to the session then is not
/// in its own way.
#[derive(Debug)]
pub(crate) struct Channel {
    events: mpsc::Receiver<Result<Event, ChannelError>>,
    sender: Sender,
    tasks: [JoinHandle<()>; 2],
    _hang_up: HangUp,
}

/// Sends to a session.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    frames: mpsc::Sender<Vec<u8>>,
    /// Bytes of standard input that may be sent; closed when nobody reads them any more.
    credit: Arc<Semaphore>,
}

/// How a connection begins to carry a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// With the agent's greeting; a first credit is understood.
    Agent,
    /// By the machine's process, which has greeted already and grants all credit.
    Machine,
}

impl Channel {
    /// Carries the session that was asked for over `connection`. Must be called in a tokio runtime.
    pub(crate) fn open(connection: Connection, opening: Opening) -> Channel {
        let (events, received) = mpsc::channel(EVENTS);
        let (frames, to_send) = mpsc::channel(FRAMES);
        let credit = match opening {
            Opening::Agent => usize::try_from(INITIAL_STDIN_CREDIT).unwrap_or(0),
            Opening::Machine => 0,
        };
        let credit = Arc::new(Semaphore::new(credit));
        let hang_up = connection.hang_up();
        let Connection { reader, writer } = connection;
        let reading = Reading {
            reader,
            events,
            credit: Arc::clone(&credit),
        };
        let tasks = [
            tokio::spawn(reading.run(opening)),
            tokio::spawn(send_all(writer, to_send)),
        ];
        Channel {
            events: received,
            sender: Sender { frames, credit },
            tasks,
            _hang_up: hang_up,
        }
    }

    /// Waits for the next event. There is none after the last one.
    ///
    /// # Errors
    /// When the session ends without its process, or cannot be understood.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ChannelError> {
        self.events.recv().await.transpose()
    }

    /// Whether [`next`](Self::next) has something without waiting.
    pub(crate) fn has_event(&self) -> bool {
        !self.events.is_empty() || self.events.is_closed()
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Sender {
    /// Sends a message. A session that is over takes it and does nothing.
    ///
    /// # Errors
    /// When it does not fit into a frame.
    pub(crate) async fn send(&self, message: &HostMessage<'_>) -> Result<(), FrameError> {
        let frame = encoded(message)?;
        let _ = self.frames.send(frame).await;
        Ok(())
    }

    /// Sends a part of `data` as standard input as soon as there is credit; returns how much it was. 0 means that
    /// nobody reads it any more.
    ///
    /// # Errors
    /// None but for bugs: a part fits into a frame.
    pub(crate) async fn send_input(&self, data: &[u8]) -> Result<usize, FrameError> {
        // The frame's place first: credit that is taken is used, whoever gives up waiting.
        let Ok(place) = self.frames.reserve().await else {
            return Ok(0);
        };
        let Ok(first) = self.credit.acquire().await else {
            return Ok(0);
        };
        first.forget();
        let wanted = data.len().min(MAX_DATA);
        let more = self
            .credit
            .available_permits()
            .min(wanted.saturating_sub(1));
        let more = u32::try_from(more).unwrap_or(0);
        let taken = match self.credit.try_acquire_many(more) {
            Ok(permits) => {
                permits.forget();
                usize::try_from(more).unwrap_or(0).saturating_add(1)
            }
            // Another writer was faster, or the input was closed just now.
            Err(_) => 1,
        };
        let part = data.get(..taken).unwrap_or_default();
        place.send(encoded(&HostMessage::Stdin(part))?);
        Ok(part.len())
    }
}

/// The task that reads.
struct Reading {
    reader: Reader,
    events: mpsc::Sender<Result<Event, ChannelError>>,
    credit: Arc<Semaphore>,
}

impl Reading {
    async fn run(mut self, opening: Opening) {
        if let Err(error) = self.read_all(opening).await {
            let _ = self.events.send(Err(error)).await;
        }
        // Nobody waits for credit that does not come any more.
        self.credit.close();
    }

    async fn read_all(&mut self, opening: Opening) -> Result<(), ChannelError> {
        if opening == Opening::Agent {
            match self.reader.next().await? {
                Some(GuestMessage::Hello(hello)) => hello.check()?,
                // Too many sessions, for example.
                Some(GuestMessage::Failed(failure)) => {
                    let _ = self.events.send(Ok(Event::Failed(failure))).await;
                    return Ok(());
                }
                Some(_) => return Err(ChannelError::Unexpected),
                None => return Err(ChannelError::Disconnected),
            }
        }
        loop {
            let Some(message) = self.reader.next().await? else {
                return Err(ChannelError::Disconnected);
            };
            let event = match message {
                GuestMessage::StdinCredit(bytes) => {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    let room = MAX_CREDIT.saturating_sub(self.credit.available_permits());
                    self.credit.add_permits(bytes.min(room));
                    continue;
                }
                GuestMessage::StdinClosed => {
                    self.credit.close();
                    continue;
                }
                GuestMessage::Started(started) => Event::Started(started),
                GuestMessage::Stdout(data) => Event::Stdout(Bytes::copy_from_slice(data)),
                GuestMessage::Stderr(data) => Event::Stderr(Bytes::copy_from_slice(data)),
                GuestMessage::Exited(exit) => Event::Exited(exit),
                GuestMessage::Failed(failure) => Event::Failed(failure),
                _ => return Err(ChannelError::Unexpected),
            };
            let is_last = matches!(event, Event::Exited(_) | Event::Failed(_));
            if self.events.send(Ok(event)).await.is_err() || is_last {
                return Ok(());
            }
        }
    }
}

/// The task that writes. A connection that is broken ends it silently: the reading task sees the same.
async fn send_all(writer: Writer, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if writer.send(&frame).await.is_err() {
            return;
        }
    }
}
