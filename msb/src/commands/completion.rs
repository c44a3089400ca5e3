//! `msb completion`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::output;

/// The commands that list names, and the commands whose arguments such names are.
const OF_COMMANDS: [(&str, &[&str]); 4] = [
    (
        "ls -q",
        &[
            "start", "stop", "kill", "restart", "pause", "unpause", "drain", "wait", "rm",
            "remove", "inspect", "exec", "attach", "shell", "logs", "stats", "metrics", "commit",
            "ps", "status",
        ],
    ),
    (
        "image ls -q",
        &[
            "run",
            "create",
            "pull",
            "image inspect",
            "image history",
            "image rm",
            "image save",
            "image tag",
            "image pull",
        ],
    ),
    (
        "snapshot ls -q",
        &[
            "snapshot inspect",
            "snapshot verify",
            "snapshot rm",
            "snapshot save",
        ],
    ),
    (
        "volume ls -q",
        &["volume inspect", "volume du", "volume rm"],
    ),
];

/// The commands that list names, and the options whose values such names are, short and long.
const OF_OPTIONS: [(&str, Option<char>, &str); 3] = [
    ("ls -q", None, "from"),
    ("snapshot ls -q", None, "from-snapshot"),
    ("volume ls -q", Some('v'), "volume"),
];

/// Prints a script that completes msb's commands and options, and the names of sandboxes, images, snapshots and volumes, in a shell
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
        Shells::Bash => lists() + BASH_NAMES,
        Shells::Zsh => lists() + ZSH_NAMES,
        Shells::Fish => fish_names(),
    };
    let mut script = String::from_utf8_lossy(&script).into_owned();
    script.push_str(&names);
    output::print(&script)?;
    Ok(0)
}

/// A function of a shell that prints which command lists what may stand at the cursor: `$1` is the word before it, `$2` the
/// command, `$3` the subcommand.
fn lists() -> String {
    let mut text = "\n_msb_lists() {\n    case \"$1\" in\n".to_owned();
    for (list, short, long) in OF_OPTIONS {
        let short = short
            .map(|letter| format!("-{letter}|"))
            .unwrap_or_default();
        text.push_str(&format!("    {short}--{long}) echo '{list}'; return ;;\n"));
    }
    text.push_str("    esac\n    case \"$2 $3\" in\n");
    for (list, commands) in OF_COMMANDS {
        let patterns: Vec<_> = commands.iter().map(|command| pattern(command)).collect();
        text.push_str(&format!("    {}) echo '{list}' ;;\n", patterns.join("|")));
    }
    text.push_str("    esac\n}\n");
    text
}

/// What the command and its subcommand match: one that has none is followed by any word.
fn pattern(command: &str) -> String {
    match command.contains(' ') {
        true => format!("'{command}'"),
        false => format!("'{command} '*"),
    }
}

/// Adds the names to what the script finds. They are never expanded by the shell, whatever they are.
const BASH_NAMES: &str = r#"
_msb_with_names() {
    _msb "$@"
    local name list sub= word="${COMP_WORDS[COMP_CWORD]}"
    [[ $COMP_CWORD -gt 1 && $word != -* && " ${COMP_WORDS[*]:0:COMP_CWORD} " != *" -- "* ]] || return 0
    [[ $COMP_CWORD -gt 2 ]] && sub="${COMP_WORDS[2]}"
    list=$(_msb_lists "${COMP_WORDS[COMP_CWORD-1]}" "${COMP_WORDS[1]}" "$sub")
    [[ -n $list ]] || return 0
    while IFS= read -r name; do
        [[ $name == "$word"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <(msb $list 2>/dev/null)
    return 0
}
complete -F _msb_with_names -o bashdefault -o default msb
"#;

/// As [`BASH_NAMES`].
const ZSH_NAMES: &str = r#"
_msb_with_names() {
    local -a names
    local list sub=
    if (( CURRENT > 2 )) && [[ $words[CURRENT] != -* && " ${words[1,CURRENT-1]} " != *" -- "* ]]; then
        (( CURRENT > 3 )) && sub=$words[3]
        list=$(_msb_lists "$words[CURRENT-1]" "$words[2]" "$sub")
        if [[ -n $list ]]; then
            names=(${(f)"$(msb ${=list} 2>/dev/null)"})
            compadd -a names
        fi
    fi
    _msb "$@"
}
compdef _msb_with_names msb
"#;

/// As [`BASH_NAMES`].
fn fish_names() -> String {
    let mut text = "\n".to_owned();
    for (list, short, long) in OF_OPTIONS {
        let short = short
            .map(|letter| format!(" -s {letter}"))
            .unwrap_or_default();
        text.push_str(&format!(
            "complete -c msb{short} -l {long} -x -a \"(msb {list} 2>/dev/null)\"\n"
        ));
    }
    for (list, commands) in OF_COMMANDS {
        for command in commands {
            let seen = command
                .split(' ')
                .map(|word| format!("__fish_seen_subcommand_from {word}"));
            let seen = seen.collect::<Vec<_>>().join("; and ");
            text.push_str(&format!(
                "complete -c msb -f -n \"{seen}\" -a \"(msb {list} 2>/dev/null)\"\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_that_takes_names_exists() {
        let mut all = Cli::command();
        all.build();
        let words = |text: &'static str| text.split(' ');
        let find = |text: &'static str| {
            words(text)
                .filter(|word| *word != "-q")
                .fold(&all, |command, word| {
                    let found = command.find_subcommand(word);
                    found.unwrap_or_else(|| panic!("{text}"))
                })
        };
        for (list, commands) in OF_COMMANDS {
            let quiet = |list| {
                find(list)
                    .get_arguments()
                    .any(|option| option.get_short() == Some('q'))
            };
            assert!(quiet(list), "{list}");
            for command in commands {
                assert!(find(command).get_positionals().count() > 0, "{command}");
            }
        }
        // And of none that takes names of sandboxes they are missing.
        let (_, with_sandboxes) = OF_COMMANDS[0];
        for command in all.get_subcommands() {
            let takes_name = command.get_positionals().any(|argument| {
                argument
                    .get_value_names()
                    .is_some_and(|names| names == ["NAME"])
            });
            let name = command.get_name();
            assert!(!takes_name || with_sandboxes.contains(&name), "{name}");
        }
        let takers = [find("run"), find("snapshot create")];
        for (_, short, long) in OF_OPTIONS {
            let mut options = takers.iter().flat_map(|command| command.get_arguments());
            let option = options.find(|option| option.get_long() == Some(long));
            assert_eq!(option.unwrap().get_short(), short, "{long}");
        }
    }
}
