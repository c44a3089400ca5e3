//! From the arguments to what is to be done, with every mistake found before anything starts.

use std::time::Duration;

use anyhow::anyhow;
use microsandbox::protocol::Exec;
use microsandbox::session;

use super::Arguments;
use super::recorded::Manner;
use super::timings::TimingsFormat;
use crate::commands::sandbox::SandboxPlan;
use crate::failure::{Hint, with_hint};
use crate::terminal;

/// What `msb run` is to do.
pub(super) struct Plan {
    /// The sandbox.
    pub(super) sandbox: SandboxPlan,
    /// The process in it.
    pub(super) exec: Exec,
    /// When the process is ended.
    pub(super) timeout: Option<Duration>,
    /// What the process is called in messages.
    pub(super) program: String,
    /// What becomes of it.
    pub(super) manner: Manner,
    /// Whether nothing of the sandbox remains afterwards.
    pub(super) ephemeral: bool,
    /// Whether nobody else finds the sandbox: it has no name by which, and nothing to be kept on a disk.
    pub(super) unrecorded: bool,
    /// How the times of the phases are printed, if they are.
    pub(super) timings_format: Option<TimingsFormat>,
}

impl Plan {
    /// Checks the arguments against each other and against this machine.
    ///
    /// # Errors
    /// The first mistake, with what to do about it.
    pub(super) fn from_arguments(arguments: Arguments) -> anyhow::Result<Plan> {
        if arguments.detach && arguments.interactive && !arguments.tty {
            return Err(with_hint(
                anyhow!("a command that is detached and has no terminal has no standard input"),
                "with --tty `msb attach` types into it, or leave --interactive out",
            ));
        }
        let terminal = wants_terminal(&arguments).then(terminal::size);
        let detached = arguments.detach.then_some(arguments.tty);
        let sandbox = arguments.sandbox.resolve()?.running_image();
        // What others can come back to has a name, and its time is not limited: only a client can end a command early.
        let can_be_left =
            sandbox.name.is_some() && terminal.is_some() && arguments.timeout.is_none();
        let manner = match detached {
            Some(tty) => Manner::Detached { tty },
            None if can_be_left => Manner::Terminal(arguments.detach_keys),
            None => Manner::Foreground,
        };
        let program = sandbox.program();
        let exec = sandbox.exec(terminal, arguments.timeout);
        session::check(&exec)
            .hint("they may have 1 MiB together: pass large data in a file or on standard input")?;
        Ok(Plan {
            ephemeral: arguments.rm || (!arguments.detach && sandbox.name.is_none()),
            unrecorded: matches!(manner, Manner::Foreground)
                && sandbox.name.is_none()
                && !sandbox.has_labels()
                && !sandbox.has_upper_disk(),
            manner,
            sandbox,
            exec,
            timeout: arguments.timeout,
            program,
            timings_format: arguments.timings,
        })
    }
}

fn wants_terminal(arguments: &Arguments) -> bool {
    arguments.tty || (!arguments.no_tty && terminal::is_interactive())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn manner(options: &[&str]) -> anyhow::Result<Manner> {
        let folder = tempfile::tempdir().unwrap();
        let words = ["run"].iter().chain(options).map(|word| (*word).into());
        let words = words.chain([folder.path().as_os_str().to_owned()]);
        let command = Command::try_parse_from(words)?;
        Ok(Plan::from_arguments(command.arguments)?.manner)
    }

    #[test]
    fn what_is_detached_has_input_from_a_terminal_only() {
        for options in [&["-dit"][..], &["-d", "-t"]] {
            let manner = manner(options).unwrap();
            assert!(
                matches!(manner, Manner::Detached { tty: true }),
                "{manner:?}"
            );
        }
        let plain = manner(&["-d"]).unwrap();
        assert!(
            matches!(plain, Manner::Detached { tty: false }),
            "{plain:?}"
        );
        let refused = manner(&["-di"]).unwrap_err().to_string();
        assert!(refused.contains("no standard input"), "{refused}");
    }
}
