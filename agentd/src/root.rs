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

/// What a root has beneath it that is still needed.
#[derive(Debug)]
pub(crate) enum Beneath {
    /// Nothing.
    Nothing,
    /// The disk of its private layer.
    Disk(Upper),
    /// A layer that takes the patches of a root that is read-only, and nothing after them.
    Patches(Upper),
}

/// Mounts the root file system, with a layer for patches if it is `patched` and would have none. `devices` is there if anything of
/// it is on a disk.
pub(crate) fn mount(
    root: &Root,
    patched: bool,
    devices: Option<&BlockDevices>,
) -> Result<Beneath, Failure> {
    let source = |place, read_only| mount_source(&root.source, devices, place, read_only);
    match &root.access {
        &RootAccess::Layer { size } => {
            source(Path::new(LOWER), true)?;
            put_memory_over(size)?;
        }
        RootAccess::Writable => source(Path::new(NEW_ROOT), false)?,
        RootAccess::ReadOnly if patched => {
            source(Path::new(LOWER), true)?;
            return Ok(Beneath::Patches(put_memory_over(None)?));
        }
        RootAccess::ReadOnly => source(Path::new(NEW_ROOT), true)?,
        RootAccess::DiskLayer(disk) => {
            source(Path::new(LOWER), true)?;
            let upper = mount_disk(disk, devices)?;
            put_layer_over()?;
            return Ok(Beneath::Disk(upper));
        }
    }
    Ok(Beneath::Nothing)
}

/// Puts a private layer in memory over the root.
fn put_memory_over(size: Option<u64>) -> Result<Upper, Failure> {
    let unusable = || "The memory for the private layer cannot be mounted".into();
    let private = Path::new(PRIVATE);
    mount_memory(private, size).or_failed(Stage::Root, unusable)?;
    let layer = Upper::open(private).or_failed(Stage::Root, unusable)?;
    put_layer_over()?;
    Ok(layer)
}

/// Makes the root read-only now that `patches`, the layer beneath it, has all that it is to have. Who makes the root writable again
/// finds a layer that is not: it is in no mount table where that could be changed.
pub(crate) fn seal(patches: &Upper) -> Result<(), Failure> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(io::Error::from)
        .and_then(|()| patches.make_read_only())
        .or_failed(Stage::Root, || "The root cannot be made read-only".into())
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
