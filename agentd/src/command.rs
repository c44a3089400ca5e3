//! The process that a client asks for, checked.

use std::ffi::CString;
use std::time::Duration;

use nix::errno::Errno;
use protocol::{Bytes, Exec, Failure, ResourceLimit, Stage, TerminalSize};

use crate::children;
use crate::failure::{failure, shown};
use crate::profile::Profile;
use crate::scripts;
use crate::session::violation;
use crate::users::{Identity, UserRequest};

/// Where programs are looked for besides the scripts.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An `Exec` message whose rules have been checked.
#[derive(Debug)]
pub(crate) struct Command {
    /// Program and arguments; empty for the user's login shell.
    pub(crate) args: Vec<CString>,
    /// What the client adds to the default environment.
    pub(crate) env: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) directory: CString,
    pub(crate) user: UserRequest,
    pub(crate) limits: Vec<ResourceLimit>,
    pub(crate) terminal: Option<TerminalSize>,
    /// Standard input comes from the client.
    pub(crate) stdin: bool,
    pub(crate) timeout: Option<Duration>,
    /// In the place of SIGTERM when the guest is stopped.
    pub(crate) stop_signal: Option<i32>,
}

impl Command {
    /// Checks what the protocol demands of an `Exec` message.
    pub(crate) fn new(exec: Exec) -> Result<Self, Failure> {
        for (name, value) in &exec.env {
            if name.0.is_empty() || name.0.contains(&b'=') {
                return Err(broken_rule("the name of an environment variable", &name.0));
            }
            for part in [name, value] {
                if part.0.contains(&0) {
                    return Err(broken_rule("an environment variable", &part.0));
                }
            }
        }
        let args = exec
            .args
            .into_iter()
            .map(|arg| c_string("an argument", arg));
        Ok(Self {
            args: args.collect::<Result<_, _>>()?,
            env: exec
                .env
                .into_iter()
                .map(|(name, value)| (name.0, value.0))
                .collect(),
            directory: match exec.cwd {
                Some(directory) => c_string("the working directory", directory)?,
                None => c"/".into(),
            },
            user: match &exec.user {
                Some(user) => UserRequest::parse(user)?,
                None => UserRequest::ROOT,
            },
            limits: exec.rlimits,
            terminal: exec.terminal,
            stdin: exec.stdin,
            timeout: exec.timeout_ms.map(Duration::from_millis),
            stop_signal: exec.stop_signal.map(stop_signal).transpose()?,
        })
    }

    /// The environment of the process: the defaults for its user, then what the client said.
    pub(crate) fn environment(
        &self,
        identity: &Identity,
        profile: Profile,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut variables = vec![
            (b"PATH".to_vec(), default_path(profile)),
            (b"HOME".to_vec(), identity.home.clone()),
            (b"SHELL".to_vec(), identity.shell.clone()),
        ];
        if let Some(name) = &identity.name {
            variables.push((b"USER".to_vec(), name.clone()));
            variables.push((b"LOGNAME".to_vec(), name.clone()));
        }
        if self.terminal.is_some() {
            variables.push((b"TERM".to_vec(), b"xterm".to_vec()));
        }
        for (name, value) in &self.env {
            variables.retain(|(known, _)| known != name);
            variables.push((name.clone(), value.clone()));
        }
        variables
    }
}

/// Where programs are looked for when nobody says.
pub(crate) fn default_path(profile: Profile) -> Vec<u8> {
    match profile.scripts {
        true => [scripts::DIRECTORY.as_bytes(), DEFAULT_PATH].join(&b':'),
        false => DEFAULT_PATH.to_vec(),
    }
}

fn stop_signal(number: u8) -> Result<i32, Failure> {
    let number = i32::from(number);
    if !(1..=children::MAX_SIGNAL).contains(&number) {
        return Err(violation(format!("There is no signal {number}")));
    }
    Ok(number)
}

fn c_string(what: &str, bytes: Bytes) -> Result<CString, Failure> {
    CString::new(bytes.0).map_err(|error| broken_rule(what, &error.into_vec()))
}

fn broken_rule(what: &str, bytes: &[u8]) -> Failure {
    failure(
        Stage::Protocol,
        Errno::EINVAL,
        format!("{:?} cannot be {what}", shown(bytes)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes(text.as_bytes().to_vec())
    }

    fn exec() -> Exec {
        Exec {
            args: vec![],
            env: vec![],
            cwd: None,
            user: None,
            rlimits: vec![],
            terminal: None,
            stdin: false,
            timeout_ms: None,
            stop_signal: None,
        }
    }

    fn environment(exec: Exec, identity: &Identity) -> Vec<String> {
        let variables = Command::new(exec)
            .unwrap()
            .environment(identity, Profile::default());
        variables
            .iter()
            .map(|(name, value)| format!("{}={}", shown(name), shown(value)))
            .collect()
    }

    fn ada() -> Identity {
        Identity {
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            name: Some(b"ada".to_vec()),
            home: b"/home/ada".to_vec(),
            shell: b"/bin/zsh".to_vec(),
        }
    }

    #[test]
    fn the_user_decides_the_default_environment() {
        let path = format!("PATH={}", shown(DEFAULT_PATH));
        assert_eq!(
            environment(exec(), &ada()),
            [
                &path,
                "HOME=/home/ada",
                "SHELL=/bin/zsh",
                "USER=ada",
                "LOGNAME=ada"
            ]
        );
        assert_eq!(
            environment(
                exec(),
                &Identity {
                    name: None,
                    ..ada()
                }
            ),
            [&path, "HOME=/home/ada", "SHELL=/bin/zsh"]
        );
    }

    #[test]
    fn scripts_come_first() {
        let profile = Profile {
            scripts: true,
            restricted: false,
        };
        let variables = Command::new(exec()).unwrap().environment(&ada(), profile);
        let path = [b"/.msb/scripts:", DEFAULT_PATH].concat();
        assert!(variables.contains(&(b"PATH".to_vec(), path)));
    }

    #[test]
    fn later_variables_win_over_earlier_ones_and_defaults() {
        let env = ["A", "HOME", "A"]
            .map(bytes)
            .into_iter()
            .zip(["1", "/x", "2"].map(bytes));
        let variables = environment(
            Exec {
                env: env.collect(),
                ..exec()
            },
            &ada(),
        );
        assert_eq!(
            variables
                .iter()
                .filter(|line| line.starts_with("A="))
                .count(),
            1
        );
        assert!(variables.contains(&"A=2".into()));
        assert!(variables.contains(&"HOME=/x".into()));
        assert!(!variables.contains(&"HOME=/home/ada".into()));
    }

    #[test]
    fn a_terminal_has_a_type() {
        let terminal = Some(TerminalSize {
            rows: 1,
            columns: 1,
        });
        let variables = environment(Exec { terminal, ..exec() }, &ada());
        assert!(variables.contains(&"TERM=xterm".into()));
    }

    #[test]
    fn zero_bytes_and_odd_names_break_the_protocol() {
        let cases = [
            Exec {
                args: vec![bytes("a\0b")],
                ..exec()
            },
            Exec {
                cwd: Some(bytes("/\0")),
                ..exec()
            },
            Exec {
                env: vec![(bytes(""), bytes("x"))],
                ..exec()
            },
            Exec {
                env: vec![(bytes("A=B"), bytes("x"))],
                ..exec()
            },
            Exec {
                env: vec![(bytes("A\0"), bytes("x"))],
                ..exec()
            },
            Exec {
                env: vec![(bytes("A"), bytes("x\0"))],
                ..exec()
            },
        ];
        for case in cases {
            let failure = Command::new(case).unwrap_err();
            assert_eq!(
                (failure.stage, failure.errno),
                (Stage::Protocol, libc::EINVAL)
            );
        }
    }
}
