//! `msb shell`

use anyhow::Context;
use clap::Args;
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Exec};

use super::exec;
use super::running::RunningSandbox;
use super::sandbox::ProcessArguments;
use crate::options::GuestPath;
use crate::signals::Signals;
use crate::terminal;

/// The shell of scripts where the sandbox names none.
const USUAL_SHELL: &str = "/bin/sh";

/// Runs a shell in a sandbox that runs
///
/// Its standard streams, signals and exit status become those of msb.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  as of `msb exec`

Examples:
  msb shell web                                   Until it is left
  msb shell web 'cd /srv && du -sh *'             One script
  msb shell web < setup.sh                        What comes from standard input")]
pub(super) struct Arguments {
    /// Name of the sandbox
    #[arg(value_name = "NAME")]
    name: Name,

    /// What the shell is to do [default: what is typed]
    #[arg(value_name = "SCRIPT")]
    script: Option<String>,

    #[command(flatten)]
    process: ProcessArguments,
}

/// Runs it and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    // Before the first thread.
    let signals = Signals::take_over().context("cannot take over signals")?;
    let sandbox = RunningSandbox::find(arguments.name.clone())?;
    let exec = sandbox.complete(arguments.exec(sandbox.config.shell.as_deref()))?;
    exec::run(&sandbox, exec, None, &signals)
}

impl Arguments {
    fn exec(&self, shell: Option<&str>) -> Exec {
        let interactive = terminal::is_interactive();
        let words = match &self.script {
            Some(script) => vec![shell.unwrap_or(USUAL_SHELL), "-c", script],
            // The user's login shell, if the sandbox names none.
            None => shell.into_iter().collect(),
        };
        Exec {
            args: words
                .into_iter()
                .map(|word| Bytes(word.as_bytes().to_vec()))
                .collect(),
            env: self.process.environment(interactive),
            cwd: self.process.workdir.as_ref().map(GuestPath::to_bytes),
            user: self.process.user.clone(),
            rlimits: self.process.limits(),
            terminal: interactive.then(terminal::size),
            stdin: true,
            timeout_ms: None,
            stop_signal: None,
        }
    }
}
