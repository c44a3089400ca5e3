//! What `run` and `create` have in common: the options of a sandbox, and what they mean here.

mod configuration;
mod guest;
mod launch;
mod machine;
mod mounts;
mod named_volumes;
mod patches;
mod process;
mod root;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use microsandbox::images::ResolvedImage;
use microsandbox::images::image::manifest::ContainerConfig;
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Exec, Init, TerminalSize};
use microsandbox::sandbox::{
    PatchConfig, RootAccessConfig, StopSignal, image_command, image_environment, image_init,
    image_stop_signal, image_user, working_directory,
};

use crate::logging::LogLevel;
use crate::options::{GuestPath, Label, os_value, parse_duration, parse_grace};
use guest::{GuestArguments, ResolvedGuest};
use machine::MachineArguments;
use mounts::{MountArguments, Mounts};
use patches::PatchArguments;
use root::{ResolvedRoot, RootArguments};

pub(in crate::commands) use mounts::NamedMount;
pub(in crate::commands) use named_volumes::acquire;
pub(in crate::commands) use process::ProcessArguments;

/// A sandbox as it stands on the command line.
#[derive(Debug, Args)]
pub(super) struct SandboxArguments {
    #[command(flatten)]
    root: RootArguments,

    /// Command and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,

    /// Name of the sandbox [default: msb- and 8 digits]
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,

    /// Something to remember about it, and to find it by
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,

    /// Takes the place of a sandbox of that name, which is stopped and removed
    #[arg(long, requires = "name")]
    replace: bool,

    /// The same, with so long between SIGTERM and SIGKILL for what runs in it; 0 ends it at once
    #[arg(long, value_name = "DURATION", requires = "name", value_parser = parse_grace)]
    replace_with_timeout: Option<Duration>,

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

    /// Signal that asks the command to end when the sandbox is stopped [default: the image's, else SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<StopSignal>,

    #[command(flatten)]
    guest: GuestArguments,

    #[command(flatten)]
    mounts: MountArguments,

    #[command(flatten)]
    patches: PatchArguments,

    /// Ends the sandbox after so long, when what runs in it has had 10 seconds to end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_duration: Option<Duration>,

    /// Ends the sandbox when nothing was run in it for so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle_timeout: Option<Duration>,

    /// Keeps no log of what processes write
    #[arg(long)]
    quiet_logs: bool,
}

/// A sandbox as it is to be: everything that can be checked is checked.
#[derive(Debug)]
pub(super) struct SandboxPlan {
    /// Its name, if it was given one.
    pub(super) name: Option<Name>,
    labels: BTreeMap<String, String>,
    replace: bool,
    replace_timeout: Option<Duration>,
    machine: MachineArguments,
    root: ResolvedRoot,
    mounts: Mounts,
    patches: Vec<PatchConfig>,
    guest: ResolvedGuest,
    process: ProcessArguments,
    entrypoint: Option<OsString>,
    shell: Option<GuestPath>,
    stop_signal: Option<StopSignal>,
    command: Vec<OsString>,
    /// Whether what an image runs is run where no command is given.
    runs_image: bool,
    max_duration: Option<Duration>,
    idle_timeout: Option<Duration>,
    quiet_logs: bool,
}

impl SandboxArguments {
    /// Least severe log lines to print.
    pub(super) fn log_level(&self) -> LogLevel {
        self.machine.log_level()
    }

    /// Checks everything against each other and against this machine.
    ///
    /// # Errors
    /// The first mistake, with what to do about it.
    pub(super) fn resolve(mut self) -> anyhow::Result<SandboxPlan> {
        self.machine.check()?;
        self.command.splice(..0, self.root.take_word());
        let labels = self.label.into_iter();
        Ok(SandboxPlan {
            name: self.name,
            labels: labels
                .map(|label| (label.key, label.value.unwrap_or_default()))
                .collect(),
            replace: self.replace || self.replace_with_timeout.is_some(),
            replace_timeout: self.replace_with_timeout,
            guest: self.guest.resolve()?,
            mounts: self.mounts.resolve()?,
            patches: self.patches.resolve()?,
            root: self.root.resolve()?,
            machine: self.machine,
            process: self.process,
            entrypoint: self.entrypoint,
            shell: self.shell,
            stop_signal: self.stop_signal,
            command: self.command,
            runs_image: false,
            max_duration: self.max_duration,
            idle_timeout: self.idle_timeout,
            quiet_logs: self.quiet_logs,
        })
    }
}

impl SandboxPlan {
    /// The same sandbox, which runs what its image says where no command is given.
    pub(super) fn running_image(self) -> SandboxPlan {
        SandboxPlan {
            runs_image: true,
            ..self
        }
    }

    /// What the process is called in messages.
    pub(super) fn program(&self) -> String {
        match self.words().first() {
            Some(program) => program.to_string_lossy().into_owned(),
            None => "the shell".to_owned(),
        }
    }

    /// The image that it is made of. Nobody removes it while this lives.
    pub(super) fn held_image(&self) -> Option<Rc<ResolvedImage>> {
        let (_, image) = self.root.image.as_ref()?;
        Some(Rc::clone(image))
    }

    fn image(&self) -> Option<&ContainerConfig> {
        let (_, image) = self.root.image.as_ref()?;
        Some(&image.config.config)
    }

    /// The program and its arguments; empty is a shell.
    fn words(&self) -> Vec<OsString> {
        let entrypoint = self.entrypoint.iter().cloned().collect();
        let command = self.command.clone();
        if self.entrypoint_init().is_some() {
            return command;
        }
        let (entrypoint, command) = match self.image() {
            Some(image) => image_command(image, entrypoint, command, self.runs_image),
            None => (entrypoint, command),
        };
        [entrypoint, command].concat()
    }

    /// The init that it has as its entry point, if that is to be PID 1, with its arguments.
    fn entrypoint_init(&self) -> Option<(OsString, Vec<OsString>)> {
        let image = self
            .image()
            .filter(|_| self.guest.init == Some(Init::Auto))?;
        let entrypoint: Vec<_> = self.entrypoint.iter().cloned().collect();
        image_init(image, &entrypoint, &self.command)
    }

    /// The environment: what the user gives, and what the image has besides.
    fn environment(&self, terminal: bool) -> Vec<(Bytes, Bytes)> {
        let mut given = self.process.environment(terminal);
        for (key, value) in self.image().into_iter().flat_map(image_environment) {
            let bytes = |text: &str| Bytes(text.as_bytes().to_vec());
            if !given.iter().any(|(given, _)| given.0 == key.as_bytes()) {
                given.push((bytes(key), bytes(value)));
            }
        }
        given
    }

    /// The working directory, as an absolute path of the guest.
    fn workdir(&self) -> Option<Bytes> {
        let given = self.process.workdir.as_ref().map(GuestPath::to_bytes);
        given.or_else(|| {
            let path = working_directory(self.image()?)?;
            Some(Bytes(path.into_bytes()))
        })
    }

    fn user(&self) -> Option<String> {
        let given = self.process.user.clone();
        given.or_else(|| image_user(self.image()?))
    }

    fn stop_signal(&self) -> Option<StopSignal> {
        self.stop_signal
            .or_else(|| image_stop_signal(self.image()?))
    }

    /// Whether it needs a directory of its own for a layer on a disk.
    pub(super) fn has_upper_disk(&self) -> bool {
        matches!(self.root.access, Some(RootAccessConfig::Upper { .. }))
    }

    /// Whether something is to be remembered of it, by which others find it.
    pub(super) fn has_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// The process that is asked for.
    pub(super) fn exec(&self, terminal: Option<TerminalSize>, timeout: Option<Duration>) -> Exec {
        let words = self.words();
        let mut args: Vec<_> = words
            .iter()
            .map(|word| Bytes(word.as_bytes().to_vec()))
            .collect();
        if args.is_empty() {
            args.extend(self.shell.as_ref().map(GuestPath::to_bytes));
        }
        Exec {
            args,
            env: self.environment(terminal.is_some()),
            cwd: self.workdir(),
            user: self.user(),
            rlimits: self.process.limits(),
            terminal,
            stdin: true,
            timeout_ms: timeout.map(milliseconds),
            stop_signal: self.stop_signal().map(StopSignal::number),
        }
    }
}

/// The name that was given, or a new one.
///
/// # Errors
/// When the system has no random bytes to give.
pub(super) fn name_or_new(name: Option<Name>) -> anyhow::Result<Name> {
    match name {
        Some(name) => Ok(name),
        None => Name::generate().context("cannot make up a name"),
    }
}

/// Whole milliseconds of a duration.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
