//! The directories of running sandboxes: `$MSB_HOME/run/<hash of the name>/`.
//!
//! Each holds two sockets, `agent.sock`, which leads to the agent in the guest, and `control.sock`, which leads to
//! the machine's process; `status`, which says what the machine does; `config`, what its sandbox is, for those who need not
//! know more; and `lock`, which the machine's process keeps
//! locked (flock(2)) as long as it lives. So a directory without a locked `lock` is a left-over,
//! whatever has happened to its process, and whoever comes next removes it. The file `run/lock` is
//! held while directories come and go, so that nobody takes one in the making for a left-over.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::control::MachineStatus;
use crate::home::Home;
use crate::names::Name;
use crate::private_directory::{PrivateDirectoryError, make_private_directory};
use crate::sandbox::SandboxConfig;
use crate::socket;

/// Name of the socket that leads to the agent in the guest.
pub const AGENT_SOCKET: &str = "agent.sock";

/// Name of the socket that leads to the machine's process.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Name of the file with the [`MachineStatus`].
const STATUS: &str = "status";

/// Name of the file with the [`SandboxConfig`].
const CONFIG: &str = "config";

/// Name of the lock file in a run directory, and in the directory of all of them.
const LOCK: &str = "lock";

/// Why a run directory could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirectoryError {
    /// A machine with this name runs.
    #[error("A sandbox named {name:?} is running")]
    NameInUse {
        /// The name.
        name: String,
    },
    /// No machine with this name runs.
    #[error("No sandbox named {name:?} is running")]
    NotRunning {
        /// The name.
        name: String,
    },
    /// The directory of the run directories cannot be made, or others could replace what is in it.
    #[error(transparent)]
    Directory(#[from] PrivateDirectoryError),
    /// A system call failed.
    #[error("Failed to {action} {path}")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A run directory of one name. The value owns nothing; see [`Claim`].
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

/// A run directory that belongs to this process: its lock and its listening sockets, which go to the
/// machine's process.
#[derive(Debug)]
pub struct Claim {
    /// The directory.
    pub directory: RunDirectory,
    /// The locked file. The lock lasts until the last descriptor of this opening is closed.
    pub lock: File,
    /// `agent.sock`, listening: a client can connect before anybody accepts.
    pub listener: UnixListener,
    /// `control.sock`, the same.
    pub control: UnixListener,
}

impl RunDirectory {
    /// The directory for `name`, whether it exists or not: the first 16 hexadecimal digits of the
    /// SHA-256 of the name, because a socket's path is limited and names are not.
    pub fn of(home: &Home, name: &Name) -> RunDirectory {
        let hash = Sha256::digest(name.as_str());
        let digits: String = hash
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        RunDirectory {
            path: home.run().join(digits),
        }
    }

    /// The directory at `path`, as [`path`](Self::path) told it.
    pub fn at(path: PathBuf) -> RunDirectory {
        RunDirectory { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory, its lock and its socket; removes left-overs of machines that are gone.
    ///
    /// # Errors
    /// [`RunDirectoryError::NameInUse`] when a machine with this name runs.
    pub fn claim(home: &Home, name: &Name) -> Result<Claim, RunDirectoryError> {
        let run = home.run();
        make_private_directory(&run)?;
        let _changes = lock_changes(&run)?;
        remove_left_overs(&run)?;
        let directory = RunDirectory::of(home, name);
        let path = directory.path();
        match DirBuilder::new().mode(0o700).create(path) {
            // It survived the removal of left-overs.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RunDirectoryError::NameInUse {
                    name: name.to_string(),
                });
            }
            result => result.map_err(failed("create", path))?,
        }
        let (lock, listener, control) = fill(path).inspect_err(|_| {
            // Half of it is of no use to anybody. What cannot be removed, the next command removes.
            let _ = remove(path);
        })?;
        Ok(Claim {
            directory,
            lock,
            listener,
            control,
        })
    }

    /// Connects to the agent in the guest.
    ///
    /// # Errors
    /// [`RunDirectoryError::NotRunning`] when nobody listens.
    pub fn connect(&self, name: &Name) -> Result<UnixStream, RunDirectoryError> {
        socket::connect(&self.path, AGENT_SOCKET)
            .map_err(|error| self.connect_failed(AGENT_SOCKET, name, error))
    }

    /// Connects to the agent in the guest without ever waiting; the stream does not wait either.
    ///
    /// # Errors
    /// As connect(2): `WouldBlock` when too many wait for their turn.
    pub fn connect_at_once(&self) -> io::Result<UnixStream> {
        socket::connect_at_once(&self.path, AGENT_SOCKET)
    }

    /// Connects to the machine's process without ever waiting: it may be stuck, with as many waiting already as can.
    ///
    /// # Errors
    /// [`RunDirectoryError::NotRunning`] when nobody listens.
    pub(crate) fn connect_control(&self, name: &Name) -> Result<UnixStream, RunDirectoryError> {
        let connect = || {
            let stream = socket::connect_at_once(&self.path, CONTROL_SOCKET)?;
            stream.set_nonblocking(false)?;
            Ok(stream)
        };
        connect().map_err(|error| self.connect_failed(CONTROL_SOCKET, name, error))
    }

    fn connect_failed(&self, socket: &str, name: &Name, error: io::Error) -> RunDirectoryError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                RunDirectoryError::NotRunning {
                    name: name.to_string(),
                }
            }
            _ => failed("connect to", &self.path.join(socket))(error),
        }
    }

    /// Whether a machine's process, or the creator of one, holds the lock.
    ///
    /// # Errors
    /// When the lock cannot be opened.
    pub fn is_locked(&self) -> Result<bool, RunDirectoryError> {
        // Looking means locking for a moment: nobody must take that for a machine and leave the directory alone. Shared,
        // so that two who look do not see each other.
        let _no_changes = match self.path.parent() {
            Some(run) if run.exists() => open_lock(&run.join(LOCK)).and_then(|lock| {
                lock.lock_shared()
                    .map_err(failed("lock", run))
                    .map(|()| lock)
            })?,
            _ => return Ok(false),
        };
        let path = self.path.join(LOCK);
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// What the machine does; `None` when it has not said anything yet, or there is none. It means something only
    /// as long as the directory [is locked](Self::is_locked).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn status(&self) -> Result<Option<MachineStatus>, RunDirectoryError> {
        self.read(STATUS)
    }

    /// What the sandbox of the machine is; `None` when nobody has said it yet, or there is none. It means something only as
    /// long as the directory [is locked](Self::is_locked).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn config(&self) -> Result<Option<SandboxConfig>, RunDirectoryError> {
        self.read(CONFIG)
    }

    /// Says what the machine does; for the process that holds the lock.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_status(&self, status: &MachineStatus) -> Result<(), RunDirectoryError> {
        self.write(STATUS, status)
    }

    /// Says what the sandbox of the machine is; for the process that holds the lock.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn set_config(&self, config: &SandboxConfig) -> Result<(), RunDirectoryError> {
        self.write(CONFIG, config)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RunDirectoryError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            // It is replaced as a whole, so what cannot be understood is of another release.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn write(&self, name: &str, contents: &impl Serialize) -> Result<(), RunDirectoryError> {
        let path = self.path.join(name);
        let beside = self.path.join(format!(".{name}"));
        // Plain data with string keys, and paths that were read as text, which JSON always takes.
        let text =
            serde_json::to_vec(contents).map_err(|error| failed("write", &path)(error.into()))?;
        fs::write(&beside, text).map_err(failed("write", &beside))?;
        fs::rename(&beside, &path).map_err(failed("replace", &path))
    }

    /// Removes the directory if its machine is gone. That is no error if it is gone already.
    ///
    /// # Errors
    /// When a directory cannot be read or removed.
    pub fn remove_if_left_over(&self) -> Result<(), RunDirectoryError> {
        match self.path.parent() {
            Some(run) if run.exists() => {
                let _changes = lock_changes(run)?;
                remove_if_left_over(&self.path)
            }
            _ => Ok(()),
        }
    }

    /// Removes the directory; for the process that holds its lock, which it passes.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn remove(&self, lock: File) -> Result<(), RunDirectoryError> {
        let _changes = self.path.parent().map(lock_changes).transpose()?;
        let result = remove(&self.path);
        drop(lock);
        result
    }
}

/// Makes what a new run directory holds: the lock, locked, and the sockets, listening.
fn fill(directory: &Path) -> Result<(File, UnixListener, UnixListener), RunDirectoryError> {
    let path = directory.join(LOCK);
    let lock = open_lock(&path)?;
    lock.lock().map_err(failed("lock", &path))?;
    let listen =
        |name| socket::listen(directory, name).map_err(failed("listen on", &directory.join(name)));
    Ok((lock, listen(AGENT_SOCKET)?, listen(CONTROL_SOCKET)?))
}

/// Serialises every creation and removal; released when the file is dropped.
fn lock_changes(run: &Path) -> Result<File, RunDirectoryError> {
    let path = run.join(LOCK);
    let lock = open_lock(&path)?;
    lock.lock().map_err(failed("lock", &path))?;
    Ok(lock)
}

fn open_lock(path: &Path) -> Result<File, RunDirectoryError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed("open", path))
}

/// To be called with [`lock_changes`] held.
fn remove_left_overs(run: &Path) -> Result<(), RunDirectoryError> {
    for entry in fs::read_dir(run).map_err(failed("read", run))? {
        let entry = entry.map_err(failed("read", run))?;
        // One that cannot be removed is no reason not to make another.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = remove_if_left_over(&entry.path());
        }
    }
    Ok(())
}

/// To be called with [`lock_changes`] held.
fn remove_if_left_over(directory: &Path) -> Result<(), RunDirectoryError> {
    let path = directory.join(LOCK);
    let lock = match OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
    {
        Ok(lock) => lock,
        // Its maker died between making the directory and the lock, or nothing is there at all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return remove(directory),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    match lock.try_lock() {
        Ok(()) => remove(directory),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn remove(directory: &Path) -> Result<(), RunDirectoryError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed("remove", directory)),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirectoryError {
    let path = path.to_owned();
    move |source| RunDirectoryError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::control::MachineState;

    struct Fixture {
        _root: tempfile::TempDir,
        home: Home,
    }

    fn fixture() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        Fixture { _root: root, home }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn directories(home: &Home) -> usize {
        let is_directory = |entry: io::Result<fs::DirEntry>| entry.unwrap().path().is_dir();
        fs::read_dir(home.run())
            .unwrap()
            .map(is_directory)
            .filter(|&directory| directory)
            .count()
    }

    #[test]
    fn the_path_can_be_computed_by_others() {
        let directory = RunDirectory::of(&Home::at("/h"), &name("web"));
        // printf web | sha256sum
        assert_eq!(directory.path(), Path::new("/h/run/4b5e57f6eb2f42b9"));
    }

    #[test]
    fn one_name_has_one_machine() {
        let Fixture { home, _root } = fixture();
        let claim = RunDirectory::claim(&home, &name("web")).unwrap();
        assert_eq!(
            fs::metadata(claim.directory.path()).unwrap().mode() & 0o777,
            0o700
        );
        let error = RunDirectory::claim(&home, &name("web")).unwrap_err();
        assert!(matches!(error, RunDirectoryError::NameInUse { name } if name == "web"));
        claim.directory.connect(&name("web")).unwrap();
        RunDirectory::claim(&home, &name("other")).unwrap();
    }

    #[test]
    fn what_a_dead_machine_leaves_is_removed_by_the_next() {
        let Fixture { home, _root } = fixture();
        let claim = RunDirectory::claim(&home, &name("dead")).unwrap();
        let directory = claim.directory.clone();
        drop(claim);
        assert!(directory.path().join(AGENT_SOCKET).exists());
        let error = directory.connect(&name("dead")).unwrap_err();
        assert!(matches!(error, RunDirectoryError::NotRunning { .. }));
        // Somebody died in the middle of making one, too.
        fs::create_dir(home.run().join("0123456789abcdef")).unwrap();

        let alive = RunDirectory::claim(&home, &name("alive")).unwrap();
        assert!(!directory.path().exists());
        assert_eq!(directories(&home), 1);
        RunDirectory::claim(&home, &name("dead")).unwrap();
        alive.directory.connect(&name("alive")).unwrap();
    }

    #[test]
    fn the_lock_lasts_as_long_as_one_of_its_descriptors() {
        let Fixture { home, _root } = fixture();
        let Claim {
            directory,
            lock,
            listener,
            control,
        } = RunDirectory::claim(&home, &name("web")).unwrap();
        let handed_over = lock.try_clone().unwrap();
        drop((lock, listener, control));
        assert!(directory.is_locked().unwrap());
        directory.remove_if_left_over().unwrap();
        assert!(directory.path().exists());
        drop(handed_over);
        assert!(!directory.is_locked().unwrap());
        directory.remove_if_left_over().unwrap();
        assert!(!directory.path().exists());
        directory.remove_if_left_over().unwrap();
    }

    #[test]
    fn a_machine_says_what_it_does() {
        let Fixture { home, _root } = fixture();
        let claim = RunDirectory::claim(&home, &name("web")).unwrap();
        assert_eq!(claim.directory.status().unwrap(), None);
        for state in [MachineState::Starting, MachineState::Running] {
            let status = MachineStatus {
                state,
                sandbox: Some("0123456789abcdef".to_owned()),
                pid: 1,
                ready_at: Some(2),
            };
            claim.directory.set_status(&status).unwrap();
            assert_eq!(claim.directory.status().unwrap(), Some(status));
        }
        let config = SandboxConfig::new("web", "/root");
        assert_eq!(claim.directory.config().unwrap(), None);
        claim.directory.set_config(&config).unwrap();
        assert_eq!(claim.directory.config().unwrap(), Some(config));
        claim.directory.remove(claim.lock).unwrap();
        assert_eq!(claim.directory.status().unwrap(), None);
    }

    #[test]
    fn the_holder_of_the_lock_removes_the_directory() {
        let Fixture { home, _root } = fixture();
        let Claim {
            directory, lock, ..
        } = RunDirectory::claim(&home, &name("web")).unwrap();
        directory.remove(lock).unwrap();
        assert_eq!(directories(&home), 0);
    }

    #[test]
    fn others_may_not_write_to_the_directory() {
        let Fixture { home, _root } = fixture();
        fs::create_dir_all(home.run()).unwrap();
        fs::set_permissions(home.run(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = RunDirectory::claim(&home, &name("web")).unwrap_err();
        assert!(matches!(
            error,
            RunDirectoryError::Directory(PrivateDirectoryError::NotPrivate { .. })
        ));
    }

    #[test]
    fn makers_and_removers_do_not_disturb_each_other() {
        let Fixture { home, _root } = fixture();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let home = &home;
                scope.spawn(move || {
                    for _ in 0..25 {
                        let name = name(&format!("sandbox {thread}"));
                        let claim = RunDirectory::claim(home, &name).unwrap();
                        claim.directory.connect(&name).unwrap();
                        claim.directory.remove(claim.lock).unwrap();
                    }
                });
            }
        });
        assert_eq!(directories(&home), 0);
    }
}
