//! `msb login`

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, anyhow};
use clap::Args;
use microsandbox::home::Home;
use microsandbox::images::distribution::{KeptIn, Secret};
use microsandbox::images::{self, RegistryAuth};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

use super::pull::RegistryArguments;
use super::registry_advice::advise;
use super::runtime::block_on;
use crate::failure::{Hint, with_hint};
use crate::output;

/// Most bytes of a password.
const MAX_PASSWORD: u64 = 64 << 10;

/// Logs in at a registry
///
/// The registry is asked whether it accepts the password. Then it is kept where Docker keeps it: in ~/.docker/config.json, readable for you alone but
/// not encrypted, or with the credential helper that is named there (credsStore, credHelpers).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb login ghcr.io
  echo \"$TOKEN\" | msb login -u me --password-stdin ghcr.io")]
pub(super) struct Arguments {
    /// Host and port of the registry
    #[arg(default_value = "docker.io")]
    registry: String,

    /// Name of the user; asked for if it is missing
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// Reads the password from standard input instead of asking for it. There is no option for the password itself: everybody sees arguments
    #[arg(long, requires = "username")]
    password_stdin: bool,

    #[command(flatten)]
    access: RegistryArguments,
}

/// Logs in.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    let (username, password) = if arguments.password_stdin {
        let username = arguments.username.unwrap_or_default();
        (username, from_standard_input()?)
    } else {
        ask(arguments.username)?
    };
    if username.is_empty() || username.contains(':') {
        return Err(anyhow!("a user's name is not empty and has no colon"));
    }
    if password.reveal().is_empty() {
        return Err(anyhow!("the password is empty"));
    }
    let registry = arguments.registry;
    let options = arguments.access.options();
    let auth = RegistryAuth { username, password };
    let kept = block_on(async {
        images::login(&home, &registry, auth, options)
            .await
            .map_err(advise)
    })?;
    output::print(&match &kept {
        KeptIn::File(path) => {
            format!(
                "logged in at {registry}; the password is in {}, not encrypted\n",
                path.display()
            )
        }
        KeptIn::Helper(_) => format!("logged in at {registry}; {kept} keeps the password\n"),
    })?;
    Ok(0)
}

/// All of standard input but the end of its line.
fn from_standard_input() -> anyhow::Result<Secret> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .context("cannot read the password from standard input")?;
    Ok(Secret::new(without_line_end(&text)))
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Asks on the terminal for what is missing.
fn ask(username: Option<String>) -> anyhow::Result<(String, Secret)> {
    if !io::stdin().is_terminal() {
        let error = anyhow!("nobody can be asked for the password: standard input is no terminal");
        return Err(with_hint(
            error,
            "give -u NAME and --password-stdin, and the password on standard input",
        ));
    }
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let terminal = terminal.context("cannot open the terminal")?;
    let mut lines = BufReader::new(terminal.try_clone()?);
    let username = match username {
        Some(username) => username,
        None => question(&terminal, &mut lines, "User: ")?,
    };
    // A signal ends the process when the terminal is as before.
    let held = HeldSignals::hold()?;
    let silence = Silence::on(&terminal)?;
    (&terminal).write_all(b"Password: ")?;
    held.wait_for(&terminal)?;
    let password = question(&terminal, &mut lines, "");
    drop(silence);
    // The end of the line was not shown either.
    (&terminal).write_all(b"\n")?;
    Ok((username, Secret::new(password?)))
}

fn question(mut terminal: &File, lines: &mut impl BufRead, text: &str) -> anyhow::Result<String> {
    terminal.write_all(text.as_bytes())?;
    let mut answer = String::new();
    lines
        .take(MAX_PASSWORD)
        .read_line(&mut answer)
        .context("cannot read from the terminal")?;
    Ok(without_line_end(&answer).to_owned())
}

/// Keys are not shown until this is dropped.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Silence<'_> {
    fn on(terminal: &File) -> anyhow::Result<Silence<'_>> {
        let before = termios::tcgetattr(terminal).context("cannot silence the terminal")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        termios::tcsetattr(terminal, SetArg::TCSAFLUSH, &silent)
            .context("cannot silence the terminal")?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = termios::tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

/// Signals that end a program wait until this is dropped.
struct HeldSignals {
    set: SigSet,
    arrived: SignalFd,
}

impl HeldSignals {
    fn hold() -> anyhow::Result<HeldSignals> {
        let signals = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ];
        let set: SigSet = signals.into_iter().collect();
        let arrived = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC);
        let held = HeldSignals {
            set,
            arrived: arrived.context("cannot handle signals")?,
        };
        set.thread_block().context("cannot handle signals")?;
        Ok(held)
    }

    /// Waits until something can be read, or a signal has come.
    fn wait_for(&self, terminal: &File) -> anyhow::Result<()> {
        let mut ends = [
            PollFd::new(terminal.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.arrived.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ends, PollTimeout::NONE).context("cannot wait for the terminal")?;
        if ends.iter().skip(1).any(|end| end.any() == Some(true)) {
            return Err(anyhow!("a signal came"));
        }
        Ok(())
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // What came meanwhile is delivered now.
        let _ = self.set.thread_unblock();
    }
}
