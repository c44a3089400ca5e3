//! What `run` and `create` have in common: the options of a sandbox, and what they mean here.

mod guest;
mod machine;
mod mounts;
mod named_volumes;
mod process;
mod root;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::Args;
use microsandbox::home::Home;
use microsandbox::launch::{BOOT_TIMEOUT_MS, INITRAMFS, KERNEL, LaunchConfig, Lifetime};
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Exec, TerminalSize};

use crate::boot_files;
use crate::logging::LogLevel;
use crate::options::{GuestPath, os_value, parse_duration};
use guest::{GuestArguments, Security};
use machine::MachineArguments;
use mounts::{MountArguments, Mounts};
use process::ProcessArguments;
use root::RootArguments;

pub(in crate::commands) use mounts::NamedMount;
pub(in crate::commands) use named_volumes::acquire;

/// A sandbox as it stands on the command line.
#[derive(Debug, Args)]
pub(super) struct SandboxArguments {
    #[command(flatten)]
    root: RootArguments,

    /// Command and its arguments [default: the user's shell]
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,

    /// Name of the sandbox [default: msb- and 8 digits]
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,

    #[command(flatten)]
    machine: MachineArguments,

    #[command(flatten)]
    process: ProcessArguments,

    /// Program that CMD becomes the arguments of
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,

    /// Shell that runs where no command is given [default: the user's]
    #[arg(long, value_name = "PATH", value_parser = os_value(GuestPath::parse))]
    shell: Option<GuestPath>,

    #[command(flatten)]
    guest: GuestArguments,

    #[command(flatten)]
    mounts: MountArguments,

    /// Ends the sandbox after so long, when what runs in it has had 10 seconds to end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_duration: Option<Duration>,

    /// Ends the sandbox when nothing was run in it for so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle_timeout: Option<Duration>,
}

/// A sandbox as it is to be.
pub(super) struct SandboxPlan {
    /// Its name, if it was given one.
    pub(super) name: Option<Name>,
    /// The machine. Its name and, unless one was given, its host name are still empty.
    pub(super) config: LaunchConfig,
    /// Named volumes that it has besides the mounts of `config`.
    pub(super) named: Vec<NamedMount>,
}

impl SandboxArguments {
    /// Least severe log lines to print.
    pub(super) fn log_level(&self) -> LogLevel {
        self.machine.log_level()
    }

    /// What the process is called in messages.
    pub(super) fn program(&self) -> String {
        match self.entrypoint.as_ref().or(self.command.first()) {
            Some(program) => program.to_string_lossy().into_owned(),
            None => "the shell".to_owned(),
        }
    }

    /// The process that is asked for.
    pub(super) fn exec(&self, terminal: Option<TerminalSize>, timeout: Option<Duration>) -> Exec {
        let program = self.entrypoint.iter().chain(&self.command);
        let mut args: Vec<_> = program
            .map(|word| Bytes(word.as_bytes().to_vec()))
            .collect();
        if args.is_empty() {
            args.extend(self.shell.as_ref().map(GuestPath::to_bytes));
        }
        Exec {
            args,
            env: self.process.environment(terminal.is_some()),
            cwd: self.process.workdir.as_ref().map(GuestPath::to_bytes),
            user: self.process.user.clone(),
            rlimits: self.process.rlimit.clone(),
            terminal,
            stdin: true,
            timeout_ms: timeout.map(milliseconds),
        }
    }

    /// Checks everything against each other and against this machine.
    ///
    /// # Errors
    /// The first mistake, with what to do about it.
    pub(super) fn resolve(self, home: &Home) -> anyhow::Result<SandboxPlan> {
        self.machine.check()?;
        let log_level = self.log_level().name().to_owned();
        let scripts = self.guest.scripts()?;
        let init = self.guest.init()?;
        let Mounts {
            mounts,
            named,
            allowed,
        } = self.mounts.resolve()?;
        let machine = self.machine;
        let config = LaunchConfig {
            name: String::new(),
            vcpus: machine.cpus,
            memory: machine.memory,
            kernel: boot_files::find(&KERNEL, machine.kernel.as_deref(), home)?,
            initramfs: boot_files::find(&INITRAMFS, machine.initramfs.as_deref(), home)?,
            extra_command_line: machine.cmdline.unwrap_or_default(),
            root: self.root.resolve()?,
            mounts,
            allowed,
            hostname: self.guest.hostname.unwrap_or_default(),
            boot_timeout_ms: BOOT_TIMEOUT_MS,
            log_level,
            scripts,
            restricted: self.guest.security == Security::Restricted,
            init,
            lifetime: Lifetime {
                detached: false,
                max_duration_ms: self.max_duration.map(milliseconds),
                idle_timeout_ms: self.idle_timeout.map(milliseconds),
            },
            main: None,
            state: None,
            log: None,
        };
        Ok(SandboxPlan {
            name: self.name,
            config,
            named,
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
