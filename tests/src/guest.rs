//! A command in a guest: `msb run [OPTIONS] DIR -- CMD...`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use crate::home::Home;
use crate::running::{Finished, Running};
use crate::terminal::Terminal;

/// A guest to be started.
#[derive(Debug)]
pub struct Guest<'a> {
    home: &'a Home,
    root: PathBuf,
    options: Vec<OsString>,
}

impl<'a> Guest<'a> {
    /// A guest with the folder `root` as its root file system.
    pub fn new(home: &'a Home, root: PathBuf) -> Guest<'a> {
        Guest {
            home,
            root,
            options: Vec::new(),
        }
    }

    /// Adds options of `msb run`.
    #[must_use]
    pub fn with(mut self, options: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Guest<'a> {
        self.options
            .extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// The command that runs `command` in the guest; the default one if it is empty.
    pub fn command(&self, command: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut msb = self.home.command(["run"]);
        msb.args(&self.options).arg(&self.root);
        let mut command = command.into_iter().peekable();
        if command.peek().is_some() {
            msb.arg("--").args(command);
        }
        msb
    }

    /// The command that runs a shell script in the guest.
    pub fn shell_command(&self, script: &str) -> Command {
        self.command(["sh", "-c", script])
    }

    /// Runs `command` with nothing to read.
    #[track_caller]
    pub fn run(&self, command: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        Running::start(&mut self.command(command)).finish()
    }

    /// Runs a shell script with nothing to read.
    #[track_caller]
    pub fn shell(&self, script: &str) -> Finished {
        self.start(script).finish()
    }

    /// Starts a shell script.
    #[track_caller]
    pub fn start(&self, script: &str) -> Running {
        Running::start(&mut self.shell_command(script))
    }

    /// Starts a shell script in a terminal.
    #[track_caller]
    pub fn terminal(&self, script: &str) -> Terminal {
        Terminal::start(self.shell_command(script))
    }
}
