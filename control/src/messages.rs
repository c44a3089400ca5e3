//! Requests and replies.
//!
//! postcard numbers the variants by their position, so the enums only ever grow at the end.

use protocol::{Exec, Failure, Hello};
use serde::{Deserialize, Serialize};

use super::{Ended, MachineState};

/// What is asked of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// First frame of every connection.
    Hello(Hello),
    /// To shut down in good order: processes have so many milliseconds between SIGTERM and SIGKILL. A guest that does
    /// not answer is stopped by force when they are over. Asked again, the shorter time counts.
    Stop {
        /// Milliseconds; 0 skips SIGTERM.
        grace_ms: u32,
    },
    /// To end at once, without asking the guest.
    Kill,
    /// To refuse new sessions, and to stop when those that there are have ended.
    Drain,
    /// To halt the processors.
    Pause,
    /// To let them go on.
    Resume,
    /// What it uses.
    Metrics,
    /// To be told of every change of state: [`ControlReply::State`] at once and at each change, and
    /// [`ControlReply::Ended`] at the end.
    Watch,
    /// To run a process that survives its client: others can come back to it. As long as the guest is not up it waits.
    Run(Box<Exec>),
    /// To come back to such a process. One client at a time can.
    Attach {
        /// Its session; `None` is the sandbox's own process, and as long as the guest is not up the reply waits for it.
        session: Option<u64>,
        /// How many bytes of its output the client has already: the rest is sent first, as far as it was kept.
        seen: u64,
    },
    /// That the machine outlives its creator from now on.
    Release,
}

/// What a machine answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlReply {
    /// First frame of every connection.
    Hello(Hello),
    /// It is done, or begun where it takes time.
    Done,
    /// It cannot be done.
    Refused(Refusal),
    /// The answer to [`ControlRequest::Metrics`].
    Metrics(Box<MachineMetrics>),
    /// It is in this state.
    State(MachineState),
    /// It is about to end; the last reply of all.
    Ended(Box<Ended>),
    /// The answer to [`ControlRequest::Run`] and [`ControlRequest::Attach`].
    Session(SessionOpened),
    /// The guest could not start the process of [`ControlRequest::Run`].
    Failed(Failure),
}

/// Why something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of reason it is.
    pub kind: RefusalKind,
    /// One sentence.
    pub message: String,
}

/// Kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The request cannot be understood at this point, or the releases do not fit.
    Protocol,
    /// The machine drains, stops or has not come up yet.
    State,
    /// There is no such session.
    NoSession,
    /// Somebody else is attached to the session.
    SessionInUse,
    /// There are too many clients or sessions.
    Limit,
    /// The host refuses something.
    Host,
}

/// A session that survives its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpened {
    /// Its number, by which others come back to it.
    pub session: u64,
    /// Bytes of output that the client has not seen and will not see, because they were not kept.
    pub missed: u64,
    /// Position in the output, in bytes, of the first byte that is sent.
    pub position: u64,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// What a machine uses, at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineMetrics {
    /// Nanoseconds since the machine's process started, by a clock that does not jump.
    pub uptime_ns: u64,
    /// Nanoseconds that its virtual processors ran, together.
    pub vcpu_time_ns: u64,
    /// Of one processor, in percent, over the last moments: 200 means two processors ran all the time.
    pub cpu_percent: f64,
    /// Bytes of memory that the guest may have.
    pub memory_limit: u64,
    /// Bytes of memory in use: by what the guest says, or what the host gave it if the guest says nothing.
    pub memory_used: u64,
    /// Bytes that the guest says could be used, if it answers.
    pub memory_available: Option<u64>,
    /// Bytes of the host's memory behind the guest's.
    pub memory_host_resident: Option<u64>,
    /// Bytes read from disks and shared folders.
    pub disk_read: u64,
    /// Bytes written to disks and shared folders.
    pub disk_written: u64,
    /// Bytes received over the network.
    pub net_received: u64,
    /// Bytes sent over the network.
    pub net_sent: u64,
    /// Bytes in use in the file system of the root's private layer, if it is on a disk and the guest says so.
    pub upper_used: Option<u64>,
    /// Bytes that are free there.
    pub upper_free: Option<u64>,
    /// Bytes that its image takes up on the host.
    pub upper_host_allocated: Option<u64>,
    /// Sessions that there are.
    pub sessions: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{FrameDecoder, Stage, encode};

    use super::*;
    use crate::StopReason;

    fn exec() -> Exec {
        Exec {
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            user: None,
            rlimits: Vec::new(),
            terminal: None,
            stdin: false,
            timeout_ms: None,
            stop_signal: None,
        }
    }

    /// Everything behind the length field.
    fn body(message: &impl Serialize) -> Vec<u8> {
        let mut frame = Vec::new();
        encode(message, &mut frame).unwrap();
        frame.split_off(4)
    }

    #[test]
    fn requests_have_the_numbers_that_others_know() {
        let requests = [
            ControlRequest::Hello(Hello::current("")),
            ControlRequest::Stop { grace_ms: 300 },
            ControlRequest::Kill,
            ControlRequest::Drain,
            ControlRequest::Pause,
            ControlRequest::Resume,
            ControlRequest::Metrics,
            ControlRequest::Watch,
            ControlRequest::Run(Box::new(exec())),
            ControlRequest::Attach {
                session: Some(5),
                seen: 128,
            },
            ControlRequest::Release,
        ];
        for (number, request) in (0..).zip(&requests) {
            assert_eq!(body(request)[0], number, "{request:?}");
        }
        assert_eq!(body(&requests[1]), [1, 0xac, 2]);
        assert_eq!(body(&requests[9]), [9, 1, 5, 0x80, 1]);
    }

    #[test]
    fn replies_have_the_numbers_that_others_know() {
        let ended = Ended {
            reason: StopReason::Idle,
            exit: None,
            detail: None,
            console: None,
            clean: true,
            at: 1,
        };
        let replies = [
            (0, ControlReply::Hello(Hello::current(""))),
            (1, ControlReply::Done),
            (
                2,
                ControlReply::Refused(Refusal {
                    kind: RefusalKind::Limit,
                    message: String::new(),
                }),
            ),
            (4, ControlReply::State(MachineState::Stopping)),
            (5, ControlReply::Ended(Box::new(ended))),
            (
                6,
                ControlReply::Session(SessionOpened {
                    session: 1,
                    missed: 2,
                    position: 3,
                    terminal: true,
                }),
            ),
            (
                7,
                ControlReply::Failed(Failure {
                    stage: Stage::Spawn,
                    errno: 1,
                    message: String::new(),
                }),
            ),
        ];
        for (number, reply) in &replies {
            assert_eq!(body(reply)[0], *number, "{reply:?}");
        }
        assert_eq!(body(&replies[2].1), [2, 4, 0]);
        assert_eq!(body(&replies[3].1), [4, 4]);
        assert_eq!(body(&replies[5].1), [6, 1, 2, 3, 1]);
    }

    proptest! {
        #[test]
        fn what_can_be_read_is_written_the_same(mut bytes in prop::collection::vec(any::<u8>(), 1..64)) {
            bytes[0] %= 12;
            let mut frame = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            frame.append(&mut bytes);
            let mut decoder = FrameDecoder::new();
            decoder.read_from(&mut &frame[..]).unwrap();
            if let Ok(Some(request)) = decoder.next_frame::<ControlRequest>() {
                let mut again = Vec::new();
                encode(&request, &mut again).unwrap();
                decoder.read_from(&mut &again[..]).unwrap();
                prop_assert_eq!(decoder.next_frame().unwrap(), Some(request));
            }
            let mut decoder = FrameDecoder::new();
            decoder.read_from(&mut &frame[..]).unwrap();
            let _ = decoder.next_frame::<ControlReply>();
        }
    }
}
