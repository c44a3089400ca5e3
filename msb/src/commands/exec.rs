//! `msb exec`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Exec};

use super::kept;
use super::process::{Attended, conclude};
use super::running::{RunningSandbox, gone};
use super::sandbox::{ProcessArguments, milliseconds};
use crate::failure;
use crate::options::{DetachKeys, GuestPath, parse_duration};
use crate::signals::Signals;
use crate::{output, terminal};

/// Runs a command in a sandbox that runs
///
/// The command's standard output and standard error, its signals and its exit status become those of msb; with --interactive
/// or a terminal its standard input, too. It has the environment, the directory and the user of the sandbox unless it is
/// given others. A command that was started with --detach goes on by itself, and --reattach comes back to it: first comes
/// what it has written so far, at most its last MiB, whether somebody saw it or not.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  that of the command; 128+N when signal N ended it; 124 when --timeout ended it;
  125 for errors of msb; 126 when the command cannot be executed, 127 when it is not found

Examples:
  msb exec web ls -l /                            One command
  msb exec -it web                                A shell
  tar c . | msb exec -i web tar x -C /work        Standard input is passed with -i
  msb exec -e A=1 -w /tmp -u nobody web env
  msb exec -d web ./server                        Goes on by itself; its number is printed
  msb exec --reattach 3 web                       And here it is again")]
pub(super) struct Arguments {
    /// Name of the sandbox
    #[arg(value_name = "NAME")]
    name: Name,

    /// Command and its arguments [default: the shell]
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        conflicts_with = "reattach"
    )]
    command: Vec<OsString>,

    /// Passes standard input
    #[arg(short, long)]
    interactive: bool,

    /// Gives the command a terminal [default: when standard input and output are terminals]
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,

    /// Gives the command no terminal
    #[arg(long)]
    no_tty: bool,

    #[command(flatten)]
    process: ProcessArguments,

    /// Ends the command after so long: ms, s, m or h; a bare number counts seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Lets the command go on by itself, and prints the number of its session
    #[arg(short, long, conflicts_with = "reattach")]
    detach: bool,

    /// Comes back to a command that goes on by itself, as it was begun
    #[arg(long, value_name = "SESSION", conflicts_with_all = ["tty", "no_tty", "env", "workdir", "user", "rlimit", "timeout"])]
    reattach: Option<u64>,

    /// Keys that leave a command of --reattach alone
    #[arg(
        long,
        value_name = "KEYS",
        default_value = "ctrl-p,ctrl-q",
        requires = "reattach",
        conflicts_with = "command"
    )]
    detach_keys: DetachKeys,
}

/// Runs it and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    // Before the first thread.
    let signals = Signals::take_over().context("cannot take over signals")?;
    let sandbox = RunningSandbox::find(arguments.name.clone())?;
    if let Some(number) = arguments.reattach {
        return kept::attach(&sandbox, Some(number), &arguments.detach_keys, &signals);
    }
    let exec = sandbox.complete(arguments.exec())?;
    if arguments.detach {
        let number = kept::begin(&sandbox, exec)?;
        output::print(&format!("{number}\n"))?;
        return Ok(0);
    }
    run(&sandbox, exec, arguments.timeout, &signals)
}

/// Runs a process in the sandbox, and is it.
pub(super) fn run(
    sandbox: &RunningSandbox,
    exec: Exec,
    timeout: Option<Duration>,
    signals: &Signals,
) -> anyhow::Result<u8> {
    let program = match exec.args.first() {
        Some(program) => String::from_utf8_lossy(&program.0).into_owned(),
        None => "the shell".to_owned(),
    };
    let attended = Attended {
        stream: sandbox.connect()?,
        exec,
        timeout,
        signals,
    };
    let (outcome, _) = attended.run()?;
    let (status, error) = conclude(outcome, &program, timeout, || gone(&sandbox.name));
    if let Some(error) = error {
        failure::report(&error);
    }
    Ok(status)
}

impl Arguments {
    fn exec(&self) -> Exec {
        let wanted = self.tty || (!self.no_tty && !self.detach && terminal::is_interactive());
        let terminal = wanted.then(terminal::size);
        let words = self.command.iter();
        Exec {
            args: words.map(|word| Bytes(word.as_bytes().to_vec())).collect(),
            env: self.process.environment(wanted),
            cwd: self.process.workdir.as_ref().map(GuestPath::to_bytes),
            user: self.process.user.clone(),
            rlimits: self.process.limits(),
            terminal,
            stdin: (self.interactive || wanted) && !self.detach,
            timeout_ms: self.timeout.map(milliseconds),
            stop_signal: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn read(line: &str) -> Result<Command, clap::Error> {
        Command::try_parse_from(line.split(' '))
    }

    #[test]
    fn who_comes_back_changes_nothing_of_the_command() {
        let back = read("exec -i --reattach 3 --detach-keys q web").unwrap();
        assert_eq!(back.arguments.reattach, Some(3));
        for option in [
            "-t",
            "--no-tty",
            "-e A=1",
            "-w /tmp",
            "-u nobody",
            "--rlimit nofile=5",
            "--timeout 5s",
            "-d",
        ] {
            let error = read(&format!("exec {option} --reattach 3 web")).unwrap_err();
            assert!(
                error.to_string().contains("--reattach"),
                "{option}: {error}"
            );
        }
        assert!(read("exec --reattach 3 web ls").is_err());
        // Nor can one that is not come back to be left.
        for line in ["exec --detach-keys q web ls", "exec --detach-keys q web"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
