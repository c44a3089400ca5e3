//! The root file system.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{chdir, chroot};
use protocol::{Disk, Failure, Root, RootAccess, RootSource, Stage};

use crate::disks::BlockDevices;
use crate::failure::OrFailed;
use crate::upper::Upper;

/// Where the new root is put together, in the initramfs.
const NEW_ROOT: &str = "/newroot";
/// The root file system beneath the private layer.
const LOWER: &str = "/lower";
/// The file system that holds the private layer.
const PRIVATE: &str = "/private";

/// Mounts the root file system, and returns the disk of its private layer, if there is one. `devices` is there if anything
/// of it is on a disk.
pub(crate) fn mount(root: &Root, devices: Option<&BlockDevices>) -> Result<Option<Upper>, Failure> {
    match &root.access {
        &RootAccess::Layer { size } => {
            mount_source(&root.source, devices, Path::new(LOWER), true)?;
            mount_memory(Path::new(PRIVATE), size).or_failed(Stage::Root, || {
                "The memory for the private layer cannot be mounted".into()
            })?;
            put_layer_over()?;
        }
        RootAccess::Writable => mount_source(&root.source, devices, Path::new(NEW_ROOT), false)?,
        RootAccess::ReadOnly => mount_source(&root.source, devices, Path::new(NEW_ROOT), true)?,
        RootAccess::DiskLayer(disk) => {
            mount_source(&root.source, devices, Path::new(LOWER), true)?;
            let upper = mount_disk(disk, devices)?;
            put_layer_over()?;
            return Ok(Some(upper));
        }
    }
    Ok(None)
}

/// Mounts the disk of the private layer. Its journal is replayed if the last guest was killed.
fn mount_disk(disk: &Disk, devices: Option<&BlockDevices>) -> Result<Upper, Failure> {
    let private = Path::new(PRIVATE);
    let unusable = || format!("{PRIVATE} cannot be made");
    fs::create_dir_all(private).or_failed(Stage::Root, unusable)?;
    if let Some(devices) = devices {
        devices
            .mount(disk, false, private)
            .map_err(|refusal| Failure {
                stage: Stage::Root,
                errno: refusal.errno,
                message: format!(
                    "The disk of the private layer cannot be mounted: {}",
                    refusal.reason
                ),
            })?;
    }
    Upper::open(private).or_failed(Stage::Root, unusable)
}

fn put_layer_over() -> Result<(), Failure> {
    mount_overlay(Path::new(LOWER), Path::new(PRIVATE), Path::new(NEW_ROOT))
        .or_failed(Stage::Root, || {
            "The private layer cannot be put over the root".into()
        })
}

/// Makes what was mounted the root of this process and all that follow.
pub(crate) fn enter() -> Result<(), Failure> {
    move_to(Path::new(NEW_ROOT)).or_failed(Stage::Root, || {
        "The new root cannot take the place of the old one".into()
    })
}

fn mount_source(
    source: &RootSource,
    devices: Option<&BlockDevices>,
    target: &Path,
    read_only: bool,
) -> Result<(), Failure> {
    fs::create_dir_all(target).or_failed(Stage::Root, || {
        format!("{} cannot be made", target.display())
    })?;
    match (source, devices) {
        (RootSource::Shared { tag }, _) => {
            let mut flags = MsFlags::empty();
            flags.set(MsFlags::MS_RDONLY, read_only);
            nix::mount::mount(Some(&**tag), target, Some("virtiofs"), flags, None::<&str>)
                .or_failed(Stage::Root, || {
                    format!("The root folder `{tag}` cannot be mounted")
                })
        }
        (RootSource::Disk(disk), Some(devices)) => {
            let mounted = devices.mount(disk, read_only, target);
            mounted.map_err(|refusal| Failure {
                stage: Stage::Root,
                errno: refusal.errno,
                message: format!("The root disk cannot be mounted: {}", refusal.reason),
            })
        }
        (RootSource::Memory, _) => {
            let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            flags.set(MsFlags::MS_RDONLY, read_only);
            nix::mount::mount(
                Some("tmpfs"),
                target,
                Some("tmpfs"),
                flags,
                Some("mode=0755"),
            )
            .or_failed(Stage::Root, || {
                "The root in memory cannot be mounted".into()
            })
        }
        (RootSource::Disk(_), None) => Ok(()),
    }
}

/// Mounts memory for a private layer on `place`. `size` is how many bytes it can hold, if not half of the memory.
pub(crate) fn mount_memory(place: &Path, size: Option<u64>) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let options = match size {
        Some(size) => format!("mode=0700,size={size}"),
        None => "mode=0700".into(),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let kind = Some("tmpfs");
    nix::mount::mount(kind, place, kind, flags, Some(options.as_str()))?;
    Ok(())
}

/// Mounts an overlay on `target`: `lower`, which stays as it is, under the layer in the file system that is mounted at
/// `private`, which may have it already. The two mounts then disappear from the tree; the overlay keeps them.
pub(crate) fn mount_overlay(lower: &Path, private: &Path, target: &Path) -> io::Result<()> {
    let (upper, work) = (private.join("upper"), private.join("work"));
    if make_if_missing(&upper)? {
        // The root directory takes its mode from the upper layer. That of the lower one may be 0700,
        // as a temporary folder of the host's user is, which would lock all but root out of the guest.
        fs::set_permissions(&upper, Permissions::from_mode(0o755))?;
    }
    // What a guest that was killed has left there, the overlay removes itself.
    make_if_missing(&work)?;
    fs::create_dir_all(target)?;
    // redirect_dir: directories of the lower layer can be renamed, as in any file system.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on",
        lower.display(),
        upper.display(),
        work.display()
    );
    nix::mount::mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    umount2(private, MntFlags::MNT_DETACH)?;
    umount2(lower, MntFlags::MNT_DETACH)?;
    Ok(())
}

/// Makes a directory, and tells whether it was not there.
fn make_if_missing(directory: &Path) -> io::Result<bool> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true),
    }
}

/// Moves the mount `new_root` over `/` and enters it; pivot_root(2) does not work in an initramfs.
pub(crate) fn move_to(new_root: &Path) -> io::Result<()> {
    chdir(new_root)?;
    nix::mount::mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}
