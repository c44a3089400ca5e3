//! Mounts, in a mount namespace of their own. There is no virtio-fs here: an ordinary folder
//! stands for the shared one, and the file systems of the kernel are left to tests in machines.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use protocol::{Mount, MountOptions, MountSource, Root, RootAccess, RootSource, Script, Stage};

use super::*;
use crate::mount_plan::{self, PlannedMount};
use crate::staging::Staging;
use crate::upper::Upper;
use crate::{mounts, root, scripts};

/// Runs `body` in a child with mounts of its own. The child is told apart from a failed test by
/// its exit status.
fn with_own_mounts(body: impl FnOnce()) {
    if !is_root() {
        return;
    }
    // SAFETY: as in `in_new_pid_namespace`.
    let ForkResult::Parent { child } = (unsafe { fork() }).unwrap() else {
        // The usual one takes locks that another test may hold for ever in this copy of it.
        std::panic::set_hook(Box::new(|info| {
            let _ = nix::unistd::write(std::io::stderr(), format!("{info}\n").as_bytes());
        }));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            body();
        }));
        // SAFETY: _exit(2) ends the child at once, without the test harness's farewell.
        unsafe { libc::_exit(i32::from(outcome.is_err())) }
    };
    let status = waitpid(child, None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
}

fn plan(mounts: &[Mount]) -> Vec<PlannedMount> {
    let root = Root {
        source: RootSource::Shared { tag: "root".into() },
        access: RootAccess::Layer { size: None },
    };
    mount_plan::plan(&root, mounts, false).unwrap()
}

/// Carries out mounts that come from nowhere outside.
fn carry_out(mounts: &[Mount]) -> Result<(), Failure> {
    mounts::mount_planned(&plan(mounts), &Staging::default())
}

fn tmpfs(target: &str, size: Option<u64>, read_only: bool) -> Mount {
    let mode = if target == "/tmp" { 0o1777 } else { 0o755 };
    Mount {
        target: target.as_bytes().to_vec(),
        source: MountSource::Tmpfs { size, mode },
        options: MountOptions {
            read_only,
            ..MountOptions::default()
        },
    }
}

/// An entry of what stands for a shared file system.
fn shared(target: &str, entry: Option<&str>, options: MountOptions) -> Mount {
    Mount {
        target: target.as_bytes().to_vec(),
        source: MountSource::Shared {
            tag: "share".into(),
            entry: entry.map(Into::into),
        },
        options,
    }
}

/// A mounted file system with a folder and a file, held as the shared one.
fn staging(folder: &Path) -> Staging {
    let place = folder.join("share");
    fs::create_dir(&place).unwrap();
    let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
    mount(kind, &place, kind, flags, None::<&str>).unwrap();
    fs::create_dir(place.join("d")).unwrap();
    fs::write(place.join("d/inside"), "inside").unwrap();
    fs::write(place.join("f"), "file").unwrap();
    fs::copy("/bin/true", place.join("d/true")).unwrap();
    let mut staging = Staging::default();
    let source = shared("/", None, MountOptions::default()).source;
    staging.hold(&source, &place).unwrap();
    staging
}

/// Enters an overlay over `folder/lower`, which has a file and a directory.
fn enter_overlay(folder: &Path) {
    // The layers of an overlay have to be on a file system that can be one, which the one of
    // the temporary folder need not be.
    mount(
        Some("tmpfs"),
        folder,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let lower = folder.join("lower");
    fs::create_dir_all(lower.join("old/deep")).unwrap();
    fs::set_permissions(&lower, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(lower.join("file"), "lower").unwrap();
    let bind = MsFlags::MS_BIND;
    mount(Some(&lower), &lower, None::<&str>, bind, None::<&str>).unwrap();
    let (private, new) = (folder.join("private"), folder.join("new"));
    root::mount_memory(&private, Some(1 << 20)).unwrap();
    root::mount_overlay(&lower, &private, &new).unwrap();
    root::move_to(&folder.join("new")).unwrap();
}

/// Enters an overlay with `/file`, `/old/deep` and the kernel's `/proc`, and does `body` with a share that has the file `f` and
/// the folder `d`.
pub(super) fn in_overlay(body: impl FnOnce(Staging)) {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        // Before there is a new root, as in a guest.
        let staging = staging(folder.path());
        let new = folder.path().join("new-root");
        fs::create_dir(&new).unwrap();
        enter_overlay(&new);
        fs::create_dir("/proc").unwrap();
        let (kind, flags) = (Some("proc"), MsFlags::empty());
        mount(kind, "/proc", kind, flags, None::<&str>).unwrap();
        body(staging);
    });
}

#[test]
fn an_overlay_becomes_the_root_and_spares_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        let lower = folder.path().join("lower");
        let outside = File::open("/").unwrap();
        enter_overlay(folder.path());
        assert_eq!(fs::read_to_string("/file").unwrap(), "lower");
        assert_eq!(fs::metadata("/").unwrap().mode() & 0o7777, 0o755);
        fs::write("/file", "upper").unwrap();
        fs::rename("/old", "/new").unwrap();
        assert!(Path::new("/new/deep").is_dir());
        let error = fs::write("/large", vec![1; 2 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        // The folder itself, seen from where it came from.
        nix::unistd::fchdir(outside).unwrap();
        let lower = lower.strip_prefix("/").unwrap();
        assert_eq!(fs::read_to_string(lower.join("file")).unwrap(), "lower");
        assert!(lower.join("old").is_dir());
    });
}

#[test]
fn a_layer_that_outlives_its_overlay_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        let place = |name: &str| folder.path().join(name);
        let (kind, none) = (Some("tmpfs"), MsFlags::empty());
        mount(kind, folder.path(), kind, none, None::<&str>).unwrap();
        for name in ["lower", "disk", "private", "new"] {
            fs::create_dir(place(name)).unwrap();
        }
        mount(kind, &place("disk"), kind, none, None::<&str>).unwrap();
        fs::write(place("lower").join("file"), "lower").unwrap();
        let bind = |from: &str, to: &str| {
            let bind = MsFlags::MS_BIND;
            mount(
                Some(&place(from)),
                &place(to),
                None::<&str>,
                bind,
                None::<&str>,
            )
            .unwrap();
        };
        let put_over = || {
            bind("lower", "lower");
            bind("disk", "private");
            root::mount_overlay(&place("lower"), &place("private"), &place("new")).unwrap();
        };
        put_over();
        let new = place("new");
        fs::write(new.join("file"), "upper").unwrap();
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        nix::mount::umount(&new).unwrap();
        // As a guest that was killed in the middle of a copy leaves it.
        fs::write(place("disk").join("work/work/#1"), "half").unwrap();
        put_over();
        assert_eq!(fs::read_to_string(new.join("file")).unwrap(), "upper");
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o700);
        assert!(!place("disk").join("work/work/#1").exists());
        assert_eq!(
            fs::read_to_string(place("lower").join("file")).unwrap(),
            "lower"
        );
    });
}

#[test]
fn a_layer_is_made_read_only_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        let (kind, none) = (Some("tmpfs"), MsFlags::empty());
        mount(kind, folder.path(), kind, none, None::<&str>).unwrap();
        let upper = Upper::open(folder.path()).unwrap();
        let file = File::create(folder.path().join("open")).unwrap();
        // In no mount table, as beneath an overlay.
        nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        let error = upper.make_read_only().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        drop(file);
        upper.make_read_only().unwrap();
        upper.space().unwrap();
    });
}

#[test]
fn scripts_are_programs_that_are_there_for_all() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        enter_overlay(folder.path());
        scripts::make(&[]).unwrap();
        assert!(!Path::new("/.msb").exists());
        let script = |name: &str, body: &[u8]| Script {
            name: name.into(),
            body: Bytes(body.into()),
        };
        let large = vec![b'#'; 100_000];
        scripts::make(&[script("go", b"#!/bin/sh\n"), script("large", &large)]).unwrap();
        assert_eq!(fs::read("/.msb/scripts/large").unwrap(), large);
        for path in ["/.msb", "/.msb/scripts", "/.msb/scripts/go"] {
            let found = fs::metadata(path).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid()), (0o755, 0), "{path}");
        }
        // There is room for the scripts, and for nothing else.
        assert!(fs::write("/.msb/more", vec![0; 64 << 10]).is_err());
    });
}

#[test]
fn a_read_only_root_without_their_directory_has_no_scripts() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        enter_overlay(folder.path());
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
        let script = Script {
            name: "go".into(),
            body: Bytes(Vec::new()),
        };
        let failure = scripts::make(&[script]).unwrap_err();
        assert_eq!(
            (failure.stage, failure.errno),
            (Stage::Scripts, libc::EROFS)
        );
        assert!(failure.message.contains("/.msb"), "{}", failure.message);
    });
}

#[test]
fn the_plan_is_carried_out_beneath_the_root() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        enter_overlay(folder.path());
        fs::create_dir("/target").unwrap();
        symlink("/target", "/link").unwrap();
        symlink("/nowhere/deep", "/dangling").unwrap();
        let mounts = [
            tmpfs("/a/b", Some(8192), false),
            tmpfs("/a", None, false),
            tmpfs("/tmp", None, false),
            tmpfs("/link/sub", None, false),
            tmpfs("/dangling", None, false),
            tmpfs("/fixed", None, true),
        ];
        carry_out(&mounts).unwrap();
        assert_eq!(fs::metadata("/tmp").unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::metadata("/a").unwrap().mode() & 0o7777, 0o755);
        assert!(
            Path::new("/target/sub").is_dir(),
            "links lead inside the new root"
        );
        assert!(Path::new("/nowhere/deep").is_dir());
        let error = fs::write("/fixed/x", "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let error = fs::write("/a/b/x", vec![1; 100_000]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    });
}

#[test]
fn what_is_shared_is_shown_in_many_places_each_with_options_of_its_own() {
    in_overlay(|staging| {
        let none = MountOptions::default();
        let read_only = MountOptions {
            read_only: true,
            ..none
        };
        let restricted = MountOptions {
            no_exec: true,
            no_suid: true,
            no_dev: true,
            ..none
        };
        let mounts = [
            shared("/rw", Some("d"), none),
            shared("/ro", Some("d"), read_only),
            shared("/restricted", Some("d"), restricted),
            shared("/etc/deep/file", Some("f"), none),
            shared("/all", None, none),
            shared("/dangling", Some("d"), none),
        ];
        symlink("/nowhere/deep", "/dangling").unwrap();
        mounts::mount_planned(&plan(&mounts), &staging).unwrap();
        staging.leave().unwrap();
        fs::write("/rw/new", "new").unwrap();
        assert_eq!(fs::read_to_string("/nowhere/deep/new").unwrap(), "new");
        assert_eq!(fs::read_to_string("/ro/new").unwrap(), "new");
        let error = fs::write("/ro/other", "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        // A file is the file itself, and what is written into it arrives there.
        fs::write("/etc/deep/file", "written").unwrap();
        assert_eq!(fs::read_to_string("/all/f").unwrap(), "written");
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let options = |target: &str| {
            let mut lines = table.lines().map(|line| line.split(' '));
            let line = lines.find(|line| line.clone().nth(1) == Some(target));
            line.and_then(|mut line| line.nth(3).map(str::to_owned))
                .unwrap()
        };
        assert!(options("/restricted").starts_with("rw,nosuid,nodev,noexec"));
        assert!(options("/ro").starts_with("ro,"));
        assert!(options("/rw").starts_with("rw,relatime"));
        assert!(
            !table.contains("staged") && !table.contains("/share "),
            "{table}"
        );
    });
}

#[test]
fn a_source_that_does_not_fit_its_target_is_named() {
    in_overlay(|staging| {
        for (target, entry, errno) in [
            ("/file", "d", Errno::ENOTDIR),
            ("/old", "f", Errno::ENOTDIR),
            ("/missing", "g", Errno::ENOENT),
        ] {
            let mounts = [shared(target, Some(entry), MountOptions::default())];
            let failure = mounts::mount_planned(&plan(&mounts), &staging).unwrap_err();
            assert_eq!((failure.stage, failure.errno), (Stage::Mount, errno as i32));
            assert!(failure.message.ends_with(target), "{}", failure.message);
        }
    });
}

#[test]
fn a_mount_that_fails_is_named() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        enter_overlay(folder.path());
        let mounts = [tmpfs("/file", None, false)];
        let failure = carry_out(&mounts).unwrap_err();
        assert_eq!(
            (failure.stage, failure.errno),
            (Stage::Mount, Errno::ENOTDIR as i32)
        );
        assert!(failure.message.contains("/file"), "{}", failure.message);
        let mounts = [
            tmpfs("/fixed", None, true),
            tmpfs("/fixed/sub", None, false),
        ];
        let failure = carry_out(&mounts).unwrap_err();
        assert_eq!(
            (failure.stage, failure.errno),
            (Stage::Mount, Errno::EROFS as i32)
        );
        assert!(
            failure.message.contains("/fixed/sub"),
            "{}",
            failure.message
        );
    });
}

#[test]
fn everything_is_unmounted_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    with_own_mounts(|| {
        enter_overlay(folder.path());
        fs::create_dir("/proc").unwrap();
        mount(
            Some("proc"),
            "/proc",
            Some("proc"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let mounts = [
            tmpfs("/a", None, false),
            tmpfs("/a/with space", None, false),
        ];
        carry_out(&mounts).unwrap();
        fs::write("/a/with space/x", "").unwrap();
        // As long as it is open, its file system cannot be unmounted.
        let _directory = File::open("/a").unwrap();
        shutdown::leave_file_systems(None);
        assert!(!Path::new("/a/with space/x").exists());
        assert!(!Path::new("/proc/self").exists());
        for path in ["/a/x", "/x"] {
            let error = fs::write(path, "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{path}");
        }
    });
}
