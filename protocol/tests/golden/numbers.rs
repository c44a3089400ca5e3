//! The number of each message, which no later version may change.

use protocol::{FileReply, FileRequest, GuestMessage, HostMessage};

use crate::Message;
use crate::Message::{Guest, Host, Reply, Request};

/// A new variant stops this from compiling until it is counted here and has a vector.
pub(crate) fn variant(message: &Message) -> (&'static str, u8) {
    match message {
        Host(message) => (
            "host",
            match message {
                HostMessage::Hello(_) => 0,
                HostMessage::Boot(_) => 1,
                HostMessage::Exec(_) => 2,
                HostMessage::Stdin(_) => 3,
                HostMessage::StdinEnd => 4,
                HostMessage::Resize(_) => 5,
                HostMessage::Signal(_) => 6,
                HostMessage::Shutdown(_) => 7,
                HostMessage::Files(_) => 8,
                HostMessage::Drain => 9,
                HostMessage::Measure => 10,
                HostMessage::SetClock(_) => 11,
            },
        ),
        Guest(message) => (
            "guest",
            match message {
                GuestMessage::Hello(_) => 0,
                GuestMessage::Ready(_) => 1,
                GuestMessage::Failed(_) => 2,
                GuestMessage::Started(_) => 3,
                GuestMessage::Stdout(_) => 4,
                GuestMessage::Stderr(_) => 5,
                GuestMessage::StdinCredit(_) => 6,
                GuestMessage::StdinClosed => 7,
                GuestMessage::Exited(_) => 8,
                GuestMessage::Goodbye => 9,
                GuestMessage::Stopping => 10,
                GuestMessage::Drained => 11,
                GuestMessage::Measured(_) => 12,
            },
        ),
        Request(message) => (
            "request",
            match message {
                FileRequest::Read(_) => 0,
                FileRequest::Write(_) => 1,
                FileRequest::Data(_) => 2,
                FileRequest::End => 3,
                FileRequest::List(_) => 4,
                FileRequest::Stat(_) => 5,
                FileRequest::MakeDirectory(_) => 6,
                FileRequest::Remove(_) => 7,
                FileRequest::RemoveFile(_) => 8,
                FileRequest::RemoveAll(_) => 9,
                FileRequest::Copy(..) => 10,
                FileRequest::Rename(..) => 11,
                FileRequest::Examine(..) => 12,
                FileRequest::ReadLink(_) => 13,
                FileRequest::MakeSymlink(..) => 14,
                FileRequest::SetMode(..) => 15,
                FileRequest::SetOwner(..) => 16,
                FileRequest::SetTimes(..) => 17,
                FileRequest::ReadFrom(..) => 18,
                FileRequest::WriteWithMode(..) => 19,
                FileRequest::ReadTree(_) => 20,
                FileRequest::WriteTree(_) => 21,
                FileRequest::Node(_) => 22,
                FileRequest::Hole(_) => 23,
                FileRequest::ReadLayer(..) => 24,
            },
        ),
        Reply(message) => (
            "reply",
            match message {
                FileReply::Data(_) => 0,
                FileReply::Entry(_) => 1,
                FileReply::Done => 2,
                FileReply::Failed(_) => 3,
                FileReply::Attributes(_) => 4,
                FileReply::Node(_) => 5,
                FileReply::Hole(_) => 6,
            },
        ),
    }
}
