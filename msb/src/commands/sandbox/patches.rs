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
        value: "SRC:DST[:OPTIONS]",
        help: "File or folder of the host that is copied into the root before anything runs in it. OPTIONS are mode=MODE, of \
               a file, and replace",
    },
    PatchOption {
        change: Change::Mkdir,
        name: "mkdir",
        value: "PATH[:mode=MODE]",
        help: "Directory that is made in the root, unless it is there",
    },
    PatchOption {
        change: Change::Write,
        name: "write",
        value: "PATH[:OPTIONS]=TEXT",
        help: "Text file that is made in the root. OPTIONS are mode=MODE and replace",
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
        value: "LINK[:replace]=TARGET",
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
                .help("Lets every --copy, --write and --symlink replace what is there, as the option `replace` of one does")
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
        Change::Mkdir => {
            let example = "--mkdir /data:mode=0700";
            let (path, options) = match value.split_once(':') {
                Some((path, rest)) => (path, Options::parse_all(rest).hint(as_in(example))?),
                None => (value, Options::default()),
            };
            options.no_replace().hint(as_in(example))?;
            PatchConfig::Mkdir {
                path: path.to_owned(),
                mode: options.mode,
            }
        }
        Change::Write => {
            let (path, options, content) = with_text(value, "--write /etc/motd:replace=hello")?;
            PatchConfig::Text {
                path,
                content,
                mode: options.mode,
                replace: replace || options.replace,
            }
        }
        Change::Append => {
            let (path, content) = divide(value, '=', "--append '/etc/hosts=10.0.0.1 db'")?;
            PatchConfig::Append { path, content }
        }
        Change::Symlink => {
            let example = "--symlink /usr/bin/python:replace=python3";
            let (link, options, target) = with_text(value, example)?;
            options.no_mode().hint(as_in(example))?;
            PatchConfig::Symlink {
                target,
                link,
                replace: replace || options.replace,
            }
        }
        Change::Remove => PatchConfig::Remove {
            path: value.to_owned(),
        },
    })
}

fn copy(value: &str, replace: bool) -> anyhow::Result<PatchConfig> {
    let (src, rest) = divide(value, ':', "--copy ./app:/app")?;
    let (dst, options) = match rest.split_once(':') {
        Some((dst, options)) => {
            let options = Options::parse_all(options);
            let options = options.hint(as_in("--copy ./key:/etc/key:mode=0600,replace"))?;
            (dst.to_owned(), options)
        }
        None => (rest, Options::default()),
    };
    let cannot = || format!("cannot copy {src}");
    let src = fs::canonicalize(&src).with_context(cannot);
    let src: PathBuf = src.hint("--copy SRC:DST names a file or a folder of this machine")?;
    let replace = replace || options.replace;
    if src.is_dir() {
        let refused = options.no_mode().with_context(cannot);
        refused.hint("a folder is copied with the permissions that it has, and all in it")?;
        return Ok(PatchConfig::CopyDir { src, dst, replace });
    }
    Ok(PatchConfig::CopyFile {
        src,
        dst,
        mode: options.mode,
        replace,
    })
}

/// What is said of one change behind its path.
#[derive(Debug, Clone, Copy, Default)]
struct Options {
    mode: Option<u32>,
    replace: bool,
}

impl Options {
    /// Those at the beginning of `text`, and what stands behind them.
    fn parse(mut text: &str) -> anyhow::Result<(Options, &str)> {
        let mut options = Options::default();
        loop {
            if let Some(rest) = text.strip_prefix("mode=") {
                let behind = rest.trim_start_matches(|digit: char| digit.is_digit(8));
                let digits = &rest[..rest.len() - behind.len()];
                let mode = u32::from_str_radix(digits, 8);
                let mode = mode.with_context(|| format!("{rest:?} is no mode in octal digits"))?;
                options.mode = Some(mode);
                text = behind;
            } else if let Some(rest) = text.strip_prefix("replace") {
                options.replace = true;
                text = rest;
            } else {
                anyhow::bail!("{text:?} is none of the options mode=MODE and replace");
            }
            match text.strip_prefix(',') {
                Some(rest) => text = rest,
                None => return Ok((options, text)),
            }
        }
    }

    /// Those that `text` consists of.
    fn parse_all(text: &str) -> anyhow::Result<Options> {
        match Options::parse(text)? {
            (options, "") => Ok(options),
            (_, rest) => anyhow::bail!("{rest:?} stands behind the options"),
        }
    }

    fn no_mode(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.mode.is_none(), "it takes no mode");
        Ok(())
    }

    fn no_replace(self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.replace,
            "a directory that is there stays: nothing is replaced"
        );
        Ok(())
    }
}

/// The parts of `PATH[:OPTIONS]=TEXT`.
fn with_text(value: &str, example: &str) -> anyhow::Result<(String, Options, String)> {
    let (path, rest) = divide(value, '=', example)?;
    let Some((path, _)) = path.split_once(':') else {
        return Ok((path, Options::default(), rest));
    };
    let parsed = Options::parse(&value[path.len() + 1..]).and_then(|(options, rest)| {
        let text = rest.strip_prefix('=');
        let text = text.with_context(|| format!("{rest:?} is no `=` with the text"))?;
        Ok((path.to_owned(), options, text.to_owned()))
    });
    parsed.hint(as_in(example))
}

fn as_in(example: &str) -> String {
    format!("as in {example}")
}

/// Both sides of the first separator.
fn divide(value: &str, separator: char, example: &str) -> anyhow::Result<(String, String)> {
    let sides = value.split_once(separator);
    let (left, right) = sides
        .with_context(|| format!("{value:?} has no `{separator}`"))
        .hint(as_in(example))?;
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
    fn each_has_options_of_its_own() {
        let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let copy = format!("--copy={}:/f:mode=0600", file.display());
        let patches = parse(&[
            "--write=/a:mode=0600,replace=mode=1:2",
            "--write=/b:replace==",
            "--write=/c=d:replace",
            "--mkdir=/d:mode=1777",
            "--symlink=/e:replace=a=b",
            "--copy=/:/f:replace",
            &copy,
            "--remove=/a:replace",
        ])
        .unwrap();
        let text = |path: &str, content: &str, mode, replace| PatchConfig::Text {
            path: path.into(),
            content: content.into(),
            mode,
            replace,
        };
        let expected = [
            text("/a", "mode=1:2", Some(0o600), true),
            text("/b", "=", None, true),
            text("/c", "d:replace", None, false),
            PatchConfig::Mkdir {
                path: "/d".into(),
                mode: Some(0o1777),
            },
            PatchConfig::Symlink {
                target: "a=b".into(),
                link: "/e".into(),
                replace: true,
            },
            PatchConfig::CopyDir {
                src: "/".into(),
                dst: "/f".into(),
                replace: true,
            },
            PatchConfig::CopyFile {
                src: file.canonicalize().unwrap(),
                dst: "/f".into(),
                mode: Some(0o600),
                replace: false,
            },
            PatchConfig::Remove {
                path: "/a:replace".into(),
            },
        ];
        assert_eq!(patches, expected);
        for wrong in [
            "--write=/a:mod=1=x",
            "--write=/a:mode==x",
            "--write=/a:mode=9=x",
            "--write=/a:replace,=x",
            "--write=/a:replace:x=",
            "--mkdir=/a:replace",
            "--mkdir=/a:mode=",
            "--mkdir=/a:mode=77777777777777",
            "--symlink=/a:mode=1=x",
            "--copy=/:/a:mode=1",
            "--copy=/:/a:",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
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
