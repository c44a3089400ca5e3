//! Changes to the root, in the order in which they stand on the command line: that decides which comes first.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use microsandbox::sandbox::PatchConfig;

use crate::failure::Hint;

/// What an option changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Copy,
    Mkdir,
    Write,
    Append,
    Symlink,
    Remove,
}

/// An option: its name, its value, and what `--help` says.
struct PatchOption {
    change: Change,
    name: &'static str,
    value: &'static str,
    help: &'static str,
}

const OPTIONS: [PatchOption; 6] = [
    PatchOption {
        change: Change::Copy,
        name: "copy",
        value: "SRC:DST",
        help: "File or folder of the host that is copied into the root before anything runs in it",
    },
    PatchOption {
        change: Change::Mkdir,
        name: "mkdir",
        value: "PATH",
        help: "Directory that is made in the root, unless it is there",
    },
    PatchOption {
        change: Change::Write,
        name: "write",
        value: "PATH=TEXT",
        help: "Text file that is made in the root",
    },
    PatchOption {
        change: Change::Append,
        name: "append",
        value: "PATH=TEXT",
        help: "Text that is appended to a file of the root",
    },
    PatchOption {
        change: Change::Symlink,
        name: "symlink",
        value: "LINK=TARGET",
        help: "Symbolic link that is made in the root",
    },
    PatchOption {
        change: Change::Remove,
        name: "remove",
        value: "PATH",
        help: "File or directory that is removed from the root",
    },
];

/// Whether what is there may be replaced.
const REPLACE: &str = "patch-replace";

/// The changes to a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PatchArguments {
    changes: Vec<(Change, String)>,
    replace: bool,
}

impl Args for PatchArguments {
    fn augment_args(command: Command) -> Command {
        let options = OPTIONS.iter().map(|option| {
            Arg::new(option.name)
                .long(option.name)
                .value_name(option.value)
                .help(option.help)
                .action(ArgAction::Append)
                .value_parser(value_parser!(OsString))
        });
        command.args(options).arg(
            Arg::new(REPLACE)
                .long(REPLACE)
                .help("Lets --copy, --write and --symlink replace files that are there")
                .action(ArgAction::SetTrue),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        PatchArguments::augment_args(command)
    }
}

impl FromArgMatches for PatchArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<PatchArguments, clap::Error> {
        let mut found = Vec::new();
        for option in &OPTIONS {
            let values = matches.get_many::<OsString>(option.name);
            let indices = matches.indices_of(option.name);
            for (value, index) in values
                .into_iter()
                .flatten()
                .zip(indices.into_iter().flatten())
            {
                let value = value.to_str().ok_or_else(|| {
                    let message = format!("--{}: it is no text in UTF-8\n", option.name);
                    clap::Error::raw(clap::error::ErrorKind::InvalidUtf8, message)
                })?;
                found.push((index, option.change, value.to_owned()));
            }
        }
        found.sort_by_key(|(index, ..)| *index);
        Ok(PatchArguments {
            changes: found
                .into_iter()
                .map(|(_, change, value)| (change, value))
                .collect(),
            replace: matches.get_flag(REPLACE),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = PatchArguments::from_arg_matches(matches)?;
        Ok(())
    }
}

impl PatchArguments {
    /// The changes as the library takes them.
    ///
    /// # Errors
    /// When a value has not its form, or a file of the host is not there.
    pub(super) fn resolve(self) -> anyhow::Result<Vec<PatchConfig>> {
        let replace = self.replace;
        let changes = self.changes.into_iter();
        changes
            .map(|(change, value)| patch(change, &value, replace))
            .collect()
    }
}

fn patch(change: Change, value: &str, replace: bool) -> anyhow::Result<PatchConfig> {
    Ok(match change {
        Change::Copy => return copy(value, replace),
        Change::Mkdir => PatchConfig::Mkdir {
            path: value.to_owned(),
            mode: None,
        },
        Change::Write => {
            let (path, content) = divide(value, '=', "--write /etc/motd=hello")?;
            PatchConfig::Text {
                path,
                content,
                mode: None,
                replace,
            }
        }
        Change::Append => {
            let (path, content) = divide(value, '=', "--append '/etc/hosts=10.0.0.1 db'")?;
            PatchConfig::Append { path, content }
        }
        Change::Symlink => {
            let (link, target) = divide(value, '=', "--symlink /usr/bin/python=python3")?;
            PatchConfig::Symlink {
                target,
                link,
                replace,
            }
        }
        Change::Remove => PatchConfig::Remove {
            path: value.to_owned(),
        },
    })
}

fn copy(value: &str, replace: bool) -> anyhow::Result<PatchConfig> {
    let (src, dst) = divide(value, ':', "--copy ./app:/app")?;
    let cannot = || format!("cannot copy {src}");
    let src = fs::canonicalize(&src).with_context(cannot);
    let src: PathBuf = src.hint("--copy SRC:DST names a file or a folder of this machine")?;
    Ok(match src.is_dir() {
        true => PatchConfig::CopyDir { src, dst, replace },
        false => PatchConfig::CopyFile {
            src,
            dst,
            mode: None,
            replace,
        },
    })
}

/// Both sides of the first separator.
fn divide(value: &str, separator: char, example: &str) -> anyhow::Result<(String, String)> {
    let sides = value.split_once(separator);
    let (left, right) = sides
        .with_context(|| format!("{value:?} has no `{separator}`"))
        .hint(format!("as in {example}"))?;
    Ok((left.to_owned(), right.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        patches: PatchArguments,
    }

    fn parse(arguments: &[&str]) -> anyhow::Result<Vec<PatchConfig>> {
        let arguments = ["run"].iter().chain(arguments);
        Program::try_parse_from(arguments)?.patches.resolve()
    }

    #[test]
    fn the_order_is_that_of_the_command_line() {
        let patches = parse(&[
            "--write=/a=1=2",
            "--remove=/b",
            "--write=/c=3",
            "--mkdir",
            "/d",
            "--copy=/:/e",
        ]);
        let text = |path: &str, content: &str| PatchConfig::Text {
            path: path.into(),
            content: content.into(),
            mode: None,
            replace: false,
        };
        let expected = [
            text("/a", "1=2"),
            PatchConfig::Remove { path: "/b".into() },
            text("/c", "3"),
            PatchConfig::Mkdir {
                path: "/d".into(),
                mode: None,
            },
            PatchConfig::CopyDir {
                src: "/".into(),
                dst: "/e".into(),
                replace: false,
            },
        ];
        assert_eq!(patches.unwrap(), expected);
        assert_eq!(parse(&[]).unwrap(), []);
    }

    #[test]
    fn what_has_not_its_form_is_explained() {
        for wrong in ["--write=/a", "--symlink=/a", "--copy=/none:/x", "--copy=/"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
        assert!(matches!(
            parse(&["--symlink=/a=b", "--patch-replace"]).unwrap()[..],
            [PatchConfig::Symlink { replace: true, .. }]
        ));
    }
}
