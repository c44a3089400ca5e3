//! What the guest says.

use protocol::{Exit, ExitStatus, Failure, GuestMessage, Measurement, Ready, Stage, Started};

use crate::Message::Guest;
use crate::{Message, Vector, hello};

fn exited(status: ExitStatus, timed_out: bool) -> Message {
    Guest(GuestMessage::Exited(Exit { status, timed_out }))
}

pub(crate) fn vectors() -> Vec<Vector> {
    vec![
        (
            "guest hello",
            Guest(GuestMessage::Hello(hello())),
            "0c000000 00 6d736200 06 05 302e312e30",
        ),
        (
            "guest ready",
            Guest(GuestMessage::Ready(Ready {
                kernel_ns: 60_000_000,
                agent_ns: 4_000_000,
            })),
            "09000000 01 808ece1c 8092f401",
        ),
        (
            "guest failed",
            Guest(GuestMessage::Failed(Failure {
                stage: Stage::ProgramNotFound,
                errno: 2,
                message: "ls is not in PATH".into(),
            })),
            "15000000 02 08 04 11 6c73206973206e6f7420696e2050415448",
        ),
        (
            "guest started",
            Guest(GuestMessage::Started(Started {
                pid: 300,
                session: 2,
                terminal: true,
            })),
            "05000000 03 ac02 02 01",
        ),
        (
            "guest stdout",
            Guest(GuestMessage::Stdout(b"hi\n")),
            "05000000 04 03 68690a",
        ),
        (
            "guest stderr",
            Guest(GuestMessage::Stderr(b"oh\n")),
            "05000000 05 03 6f680a",
        ),
        (
            "guest stdin credit",
            Guest(GuestMessage::StdinCredit(65_536)),
            "04000000 06 808004",
        ),
        (
            "guest stdin closed",
            Guest(GuestMessage::StdinClosed),
            "01000000 07",
        ),
        (
            "guest exited, code",
            exited(ExitStatus::Code(3), false),
            "04000000 08 00 03 00",
        ),
        (
            "guest exited, time-out",
            exited(ExitStatus::Signal(9), true),
            "04000000 08 01 09 01",
        ),
        ("guest goodbye", Guest(GuestMessage::Goodbye), "01000000 09"),
        (
            "guest stopping",
            Guest(GuestMessage::Stopping),
            "01000000 0a",
        ),
        ("guest drained", Guest(GuestMessage::Drained), "01000000 0b"),
        (
            "guest measured",
            Guest(GuestMessage::Measured(Measurement {
                memory_total: 300,
                memory_available: 200,
                upper: Some((1, 2)),
            })),
            "08000000 0c ac02 c801 01 01 02",
        ),
    ]
}
