//! The root file system.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot};
use protocol::{Failure, Root, Stage};

use crate::failure::OrFailed;

/// Where the new root is put together, in the initramfs.
const NEW_ROOT: &str = "/newroot";
/// The shared folder beneath the private layer.
const LOWER: &str = "/lower";
/// The tmpfs that holds the private layer.
const PRIVATE: &str = "/private";

/// Mounts the root file system and makes it the root of this process and all that follow.
pub(crate) fn enter(root: &Root) -> Result<(), Failure> {
    match root {
        Root::Overlay { tag } => {
            mount_folder(tag, Path::new(LOWER), MsFlags::MS_RDONLY)?;
            mount_overlay(Path::new(LOWER), Path::new(PRIVATE), Path::new(NEW_ROOT))
                .or_failed(Stage::Root, || {
                    "The private layer cannot be put over the root folder".into()
                })?;
        }
        Root::Direct { tag } => mount_folder(tag, Path::new(NEW_ROOT), MsFlags::empty())?,
    }
    move_to(Path::new(NEW_ROOT)).or_failed(Stage::Root, || {
        "The new root cannot take the place of the old one".into()
    })
}

fn mount_folder(tag: &str, target: &Path, flags: MsFlags) -> Result<(), Failure> {
    let mounted = fs::create_dir_all(target).and_then(|()| {
        Ok(mount(
            Some(tag),
            target,
            Some("virtiofs"),
            flags,
            None::<&str>,
        )?)
    });
    mounted.or_failed(Stage::Root, || {
        format!("The root folder `{tag}` cannot be mounted")
    })
}

/// Mounts an overlay on `target`: `lower`, which stays as it is, under a layer in memory. The two
/// mounts that it is made of then disappear from the tree; the overlay keeps them.
pub(crate) fn mount_overlay(lower: &Path, private: &Path, target: &Path) -> io::Result<()> {
    fs::create_dir_all(private)?;
    let no_devices = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        private,
        Some("tmpfs"),
        no_devices,
        Some("mode=0700"),
    )?;
    let (upper, work) = (private.join("upper"), private.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    // The root directory takes its mode from the upper layer. That of the lower one may be 0700,
    // as a temporary folder of the host's user is, which would lock all but root out of the guest.
    fs::set_permissions(&upper, Permissions::from_mode(0o755))?;
    fs::create_dir_all(target)?;
    // redirect_dir: directories of the lower layer can be renamed, as in any file system.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(
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

/// Moves the mount `new_root` over `/` and enters it; pivot_root(2) does not work in an initramfs.
pub(crate) fn move_to(new_root: &Path) -> io::Result<()> {
    chdir(new_root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}
