//! Mounting beneath the root.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use protocol::{Boot, Failure, MountSource, RootAccess, Stage};

use crate::directories;
use crate::failure::OrFailed;
use crate::mount_plan::PlannedMount;
use crate::staging::Staging;
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
pub(crate) fn mount_system(boot: &Boot) -> Result<(), Failure> {
    for system in systems(&boot.root.access, boot.init.is_some()) {
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
fn systems(root: &RootAccess, has_init: bool) -> Vec<System> {
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
    // Under a layer in memory /run is fresh already, and what an image keeps there stays in sight. One that outlives the
    // guest would keep what is about its processes. An init mounts it otherwise, over what others have mounted beneath.
    if has_init || !matches!(root, RootAccess::Layer { .. }) {
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

/// Carries out the mounts of the plan. `staging` has their sources.
pub(crate) fn mount_planned(plan: &[PlannedMount], staging: &Staging) -> Result<(), Failure> {
    for mount in plan {
        match mount.source {
            MountSource::Shared { .. } | MountSource::Disk(_) => staging.bind(mount)?,
            MountSource::Tmpfs { size, mode } => {
                // Memory of the guest brings no programs and devices of anybody else.
                let flags = mount.flags() | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                let options = tmpfs_options(size, mode);
                create_and_mount("tmpfs", "tmpfs", &mount.target, flags, &options)
                    .or_failed(Stage::Mount, || {
                        format!("A tmpfs cannot be mounted on {}", mount.target.display())
                    })?
            }
        }
    }
    Ok(())
}

fn tmpfs_options(size: Option<u64>, mode: u32) -> String {
    match size {
        Some(size) => format!("mode={mode:o},size={size}"),
        None => format!("mode={mode:o}"),
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
            directories::make(target)?;
            mount(Some(source), target, Some(kind), flags, Some(data))?;
        }
        result => result?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::Disk;

    use super::*;

    #[test]
    fn only_a_layer_in_memory_keeps_its_run_folder() {
        let has_run = |access, has_init| {
            let systems = systems(access, has_init);
            systems.iter().any(|system| system.target == "/run")
        };
        let disk = RootAccess::DiskLayer(Disk {
            serial: "upper".into(),
            partition: None,
            fstype: None,
        });
        assert!(!has_run(&RootAccess::Layer { size: None }, false));
        assert!(has_run(&RootAccess::Layer { size: None }, true));
        assert!(has_run(&disk, false));
        assert!(has_run(&RootAccess::Writable, false));
        assert!(has_run(&RootAccess::ReadOnly, false));
    }
}
