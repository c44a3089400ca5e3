//! The mounts that the host asks for, checked and in an order that works.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use protocol::{Failure, Mount, MountSource, Stage};

use crate::failure::{failure, shown};

/// One mount of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedMount {
    /// Absolute and normal: no empty component, no `.`, no `..`.
    pub(crate) target: PathBuf,
    pub(crate) source: MountSource,
    pub(crate) read_only: bool,
}

/// Checks all of `mounts` before the first is carried out, and puts parents before their children:
/// by depth, then by path.
pub(crate) fn plan(mounts: &[Mount]) -> Result<Vec<PlannedMount>, Failure> {
    let mut plan = Vec::new();
    let mut targets = BTreeSet::new();
    for mount in mounts {
        let target = normalise(&mount.target)?;
        if !targets.insert(target.clone()) {
            return Err(refusal(&mount.target, "is there twice"));
        }
        let source = mount.source.clone();
        plan.push(PlannedMount {
            target,
            source,
            read_only: mount.read_only,
        });
    }
    plan.sort_by_cached_key(|mount| (mount.target.components().count(), mount.target.clone()));
    Ok(plan)
}

fn normalise(target: &[u8]) -> Result<PathBuf, Failure> {
    if !target.starts_with(b"/") {
        return Err(refusal(target, "is not absolute"));
    }
    if target.contains(&0) {
        return Err(refusal(target, "holds a zero byte"));
    }
    let mut path = PathBuf::from("/");
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(refusal(target, "leads upwards")),
            name => path.push(OsStr::from_bytes(name)),
        }
    }
    if path == Path::new("/") {
        return Err(refusal(target, "is the root itself"));
    }
    Ok(path)
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

    use super::*;

    fn mount(target: &[u8]) -> Mount {
        let source = MountSource::Tmpfs { size: None };
        Mount {
            target: target.to_vec(),
            source,
            read_only: false,
        }
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
