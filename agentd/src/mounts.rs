//! Mounting beneath the root.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use protocol::{Failure, MountSource, Root, Stage};

use crate::failure::OrFailed;
use crate::mount_plan::PlannedMount;
use crate::users;

/// One of the file systems that every guest has.
struct System {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: String,
    /// A kernel without it will do.
    optional: bool,
}

/// Mounts the kernel's file systems where programs expect them, and links `/dev/fd` and its
/// kind. The calling process is already in the new root.
pub(crate) fn mount_system(root: &Root) -> Result<(), Failure> {
    for system in systems(root) {
        let System {
            kind,
            target,
            flags,
            data,
            optional,
        } = system;
        match create_and_mount(kind, kind, Path::new(target), flags, &data) {
            Err(error) if optional && error.raw_os_error() == Some(libc::ENODEV) => {}
            result => result.or_failed(Stage::Mount, || {
                format!("{kind} cannot be mounted on {target}")
            })?,
        }
    }
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, link) in links {
        match symlink(target, link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.or_failed(Stage::Mount, || format!("{link} cannot be made"))?,
        }
    }
    Ok(())
}

/// Parents before children.
fn systems(root: &Root) -> Vec<System> {
    let system = |kind, target, flags, data: &str| System {
        kind,
        target,
        flags,
        data: data.into(),
        optional: false,
    };
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let no_devices = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mut systems = vec![
        system("proc", "/proc", no_exec, ""),
        system("sysfs", "/sys", no_exec, ""),
        System {
            optional: true,
            ..system("cgroup2", "/sys/fs/cgroup", no_exec, "")
        },
        system("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
        system("devpts", "/dev/pts", terminals, &terminal_options()),
        system("tmpfs", "/dev/shm", no_devices, "mode=1777"),
        System {
            optional: true,
            ..system("mqueue", "/dev/mqueue", no_exec, "")
        },
    ];
    // Under an overlay /run is fresh already, and what an image keeps there stays in sight.
    if matches!(root, Root::Direct { .. }) {
        systems.push(system("tmpfs", "/run", no_devices, "mode=0755"));
    }
    systems
}

/// Terminals belong to the group `tty`, if the guest has one, so that write(1) and its kind work.
fn terminal_options() -> String {
    let group = users::read(users::GROUP).unwrap_or_default();
    match users::group_id(b"tty", &group) {
        Some(gid) => format!("ptmxmode=0666,mode=0620,gid={gid}"),
        None => "ptmxmode=0666,mode=0600".into(),
    }
}

/// Carries out the mounts of the plan.
pub(crate) fn mount_planned(plan: &[PlannedMount]) -> Result<(), Failure> {
    for PlannedMount {
        target,
        source,
        read_only,
    } in plan
    {
        let mut flags = MsFlags::empty();
        flags.set(MsFlags::MS_RDONLY, *read_only);
        match source {
            MountSource::Folder { tag } => create_and_mount("virtiofs", tag, target, flags, "")
                .or_failed(Stage::Mount, || {
                    format!(
                        "The folder `{tag}` cannot be mounted on {}",
                        target.display()
                    )
                })?,
            MountSource::Tmpfs { size } => {
                flags |= MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                create_and_mount(
                    "tmpfs",
                    "tmpfs",
                    target,
                    flags,
                    &tmpfs_options(target, *size),
                )
                .or_failed(Stage::Mount, || {
                    format!("A tmpfs cannot be mounted on {}", target.display())
                })?
            }
        }
    }
    Ok(())
}

/// Everybody may write to the folders for temporary files, only root to others.
fn tmpfs_options(target: &Path, size: Option<u64>) -> String {
    let shared = target == Path::new("/tmp") || target == Path::new("/var/tmp");
    let mode = if shared { "mode=1777" } else { "mode=0755" };
    match size {
        Some(size) => format!("{mode},size={size}"),
        None => mode.into(),
    }
}

/// Mounts on `target`, which is made first if it is not there. Making it only then keeps a root
/// that is written through as its owner left it.
fn create_and_mount(
    kind: &str,
    source: &str,
    target: &Path,
    flags: MsFlags,
    data: &str,
) -> io::Result<()> {
    match mount(Some(source), target, Some(kind), flags, Some(data)) {
        Err(Errno::ENOENT) => {
            fs::create_dir_all(target)?;
            mount(Some(source), target, Some(kind), flags, Some(data))?;
        }
        result => result?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_for_temporary_files_are_for_everybody() {
        assert_eq!(tmpfs_options(Path::new("/tmp"), None), "mode=1777");
        assert_eq!(
            tmpfs_options(Path::new("/var/tmp"), Some(4096)),
            "mode=1777,size=4096"
        );
        assert_eq!(
            tmpfs_options(Path::new("/tmp/x"), Some(1)),
            "mode=0755,size=1"
        );
    }

    #[test]
    fn an_overlay_keeps_its_run_folder() {
        let has_run = |root| systems(&root).iter().any(|system| system.target == "/run");
        assert!(!has_run(Root::Overlay { tag: "r".into() }));
        assert!(has_run(Root::Direct { tag: "r".into() }));
    }
}
