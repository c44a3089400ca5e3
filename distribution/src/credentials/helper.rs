//! Programs that keep credentials: `docker-credential-NAME get|store|erase`
//! (github.com/docker/docker-credential-helpers, README, "Development").

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{CredentialError, Credentials, HelperFailure, Secret};

/// How long a helper may take: it may ask a person to unlock a key ring.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Most bytes of an answer that are read.
const MAX_ANSWER: u64 = 64 << 10;

/// What a helper answers, with a failure, when it has nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// The name by which a helper says that the secret is an identity token.
pub(super) const TOKEN_USER: &str = "<token>";

/// A program that keeps credentials.
#[derive(Debug)]
pub(super) struct Helper {
    name: String,
    program: PathBuf,
    time_limit: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

impl Helper {
    /// The helper of this name.
    pub(super) fn named(name: &str) -> Result<Helper, CredentialError> {
        let usable = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !usable {
            return Err(CredentialError::HelperName {
                name: name.chars().take(80).collect(),
            });
        }
        Ok(Helper {
            name: name.to_owned(),
            program: format!("docker-credential-{name}").into(),
            time_limit: TIME_LIMIT,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it keeps for this server; `None` if nothing.
    pub(super) fn get(&self, server: &str) -> Result<Option<Credentials>, CredentialError> {
        let (status, answer) = self.run("get", server.as_bytes())?;
        if !status.success() {
            if String::from_utf8_lossy(&answer).trim() == NOT_FOUND {
                return Ok(None);
            }
            return Err(self.failed(HelperFailure::Status, None));
        }
        let entry: Entry = serde_json::from_slice(&answer)
            .map_err(|_| self.failed(HelperFailure::Answer, None))?;
        Ok(match entry.username.as_str() {
            "" => None,
            TOKEN_USER => Some(Credentials::IdentityToken(Secret::new(entry.secret))),
            _ => Some(Credentials::Password {
                username: entry.username,
                password: Secret::new(entry.secret),
            }),
        })
    }

    /// The servers for which it keeps something, and the names of the users; `None` if it does not tell.
    pub(super) fn list(&self) -> Result<Option<BTreeMap<String, String>>, CredentialError> {
        let (status, answer) = self.run("list", b"")?;
        if !status.success() {
            return Ok(None);
        }
        // Some have no word for nothing but nothing.
        if answer.trim_ascii().is_empty() {
            return Ok(Some(BTreeMap::new()));
        }
        let listed = serde_json::from_slice(&answer);
        listed.map_err(|_| self.failed(HelperFailure::Answer, None))
    }

    /// Makes it keep a password.
    pub(super) fn store(
        &self,
        server: &str,
        username: &str,
        password: &Secret,
    ) -> Result<(), CredentialError> {
        let entry = Entry {
            server_url: server.to_owned(),
            username: username.to_owned(),
            secret: password.reveal().to_owned(),
        };
        let request = serde_json::to_vec(&entry)
            .map_err(|source| self.failed(HelperFailure::Start, Some(source.into())))?;
        let (status, _) = self.run("store", &request)?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(HelperFailure::Status, None))
        }
    }

    /// Makes it forget a server.
    pub(super) fn erase(&self, server: &str) -> Result<(), CredentialError> {
        let (status, answer) = self.run("erase", server.as_bytes())?;
        if status.success() || String::from_utf8_lossy(&answer).trim() == NOT_FOUND {
            Ok(())
        } else {
            Err(self.failed(HelperFailure::Status, None))
        }
    }

    /// Runs it with a request on its standard input: nothing secret is in its arguments.
    fn run(&self, verb: &str, request: &[u8]) -> Result<(ExitStatus, Vec<u8>), CredentialError> {
        let mut child = Command::new(&self.program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What it starts is ended with it.
            .process_group(0)
            .spawn()
            .map_err(|source| self.failed(HelperFailure::Start, Some(source)))?;
        let outcome = self.converse(&mut child, request);
        if outcome.is_err() {
            end(&child);
        }
        let status = child.wait();
        let answer = outcome?;
        let status = status.map_err(|source| self.failed(HelperFailure::Status, Some(source)))?;
        Ok((status, answer))
    }

    /// Asks and waits for the end of the answer. The thread ends with the pipes.
    fn converse(&self, child: &mut Child, request: &[u8]) -> Result<Vec<u8>, CredentialError> {
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.failed(HelperFailure::Start, None));
        };
        let request = request.to_owned();
        let (sender, receiver) = mpsc::sync_channel::<io::Result<Vec<u8>>>(1);
        thread::spawn(move || {
            // A helper that does not read says so by its status.
            let _ = stdin.write_all(&request);
            drop(stdin);
            let mut answer = Vec::new();
            let read = stdout.take(MAX_ANSWER).read_to_end(&mut answer);
            // Without a receiver nobody waits any more.
            let _ = sender.send(read.map(|_| answer));
        });
        match receiver.recv_timeout(self.time_limit) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(self.failed(HelperFailure::Answer, Some(source))),
            Err(_) => Err(self.failed(HelperFailure::Timeout, None)),
        }
    }

    fn failed(&self, failure: HelperFailure, source: Option<io::Error>) -> CredentialError {
        CredentialError::Helper {
            name: self.name.clone(),
            failure,
            source,
        }
    }
}

/// Ends a helper and what it started. It is not yet waited for, so the number is still its own.
fn end(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // It may have ended by itself.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    /// A helper that is this script.
    fn helper(directory: &tempfile::TempDir, script: &str) -> Helper {
        let program = directory.path().join("docker-credential-test");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Helper {
            name: "test".to_owned(),
            program,
            time_limit: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_helper_is_asked_on_its_standard_input() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}' "$1" "$(cat)""#;
        let found = helper(&directory, script)
            .get("registry.example.com")
            .unwrap();
        let expected = Credentials::Password {
            username: "get".to_owned(),
            password: Secret::new("registry.example.com"),
        };
        assert_eq!(found, Some(expected));
        let kept = directory.path().join("kept");
        let script = format!("cat >{}", kept.display());
        helper(&directory, &script)
            .store("r", "alice", &Secret::new("p\"w"))
            .unwrap();
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(kept).unwrap()).unwrap();
        let expected = serde_json::json!({"ServerURL": "r", "Username": "alice", "Secret": "p\"w"});
        assert_eq!(kept, expected);
    }

    #[test]
    fn identity_tokens_and_nothing_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        let found = helper(&directory, script).get("r").unwrap();
        assert_eq!(found, Some(Credentials::IdentityToken(Secret::new("t"))));
        let script = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(helper(&directory, script).get("r").unwrap(), None);
    }

    #[test]
    fn helpers_list_what_they_keep_if_they_can() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"test "$1" = list && echo '{"ghcr.io":"alice"}'"#;
        let listed = helper(&directory, script).list().unwrap();
        let expected = [("ghcr.io".to_owned(), "alice".to_owned())].into();
        assert_eq!(listed, Some(expected));
        for (script, expected) in [("true", Some(BTreeMap::new())), ("echo x; exit 1", None)] {
            assert_eq!(helper(&directory, script).list().unwrap(), expected);
        }
        let error = helper(&directory, "echo hunter2").list().unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }

    #[test]
    fn a_helper_that_fails_is_an_error_without_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        for (script, expected) in [
            ("echo hunter2; exit 3", HelperFailure::Status),
            ("echo hunter2", HelperFailure::Answer),
            ("yes hunter2", HelperFailure::Status),
        ] {
            match helper(&directory, script).get("r") {
                Err(error @ CredentialError::Helper { failure, .. }) => {
                    assert_eq!(failure, expected, "{script}");
                    assert!(!format!("{error:?} {error}").contains("hunter2"));
                }
                other => panic!("{other:?}"),
            }
        }
        let mut missing = helper(&directory, "");
        missing.program = "/nonexistent".into();
        assert!(missing.get("r").is_err());
    }

    #[test]
    fn a_helper_that_hangs_is_ended_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let mut hanging = helper(&directory, "sleep 600 & sleep 600");
        hanging.time_limit = Duration::from_millis(300);
        let start = Instant::now();
        match hanging.get("r") {
            Err(CredentialError::Helper { failure, .. }) => {
                assert_eq!(failure, HelperFailure::Timeout);
            }
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn names_of_helpers_lead_nowhere() {
        for name in ["", "../x", "a/b", "a b", "a;b"] {
            assert!(Helper::named(name).is_err(), "{name}");
        }
    }
}
