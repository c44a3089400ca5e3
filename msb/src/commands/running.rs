//! A sandbox that runs, as commands use it that run something in it.

use std::os::unix::net::UnixStream;

use anyhow::anyhow;
use microsandbox::control::MachineState;
use microsandbox::home::Home;
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Exec, ResourceLimit};
use microsandbox::run_directory::RunDirectory;
use microsandbox::sandbox::{SandboxConfig, SandboxStatus};
use microsandbox::{MicrosandboxError, Sandbox, session};

use super::advice::{advise, tells_how};
use super::runtime::block_on;
use crate::failure::{Hint, with_hint};
use crate::operand::operand;

/// A sandbox that runs.
pub(super) struct RunningSandbox {
    /// Its name.
    pub(super) name: Name,
    /// What it was created with.
    pub(super) config: SandboxConfig,
    /// Where its machine can be reached.
    pub(super) directory: RunDirectory,
}

impl RunningSandbox {
    /// Looks a sandbox up.
    ///
    /// # Errors
    /// When there is none of this name, or it takes no commands now.
    pub(super) fn find(name: Name) -> anyhow::Result<RunningSandbox> {
        let home = home()?;
        let directory = RunDirectory::of(&home, &name);
        // Its run directory tells all that there is to know of one that runs; the database takes longer to open than that, and
        // tells what is the matter with the others.
        let config = match config_of_running(&directory) {
            Some(config) => config,
            None => block_on(async {
                match look_up(&name).await {
                    Ok(config) => Ok(config),
                    Err(error) => Err(advise(error).await),
                }
            })?,
        };
        Ok(RunningSandbox {
            name,
            config,
            directory,
        })
    }

    /// One that was just created.
    ///
    /// # Errors
    /// When the home directory cannot be told.
    pub(super) fn of(name: Name, config: SandboxConfig) -> anyhow::Result<RunningSandbox> {
        Ok(RunningSandbox {
            directory: RunDirectory::of(&home()?, &name),
            name,
            config,
        })
    }

    /// A fresh connection to the agent in the guest.
    ///
    /// # Errors
    /// When the sandbox has just ended.
    pub(super) fn connect(&self) -> anyhow::Result<UnixStream> {
        let stream = self.directory.connect(&self.name);
        stream.hint(format!("start it with `msb start {}`", operand(&self.name)))
    }

    /// Gives a process what it does not have itself: the environment of the sandbox, its directory, its user and its limits.
    ///
    /// # Errors
    /// When it is more than the guest takes.
    pub(super) fn complete(&self, exec: Exec) -> anyhow::Result<Exec> {
        let own = self.config.env.iter();
        let own = own.map(|(key, value)| (bytes(key), bytes(value)));
        let mut rlimits = exec.rlimits;
        for limit in self.config.rlimits.iter().copied().map(ResourceLimit::from) {
            if rlimits.iter().all(|other| other.resource != limit.resource) {
                rlimits.push(limit);
            }
        }
        let exec = Exec {
            env: own.chain(exec.env).collect(),
            cwd: exec
                .cwd
                .or_else(|| self.config.workdir.as_deref().map(bytes)),
            user: exec.user.or_else(|| self.config.user.clone()),
            rlimits,
            ..exec
        };
        session::check(&exec)
            .hint("they may have 1 MiB together: pass large data in a file or on standard input")?;
        Ok(exec)
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes(text.as_bytes().to_vec())
}

/// The machine is gone in the middle of things.
pub(super) fn gone(name: &Name) -> anyhow::Error {
    with_hint(
        anyhow!("the sandbox {:?} ended meanwhile", name.as_str()),
        tells_how(name),
    )
}

fn home() -> anyhow::Result<Home> {
    Home::from_environment().hint("set MSB_HOME to a directory of yours")
}

/// What a sandbox is that runs or starts, if its run directory says so.
fn config_of_running(directory: &RunDirectory) -> Option<SandboxConfig> {
    let state = directory.status().ok()??.state;
    if !matches!(state, MachineState::Starting | MachineState::Running) {
        return None;
    }
    let config = directory.config().ok()??;
    // Last: a machine that is gone may have left both.
    directory.is_locked().ok()?.then_some(config)
}

async fn look_up(name: &Name) -> Result<SandboxConfig, MicrosandboxError> {
    let sandbox = Sandbox::get(name.as_str()).await?;
    match sandbox.status() {
        // What is run in one that starts waits for its guest.
        SandboxStatus::Starting | SandboxStatus::Running => sandbox.config(),
        SandboxStatus::Draining => Err(MicrosandboxError::SandboxDraining {
            name: name.to_string(),
        }),
        status => Err(MicrosandboxError::SandboxNotRunning {
            name: name.to_string(),
            status,
        }),
    }
}

#[cfg(test)]
mod tests {
    use microsandbox::sandbox::Rlimit;

    use super::*;
    use crate::options::parse_rlimit;

    fn limit(text: &str) -> Rlimit {
        parse_rlimit(text).unwrap()
    }

    #[test]
    fn a_process_gets_what_it_does_not_have_itself() {
        let mut config = SandboxConfig::new("web", "./root");
        config.user = Some("own".to_owned());
        config.workdir = Some("/own".to_owned());
        config.env.insert("A".to_owned(), "own".to_owned());
        config.rlimits = vec![limit("nofile=64"), limit("nproc=10")];
        let sandbox = RunningSandbox {
            name: "web".parse().unwrap(),
            directory: RunDirectory::of(&Home::at("/nowhere"), &"web".parse().unwrap()),
            config,
        };
        let exec = |argument: &str| Exec {
            args: vec![bytes(argument)],
            env: vec![(bytes("A"), bytes("given"))],
            user: Some("given".to_owned()),
            rlimits: vec![limit("nofile=5").into()],
            cwd: None,
            terminal: None,
            stdin: false,
            timeout_ms: None,
            stop_signal: None,
        };
        let refused = sandbox.complete(exec(&"x".repeat(1 << 20))).unwrap_err();
        assert!(refused.to_string().contains("too long"), "{refused}");
        let exec = sandbox.complete(exec("true")).unwrap();
        assert_eq!(exec.user.as_deref(), Some("given"));
        assert_eq!(exec.cwd, Some(bytes("/own")));
        // Of two variables of one name the later one counts.
        assert_eq!(
            exec.env,
            [(bytes("A"), bytes("own")), (bytes("A"), bytes("given"))]
        );
        let limits = [limit("nofile=5"), limit("nproc=10")];
        assert_eq!(exec.rlimits, limits.map(ResourceLimit::from));
    }
}
