//! A home directory of `msb` for one test, and the certainty that nothing is left behind.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use tempfile::TempDir;

use crate::guest::Guest;
use crate::running::{Finished, Running, piped};
use crate::transcript::Transcript;
use crate::{LIMIT, processes, product};

/// A home directory with nothing in it. When it is dropped, every process that was started in it must have ended and
/// everything that they made besides their output must be gone, or the test fails.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    program: PathBuf,
    /// Who runs `msb`, if it is not the user who runs the test.
    user: Option<u32>,
}

/// An ordinary user for tests that root runs.
const ORDINARY_USER: u32 = 1000;

impl Default for Home {
    fn default() -> Home {
        Home::new()
    }
}

impl Home {
    /// Makes one, on a file system with extended attributes where the KVM host has one.
    pub fn new() -> Home {
        let place = env::var_os("KVMHOST_SCRATCH").map_or_else(env::temp_dir, PathBuf::from);
        let directory = tempfile::Builder::new()
            .prefix("msb-")
            .tempdir_in(place)
            .unwrap();
        let home = Home {
            directory,
            program: product::msb(),
            user: None,
        };
        fs::create_dir(home.msb_home()).unwrap();
        fs::create_dir(home.temporary()).unwrap();
        home
    }

    /// Makes one for an ordinary user, with a copy of `msb` where that user can read it.
    pub fn of_ordinary_user() -> Home {
        let mut home = Home::new();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let programs = home.folder("programs");
        for file in [product::msb(), product::kernel(), product::initramfs()] {
            fs::copy(&file, programs.join(file.file_name().unwrap())).unwrap();
        }
        home.program = programs.join("msb");
        if geteuid().is_root() {
            home.user = Some(ORDINARY_USER);
            for directory in [home.msb_home(), home.temporary()] {
                chown(directory, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
            }
        }
        home
    }

    /// A place for the test's own files, beside the home directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a folder in [`path`](Self::path).
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Makes a named pipe, and a transcript of what is written to it.
    pub fn named_pipe(&self, name: &str) -> (PathBuf, Transcript) {
        let path = self.path().join(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        // For reading and writing, so that it need not wait for a writer.
        let pipe = File::options().read(true).write(true).open(&path).unwrap();
        (path, Transcript::of(pipe))
    }

    /// `MSB_HOME`.
    pub fn msb_home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// `TMPDIR`.
    pub fn temporary(&self) -> PathBuf {
        self.path().join("tmp")
    }

    /// `msb` with these arguments. Of the environment it gets what everybody has, and its standard streams are pipes.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path())
            .env("TMPDIR", self.temporary())
            .env("MSB_HOME", self.msb_home());
        if let Some(user) = self.user {
            command.uid(user).gid(kvm_group().unwrap_or(user));
        }
        piped(&mut command);
        command
    }

    /// Runs `msb` with these arguments and nothing to read.
    #[track_caller]
    pub fn msb(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        Running::start(&mut self.command(arguments)).finish()
    }

    /// Creates a sandbox that waits for commands, with busybox as its root.
    ///
    /// # Panics
    /// When it cannot be created.
    #[track_caller]
    pub fn create(&self, options: &[&str], name: &str) {
        let root = product::busybox();
        let root = root.to_str().expect("the path of the root is text");
        let arguments = ["create", "--memory=128M", "--name", name]
            .into_iter()
            .chain(options.iter().copied())
            .chain([root]);
        let created = self.msb(arguments);
        assert_eq!(created.lines(), [name], "{created}");
    }

    /// Runs a script in the sandbox of this name.
    pub fn exec_shell(&self, name: &str, script: &str) -> Finished {
        self.msb(["exec", name, "sh", "-c", script])
    }

    /// A guest with the small root file system.
    pub fn busybox(&self) -> Guest<'_> {
        Guest::new(self, product::busybox())
    }

    /// A guest with the Debian root file system.
    pub fn debian(&self) -> Guest<'_> {
        Guest::new(self, product::debian())
    }

    /// A guest with a root file system of its own.
    pub fn guest(&self, root: impl Into<PathBuf>) -> Guest<'_> {
        Guest::new(self, root.into())
    }

    /// The processes that are machines.
    pub fn machines(&self) -> Vec<Pid> {
        processes::with_open_below(&self.run())
    }

    /// Every process that belongs here: machines, and `msb` with what it started.
    pub fn processes(&self) -> Vec<Pid> {
        processes::belonging_to("MSB_HOME", &self.msb_home(), &self.run())
    }

    /// The one process that is a machine.
    ///
    /// # Panics
    /// When there is none, or more than one.
    #[track_caller]
    pub fn machine(&self) -> Pid {
        let machines = self.machines();
        let [machine] = *machines else {
            panic!("the machines are {machines:?}")
        };
        machine
    }

    /// Waits for the end of every process that belongs here.
    ///
    /// # Panics
    /// When it does not come within [`LIMIT`].
    #[track_caller]
    pub fn wait_until_alone(&self) {
        for pid in self.processes() {
            let ended = processes::wait_for_end(pid, LIMIT);
            assert!(ended, "it did not end: {}", processes::describe(pid));
        }
    }

    /// What is left, one line each.
    pub fn left_over(&self) -> Vec<String> {
        let processes = self.processes().into_iter().map(processes::describe);
        let entries = |path: &Path| -> Vec<PathBuf> {
            let directory = fs::read_dir(path).into_iter().flatten();
            directory.map(|entry| entry.unwrap().path()).collect()
        };
        // The lock of the run directory outlives them all.
        let lock = self.run().join("lock");
        let files = entries(&self.run())
            .into_iter()
            .filter(|path| *path != lock);
        let files = files.chain(entries(&self.temporary()));
        processes
            .chain(files.map(|path| path.display().to_string()))
            .collect()
    }

    /// What the machines of all sandboxes logged, for messages.
    fn machine_logs(&self) -> String {
        let sandboxes = fs::read_dir(self.msb_home().join("sandboxes"));
        let logs = sandboxes.into_iter().flatten().flatten();
        logs.map(|sandbox| sandbox.path().join("machine.log"))
            .map(|log| String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned())
            .collect()
    }

    fn run(&self) -> PathBuf {
        self.msb_home().join("run")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let left_over = self.left_over();
        let processes = self.processes();
        if std::thread::panicking() && !processes.is_empty() {
            eprintln!(
                "still there:\n{}{}",
                processes::activity(),
                self.machine_logs()
            );
        }
        for pid in processes {
            // Fails when it has just ended.
            let _ = kill(pid, Signal::SIGKILL);
            processes::wait_for_end(pid, LIMIT);
        }
        // A test that fails has said why already.
        if !std::thread::panicking() {
            assert!(left_over.is_empty(), "left behind: {left_over:#?}");
        }
    }
}

/// The group that may use KVM, unless everybody may.
fn kvm_group() -> Option<u32> {
    let metadata = fs::metadata("/dev/kvm").unwrap();
    (metadata.mode() & 0o006 != 0o006).then_some(metadata.gid())
}
