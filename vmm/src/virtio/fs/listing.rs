//! FUSE_READDIR and FUSE_READDIRPLUS, which do not reach the server: it knows one way to say that there are no more
//! entries, and Linux concludes from that one that it may keep the listing, see [`Entries`].

use std::io;

use fuse_backend_rs::abi::fuse_abi::ReadIn;

use super::message::{Message, REPLY_HEADER};
use crate::fs::{Entries, Served};

/// Answers FUSE_READDIR, or FUSE_READDIRPLUS if entries are `with_attributes`; returns the length of the reply.
pub(super) fn list(served: &impl Served, message: &Message<'_>, with_attributes: bool) -> usize {
    let list = || -> io::Result<Entries> {
        let fields: ReadIn = message.fields()?;
        let room = message.writable.len().saturating_sub(REPLY_HEADER);
        let most = usize::try_from(room.min(u64::from(fields.size))).unwrap_or(usize::MAX);
        let mut entries = Entries::new(most, with_attributes);
        served.list(message.header.nodeid, fields.offset, &mut entries)?;
        Ok(entries)
    };
    match list() {
        Ok(entries) => message.reply(entries.as_bytes()),
        Err(error) => message.reply_error(&error),
    }
}
