//! From the arguments to what is to be done, with every mistake found before anything starts.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use microsandbox::home::Home;
use microsandbox::launch::{HostPath, LaunchConfig, Mount, MountSource, Root, RootSource, Sharing};
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Exec, MountOptions, RootAccess};
use microsandbox::session;

use super::Arguments;
use super::timings::TimingsFormat;
use crate::failure::{Hint, with_hint};
use crate::host::host_memory;
use crate::kernel_files::{INITRAMFS, KERNEL};
use crate::options::{TmpfsMount, Variable, Volume, check_memory};
use crate::terminal;

/// Most shared folders of a guest. Each is a device, which the kernel's command line names.
const MAX_VOLUMES: usize = 32;

/// How long a guest may take to come up. Some hundred times what it takes: where KVM itself is
/// emulated, and others use the machine, everything is that slow.
const BOOT_TIMEOUT_MS: u32 = 120_000;

/// What `msb run` is to do.
pub(super) struct Plan {
    /// Name of the sandbox, if it was given one.
    pub(super) name: Option<Name>,
    /// The machine. Its name and, unless one was given, its host name are still empty.
    pub(super) config: LaunchConfig,
    /// The process in it.
    pub(super) exec: Exec,
    /// When the process is ended.
    pub(super) timeout: Option<Duration>,
    /// What the process is called in messages.
    pub(super) program: String,
    /// How the times of the phases are printed, if they are.
    pub(super) timings_format: Option<TimingsFormat>,
}

impl Plan {
    /// Checks the arguments against each other and against this machine.
    ///
    /// # Errors
    /// The first mistake, with what to do about it.
    pub(super) fn from_arguments(arguments: Arguments, home: &Home) -> anyhow::Result<Plan> {
        check_memory(arguments.memory, host_memory())?;
        check_volumes(&arguments.volume)?;
        check_targets(&arguments.volume, &arguments.tmpfs)?;
        let root = folder(&arguments.root)
            .with_context(|| format!("cannot use {} as root", arguments.root.display()))
            .hint("DIR is a folder with a Linux system in it")?;
        let log_level = arguments.log_level().name().to_owned();
        let terminal = wants_terminal(&arguments).then(terminal::size);
        let program = match arguments.command.first() {
            Some(program) => program.to_string_lossy().into_owned(),
            None => "the shell".to_owned(),
        };
        let config = LaunchConfig {
            name: String::new(),
            vcpus: arguments.cpus,
            memory: arguments.memory,
            kernel: KERNEL.find(arguments.kernel.as_deref(), home)?,
            initramfs: INITRAMFS.find(arguments.initramfs.as_deref(), home)?,
            extra_command_line: arguments.cmdline.unwrap_or_default(),
            root: Root {
                source: RootSource::Folder(HostPath(root)),
                access: match arguments.root_rw {
                    true => RootAccess::Writable,
                    false => RootAccess::Layer { size: None },
                },
            },
            mounts: mounts(&arguments.volume, &arguments.tmpfs)?,
            allowed: Vec::new(),
            hostname: arguments.hostname.unwrap_or_default(),
            boot_timeout_ms: BOOT_TIMEOUT_MS,
            log_level,
        };
        let exec = Exec {
            args: arguments
                .command
                .iter()
                .map(|argument| Bytes(argument.as_bytes().to_vec()))
                .collect(),
            env: environment(arguments.env, terminal.is_some()),
            cwd: arguments.workdir.map(|path| path.to_bytes()),
            user: arguments.user,
            rlimits: arguments.rlimit,
            terminal,
            stdin: true,
            timeout_ms: arguments
                .timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        session::check(&exec)
            .hint("they may have 1 MiB together: pass large data in a file or on standard input")?;
        Ok(Plan {
            name: arguments.name,
            config,
            exec,
            timeout: arguments.timeout,
            program,
            timings_format: arguments.timings,
        })
    }
}

fn wants_terminal(arguments: &Arguments) -> bool {
    arguments.tty || (!arguments.no_tty && terminal::is_interactive())
}

/// The variables for the process. With a terminal, the guest should know its kind.
fn environment(variables: Vec<Variable>, terminal: bool) -> Vec<(Bytes, Bytes)> {
    let term = Variable::Inherit { key: "TERM".into() };
    terminal
        .then_some(term)
        .into_iter()
        .chain(variables)
        .filter_map(Variable::resolve)
        .collect()
}

fn mounts(volumes: &[Volume], tmpfs: &[TmpfsMount]) -> anyhow::Result<Vec<Mount>> {
    let folders = volumes.iter().map(shared_folder);
    let tmpfs = tmpfs.iter().map(|mount| {
        let shared = ["/tmp", "/var/tmp"].contains(&&*mount.target.to_string());
        Ok(Mount {
            target: mount.target.to_bytes(),
            source: MountSource::Tmpfs {
                size: mount.size,
                mode: if shared { 0o1777 } else { 0o755 },
            },
            options: MountOptions::default(),
        })
    });
    folders.chain(tmpfs).collect()
}

fn shared_folder(volume: &Volume) -> anyhow::Result<Mount> {
    let path = folder(&volume.source)
        .with_context(|| format!("cannot share {}", volume.source.display()))
        .hint("the part of --volume before the colon is an existing folder")?;
    Ok(Mount {
        target: volume.target.to_bytes(),
        source: MountSource::Folder {
            path: HostPath(path),
            sharing: Sharing::default(),
        },
        options: MountOptions {
            read_only: volume.read_only,
            ..MountOptions::default()
        },
    })
}

/// The folder's own path, if it is one and can be read.
fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    let path = fs::canonicalize(path)?;
    if !fs::metadata(&path)?.is_dir() {
        bail!("it is a file");
    }
    fs::read_dir(&path)?;
    Ok(path)
}

fn check_volumes(volumes: &[Volume]) -> anyhow::Result<()> {
    if volumes.len() > MAX_VOLUMES {
        let count = volumes.len();
        let error = anyhow!("a guest cannot have {count} shared folders");
        return Err(with_hint(
            error,
            format!("give --volume {MAX_VOLUMES} times at most: a folder that holds others is one"),
        ));
    }
    Ok(())
}

fn check_targets(volumes: &[Volume], tmpfs: &[TmpfsMount]) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    let targets = volumes.iter().map(|volume| &volume.target);
    for target in targets.chain(tmpfs.iter().map(|mount| &mount.target)) {
        if !seen.insert(target) {
            let error = anyhow!("two mounts have the target {target}");
            return Err(with_hint(
                error,
                "give each --volume and --tmpfs a place of its own",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &anyhow::Error) -> String {
        format!("{error:#}")
    }

    #[test]
    fn each_target_is_taken_once() {
        let volume = Volume::parse("/a:/data".as_ref()).unwrap();
        let other = Volume::parse("/b:/data/".as_ref()).unwrap();
        let tmpfs = TmpfsMount::parse("/data".as_ref()).unwrap();
        assert!(check_targets(std::slice::from_ref(&volume), &[]).is_ok());
        assert!(check_targets(&[volume.clone(), other], &[]).is_err());
        assert!(check_targets(&[volume], &[tmpfs]).is_err());
    }

    #[test]
    fn a_folder_is_a_folder_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(folder(root.path()).unwrap().is_absolute());
        assert!(text(&folder(&file).unwrap_err()).contains("file"));
        assert!(text(&folder(&root.path().join("none")).unwrap_err()).contains("No such file"));
    }

    #[test]
    fn a_terminal_has_a_kind() {
        let set = || {
            vec![Variable::Set {
                key: "TERM".into(),
                value: "dumb".into(),
            }]
        };
        let last = environment(set(), true).pop();
        assert_eq!(
            last,
            Some((Bytes(b"TERM".to_vec()), Bytes(b"dumb".to_vec())))
        );
        assert_eq!(environment(Vec::new(), false), []);
    }
}
