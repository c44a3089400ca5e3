//! From the arguments to what is to be done, with every mistake found before anything starts.

use std::time::Duration;

use microsandbox::home::Home;
use microsandbox::protocol::Exec;
use microsandbox::session;

use super::Arguments;
use super::timings::TimingsFormat;
use crate::commands::sandbox::SandboxPlan;
use crate::failure::Hint;
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
    /// How the times of the phases are printed, if they are.
    pub(super) timings_format: Option<TimingsFormat>,
}

impl Plan {
    /// Checks the arguments against each other and against this machine.
    ///
    /// # Errors
    /// The first mistake, with what to do about it.
    pub(super) fn from_arguments(arguments: Arguments, home: &Home) -> anyhow::Result<Plan> {
        let terminal = wants_terminal(&arguments).then(terminal::size);
        let program = arguments.sandbox.program();
        let exec = arguments.sandbox.exec(terminal, arguments.timeout);
        let sandbox = arguments.sandbox.resolve(home)?;
        session::check(&exec)
            .hint("they may have 1 MiB together: pass large data in a file or on standard input")?;
        Ok(Plan {
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
