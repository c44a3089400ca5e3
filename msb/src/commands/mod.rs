//! The commands, one file each.

mod advice;
mod attach;
mod boot_advice;
mod commit;
mod completion;
mod confirmation;
mod cp;
mod create;
mod disk;
mod doctor;
mod done;
mod drain;
mod ended;
mod events;
mod exec;
mod grace;
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
mod records;
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

/// Makes an enum of the commands, how each is read alone, and how it is executed, of lines with its name, its arguments and its
/// function.
macro_rules! commands {
    ($($(#[$attribute:meta])* $name:literal $variant:ident($arguments:ty) => $execute:expr,)+) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($(#[$attribute])* $variant(Box<$arguments>),)+
        }

        impl Command {
            /// Reads the arguments of the command `name`, which comes first on the command line; `None` if there is none of
            /// this name.
            fn read_alone(name: &str) -> Option<Result<Command, clap::Error>> {
                match name {
                    $($name => Some(alone($name).map(Command::$variant)),)+
                    _ => None,
                }
            }

            fn execute(self) -> anyhow::Result<u8> {
                match self {
                    $(Command::$variant(arguments) => ($execute)(*arguments),)+
                }
            }

            /// The grammar of each alone.
            #[cfg(test)]
            fn grammars() -> Vec<clap::Command> {
                vec![$(grammar::<$arguments>($name),)+]
            }
        }
    };
}

commands! {
    "run" Run(run::Arguments) => run::execute,
    "create" Create(create::Arguments) => create::execute,
    "start" Start(start::Arguments) => start::execute,
    "stop" Stop(stop::Arguments) => stop::execute,
    "kill" Kill(kill::Arguments) => kill::execute,
    "restart" Restart(restart::Arguments) => restart::execute,
    "pause" Pause(pause::Arguments) => pause::execute,
    "unpause" Unpause(unpause::Arguments) => unpause::execute,
    "drain" Drain(drain::Arguments) => drain::execute,
    "wait" Wait(wait::Arguments) => wait::execute,
    #[command(visible_alias = "remove")]
    "rm" Rm(rm::Arguments) => rm::execute,
    "prune" Prune(prune::Arguments) => |arguments| prune::execute(&arguments),
    #[command(visible_alias = "list")]
    "ls" Ls(list::LsArguments) => |arguments| list::ls(&arguments),
    #[command(visible_alias = "status")]
    "ps" Ps(list::PsArguments) => |arguments| list::ps(&arguments),
    "inspect" Inspect(inspect::Arguments) => |arguments| inspect::execute(&arguments),
    "exec" Exec(exec::Arguments) => exec::execute,
    "attach" Attach(attach::Arguments) => attach::execute,
    "shell" Shell(shell::Arguments) => shell::execute,
    #[command(visible_alias = "copy")]
    "cp" Cp(cp::Arguments) => cp::execute,
    "commit" Commit(commit::Arguments) => commit::execute,
    "logs" Logs(logs::Arguments) => |arguments| logs::execute(&arguments),
    "stats" Stats(stats::Arguments) => stats::execute,
    "metrics" Metrics(metrics::Arguments) => metrics::execute,
    "events" Events(events::Arguments) => |arguments| events::execute(&arguments),
    "pull" Pull(pull::Arguments) => pull::execute,
    "login" Login(login::Arguments) => login::execute,
    "logout" Logout(logout::Arguments) => |arguments| logout::execute(&arguments),
    "registry" Registry(registry::Arguments) => registry::execute,
    "vm" Vm(vm::Arguments) => vm::execute,
    #[command(visible_aliases = ["vol", "vols", "volumes"])]
    "volume" Volume(volume::Arguments) => volume::execute,
    "image" Image(image::Arguments) => image::execute,
    #[command(visible_aliases = ["snap", "snaps", "snapshots"])]
    "snapshot" Snapshot(snapshot::Arguments) => snapshot::execute,
    "disk" Disk(disk::Arguments) => disk::execute,
    "doctor" Doctor(doctor::Arguments) => |arguments| doctor::execute(&arguments),
    "version" Version(version::Arguments) => |arguments| version::execute(&arguments),
    "completion" Completion(completion::Arguments) => |arguments| completion::execute(&arguments),
}

impl Cli {
    /// Reads the command line. Commands are run again and again by programs: where the first word is one, only its own grammar is
    /// built, since that of all commands takes longer than most commands do.
    ///
    /// # Errors
    /// When it is wrong, or asks for help.
    pub(crate) fn read() -> Result<Cli, clap::Error> {
        let first = env::args_os().nth(1);
        let alone = first
            .as_deref()
            .and_then(OsStr::to_str)
            .and_then(Command::read_alone);
        match alone {
            Some(command) => Ok(Cli { command: command? }),
            None => Cli::try_parse(),
        }
    }

    /// Runs the command and returns its exit status.
    ///
    /// # Errors
    /// What the command could not do.
    pub(crate) fn execute(self) -> anyhow::Result<u8> {
        self.command.execute()
    }
}

/// Reads the arguments of the command `name`.
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

    fn assert_same_help(alone: &mut clap::Command, among: &mut clap::Command) {
        assert_eq!(
            alone.render_long_help().to_string(),
            among.render_long_help().to_string()
        );
        for alone in alone.get_subcommands_mut() {
            assert_same_help(alone, among.find_subcommand_mut(alone.get_name()).unwrap());
        }
    }

    #[test]
    fn other_spellings_mean_the_same() {
        let mut all = Cli::command();
        all.build();
        let found = |line: &str| {
            let found = line
                .split(' ')
                .try_fold(&all, clap::Command::find_subcommand);
            found.map(|command| command.get_bin_name().unwrap_or_default().to_owned())
        };
        for (spelling, command) in [
            ("list", "ls"),
            ("status", "ps"),
            ("remove", "rm"),
            ("copy", "cp"),
            ("vol list", "volume ls"),
            ("volumes remove", "volume rm"),
            ("vols ls", "volume ls"),
            ("snap list", "snapshot ls"),
            ("snaps remove", "snapshot rm"),
            ("image list", "image ls"),
            ("image remove", "image rm"),
            ("registry list", "registry ls"),
        ] {
            assert_eq!(
                found(spelling),
                Some(format!("msb {command}")),
                "{spelling}"
            );
        }
    }

    #[test]
    fn a_command_alone_is_as_it_is_among_all() {
        let mut all = Cli::command();
        all.build();
        for mut alone in Command::grammars() {
            alone.build();
            let among = all.find_subcommand_mut(alone.get_name()).unwrap();
            assert_same_help(&mut alone, among);
            let mistake = alone.try_get_matches_from_mut(["x", "--no-such-option"]);
            let told = mistake.unwrap_err().to_string();
            let line = format!("Usage: msb {}", alone.get_name());
            assert!(told.contains(&line), "{told}");
        }
    }
}
