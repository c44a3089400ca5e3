//! Programs that are made from text.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use protocol::{Failure, Script, Stage};

use crate::failure::{OrFailed, failure};

/// Where agentd has a file system of its own in the guest.
const OWN: &str = "/.msb";

/// Where the scripts are.
pub(crate) const DIRECTORY: &str = "/.msb/scripts";

/// Longest name of a file, see limits.h(0p).
const MAX_NAME: usize = 255;

/// What the kernel counts a file's contents in.
const PAGE: u64 = 4096;

/// Checks all names before anything is made.
pub(crate) fn check(scripts: &[Script]) -> Result<(), Failure> {
    let mut names = BTreeSet::new();
    for Script { name, .. } in scripts {
        let rule = if name.is_empty() || name.len() > MAX_NAME {
            "has not 1 to 255 bytes"
        } else if name.contains(['/', '\0']) || name == "." || name == ".." {
            "is not the name of a file"
        } else if !names.insert(name) {
            "is there twice"
        } else {
            continue;
        };
        let message = format!("The script's name {name:?} {rule}");
        return Err(failure(Stage::Scripts, Errno::EINVAL, message));
    }
    Ok(())
}

/// Makes the scripts, whose names have been checked, in memory. The calling process is in the new root.
pub(crate) fn make(scripts: &[Script]) -> Result<(), Failure> {
    if scripts.is_empty() {
        return Ok(());
    }
    mount_own(scripts).or_failed(Stage::Scripts, || {
        format!("The scripts need a directory {OWN}, which cannot be made or mounted on")
    })?;
    for script in scripts {
        write(script).or_failed(Stage::Scripts, || {
            format!("{DIRECTORY}/{} cannot be made", script.name)
        })?;
    }
    Ok(())
}

/// Mounts memory for the scripts and little more.
fn mount_own(scripts: &[Script]) -> io::Result<()> {
    let pages = |script: &Script| (script.body.0.len() as u64).div_ceil(PAGE);
    let pages: u64 = scripts.iter().map(pages).sum();
    // One for each directory, which the kernel counts as well.
    let size = (pages + 2).saturating_mul(PAGE);
    let options = format!("mode=0755,size={size}");
    let kind = Some("tmpfs");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mount_there = || mount(kind, OWN, kind, flags, Some(options.as_str()));
    match mount_there() {
        Err(Errno::ENOENT) => {
            fs::create_dir(OWN)?;
            mount_there()?;
        }
        result => result?,
    }
    DirBuilder::new().mode(0o755).create(DIRECTORY)
}

fn write(script: &Script) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o755);
    let mut file = options.open(Path::new(DIRECTORY).join(&script.name))?;
    file.write_all(&script.body.0)
}

#[cfg(test)]
mod tests {
    use protocol::Bytes;

    use super::*;

    fn checked(names: &[&str]) -> Result<(), String> {
        let script = |name: &&str| Script {
            name: (*name).into(),
            body: Bytes(Vec::new()),
        };
        let scripts: Vec<_> = names.iter().map(script).collect();
        check(&scripts).map_err(|failure| {
            assert_eq!(
                (failure.stage, failure.errno),
                (Stage::Scripts, libc::EINVAL)
            );
            failure.message
        })
    }

    #[test]
    fn names_are_those_of_files() {
        assert_eq!(
            checked(&["go", "Go", "...", "-x", "\u{fc}", &"x".repeat(255)]),
            Ok(())
        );
        for name in ["", ".", "..", "a/b", "/", "a\0", &"x".repeat(256)] {
            assert!(checked(&["go", name]).is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_name_is_given_twice() {
        assert!(checked(&["a", "b", "a"]).unwrap_err().contains("twice"));
    }
}
