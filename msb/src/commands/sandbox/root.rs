//! The root file system: what was asked for, and what it is.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, anyhow};
use clap::Args;
use disk::{Cache, Format};
use microsandbox::home::Home;
use microsandbox::images::{self, ImageError, PullPolicy, ResolvedImage};
use microsandbox::launch::{HostPath, RootSource};
use microsandbox::sandbox::{RootAccessConfig, image_name, root_disk};
use microsandbox::snapshots::{SnapshotRoot, Snapshots};

use crate::commands::image::advice as image_advice;
use crate::commands::pull::fetch;
use crate::commands::snapshot::advice as snapshot_advice;
use crate::failure::{Hint, with_hint};
use crate::options::{
    DiskArgument, parse_disk_cache, parse_fstype, parse_partition, parse_whole_mebibytes,
};

/// What to do about an image that is none.
const IMAGE_HINT: &str = "a disk image is a file that exists, or a block device";

/// The root file system of a sandbox, and what becomes of changes to it.
#[derive(Debug, Args)]
pub(in crate::commands) struct RootArguments {
    /// Name of an image, or folder, disk image or block device with the root file system. What begins with / . ~ or ends as
    /// disk images do is a path
    #[arg(value_name = "ROOT", required_unless_present = "from_snapshot")]
    root: Option<PathBuf>,

    /// Begins with a snapshot, by its name or its path, instead of a ROOT: the words behind the options are CMD then, with -- before
    /// them if one begins with -
    #[arg(long, value_name = "SNAPSHOT", alias = "from-snap", conflicts_with_all = ["root_access", "pull"])]
    from_snapshot: Option<String>,

    /// Lets the guest write to ROOT itself; a disk does that without being told
    #[arg(long, group = "root_access")]
    root_rw: bool,

    /// Lets the guest change nothing
    #[arg(long, group = "root_access")]
    root_ro: bool,

    /// Keeps changes in a layer of the sandbox: on a disk of SIZE, where the next start finds them, or in guest memory, at
    /// most SIZE of them. An image and a folder do that without being told: on a disk of 4 GiB if the sandbox has a name or a label, or
    /// runs by itself, else in memory
    #[arg(long, visible_alias = "root-overlay", value_name = "SIZE|tmpfs[:SIZE]", group = "root_access", value_parser = parse_layer)]
    root_upper: Option<RootAccessConfig>,

    /// When the image is pulled from its registry
    #[arg(long, value_name = "always|if-missing|never", default_value_t)]
    pull: PullPolicy,

    /// Format of the disk image [default: what the name ends with]
    #[arg(long, value_name = "raw|qcow2|vmdk")]
    root_format: Option<Format>,

    /// Partition of the disk [default: the only one with a Linux file system]
    #[arg(long, value_name = "N", value_parser = parse_partition)]
    root_partition: Option<u32>,

    /// File system on the disk, as of mount(8) [default: what its superblock says]
    #[arg(long, value_name = "TYPE", value_parser = parse_fstype)]
    fstype: Option<String>,

    /// When a write to the disk is durable: when the guest flushes it, or at once [default: writeback]
    #[arg(long, value_name = "writeback|writethrough", value_parser = parse_disk_cache)]
    root_cache: Option<Cache>,
}

/// A root that can be used.
#[derive(Debug)]
pub(super) struct ResolvedRoot {
    /// Where it is.
    pub(super) source: RootSource,
    /// What becomes of changes, if that was said.
    pub(super) access: Option<RootAccessConfig>,
    /// The image that it is of, and its name. It stays as long as that lives.
    pub(super) image: Option<(PathBuf, Rc<ResolvedImage>)>,
    /// The snapshot that it begins with, as it was named.
    pub(super) snapshot: Option<String>,
}

impl RootArguments {
    /// What the arguments mean here.
    ///
    /// # Errors
    /// When there is no such root, or an option that does not suit it.
    pub(super) fn resolve(self) -> anyhow::Result<ResolvedRoot> {
        match (&self.from_snapshot, &self.root) {
            (Some(snapshot), _) => self.snapshot(snapshot),
            (None, Some(root)) => match image_name(root) {
                Some(name) => self.image(name),
                None => self.path(root),
            },
            (None, None) => Err(with_hint(
                anyhow!("there is no root"),
                "name an image or a folder, or give --from-snapshot",
            )),
        }
    }

    /// What stands in the place of ROOT where there is a snapshot, and is a word of the command.
    pub(super) fn take_word(&mut self) -> Option<OsString> {
        let root = self.root.take_if(|_| self.from_snapshot.is_some());
        root.map(PathBuf::into_os_string)
    }

    fn path(&self, root: &Path) -> anyhow::Result<ResolvedRoot> {
        let path = fs::canonicalize(root).map_err(anyhow::Error::from);
        let kind = path.and_then(|path| Ok((fs::metadata(&path)?, path)));
        let cannot = || format!("cannot use {} as root", root.display());
        let (metadata, path) = kind
            .with_context(cannot)
            .hint("ROOT is a folder with a Linux system in it, or a disk image")?;
        if metadata.is_dir() {
            self.folder(&path).with_context(cannot)
        } else {
            let image = DiskArgument {
                path: root.to_owned(),
                format: self.root_format,
                fstype: self.fstype.clone(),
                partition: self.root_partition,
                cache: self.root_cache.unwrap_or(Cache::Writeback),
            };
            let image = disk_image(&image, "--root-format").with_context(cannot)?;
            Ok(ResolvedRoot {
                source: RootSource::Disk(image),
                access: self.access(),
                image: None,
                snapshot: None,
            })
        }
    }

    /// What it is based on is looked at here only as far as it says how the sandbox is run; the library does the rest.
    fn snapshot(&self, name: &str) -> anyhow::Result<ResolvedRoot> {
        self.refuse_disk_options("a snapshot")?;
        let home = Home::from_environment()?;
        let found = Snapshots::open(&home).and_then(|snapshots| snapshots.get(name));
        let found = found.map_err(snapshot_advice::advise)?;
        let image = match found.root() {
            SnapshotRoot::Path { .. } => None,
            SnapshotRoot::Image {
                reference,
                manifest_digest,
            } => match images::resolve(&home, manifest_digest) {
                Ok(image) => Some((PathBuf::from(reference), Rc::new(image))),
                Err(error @ ImageError::ImageNotFound { .. }) => {
                    let missing = found.image_missing().unwrap_or(error.into());
                    return Err(snapshot_advice::advise(missing));
                }
                Err(error) => return Err(image_advice::advise(error)),
            },
        };
        Ok(ResolvedRoot {
            source: RootSource::Memory,
            access: Some(RootAccessConfig::Upper {
                mib: found.size_mib(),
            }),
            image,
            snapshot: Some(name.to_owned()),
        })
    }

    fn image(&self, name: &str) -> anyhow::Result<ResolvedRoot> {
        self.refuse_disk_options("an image")?;
        let home = Home::from_environment()?;
        let here = (self.pull != PullPolicy::Always).then(|| images::resolve(&home, name));
        let found = match here {
            // What is a path without ./ was hardly meant to be looked for in a registry.
            Some(Err(error @ ImageError::ImageNotFound { .. })) if Path::new(name).exists() => {
                Err(with_hint(
                    error,
                    format!(
                        "there is a {name} in this directory, which is used as ./{name}; `msb pull {name}` gets the image, as does --pull always"
                    ),
                ))
            }
            None | Some(Err(ImageError::ImageNotFound { .. })) => fetch(&home, name, self.pull),
            Some(found) => found.map_err(image_advice::advise),
        };
        let image = found.with_context(|| format!("cannot use {name} as root"))?;
        if self.root_rw {
            return Err(with_hint(
                anyhow!("an image is shared, and --root-rw would write to it"),
                "leave --root-rw out: changes are kept in a layer of the sandbox",
            ));
        }
        Ok(ResolvedRoot {
            source: RootSource::Disk(root_disk(&image.root)),
            access: self.access(),
            image: Some((PathBuf::from(name), Rc::new(image))),
            snapshot: None,
        })
    }

    fn refuse_disk_options(&self, what: &str) -> anyhow::Result<()> {
        let for_disks = [
            ("--root-format", self.root_format.is_some()),
            ("--root-partition", self.root_partition.is_some()),
            ("--fstype", self.fstype.is_some()),
            ("--root-cache", self.root_cache.is_some()),
        ];
        if let Some((option, _)) = for_disks.into_iter().find(|(_, given)| *given) {
            return Err(with_hint(
                anyhow!("it is {what}, and {option} is for disks"),
                format!("leave {option} out, or name a disk image"),
            ));
        }
        Ok(())
    }

    fn folder(&self, path: &Path) -> anyhow::Result<ResolvedRoot> {
        self.refuse_disk_options("a folder")?;
        fs::read_dir(path).hint("the user who runs msb must be able to read ROOT")?;
        Ok(ResolvedRoot {
            source: RootSource::Folder(HostPath(path.to_owned())),
            access: self.access(),
            image: None,
            snapshot: None,
        })
    }

    fn access(&self) -> Option<RootAccessConfig> {
        if self.root_rw {
            Some(RootAccessConfig::Writable)
        } else if self.root_ro {
            Some(RootAccessConfig::ReadOnly)
        } else {
            self.root_upper
        }
    }
}

/// The image that `wanted` means. `option` is how its format can be given.
///
/// # Errors
/// When there is none, or nothing tells its format.
pub(super) fn disk_image(
    wanted: &DiskArgument,
    option: &str,
) -> anyhow::Result<microsandbox::launch::DiskImage> {
    let path = fs::canonicalize(&wanted.path).hint(IMAGE_HINT)?;
    let kind = fs::metadata(&path).hint(IMAGE_HINT)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(with_hint(
            anyhow!("it is neither a file nor a block device"),
            IMAGE_HINT,
        ));
    }
    let Some(format) = wanted
        .format
        .or_else(|| Format::from_extension(&wanted.path))
    else {
        return Err(with_hint(
            anyhow!("its name does not tell the format of a disk image"),
            format!(
                "give {option} raw, qcow2 or vmdk: contents are not looked at, because a guest can write them"
            ),
        ));
    };
    Ok(microsandbox::launch::DiskImage {
        path: HostPath(path),
        format,
        cache: wanted.cache,
        partition: wanted.partition,
        fstype: wanted.fstype.clone(),
    })
}

fn parse_layer(text: &str) -> Result<RootAccessConfig, String> {
    let size = |text| {
        parse_whole_mebibytes(text)
            .map_err(|error| format!("{error}, or it is tmpfs or tmpfs:SIZE"))
    };
    Ok(match text.split_once(':') {
        None if text == "tmpfs" => RootAccessConfig::Tmpfs { mib: None },
        None => RootAccessConfig::Upper { mib: size(text)? },
        Some(("tmpfs", text)) => RootAccessConfig::Tmpfs {
            mib: Some(size(text)?),
        },
        Some(_) => return Err("only tmpfs has a size behind it".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        root: RootArguments,
    }

    fn resolve(arguments: &[&str], root: &Path) -> Result<ResolvedRoot, String> {
        let arguments = ["run"]
            .iter()
            .chain(arguments)
            .map(|argument| (*argument).into());
        let command = Command::try_parse_from(arguments.chain([root.as_os_str().to_owned()]));
        let root = command.map_err(|error| error.to_string())?.root;
        root.resolve().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_becomes_of_changes_can_be_said() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.qcow2");
        fs::write(&disk, "").unwrap();
        for (arguments, access) in [
            (&[][..], None),
            (&["--root-rw"], Some(RootAccessConfig::Writable)),
            (&["--root-ro"], Some(RootAccessConfig::ReadOnly)),
            (
                &["--root-upper=tmpfs"],
                Some(RootAccessConfig::Tmpfs { mib: None }),
            ),
            (
                &["--root-upper=tmpfs:64M"],
                Some(RootAccessConfig::Tmpfs { mib: Some(64) }),
            ),
            (
                &["--root-upper=2G"],
                Some(RootAccessConfig::Upper { mib: 2048 }),
            ),
            (
                &["--root-overlay=tmpfs"],
                Some(RootAccessConfig::Tmpfs { mib: None }),
            ),
            (
                &["--root-overlay=2G"],
                Some(RootAccessConfig::Upper { mib: 2048 }),
            ),
        ] {
            assert_eq!(resolve(arguments, folder.path()).unwrap().access, access);
            let root = resolve(arguments, &disk).unwrap();
            assert_eq!(root.access, access);
            let RootSource::Disk(image) = root.source else {
                panic!("{root:?}")
            };
            assert_eq!(image.format, Format::Qcow2);
        }
        assert!(resolve(&["--root-ro", "--root-rw"], folder.path()).is_err());
        for wrong in ["0", "tmpfs:0", "64M:tmpfs", "disk", "512K"] {
            let option = format!("--root-upper={wrong}");
            assert!(resolve(&[&option], folder.path()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_snapshot_stands_instead_of_a_root() {
        let parse = |arguments: &[&str]| {
            let arguments = ["run"].iter().chain(arguments);
            Command::try_parse_from(arguments.copied()).map(|command| command.root)
        };
        let mut root = parse(&["--from-snapshot=base", "--", "-x"]).unwrap();
        assert_eq!(root.take_word(), Some("-x".into()));
        assert_eq!(root.take_word(), None);
        assert_eq!(parse(&["./root"]).unwrap().take_word(), None);
        assert!(parse(&[]).is_err());
        for option in ["--root-ro", "--root-upper=8M", "--pull=never"] {
            assert!(parse(&["--from-snap", "base", option]).is_err(), "{option}");
        }
    }

    #[test]
    fn what_is_no_root_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        fs::write(&disk, "").unwrap();
        for (arguments, root, reason) in [
            (&[][..], folder.path().join("none"), "No such file"),
            (&[], disk.clone(), "does not tell the format"),
            (&[], "/dev/null".into(), "neither a file nor a block device"),
            (&["--fstype=xfs"], folder.path().to_owned(), "for disks"),
            (&["--root-partition=0"], disk.clone(), "1 to 128"),
            (&["--fstype=EXT4,ro"], disk.clone(), "ext4, xfs"),
        ] {
            let error = resolve(arguments, &root).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert!(resolve(&["--root-format=raw"], &disk).is_ok());
    }
}
