//! The thread that listens to the creator of this process.

use std::fs::File;
use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use microsandbox::launch::Command;
use microsandbox::protocol::FrameReader;

use super::supervisor::Event;

/// Passes the creator's commands on, and finally that it is gone.
///
/// # Errors
/// When there can be no more threads.
pub(super) fn listen(commands: File, events: Sender<Event>) -> io::Result<()> {
    // Never joined: it ends with the creator or with this process.
    thread::Builder::new()
        .name("creator".to_owned())
        .spawn(move || {
            let mut reader = FrameReader::new(commands);
            // What cannot be understood is as good as the end.
            while let Ok(Some(command)) = reader.read::<Command>() {
                if events.send(Event::Creator(command)).is_err() {
                    return;
                }
            }
            let _ = events.send(Event::CreatorGone);
        })?;
    Ok(())
}
