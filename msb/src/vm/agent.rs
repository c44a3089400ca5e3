//! The control connection with the guest's agent.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use microsandbox::protocol::{
    Boot, Failure, FrameError, FrameReader, FrameWriter, GuestMessage, Hello, HelloError,
    HostMessage, Measurement, Ready,
};
use nix::sys::socket::{MsgFlags, send};
use vmm::virtio::vsock::Accept;

use super::supervisor::Event;

/// What the agent says.
#[derive(Debug)]
pub(super) enum AgentEvent {
    /// The guest is up.
    Ready(Ready, Control),
    /// The boot message could not be carried out.
    Failed(Failure),
    /// It heard that it shall shut the guest down.
    Stopping,
    /// The last session has ended.
    Drained,
    /// What the guest uses.
    Measured(Measurement),
    /// Everything in the guest is stopped, synced and unmounted.
    Goodbye,
    /// The agent closed the connection, or cannot be understood.
    Lost(AgentError),
}

/// Why there is no talking to the agent any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    /// It closed the connection.
    #[error("the agent closed the control connection")]
    Closed,
    /// The boot message could not be sent, or its answer not be read.
    #[error("the control connection failed")]
    Frame(#[from] FrameError),
    /// It is of another release.
    #[error("the agent in the initramfs does not fit this msb")]
    Hello(#[from] HelloError),
    /// It said something that means nothing at this point.
    #[error("the agent sent {0} out of turn")]
    Unexpected(&'static str),
}

/// The host's side of the connection once the guest is up.
#[derive(Debug)]
pub(super) struct Control {
    writer: FrameWriter<AtOnce>,
    /// It was asked to measure, and has not answered.
    measuring: Arc<AtomicBool>,
}

impl Control {
    /// The host's side of `stream`.
    pub(super) fn new(stream: UnixStream) -> Control {
        Control {
            writer: FrameWriter::new(AtOnce(stream)),
            measuring: Arc::default(),
        }
    }

    /// Asks the agent for something, without ever waiting.
    ///
    /// # Errors
    /// When the connection is gone, or full because the agent reads nothing.
    pub(super) fn tell(&mut self, message: &HostMessage<'_>) -> Result<(), FrameError> {
        self.writer.write(message)
    }

    /// Asks what the guest uses, unless it has been asked and has not answered: an agent that hangs is not asked again and
    /// again.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub(super) fn measure(&mut self) -> Result<(), FrameError> {
        if self.measuring.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.tell(&HostMessage::Measure)
    }
}

/// A stream that is written to without waiting. It shares its flags with the half that is read, so each call says so for
/// itself.
#[derive(Debug)]
struct AtOnce(UnixStream);

impl Write for AtOnce {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(send(self.0.as_raw_fd(), data, flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the place where the agent's connection arrives: one side for the vsock device, the other for
/// [`serve`]. There is one control connection; more of them are refused.
pub(super) fn rendezvous() -> (Accept, Receiver<UnixStream>) {
    let (sender, receiver) = sync_channel(1);
    let mut sender: Option<SyncSender<UnixStream>> = Some(sender);
    let accept = move || {
        let sender = sender.take().ok_or(io::ErrorKind::ConnectionRefused)?;
        let (device, host) = UnixStream::pair()?;
        sender
            .try_send(host)
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(device)
    };
    (Box::new(accept), receiver)
}

/// Talks to the agent on a thread of its own, which ends with the connection, or with the device when the
/// agent never connects.
///
/// # Errors
/// When there can be no more threads.
pub(super) fn serve(
    connection: Receiver<UnixStream>,
    boot: Boot,
    events: Sender<Event>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("agent".to_owned())
        .spawn(move || {
            let Ok(stream) = connection.recv() else {
                return;
            };
            let last = talk(stream, boot, &events).unwrap_or_else(AgentEvent::Lost);
            let _ = events.send(Event::Agent(last));
        })
}

/// Returns the last thing to be told about the agent.
fn talk(stream: UnixStream, boot: Boot, events: &Sender<Event>) -> Result<AgentEvent, AgentError> {
    let control = Control::new(stream.try_clone().map_err(FrameError::Io)?);
    let measuring = Arc::clone(&control.measuring);
    // The boot message may be longer than what the socket takes at once.
    let mut writer = FrameWriter::new(&stream);
    writer.write(&HostMessage::Hello(Hello::current(env!(
        "CARGO_PKG_VERSION"
    ))))?;
    writer.write(&HostMessage::Boot(Box::new(boot)))?;
    let mut reader = FrameReader::new(&stream);
    match read(&mut reader)? {
        GuestMessage::Hello(hello) => hello.check()?,
        _ => return Err(AgentError::Unexpected("something before its greeting")),
    }
    match read(&mut reader)? {
        GuestMessage::Ready(ready) => {
            let event = AgentEvent::Ready(ready, control);
            // Without a supervisor the machine is ending.
            let _ = events.send(Event::Agent(event));
        }
        GuestMessage::Failed(failure) => return Ok(AgentEvent::Failed(failure)),
        _ => return Err(AgentError::Unexpected("something before its boot report")),
    }
    let (mut stopping, mut drained) = (false, false);
    loop {
        let event = match read(&mut reader)? {
            GuestMessage::Stopping if !stopping => {
                stopping = true;
                AgentEvent::Stopping
            }
            GuestMessage::Drained if !drained => {
                drained = true;
                AgentEvent::Drained
            }
            GuestMessage::Measured(measurement) if measuring.swap(false, Ordering::Relaxed) => {
                AgentEvent::Measured(measurement)
            }
            // Said again it is no news, and no guest fills the queue of the supervisor.
            GuestMessage::Stopping | GuestMessage::Drained | GuestMessage::Measured(_) => continue,
            GuestMessage::Goodbye => return Ok(AgentEvent::Goodbye),
            _ => return Err(AgentError::Unexpected("something that belongs to sessions")),
        };
        let _ = events.send(Event::Agent(event));
    }
}

fn read<'a>(reader: &'a mut FrameReader<&UnixStream>) -> Result<GuestMessage<'a>, AgentError> {
    reader.read()?.ok_or(AgentError::Closed)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use microsandbox::protocol::{Root, RootAccess, RootSource, Stage};

    use super::*;

    fn boot() -> Boot {
        Boot {
            root: Root {
                source: RootSource::Shared { tag: "root".into() },
                access: RootAccess::Writable,
            },
            mounts: Vec::new(),
            hostname: "box".into(),
            scripts: Vec::new(),
            patches: Vec::new(),
            restricted: false,
            init: None,
        }
    }

    /// An agent that answers the boot message with `answers`, and what became of it.
    fn with_agent(answers: &[GuestMessage<'static>]) -> Vec<AgentEvent> {
        let (mut accept, connection) = rendezvous();
        let (events, received) = channel();
        let thread = serve(connection, boot(), events).unwrap();
        let device = accept().unwrap();
        assert!(accept().is_err(), "there is one control connection");
        let mut writer = FrameWriter::new(&device);
        writer
            .write(&GuestMessage::Hello(Hello::current("test")))
            .unwrap();
        let mut reader = FrameReader::new(&device);
        let hello = reader.read::<HostMessage>().unwrap();
        assert!(matches!(hello, Some(HostMessage::Hello(_))), "{hello:?}");
        assert_eq!(
            reader.read().unwrap(),
            Some(HostMessage::Boot(Box::new(boot())))
        );
        for answer in answers {
            writer.write(answer).unwrap();
        }
        drop(device);
        thread.join().unwrap();
        received
            .iter()
            .map(|event| match event {
                Event::Agent(event) => event,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_guest_comes_and_goes() {
        let ready = Ready {
            kernel_ns: 1,
            agent_ns: 2,
        };
        let events = with_agent(&[GuestMessage::Ready(ready), GuestMessage::Goodbye]);
        assert!(
            matches!(&events[..], [AgentEvent::Ready(told, _), AgentEvent::Goodbye] if *told == ready),
            "{events:?}"
        );
    }

    #[test]
    fn what_is_said_again_is_no_news() {
        let ready = Ready {
            kernel_ns: 1,
            agent_ns: 2,
        };
        let measurement = Measurement {
            memory_total: 2,
            memory_available: 1,
            upper: None,
        };
        let mut answers = vec![GuestMessage::Ready(ready)];
        for _ in 0..1000 {
            answers.extend([
                GuestMessage::Stopping,
                GuestMessage::Drained,
                // Nobody asked.
                GuestMessage::Measured(measurement),
            ]);
        }
        answers.push(GuestMessage::Goodbye);
        let events = with_agent(&answers);
        assert!(
            matches!(
                &events[..],
                [
                    AgentEvent::Ready(..),
                    AgentEvent::Stopping,
                    AgentEvent::Drained,
                    AgentEvent::Goodbye
                ]
            ),
            "{events:?}"
        );
    }

    #[test]
    fn a_failed_boot_is_told_as_the_agent_tells_it() {
        let failure = Failure {
            stage: Stage::Mount,
            errno: 2,
            message: "No".into(),
        };
        let events = with_agent(&[GuestMessage::Failed(failure.clone())]);
        assert!(
            matches!(&events[..], [AgentEvent::Failed(told)] if *told == failure),
            "{events:?}"
        );
    }

    #[test]
    fn an_agent_that_goes_without_a_word_is_lost() {
        let events = with_agent(&[]);
        assert!(
            matches!(events[..], [AgentEvent::Lost(AgentError::Closed)]),
            "{events:?}"
        );
        let events = with_agent(&[GuestMessage::StdinClosed]);
        assert!(
            matches!(events[..], [AgentEvent::Lost(AgentError::Unexpected(_))]),
            "{events:?}"
        );
    }

    #[test]
    fn an_agent_that_never_connects_keeps_nobody() {
        let (accept, connection) = rendezvous();
        let (events, received) = channel();
        let thread = serve(connection, boot(), events).unwrap();
        drop(accept);
        thread.join().unwrap();
        assert!(received.recv().is_err());
    }
}
