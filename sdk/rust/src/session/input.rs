//! The thread that writes to a session's connection.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{FrameError, FrameWriter, HostMessage, MAX_DATA};

use super::Remote;

/// What the input thread works with.
pub(super) struct Input {
    /// The frames that open the session.
    pub(super) request: Vec<u8>,
    /// The connection.
    pub(super) stream: UnixStream,
    /// Standard input, until its end.
    pub(super) source: Option<File>,
    /// What others want to have sent.
    pub(super) remote: Arc<Remote>,
}

impl Input {
    /// Runs until the session is over. A broken connection ends it silently: the output thread sees
    /// the same and can say more about it.
    pub(super) fn run(mut self) {
        if self.stream.write_all(&self.request).is_ok() {
            let _ = self.send_all();
        }
    }

    fn send_all(mut self) -> Result<(), FrameError> {
        let mut writer = FrameWriter::new(&self.stream);
        let mut data = vec![0; MAX_DATA];
        let mut credit: u64 = 0;
        loop {
            let wanted = usize::try_from(credit)
                .unwrap_or(usize::MAX)
                .min(data.len());
            let readable = match &self.source {
                Some(source) if wanted > 0 => wait(&self.remote, Some(source)),
                _ => wait(&self.remote, None),
            };
            let news = self.remote.take();
            if news.finished {
                return Ok(());
            }
            credit = credit.saturating_add(news.credit);
            for signal in news.signals {
                writer.write(&HostMessage::Signal(signal))?;
            }
            if let Some(size) = news.size {
                writer.write(&HostMessage::Resize(size))?;
            }
            if news.input_closed {
                self.source = None;
            }
            let (true, Some(source)) = (readable, &mut self.source) else {
                continue;
            };
            let Some(buffer) = data.get_mut(..wanted) else {
                continue;
            };
            match source.read(buffer) {
                Ok(count @ 1..) => {
                    writer.write(&HostMessage::Stdin(buffer.get(..count).unwrap_or_default()))?;
                    credit = credit.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                // The end; or a terminal that is gone, a directory: nothing more will come of it.
                Ok(0) | Err(_) => {
                    writer.write(&HostMessage::StdinEnd)?;
                    self.source = None;
                }
            }
        }
    }
}

/// Waits for news, or for something to read. Says whether there is something to read.
fn wait(remote: &Remote, source: Option<&File>) -> bool {
    let changed = PollFd::new(remote.changed(), PollFlags::POLLIN);
    let Some(source) = source else {
        // An interruption is as good as news: the caller looks for itself.
        let _ = poll(&mut [changed], PollTimeout::NONE);
        return false;
    };
    let mut descriptors = [changed, PollFd::new(source.as_fd(), PollFlags::POLLIN)];
    match poll(&mut descriptors, PollTimeout::NONE) {
        // Everything counts, hang-up and errors too: the read tells what it is.
        Ok(_) => descriptors[1]
            .revents()
            .is_some_and(|events| !events.is_empty()),
        Err(_) => false,
    }
}
