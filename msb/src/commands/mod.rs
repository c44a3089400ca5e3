//! The commands, one file each.

mod advice;
mod attach;
mod boot_advice;
mod commit;
mod completion;
mod cp;
mod create;
mod disk;
mod doctor;
mod drain;
mod events;
mod exec;
mod image;
mod inspect;
mod kept;
mod kill;
mod layer_bars;
mod list;
mod login;
mod logout;
mod logs;
mod metrics;
mod pause;
mod process;
mod progress;
mod prune;
mod pull;
mod registry;
mod registry_advice;
mod restart;
mod rm;
mod run;
mod running;
mod runtime;
mod sandbox;
mod selection;
mod shell;
mod snapshot;
mod start;
mod stats;
mod stop;
mod unpause;
mod version;
mod vm;
mod volume;
mod wait;

use std::env;
use std::ffi::OsStr;

use clap::{Args, Parser, Subcommand};

/// Runs commands in microVMs: as easy as a container, with a machine of its own around each.
#[derive(Debug, Parser)]
#[command(
    name = "msb",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = false
)]
#[command(after_help = "Examples:
  msb doctor                          Can this machine run microVMs?
  msb run ./rootfs                    A shell, with ./rootfs as its root file system
  msb run ./rootfs -- uname -a        One command
  msb create --name box ./rootfs      A sandbox that stays
  msb exec box uname -a
  msb ls")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Arguments>),
    Create(Box<create::Arguments>),
    Start(start::Arguments),
    Stop(stop::Arguments),
    Kill(kill::Arguments),
    Restart(restart::Arguments),
    Pause(pause::Arguments),
    Unpause(unpause::Arguments),
    Drain(drain::Arguments),
    Wait(wait::Arguments),
    #[command(visible_alias = "remove")]
    Rm(rm::Arguments),
    Prune(prune::Arguments),
    #[command(visible_alias = "list")]
    Ls(list::LsArguments),
    Ps(list::PsArguments),
    Inspect(inspect::Arguments),
    Exec(Box<exec::Arguments>),
    Attach(attach::Arguments),
    Shell(shell::Arguments),
    #[command(visible_alias = "copy")]
    Cp(cp::Arguments),
    Commit(commit::Arguments),
    Logs(Box<logs::Arguments>),
    Stats(stats::Arguments),
    Metrics(metrics::Arguments),
    Events(events::Arguments),
    Pull(pull::Arguments),
    Login(login::Arguments),
    Logout(logout::Arguments),
    Registry(registry::Arguments),
    Vm(Box<vm::Arguments>),
    #[command(visible_alias = "vol")]
    Volume(volume::Arguments),
    Image(Box<image::Arguments>),
    #[command(visible_aliases = ["snap", "snapshots"])]
    Snapshot(snapshot::Arguments),
    Disk(disk::Arguments),
    Doctor(doctor::Arguments),
    Version(version::Arguments),
    Completion(completion::Arguments),
}

impl Cli {
    /// Reads the command line. The commands that run something in a guest are run again and again by programs: for them only
    /// their own grammar is built, since that of all commands takes longer than everything else before the guest is asked.
    ///
    /// # Errors
    /// When it is wrong, or asks for help.
    pub(crate) fn read() -> Result<Cli, clap::Error> {
        let command = match env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
            Some("exec") => Command::Exec(alone("exec")?),
            Some("run") => Command::Run(alone("run")?),
            _ => return Cli::try_parse(),
        };
        Ok(Cli { command })
    }

    /// Runs the command and returns its exit status.
    ///
    /// # Errors
    /// What the command could not do.
    pub(crate) fn execute(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run(arguments) => run::execute(*arguments),
            Command::Create(arguments) => create::execute(*arguments),
            Command::Start(arguments) => start::execute(arguments),
            Command::Stop(arguments) => stop::execute(arguments),
            Command::Kill(arguments) => kill::execute(arguments),
            Command::Restart(arguments) => restart::execute(arguments),
            Command::Pause(arguments) => pause::execute(arguments),
            Command::Unpause(arguments) => unpause::execute(arguments),
            Command::Drain(arguments) => drain::execute(arguments),
            Command::Wait(arguments) => wait::execute(arguments),
            Command::Rm(arguments) => rm::execute(arguments),
            Command::Prune(arguments) => prune::execute(&arguments),
            Command::Ls(arguments) => list::ls(&arguments),
            Command::Ps(arguments) => list::ps(&arguments),
            Command::Inspect(arguments) => inspect::execute(&arguments),
            Command::Exec(arguments) => exec::execute(*arguments),
            Command::Attach(arguments) => attach::execute(arguments),
            Command::Shell(arguments) => shell::execute(arguments),
            Command::Cp(arguments) => cp::execute(arguments),
            Command::Commit(arguments) => commit::execute(arguments),
            Command::Logs(arguments) => logs::execute(&arguments),
            Command::Stats(arguments) => stats::execute(arguments),
            Command::Metrics(arguments) => metrics::execute(arguments),
            Command::Events(arguments) => events::execute(&arguments),
            Command::Pull(arguments) => pull::execute(arguments),
            Command::Login(arguments) => login::execute(arguments),
            Command::Logout(arguments) => logout::execute(&arguments),
            Command::Registry(arguments) => registry::execute(arguments),
            Command::Vm(arguments) => vm::execute(*arguments),
            Command::Volume(arguments) => volume::execute(arguments),
            Command::Image(arguments) => image::execute(*arguments),
            Command::Snapshot(arguments) => snapshot::execute(arguments),
            Command::Disk(arguments) => disk::execute(arguments),
            Command::Doctor(arguments) => doctor::execute(&arguments),
            Command::Version(arguments) => version::execute(&arguments),
            Command::Completion(arguments) => completion::execute(&arguments),
        }
    }
}

/// Reads the arguments of the command `name`, which comes first on the command line.
fn alone<A: Args>(name: &'static str) -> Result<A, clap::Error> {
    let mut grammar = grammar::<A>(name);
    let matches = grammar.try_get_matches_from_mut(env::args_os().skip(1))?;
    A::from_arg_matches(&matches).map_err(|error| error.format(&mut grammar))
}

fn grammar<A: Args>(name: &'static str) -> clap::Command {
    A::augment_args(clap::Command::new(name).bin_name(format!("msb {name}")))
}

/// How a command prints what it found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How a command prints a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ListFormat {
    /// For people: a line for each.
    Table,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_command_alone_is_as_it_is_among_all() {
        let mut all = Cli::command();
        all.build();
        for mut alone in [
            grammar::<exec::Arguments>("exec"),
            grammar::<run::Arguments>("run"),
        ] {
            let among = all.find_subcommand_mut(alone.get_name()).unwrap();
            assert_eq!(
                alone.render_long_help().to_string(),
                among.render_long_help().to_string()
            );
            let mistake = alone.try_get_matches_from_mut(["x", "--no-such-option"]);
            let told = mistake.unwrap_err().to_string();
            let line = format!("Usage: msb {}", alone.get_name());
            assert!(told.contains(&line), "{told}");
        }
    }
}
