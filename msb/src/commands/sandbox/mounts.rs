//! Mounts beneath the root: what was asked for, and what it is.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use microsandbox::launch::{HostPath, Mount, MountSource, Sharing};
use microsandbox::protocol::{Bytes, MountOptions};

use super::root::disk_image;
use crate::failure::{Hint, with_hint};
use crate::options::{MountArgument, MountSourceArgument, NamedArgument, os_value};

/// Most mounts of a guest.
const MAX_MOUNTS: usize = 64;

/// What is mounted in a sandbox.
#[derive(Debug, Args)]
pub(in crate::commands) struct MountArguments {
    /// Folder or file of the host, which begins with /, ./ or ../, or else a named volume, which is made if it does not
    /// exist. OPTIONS of all mounts: ro, rw, noexec, nosuid, nodev; of folders and files also cache=none|auto|always
    /// and timeout=DURATION, how long the guest may miss changes of others; of folders also quota=SIZE, what they may hold
    /// as this mount counts: mounts of one folder do not count together
    #[arg(short, long, value_name = "SRC:DST[:OPTIONS]", value_parser = os_value(MountArgument::volume))]
    volume: Vec<MountArgument>,

    /// Folder of the host; OPTIONS as of --volume
    #[arg(long, value_name = "DIR:DST[:OPTIONS]", value_parser = os_value(MountArgument::folder))]
    mount_dir: Vec<MountArgument>,

    /// Single file of the host, itself and not a copy; OPTIONS as of --volume
    #[arg(long, value_name = "FILE:DST[:OPTIONS]", value_parser = os_value(MountArgument::file))]
    mount_file: Vec<MountArgument>,

    /// Named volume. OPTIONS also: kind=dir|disk, size=SIZE of a disk, quota=SIZE of a directory,
    /// mode=existing|create|ensure-exists; of a disk, cache=writeback|writethrough
    #[arg(long, value_name = "NAME:DST[:OPTIONS]", value_parser = os_value(MountArgument::named))]
    mount_named: Vec<MountArgument>,

    /// Disk image or block device. OPTIONS also: format=raw|qcow2|vmdk, fstype=TYPE, partition=N,
    /// cache=writeback|writethrough
    #[arg(long, value_name = "IMAGE:DST[:OPTIONS]", value_parser = os_value(MountArgument::disk))]
    mount_disk: Vec<MountArgument>,

    /// File system in guest memory [default SIZE: half of the memory]. OPTIONS also: size=SIZE, mode=OCTAL
    #[arg(long, value_name = "DST[:SIZE][:OPTIONS]", value_parser = os_value(MountArgument::tmpfs))]
    tmpfs: Vec<MountArgument>,

    /// File or folder outside their own that disk images may refer to, as backing files or extents
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,
}

/// A named volume and where it is mounted: it is looked up when the sandbox has its name.
#[derive(Debug)]
pub(in crate::commands) struct NamedMount {
    /// The volume.
    pub(in crate::commands) volume: NamedArgument,
    /// Where the guest sees it.
    pub(in crate::commands) target: Bytes,
    /// What is forbidden there.
    pub(in crate::commands) options: MountOptions,
}

/// What the arguments mean here.
#[derive(Debug)]
pub(in crate::commands) struct Mounts {
    /// All but named volumes.
    pub(in crate::commands) mounts: Vec<Mount>,
    /// Named volumes.
    pub(in crate::commands) named: Vec<NamedMount>,
    /// What disk images may refer to.
    pub(in crate::commands) allowed: Vec<HostPath>,
}

impl MountArguments {
    /// What the arguments mean here.
    ///
    /// # Errors
    /// When there are too many, two have one target, or one has no source.
    pub(in crate::commands) fn resolve(self) -> anyhow::Result<Mounts> {
        let allowed = self.allow.iter().map(|path| {
            let path = fs::canonicalize(path)
                .with_context(|| format!("cannot allow {}", path.display()))
                .hint("--allow names a file or a folder that exists")?;
            Ok(HostPath(path))
        });
        let allowed = allowed.collect::<anyhow::Result<_>>()?;
        let all = [
            self.volume,
            self.mount_dir,
            self.mount_file,
            self.mount_named,
            self.mount_disk,
            self.tmpfs,
        ]
        .concat();
        check(&all)?;
        let mut mounts = Vec::new();
        let mut named = Vec::new();
        for MountArgument {
            source,
            target,
            options,
        } in all
        {
            let target = target.to_bytes();
            let source = match source {
                MountSourceArgument::Named(volume) => {
                    named.push(NamedMount {
                        volume,
                        target,
                        options,
                    });
                    continue;
                }
                MountSourceArgument::Path(path, sharing) => match shared(&path, None)? {
                    (path, true) => MountSource::Folder { path, sharing },
                    (path, false) => {
                        check_no_quota(&sharing)?;
                        MountSource::File { path, sharing }
                    }
                },
                MountSourceArgument::Folder(path, sharing) => {
                    let path = shared(&path, Some(true))?.0;
                    MountSource::Folder { path, sharing }
                }
                MountSourceArgument::File(path, sharing) => {
                    check_no_quota(&sharing)?;
                    let path = shared(&path, Some(false))?.0;
                    MountSource::File { path, sharing }
                }
                MountSourceArgument::Disk(wanted) => {
                    let cannot = || format!("cannot mount {}", wanted.path.display());
                    MountSource::Disk(disk_image(&wanted, "format=").with_context(cannot)?)
                }
                MountSourceArgument::Tmpfs { size, mode } => MountSource::Tmpfs { size, mode },
            };
            mounts.push(Mount {
                source,
                target,
                options,
            });
        }
        Ok(Mounts {
            mounts,
            named,
            allowed,
        })
    }
}

fn check(mounts: &[MountArgument]) -> anyhow::Result<()> {
    let count = mounts.len();
    if count > MAX_MOUNTS {
        return Err(with_hint(
            anyhow!("a guest cannot have {count} mounts"),
            format!("give {MAX_MOUNTS} at most: a folder that holds others is one"),
        ));
    }
    let mut seen = HashSet::new();
    for MountArgument { target, .. } in mounts {
        if !seen.insert(target) {
            return Err(with_hint(
                anyhow!("two mounts have the target {target}"),
                "give each of --volume, --mount-... and --tmpfs a place of its own",
            ));
        }
    }
    Ok(())
}

fn check_no_quota(sharing: &Sharing) -> anyhow::Result<()> {
    if sharing.quota.is_none() {
        return Ok(());
    }
    Err(with_hint(
        anyhow!("a single file cannot have a quota"),
        "leave quota= out, or share a folder",
    ))
}

/// The path itself, and whether it is a folder, which `wanted` says that it is.
fn shared(path: &Path, wanted: Option<bool>) -> anyhow::Result<(HostPath, bool)> {
    let cannot = || format!("cannot share {}", path.display());
    examine(path, wanted)
        .with_context(cannot)
        .hint("the part before the colon is an existing folder or file")
}

fn examine(path: &Path, wanted: Option<bool>) -> anyhow::Result<(HostPath, bool)> {
    let path = fs::canonicalize(path)?;
    let kind = fs::metadata(&path)?.file_type();
    if kind.is_block_device() {
        return Err(with_hint(
            anyhow!("it is a block device"),
            "mount it with --mount-disk",
        ));
    }
    if !kind.is_dir() && !kind.is_file() {
        bail!("it is neither a folder nor a regular file");
    }
    match (wanted, kind.is_dir()) {
        (Some(true), false) => bail!("it is a file"),
        (Some(false), true) => bail!("it is a folder"),
        (_, true) => {
            fs::read_dir(&path)?;
        }
        (_, false) => {
            fs::File::open(&path)?;
        }
    }
    Ok((HostPath(path), kind.is_dir()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        mounts: MountArguments,
    }

    fn resolve(arguments: &[String]) -> Result<Mounts, String> {
        let arguments = ["run".to_owned()]
            .into_iter()
            .chain(arguments.iter().cloned());
        let command = Command::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let mounts = command.mounts.resolve();
        mounts.map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn each_target_is_taken_once_by_mounts_of_whatever_kind() {
        let tmpfs = |target: &str| format!("--tmpfs={target}");
        assert!(resolve(&[tmpfs("/a"), tmpfs("/a/b")]).is_ok());
        for mounts in [
            [tmpfs("/a"), tmpfs("//a/")],
            ["--volume=/:/a".to_owned(), tmpfs("/a")],
            ["--volume=/:/a".to_owned(), "--mount-named=x:/a".to_owned()],
        ] {
            let error = resolve(&mounts).unwrap_err();
            assert!(error.contains("two mounts have the target /a"), "{error}");
        }
    }

    #[test]
    fn there_are_limits() {
        let mounts: Vec<_> = (0..65).map(|index| format!("--tmpfs=/{index}")).collect();
        assert_eq!(resolve(&mounts[..64]).unwrap().mounts.len(), 64);
        assert!(resolve(&mounts).unwrap_err().contains("65 mounts"));
    }

    #[test]
    fn a_source_is_of_the_kind_that_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let (folder, file) = (root.path(), root.path().join("file"));
        fs::write(&file, "").unwrap();
        let (folder, file) = (folder.display(), file.display());
        for (argument, expected) in [
            (format!("--volume={folder}:/x"), Ok(true)),
            (format!("--volume={file}:/x"), Ok(false)),
            (format!("--mount-dir={folder}:/x"), Ok(true)),
            (format!("--mount-dir={file}:/x"), Err("it is a file")),
            (format!("--mount-file={file}:/x"), Ok(false)),
            (format!("--mount-file={folder}:/x"), Err("it is a folder")),
            (format!("--volume={folder}/none:/x"), Err("No such file")),
            (
                "--volume=/dev/null:/x".to_owned(),
                Err("neither a folder nor"),
            ),
            (
                format!("--mount-disk={file}:/x"),
                Err("does not tell the format"),
            ),
            (
                format!("--mount-disk={folder}:/x:format=raw"),
                Err("neither a file nor"),
            ),
            ("--allow=/no/such/file".to_owned(), Err("cannot allow")),
        ] {
            match (resolve(std::slice::from_ref(&argument)), expected) {
                (Ok(mounts), Ok(is_folder)) => {
                    let found = matches!(mounts.mounts[0].source, MountSource::Folder { .. });
                    assert_eq!(found, is_folder, "{argument}");
                }
                (Err(error), Err(reason)) => assert!(error.contains(reason), "{error}"),
                (result, _) => panic!("{argument}: {result:?}"),
            }
        }
    }
}
