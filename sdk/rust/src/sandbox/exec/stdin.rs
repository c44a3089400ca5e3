//! Standard input of a command.

use std::io;

use protocol::HostMessage;

use super::channel::Sender;

/// Writes standard input of a command. Dropping it leaves the input open; [`close`](Self::close) ends it.
///
/// A command that does not read stops its writer, after at most 256 KiB.
#[derive(Debug)]
pub struct StdinWriter {
    sender: Sender,
}

impl StdinWriter {
    pub(crate) fn new(sender: Sender) -> StdinWriter {
        StdinWriter { sender }
    }

    /// Writes a part of `data`, as soon as the command can take some; returns how much. What is given up while it waits has
    /// written nothing.
    ///
    /// # Errors
    /// `BrokenPipe` when the command has closed its input or ended.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        match self.sender.send_input(data).await {
            Ok(0) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(count) => Ok(count),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = self.write(data).await?;
            data = data.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Ends the input. On a terminal in line mode this is Ctrl-D.
    ///
    /// # Errors
    /// None but for bugs.
    pub async fn close(self) -> io::Result<()> {
        let sent = self.sender.send(&HostMessage::StdinEnd).await;
        sent.map_err(io::Error::other)
    }
}
