//! Where file systems are mounted before the guest sees them.
//!
//! One virtio-fs file system is the source of many mounts, and each of them has options of its own: it is mounted once, in
//! the initramfs, and bound from there. The same goes for disks, whose device files the guest's mounts may hide. What
//! leads there is a descriptor, because the initramfs is out of reach once there is another root.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir};
use protocol::{Failure, MountSource, Patch, Stage};

use crate::directories;
use crate::disks::BlockDevices;
use crate::failure::{OrFailed, shown};
use crate::mount_plan::PlannedMount;

/// The folder of all places.
const PLACES: &str = "/staged";

/// The sources of mounts, each mounted once.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    places: BTreeMap<Key, OwnedFd>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Tag(String),
    Serial(String),
}

impl Key {
    fn of(source: &MountSource) -> Option<Key> {
        match source {
            MountSource::Shared { tag, .. } => Some(Key::Tag(tag.clone())),
            MountSource::Disk(disk) => Some(Key::Serial(disk.serial.clone())),
            MountSource::Tmpfs { .. } => None,
        }
    }
}

impl Staging {
    /// Mounts the sources of `plan` and of `patches`. `devices` is there if one of them is a disk.
    pub(crate) fn mount(
        plan: &[PlannedMount],
        patches: &[Patch],
        devices: Option<&BlockDevices>,
    ) -> Result<Staging, Failure> {
        let mut staging = Staging::default();
        for mount in plan {
            let target = mount.target.to_string_lossy();
            staging.stage(&mount.source, mount.options.read_only, &target, devices)?;
        }
        for patch in patches {
            if let Patch::Copy { tag, path, .. } | Patch::AppendShared { tag, path, .. } = patch {
                let source = MountSource::Shared {
                    tag: tag.clone(),
                    entry: None,
                };
                staging.stage(&source, true, &shown(&path.0), devices)?;
            }
        }
        Ok(staging)
    }

    /// Mounts `source`, which is for `target`, unless it is mounted.
    fn stage(
        &mut self,
        source: &MountSource,
        read_only: bool,
        target: &str,
        devices: Option<&BlockDevices>,
    ) -> Result<(), Failure> {
        match Key::of(source) {
            Some(key) if !self.places.contains_key(&key) => {}
            _ => return Ok(()),
        }
        let place = Path::new(PLACES).join(self.places.len().to_string());
        mount_source(source, read_only, target, devices, &place)?;
        self.hold(source, &place).or_failed(Stage::Mount, || {
            format!("{} cannot be opened", place.display())
        })
    }

    /// Takes the mount at `place` for that of `source`.
    pub(crate) fn hold(&mut self, source: &MountSource, place: &Path) -> io::Result<()> {
        if let Some(key) = Key::of(source) {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            self.places.insert(key, open(place, flags, Mode::empty())?);
        }
        Ok(())
    }

    /// Shows the source of `mount` at its target, which is made if it is not there.
    pub(crate) fn bind(&self, mount: &PlannedMount) -> Result<(), Failure> {
        let target = mount.target.display();
        let bound = self.try_bind(mount);
        bound.or_failed(Stage::Mount, || match &mount.source {
            MountSource::Disk(disk) => {
                format!("The disk {} cannot be shown at {target}", disk.serial)
            }
            _ => format!("What is shared cannot be shown at {target}"),
        })
    }

    fn try_bind(&self, mount: &PlannedMount) -> io::Result<()> {
        let key = Key::of(&mount.source).ok_or(Errno::EINVAL)?;
        let place = self.places.get(&key).ok_or(Errno::ENOENT)?;
        let source = match &mount.source {
            MountSource::Shared {
                entry: Some(entry), ..
            } => Path::new(entry),
            _ => Path::new("."),
        };
        // A relative path leads from the place on; an absolute one into the new root.
        fchdir(place)?;
        let result = bind_here(source, &mount.target, mount.flags());
        chdir("/")?;
        result
    }

    /// Does `work` in the root directory of the virtio-fs file system `tag`.
    pub(crate) fn within<T>(&self, tag: &str, work: impl FnOnce() -> T) -> io::Result<T> {
        let place = self
            .places
            .get(&Key::Tag(tag.into()))
            .ok_or(Errno::ENOENT)?;
        fchdir(place)?;
        let result = work();
        chdir("/")?;
        Ok(result)
    }

    /// Leaves the sources to the mounts that show them: nothing else of them stays in the tree.
    pub(crate) fn leave(self) -> io::Result<()> {
        for place in self.places.into_values() {
            fchdir(&place)?;
            umount2(".", MntFlags::MNT_DETACH)?;
        }
        chdir("/")?;
        Ok(())
    }
}

fn mount_source(
    source: &MountSource,
    read_only: bool,
    target: &str,
    devices: Option<&BlockDevices>,
    place: &Path,
) -> Result<(), Failure> {
    fs::create_dir_all(place).or_failed(Stage::Mount, || {
        format!("{} cannot be made", place.display())
    })?;
    match (source, devices) {
        (MountSource::Shared { tag, .. }, _) => {
            let none = MsFlags::empty();
            mount(Some(&**tag), place, Some("virtiofs"), none, None::<&str>)
                .or_failed(Stage::Mount, || {
                    format!("The shared file system {tag} cannot be mounted for {target}")
                })
        }
        (MountSource::Disk(disk), Some(devices)) => {
            devices
                .mount(disk, read_only, place)
                .map_err(|refusal| Failure {
                    stage: Stage::Mount,
                    errno: refusal.errno,
                    message: format!(
                        "The disk {} cannot be mounted on {target}: {}",
                        disk.serial, refusal.reason
                    ),
                })
        }
        (MountSource::Disk(_) | MountSource::Tmpfs { .. }, _) => Ok(()),
    }
}

/// Mounts `source` on `target`, which is made first if it is not there: a bind mount takes its options only afterwards,
/// see mount(2).
fn bind_here(source: &Path, target: &Path, flags: MsFlags) -> io::Result<()> {
    let bind = || {
        mount(
            Some(source),
            target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
    };
    match bind() {
        Err(Errno::ENOENT) => {
            make_target(fs::metadata(source)?.is_dir(), target)?;
            bind()?;
        }
        result => result?,
    }
    if !flags.is_empty() {
        let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

fn make_target(directory: bool, target: &Path) -> io::Result<()> {
    if directory {
        return directories::make(target).map(drop);
    }
    if let Some(parent) = target.parent() {
        directories::make(parent)?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(target)?;
    Ok(())
}
