//! The mounts that the host asks for, checked and in an order that works.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;
use protocol::{Failure, Mount, MountOptions, MountSource, Root, RootAccess, RootSource, Stage};

use crate::failure::{failure, shown};

/// One mount of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedMount {
    /// Absolute and normal: no empty component, no `.`, no `..`.
    pub(crate) target: PathBuf,
    pub(crate) source: MountSource,
    pub(crate) options: MountOptions,
}

impl PlannedMount {
    /// The options as mount(2) takes them.
    pub(crate) fn flags(&self) -> MsFlags {
        let MountOptions {
            read_only,
            no_exec,
            no_suid,
            no_dev,
        } = self.options;
        let mut flags = MsFlags::empty();
        flags.set(MsFlags::MS_RDONLY, read_only);
        flags.set(MsFlags::MS_NOEXEC, no_exec);
        flags.set(MsFlags::MS_NOSUID, no_suid);
        flags.set(MsFlags::MS_NODEV, no_dev);
        flags
    }
}

/// Checks all of `mounts` before the first is carried out, and puts parents before their children:
/// by depth, then by path. `root` is what is the root file system already. `restricted` makes all of them `nosuid` and `nodev`.
pub(crate) fn plan(
    root: &Root,
    mounts: &[Mount],
    restricted: bool,
) -> Result<Vec<PlannedMount>, Failure> {
    let mut plan = Vec::new();
    let mut targets = BTreeSet::new();
    let mut disks = BTreeSet::new();
    for mount in mounts {
        let target = normalise(&mount.target).map_err(|reason| refusal(&mount.target, reason))?;
        if !targets.insert(target.clone()) {
            return Err(refusal(&mount.target, "is there twice"));
        }
        check_source(root, mount)?;
        if let MountSource::Disk(disk) = &mount.source
            && !disks.insert(&disk.serial)
        {
            return Err(refusal(
                &mount.target,
                "asks for a disk that is mounted elsewhere",
            ));
        }
        plan.push(PlannedMount {
            target,
            source: mount.source.clone(),
            options: MountOptions {
                no_suid: mount.options.no_suid || restricted,
                no_dev: mount.options.no_dev || restricted,
                ..mount.options
            },
        });
    }
    plan.sort_by_cached_key(|mount| (mount.target.components().count(), mount.target.clone()));
    Ok(plan)
}

/// The kernel has one file system for a tag or a disk, with one set of options: what is mounted twice would silently be as
/// read-only as the other.
fn check_source(root: &Root, mount: &Mount) -> Result<(), Failure> {
    let is_root = match (&mount.source, &root.source) {
        (MountSource::Shared { tag, .. }, RootSource::Shared { tag: root }) => tag == root,
        (MountSource::Disk(disk), RootSource::Disk(root)) => disk.serial == root.serial,
        _ => false,
    };
    let is_layer = match (&mount.source, &root.access) {
        (MountSource::Disk(disk), RootAccess::DiskLayer(layer)) => disk.serial == layer.serial,
        _ => false,
    };
    if is_root || is_layer {
        return Err(refusal(&mount.target, "asks for what is the root itself"));
    }
    match &mount.source {
        MountSource::Shared {
            entry: Some(entry), ..
        } if !is_entry(entry) => Err(refusal(
            &mount.target,
            "asks for an entry that is no name of one",
        )),
        _ => Ok(()),
    }
}

/// An absolute path as its components, or why it is no place beneath the root.
pub(crate) fn normalise(target: &[u8]) -> Result<PathBuf, &'static str> {
    if !target.starts_with(b"/") {
        return Err("is not absolute");
    }
    if target.contains(&0) {
        return Err("holds a zero byte");
    }
    let mut path = PathBuf::from("/");
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err("leads upwards"),
            name => path.push(OsStr::from_bytes(name)),
        }
    }
    if path == Path::new("/") {
        return Err("is the root itself");
    }
    Ok(path)
}

/// Whether it can be an entry of a directory.
pub(crate) fn is_entry(name: &str) -> bool {
    !name.contains(['/', '\0']) && !["", ".", ".."].contains(&name)
}

fn refusal(target: &[u8], reason: &str) -> Failure {
    failure(
        Stage::Mount,
        Errno::EINVAL,
        format!("The mount point {:?} {reason}", shown(target)),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::Disk;

    use super::*;

    fn mount(target: &[u8]) -> Mount {
        let source = MountSource::Tmpfs {
            size: None,
            mode: 0o755,
        };
        Mount {
            target: target.to_vec(),
            source,
            options: MountOptions::default(),
        }
    }

    fn shared(target: &[u8], tag: &str, entry: Option<&str>) -> Mount {
        Mount {
            source: MountSource::Shared {
                tag: tag.into(),
                entry: entry.map(Into::into),
            },
            ..mount(target)
        }
    }

    fn disk(serial: &str) -> Disk {
        Disk {
            serial: serial.into(),
            partition: None,
            fstype: None,
        }
    }

    fn root(source: RootSource) -> Root {
        Root {
            source,
            access: RootAccess::Layer { size: None },
        }
    }

    fn plan(mounts: &[Mount]) -> Result<Vec<PlannedMount>, Failure> {
        let root = root(RootSource::Shared { tag: "root".into() });
        super::plan(&root, mounts, false)
    }

    fn targets(mounts: &[&str]) -> Result<Vec<String>, Failure> {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|target| mount(target.as_bytes()))
            .collect();
        Ok(plan(&mounts)?
            .iter()
            .map(|mount| mount.target.display().to_string())
            .collect())
    }

    #[test]
    fn parents_come_first() {
        assert_eq!(
            targets(&["/a/b/c", "/z", "/a/b", "/a", "/b/a"]).unwrap(),
            ["/a", "/z", "/a/b", "/b/a", "/a/b/c"]
        );
    }

    #[test]
    fn paths_are_normalised() {
        assert_eq!(targets(&["//a///b/./c/"]).unwrap(), ["/a/b/c"]);
    }

    #[test]
    fn what_breaks_a_rule_is_refused_and_named() {
        for (case, reason) in [
            (vec!["a/b"], "absolute"),
            (vec![""], "absolute"),
            (vec!["/"], "root"),
            (vec!["/./"], "root"),
            (vec!["/a/../b"], "upwards"),
            (vec!["/a\0b"], "zero"),
            (vec!["/a", "/b", "/a/"], "twice"),
        ] {
            let failure = targets(&case).unwrap_err();
            assert_eq!(
                (failure.stage, failure.errno),
                (Stage::Mount, libc::EINVAL),
                "{case:?}"
            );
            assert!(failure.message.contains(reason), "{}", failure.message);
        }
    }

    #[test]
    fn a_shared_file_system_may_be_shown_many_times_but_the_root_not() {
        let mounts = [shared(b"/a", "x", Some("0")), shared(b"/b", "x", None)];
        assert_eq!(plan(&mounts).unwrap().len(), 2);
        for mount in [
            shared(b"/b", "root", None),
            shared(b"/b", "x", Some("..")),
            shared(b"/b", "x", Some("a/b")),
            shared(b"/b", "x", Some("")),
        ] {
            let failure = plan(&[shared(b"/a", "x", None), mount]).unwrap_err();
            assert_eq!((failure.stage, failure.errno), (Stage::Mount, libc::EINVAL));
            assert!(failure.message.contains("/b"), "{}", failure.message);
        }
    }

    #[test]
    fn a_disk_is_mounted_once() {
        let on = |target: &[u8], serial| Mount {
            source: MountSource::Disk(disk(serial)),
            ..mount(target)
        };
        let root = root(RootSource::Disk(disk("root")));
        let plan = |mounts: &[Mount]| super::plan(&root, mounts, false);
        assert!(plan(&[on(b"/a", "disk-1"), on(b"/b", "disk-2")]).is_ok());
        assert!(plan(&[on(b"/a", "disk-1"), on(b"/b", "disk-1")]).is_err());
        assert!(plan(&[on(b"/a", "root")]).is_err());
        let layered = Root {
            access: RootAccess::DiskLayer(disk("upper")),
            ..root
        };
        assert!(super::plan(&layered, &[on(b"/a", "upper")], false).is_err());
    }

    #[test]
    fn the_restricted_profile_takes_privileges_from_every_mount() {
        let root = root(RootSource::Memory);
        let plan = super::plan(&root, &[mount(b"/a"), shared(b"/b", "x", None)], true).unwrap();
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        assert!(plan.iter().all(|mount| mount.flags() == flags));
    }

    #[test]
    fn names_need_not_be_text() {
        let plan = plan(&[mount(b"/\xff\n")]).unwrap();
        assert_eq!(plan[0].target.as_os_str().as_bytes(), b"/\xff\n");
    }

    proptest! {
        #[test]
        fn every_parent_precedes_its_children(
            paths in prop::collection::vec("(/[abc.]{1,2}){1,5}", 0..12),
        ) {
            let mounts: Vec<_> = paths.iter().map(|path| mount(path.as_bytes())).collect();
            if let Ok(plan) = plan(&mounts) {
                for (at, mount) in plan.iter().enumerate() {
                    for later in plan.iter().skip(at + 1) {
                        prop_assert!(!mount.target.starts_with(&later.target));
                    }
                }
            }
        }
    }
}
