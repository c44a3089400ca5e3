//! `msb completion`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::output;

/// Commands whose arguments are names of sandboxes.
const WITH_NAMES: &str =
    "start stop kill restart pause unpause drain wait rm remove inspect exec attach shell logs";

/// Prints a script that completes msb's commands and options, and the names of sandboxes, in a shell
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
    let names = match arguments.shell {
        Shells::Bash => BASH_NAMES,
        Shells::Zsh => ZSH_NAMES,
        Shells::Fish => FISH_NAMES,
    };
    let mut script = String::from_utf8_lossy(&script).into_owned();
    script.push_str(&names.replace("WITH_NAMES", WITH_NAMES));
    output::print(&script)?;
    Ok(0)
}

/// Adds the names to what the script finds. They are never expanded by the shell, whatever they are.
const BASH_NAMES: &str = r#"
_msb_with_names() {
    _msb "$@"
    local name word="${COMP_WORDS[COMP_CWORD]}"
    [[ $COMP_CWORD -gt 1 && $word != -* && " WITH_NAMES " == *" ${COMP_WORDS[1]} "* ]] || return 0
    while IFS= read -r name; do
        [[ $name == "$word"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <(msb ls -q 2>/dev/null)
    return 0
}
complete -F _msb_with_names -o bashdefault -o default msb
"#;

/// As [`BASH_NAMES`].
const ZSH_NAMES: &str = r#"
_msb_with_names() {
    local -a names
    if (( CURRENT > 2 )) && [[ $words[CURRENT] != -* && " WITH_NAMES " == *" $words[2] "* ]]; then
        names=(${(f)"$(msb ls -q 2>/dev/null)"})
        compadd -a names
    fi
    _msb "$@"
}
compdef _msb_with_names msb
"#;

/// As [`BASH_NAMES`].
const FISH_NAMES: &str = r#"
complete -c msb -f -n "__fish_seen_subcommand_from WITH_NAMES" -a "(msb ls -q 2>/dev/null)"
"#;
