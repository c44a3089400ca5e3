//! The disk of a volume: a sparse raw image with an ext4 file system.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::FcntlArg;

use super::VolumeError;
use super::error::failed;

/// Where mke2fs(8) is if `PATH` does not lead there, as that of an ordinary user.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Makes a disk of `size_mib` MiB at `path`, where nothing is yet, durably. Nobody needs to be root for that.
///
/// # Errors
/// When mke2fs is missing or fails, or the file cannot be written.
pub(crate) fn make(path: &Path, size_mib: u32) -> Result<(), VolumeError> {
    let program = find_mke2fs().ok_or(VolumeError::NoMke2fs)?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))?;
    file.set_len(u64::from(size_mib) << 20)
        .map_err(failed("enlarge", path))?;
    let output = Command::new(&program)
        .args(["-q", "-t", "ext4", "-b", "4096"])
        // The limit is the disk's size: nothing is kept back for the guest's root.
        .args(["-m", "0"])
        // The file reads as zeros already. Its root directory is not the user's who runs this, but root's.
        .args([
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
        ])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(failed("run", &program))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = said.lines().last().unwrap_or_default().trim().to_owned();
        return Err(VolumeError::Mke2fs { size_mib, message });
    }
    file.sync_all().map_err(failed("write", path))
}

/// Bytes that the image at `path` takes up on the host.
///
/// # Errors
/// As stat(2).
pub(super) fn allocated(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.blocks().saturating_mul(512))
}

/// Whether somebody has the image at `path` open as a disk, which is locked then (fcntl(2), "Open file description
/// locks").
pub(super) fn is_open(path: &Path) -> bool {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let tested = File::open(path)
        .map_err(|_| Errno::ENOENT)
        .and_then(|file| nix::fcntl::fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)));
    tested.is_ok() && lock.l_type != libc::F_UNLCK as libc::c_short
}

fn find_mke2fs() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // An empty entry means the current directory, where a program of anybody may lie.
        .filter(|directory| directory.is_absolute())
        .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join("mke2fs"))
        .find(|program| is_executable(program))
}

fn is_executable(program: &Path) -> bool {
    fs::metadata(program)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
