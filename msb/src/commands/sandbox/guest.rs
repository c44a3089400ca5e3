//! What a guest is like besides its file systems: its name, its first process, its scripts, its privileges.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use microsandbox::names;
use microsandbox::protocol::{Bytes, Init, Script};

use crate::failure::{Hint, with_hint};
use crate::options::{GuestPath, GuestPathError, ScriptArgument, ScriptSource, Variable, os_value};

/// Most that all scripts have together, in bytes: they reach the guest in one message, which has other things to say, too.
const MAX_SCRIPTS: usize = 512 << 10;

/// The guest of a sandbox.
#[derive(Debug, Args)]
pub(in crate::commands) struct GuestArguments {
    /// Host name of the guest [default: the name of the sandbox]
    #[arg(short = 'H', long, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,

    /// Program of the root that becomes PID 1, such as systemd; auto finds the usual ones
    #[arg(long, value_name = "PATH|auto", value_parser = os_value(InitArgument::parse))]
    init: Option<InitArgument>,

    /// Argument for --init, besides its name
    #[arg(
        long,
        value_name = "ARGUMENT",
        requires = "init",
        allow_hyphen_values = true
    )]
    init_arg: Vec<OsString>,

    /// Variable for the environment of --init
    #[arg(long, value_name = "KEY[=VALUE]", requires = "init", value_parser = os_value(Variable::parse))]
    init_env: Vec<Variable>,

    /// Script that commands find in their PATH; without #! it is one of /bin/sh
    #[arg(long, value_name = "NAME=BODY", value_parser = os_value(ScriptArgument::inline))]
    script: Vec<ScriptArgument>,

    /// The same from a file of the host
    #[arg(long, value_name = "NAME:PATH", value_parser = os_value(ScriptArgument::file))]
    script_path: Vec<ScriptArgument>,

    /// What processes may do in the guest: restricted ones neither gain privileges nor mount
    #[arg(long, value_name = "PROFILE", value_enum, default_value_t = Security::Default)]
    security: Security,
}

/// What stands behind `--init`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum InitArgument {
    /// Whatever is found.
    Auto,
    /// This program.
    Program(GuestPath),
}

impl InitArgument {
    fn parse(text: &OsStr) -> Result<InitArgument, GuestPathError> {
        if text == "auto" {
            return Ok(InitArgument::Auto);
        }
        GuestPath::parse(text).map(InitArgument::Program)
    }
}

/// Privileges in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Security {
    /// Those of the user, who is root unless --user is given.
    Default,
    /// No setuid programs, no mounting; mounts are nosuid and nodev.
    Restricted,
}

/// A guest as it is to be.
#[derive(Debug)]
pub(super) struct ResolvedGuest {
    /// Its host name, if it was given one.
    pub(super) hostname: Option<String>,
    /// The program that becomes PID 1.
    pub(super) init: Option<Init>,
    /// Programs in the PATH of commands.
    pub(super) scripts: Vec<Script>,
    /// Whether processes neither gain privileges nor mount.
    pub(super) restricted: bool,
}

impl GuestArguments {
    /// What the arguments mean.
    ///
    /// # Errors
    /// When they contradict each other, or a script cannot be had.
    pub(super) fn resolve(self) -> anyhow::Result<ResolvedGuest> {
        Ok(ResolvedGuest {
            init: self.init()?,
            scripts: self.scripts()?,
            restricted: self.security == Security::Restricted,
            hostname: self.hostname,
        })
    }

    /// The program that becomes PID 1.
    ///
    /// # Errors
    /// When there are arguments for one that is still to be found.
    fn init(&self) -> anyhow::Result<Option<Init>> {
        match &self.init {
            None => Ok(None),
            Some(InitArgument::Auto) if self.init_arg.is_empty() && self.init_env.is_empty() => {
                Ok(Some(Init::Auto))
            }
            Some(InitArgument::Auto) => Err(with_hint(
                anyhow!("--init-arg and --init-env are for a known program, and --init is auto"),
                "name the program: --init /lib/systemd/systemd",
            )),
            Some(InitArgument::Program(path)) => Ok(Some(Init::Program {
                path: path.to_bytes(),
                args: self
                    .init_arg
                    .iter()
                    .map(|argument| Bytes(argument.as_bytes().to_vec()))
                    .collect(),
                env: self
                    .init_env
                    .iter()
                    .cloned()
                    .filter_map(Variable::resolve)
                    .collect(),
            })),
        }
    }

    /// The scripts with their contents.
    ///
    /// # Errors
    /// When a file cannot be read, two have one name, or they are too large.
    fn scripts(&self) -> anyhow::Result<Vec<Script>> {
        let mut names = HashSet::new();
        let mut scripts = Vec::new();
        let mut size: usize = 0;
        for ScriptArgument { name, source } in self.script.iter().chain(&self.script_path) {
            if !names.insert(name) {
                let error = anyhow!("there are two scripts {name:?}");
                return Err(with_hint(error, "give each --script a name of its own"));
            }
            let body = match source {
                ScriptSource::Body(body) => body.clone(),
                ScriptSource::File(path) => read(path)
                    .with_context(|| format!("cannot read the script {}", path.display()))
                    .hint("--script-path NAME:PATH names a file of this machine")?,
            };
            size = size.saturating_add(body.len()).saturating_add(name.len());
            if size > MAX_SCRIPTS {
                return Err(with_hint(
                    anyhow!("the scripts have more than 512 KiB together"),
                    "mount the folder that they are in: --volume ./scripts:/scripts:ro",
                ));
            }
            scripts.push(Script {
                name: name.clone(),
                body: Bytes(body),
            });
        }
        Ok(scripts)
    }
}

/// Reads a file, though not more of it than can be used.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    let limit = u64::try_from(MAX_SCRIPTS).unwrap_or(u64::MAX);
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut contents)?;
    Ok(contents)
}

fn hostname(text: &str) -> Result<String, names::HostnameError> {
    names::check_hostname(text).map(|()| text.to_owned())
}
