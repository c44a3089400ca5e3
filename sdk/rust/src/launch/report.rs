//! Frames between a machine's process and its creator, in the framing of the guest protocol.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use protocol::{FrameDecoder, FrameError, Stage};
use serde::{Deserialize, Serialize};

use super::Startup;

/// What a machine's process tells its creator: `Failed`; or `Ready`, then `Ended`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The guest is up and accepts sessions.
    Ready(Startup),
    /// The guest did not come up. The process ends.
    Failed(StartFailure),
    /// The machine ended after it had been ready. The process ends.
    Ended {
        /// How.
        how: Ending,
        /// The last lines of the guest kernel's log.
        #[serde(with = "serde_bytes")]
        console: Vec<u8>,
    },
}

/// Why a guest did not come up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// The step that failed.
    pub stage: StartStage,
    /// Linux error number, 0 where none applies.
    pub errno: i32,
    /// What failed, as a sentence.
    pub message: String,
    /// Why, from the nearest reason to the farthest.
    pub causes: Vec<String>,
    /// The last lines of the guest kernel's log.
    #[serde(with = "serde_bytes")]
    pub console: Vec<u8>,
}

/// Steps until a guest is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartStage {
    /// Taking over the configuration.
    Handover,
    /// Opening the kernel or the initramfs.
    Kernel,
    /// Opening a shared folder.
    Folder,
    /// Opening a disk image.
    Disk(DiskProblem),
    /// Making a device.
    Device,
    /// Making the machine with KVM.
    Machine,
    /// The guest's kernel and agent, up to the agent's greeting.
    Boot,
    /// The agent, carrying out the boot message.
    Guest(Stage),
}

/// Why a disk image cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskProblem {
    /// Somebody has it open in a way that excludes this one.
    InUse,
    /// It refers to another file, which was not allowed.
    NotAllowed,
    /// It is no image of its format, or one that needs what is not provided.
    Format,
    /// A file cannot be opened or read.
    File,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Everything in the guest was stopped, synced and unmounted first.
    Clean,
    /// It was stopped from outside in the middle of its work.
    Forced,
    /// The guest reset itself unasked.
    Reset,
    /// The guest's kernel panicked.
    KernelPanic {
        /// Its message.
        message: String,
    },
    /// The guest ran into a triple fault.
    TripleFault,
    /// The guest halted for ever.
    Halted,
    /// The monitor could not go on.
    MonitorFailed {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Clean | Ending::Forced => formatter.write_str("it was stopped"),
            Ending::Reset => formatter.write_str("it reset itself"),
            Ending::KernelPanic { message } => write!(formatter, "its kernel panicked: {message}"),
            Ending::TripleFault => formatter.write_str("it ran into a triple fault"),
            Ending::Halted => formatter.write_str("it halted"),
            Ending::MonitorFailed { reason } => {
                write!(formatter, "the monitor could not go on: {reason}")
            }
        }
    }
}

/// What the creator tells a machine's process. The end of the pipe is a message, too: the creator is
/// gone, and the machine goes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stop everything in the guest, then the machine.
    Shutdown {
        /// Milliseconds between SIGTERM and SIGKILL for the guest's processes.
        grace_ms: u32,
    },
    /// To outlive its creator from now on.
    Release,
}

/// Why no report could be had.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The pipe failed.
    #[error("Failed to read what the machine's process reports")]
    Io(#[from] io::Error),
    /// It speaks another language.
    #[error("The machine's process reports something unknown")]
    Frame(#[from] FrameError),
}

/// Sends a report; for the machine's process.
///
/// # Errors
/// When the creator is gone.
pub fn send_report(mut pipe: &File, report: &Report) -> Result<(), FrameError> {
    send(&mut pipe, report)
}

/// Sends a command; for the creator.
///
/// # Errors
/// When the machine's process is gone.
pub fn send_command(mut pipe: &File, command: Command) -> Result<(), FrameError> {
    send(&mut pipe, &command)
}

fn send<M: Serialize>(pipe: &mut impl Write, message: &M) -> Result<(), FrameError> {
    let mut frame = Vec::new();
    protocol::encode(message, &mut frame)?;
    Ok(pipe.write_all(&frame)?)
}

/// Reads reports without ever waiting: the machine's process runs untrusted code, so half a frame
/// must not hold up its creator.
#[derive(Debug)]
pub struct ReportReader {
    pipe: File,
    decoder: FrameDecoder,
    ended: bool,
}

impl ReportReader {
    /// Takes over the reading end.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn new(pipe: OwnedFd) -> io::Result<ReportReader> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(ReportReader {
            pipe: File::from(pipe),
            decoder: FrameDecoder::new(),
            ended: false,
        })
    }

    /// The next report, or `None` when none is complete yet.
    ///
    /// # Errors
    /// When the process sends something else; then nothing more can be had from it.
    pub fn next_report(&mut self) -> Result<Option<Report>, ReportError> {
        loop {
            if let Some(report) = self.decoder.next_frame()? {
                return Ok(Some(report));
            }
            if self.ended {
                return Ok(None);
            }
            match self.decoder.read_from(&mut self.pipe) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the process has closed its end: it is gone, or about to be.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

impl AsFd for ReportReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Moment;
    use protocol::Ready;

    fn ready() -> Report {
        let now = Moment::now();
        let agent = Ready {
            kernel_ns: 1,
            agent_ns: 2,
        };
        Report::Ready(Startup {
            process: now,
            kernel_entry: now,
            ready: now,
            agent,
        })
    }

    #[test]
    fn half_a_report_is_none_and_does_not_block() {
        let ready = ready();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut reader = ReportReader::new(reader).unwrap();
        let mut writer = File::from(writer);
        let mut frame = Vec::new();
        protocol::encode(&ready, &mut frame).unwrap();
        assert_eq!(reader.next_report().unwrap(), None);
        writer.write_all(&frame[..3]).unwrap();
        assert_eq!(reader.next_report().unwrap(), None);
        writer.write_all(&frame[3..]).unwrap();
        assert_eq!(reader.next_report().unwrap(), Some(ready));
        assert!(!reader.has_ended());
        drop(writer);
        assert_eq!(reader.next_report().unwrap(), None);
        assert!(reader.has_ended());
    }

    #[test]
    fn the_last_report_arrives_although_the_process_is_gone() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut reader = ReportReader::new(reader).unwrap();
        let writer = File::from(writer);
        let ended = Report::Ended {
            how: Ending::Clean,
            console: b"bye\n".to_vec(),
        };
        let ready = ready();
        send_report(&writer, &ready).unwrap();
        send_report(&writer, &ended).unwrap();
        drop(writer);
        assert_eq!(reader.next_report().unwrap(), Some(ready));
        assert_eq!(reader.next_report().unwrap(), Some(ended));
        assert_eq!(reader.next_report().unwrap(), None);
    }

    #[test]
    fn garbage_is_refused() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut reader = ReportReader::new(reader).unwrap();
        File::from(writer).write_all(&[0xff; 64]).unwrap();
        assert!(matches!(
            reader.next_report(),
            Err(ReportError::Frame(FrameError::TooLong))
        ));
    }
}
