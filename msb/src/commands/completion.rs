//! `msb completion`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::output;

/// Prints a script that completes msb's commands and options in a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb completion bash > ~/.local/share/bash-completion/completions/msb
  msb completion zsh > ~/.zfunc/_msb
  msb completion fish > ~/.config/fish/completions/msb.fish")]
pub(super) struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shells,
}

/// Shells with a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shells {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// Prints the script.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let shell = match arguments.shell {
        Shells::Bash => Shell::Bash,
        Shells::Zsh => Shell::Zsh,
        Shells::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "msb", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
