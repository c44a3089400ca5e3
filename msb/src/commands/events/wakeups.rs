//! When to look at the sandboxes again.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use microsandbox::home::Home;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Changes of the home by which states of sandboxes change: of the database, and of the files in run directories.
#[derive(Debug)]
pub(super) struct WakeUps {
    run: PathBuf,
    changes: AsyncFd<Descriptor>,
    /// The directory of the database.
    database: WatchDescriptor,
    /// Name of its log, into which each change goes first.
    database_log: String,
}

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl WakeUps {
    /// Watches the home, which need not have anything in it yet.
    ///
    /// # Errors
    /// As inotify(7).
    pub(super) fn new(home: &Home) -> io::Result<WakeUps> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let database = home.database();
        let directory = database.parent().unwrap_or(home.path());
        for directory in [directory, &home.run()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        let watch = inotify.add_watch(directory, AddWatchFlags::IN_MODIFY)?;
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        let descriptor = Descriptor(inotify);
        // SAFETY: the descriptor is open, and the same one, as long as the value lives.
        let changes = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        let mut wake_ups = WakeUps {
            run: home.run(),
            changes,
            database: watch,
            database_log: format!("{name}-wal"),
        };
        wake_ups.watch_runs()?;
        Ok(wake_ups)
    }

    /// Waits until something may have changed.
    ///
    /// # Errors
    /// As inotify(7).
    pub(super) async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.changes.readable().await?;
            let events = match ready.get_inner().0.read_events() {
                Ok(events) => events,
                Err(nix::Error::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.watch_runs()?;
            if events.iter().any(|event| self.matters(event)) {
                return Ok(());
            }
        }
    }

    /// Looking at the database changes other files beside it, and that must not be a reason to look again.
    fn matters(&self, event: &InotifyEvent) -> bool {
        event.wd != self.database
            || event
                .name
                .as_ref()
                .is_some_and(|name| *name == *self.database_log)
    }

    /// Watches the run directories that there are; watching one again changes nothing.
    fn watch_runs(&mut self) -> io::Result<()> {
        let inotify = &self.changes.get_ref().0;
        let events =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(self.run.as_path(), events)?;
        for entry in fs::read_dir(&self.run)? {
            watch_run(inotify, &entry?.path(), events)?;
        }
        Ok(())
    }
}

/// Watches a run directory, if it has not gone already.
fn watch_run(inotify: &Inotify, path: &Path, events: AddWatchFlags) -> io::Result<()> {
    match inotify.add_watch(path, events | AddWatchFlags::IN_ONLYDIR) {
        Ok(_) | Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
