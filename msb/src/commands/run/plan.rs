//! From the arguments to what is to be done, with every mistake found before anything starts.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use microsandbox::home::Home;
use microsandbox::launch::{BOOT_TIMEOUT_MS, INITRAMFS, KERNEL, LaunchConfig, Lifetime};
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Exec};
use microsandbox::session;

use super::Arguments;
use super::mounts::{Mounts, NamedMount};
use super::timings::TimingsFormat;
use crate::boot_files;
use crate::failure::Hint;
use crate::host::host_memory;
use crate::options::{Variable, check_memory};
use crate::terminal;

/// What `msb run` is to do.
pub(super) struct Plan {
    /// Name of the sandbox, if it was given one.
    pub(super) name: Option<Name>,
    /// The machine. Its name and, unless one was given, its host name are still empty.
    pub(super) config: LaunchConfig,
    /// Named volumes that it has besides the mounts of `config`.
    pub(super) named: Vec<NamedMount>,
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
        check_memory(arguments.memory, host_memory())?;
        let log_level = arguments.log_level().name().to_owned();
        let terminal = wants_terminal(&arguments).then(terminal::size);
        let program = match arguments.command.first() {
            Some(program) => program.to_string_lossy().into_owned(),
            None => "the shell".to_owned(),
        };
        let Mounts {
            mounts,
            named,
            allowed,
        } = arguments.mounts.resolve()?;
        let config = LaunchConfig {
            name: String::new(),
            vcpus: arguments.cpus,
            memory: arguments.memory,
            kernel: boot_files::find(&KERNEL, arguments.kernel.as_deref(), home)?,
            initramfs: boot_files::find(&INITRAMFS, arguments.initramfs.as_deref(), home)?,
            extra_command_line: arguments.cmdline.unwrap_or_default(),
            root: arguments.root.resolve()?,
            mounts,
            allowed,
            hostname: arguments.hostname.unwrap_or_default(),
            boot_timeout_ms: BOOT_TIMEOUT_MS,
            log_level,
            scripts: Vec::new(),
            restricted: false,
            init: None,
            lifetime: Lifetime::default(),
            main: None,
            state: None,
            log: None,
        };
        let exec = Exec {
            args: arguments
                .command
                .iter()
                .map(|argument| Bytes(argument.as_bytes().to_vec()))
                .collect(),
            env: environment(arguments.env, terminal.is_some()),
            cwd: arguments.workdir.map(|path| path.to_bytes()),
            user: arguments.user,
            rlimits: arguments.rlimit,
            terminal,
            stdin: true,
            timeout_ms: arguments
                .timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        session::check(&exec)
            .hint("they may have 1 MiB together: pass large data in a file or on standard input")?;
        Ok(Plan {
            name: arguments.name,
            config,
            named,
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

/// The variables for the process. With a terminal, the guest should know its kind.
fn environment(variables: Vec<Variable>, terminal: bool) -> Vec<(Bytes, Bytes)> {
    let term = Variable::Inherit { key: "TERM".into() };
    terminal
        .then_some(term)
        .into_iter()
        .chain(variables)
        .filter_map(Variable::resolve)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_a_kind() {
        let set = || {
            vec![Variable::Set {
                key: "TERM".into(),
                value: "dumb".into(),
            }]
        };
        let last = environment(set(), true).pop();
        assert_eq!(
            last,
            Some((Bytes(b"TERM".to_vec()), Bytes(b"dumb".to_vec())))
        );
        assert_eq!(environment(Vec::new(), false), []);
    }
}
