//! Named volumes of a sandbox: looked up or made when the sandbox has its name, and in use until its machine ends.

use std::path::Path;

use anyhow::{Context, anyhow};
use microsandbox::home::Home;
use microsandbox::launch::{DiskImage, HostPath, Mount, MountSource, Quota, Sharing};
use microsandbox::names::Name;
use microsandbox::volumes::{
    NamedVolume, VolumeConfig, VolumeError, VolumeHandle, VolumeKind, VolumeMode, VolumeUse,
    Volumes,
};

use super::mounts::NamedMount;
use crate::commands::volume::advice::advise;
use crate::failure::{Hint, with_hint};
use crate::operand::operand;
use crate::options::NamedArgument;

/// Takes the volumes into use for `sandbox`, and returns what is mounted of them.
///
/// # Errors
/// When a volume is not as it is asked for, or cannot be made.
pub(in crate::commands) fn acquire(
    wanted: Vec<NamedMount>,
    sandbox: &Name,
    home: &Home,
) -> anyhow::Result<(Vec<Mount>, Vec<VolumeUse>)> {
    if wanted.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let volumes = Volumes::open(home).map_err(advise)?;
    let mut mounts = Vec::new();
    let mut uses = Vec::new();
    for NamedMount {
        volume,
        target,
        options,
    } in wanted
    {
        let cannot = || format!("cannot mount the volume {:?}", volume.name.as_str());
        let volume_use =
            begin(&volumes, &volume, options.read_only, sandbox).with_context(cannot)?;
        mounts.push(Mount {
            target,
            source: source(volume_use.volume(), &volume).with_context(cannot)?,
            options,
        });
        uses.push(volume_use);
    }
    Ok((mounts, uses))
}

fn begin(
    volumes: &Volumes,
    wanted: &NamedArgument,
    read_only: bool,
    sandbox: &Name,
) -> anyhow::Result<VolumeUse> {
    let acquire = |mode| {
        let wanted = NamedVolume {
            name: wanted.name.clone(),
            mode,
            read_only,
        };
        volumes.acquire(&wanted, sandbox)
    };
    let acquired = match &wanted.mode {
        Some(mode) => acquire(mode.clone()),
        None => match acquire(VolumeMode::Existing) {
            Err(VolumeError::VolumeNotFound { .. }) => {
                check_path(wanted)?;
                acquire(VolumeMode::EnsureExists(VolumeConfig::default()))
            }
            result => result,
        },
    };
    acquired.map_err(|error| match hint(&error) {
        Some(hint) => with_hint(error, hint),
        None => advise(error),
    })
}

/// What if the volume exists, and what if not, and of which kind it is. Where nothing was said it is taken as it is, or made
/// as a directory.
///
/// # Errors
/// When the volumes cannot be looked up, it must exist and does not, or its name is probably meant to be a path.
pub(super) fn mode_and_kind(wanted: &NamedArgument) -> anyhow::Result<(VolumeMode, VolumeKind)> {
    if let Some(mode @ (VolumeMode::Create(config) | VolumeMode::EnsureExists(config))) =
        &wanted.mode
    {
        return Ok((mode.clone(), config.kind));
    }
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    match Volumes::open(&home).and_then(|volumes| volumes.get(&wanted.name)) {
        Ok(volume) => Ok((VolumeMode::Existing, volume.kind())),
        Err(VolumeError::VolumeNotFound { .. }) if wanted.mode.is_none() => {
            check_path(wanted)?;
            let made = VolumeConfig::default();
            let kind = made.kind;
            Ok((VolumeMode::EnsureExists(made), kind))
        }
        Err(error) => Err(advise(error)),
    }
}

/// How a volume of this kind is cached.
///
/// # Errors
/// If what was said is for the other kind.
pub(super) fn caching(
    wanted: &NamedArgument,
    kind: VolumeKind,
) -> anyhow::Result<(Sharing, disk::Cache)> {
    let caching = wanted.caching.of(kind);
    caching.hint("`msb volume inspect` tells which it is")
}

/// A name that is a path here was probably meant to be one: nothing is made instead.
fn check_path(wanted: &NamedArgument) -> anyhow::Result<()> {
    let name = wanted.name.as_str();
    if !Path::new(name).exists() {
        return Ok(());
    }
    Err(with_hint(
        anyhow!("there is no such volume, but {name:?} is in this directory"),
        format!(
            "write ./{name} for what is here; `msb volume create {}` makes a volume of that name",
            operand(name)
        ),
    ))
}

/// What the options of a mount can do about it.
fn hint(error: &VolumeError) -> Option<&'static str> {
    Some(match error {
        VolumeError::VolumeAlreadyExists { .. } => "leave mode=create out to use it as it is",
        VolumeError::VolumeNotFound { .. } => "mode=ensure-exists makes it",
        VolumeError::VolumeInUse { .. } => {
            "a disk is for one sandbox, or for any number that mount it with ro"
        }
        VolumeError::Incompatible { .. } => "leave kind=, size= and quota= out to use it as it is",
        VolumeError::SizeMissing { .. } => "give it one: size=20G",
        _ => return None,
    })
}

fn source(volume: &VolumeHandle, wanted: &NamedArgument) -> anyhow::Result<MountSource> {
    let (sharing, cache) = caching(wanted, volume.kind())?;
    match volume.disk_image() {
        None => Ok(MountSource::Folder {
            path: HostPath(volume.path()),
            sharing: Sharing {
                quota: volume.quota_mib().map(|quota| Quota {
                    limit: u64::from(quota) << 20,
                    ledger: volume.usage_ledger().map(HostPath),
                }),
                ..sharing
            },
        }),
        Some(image) => Ok(MountSource::Disk(DiskImage {
            path: HostPath(image),
            format: volume.disk_format().unwrap_or("raw").parse()?,
            cache,
            partition: None,
            fstype: volume.disk_fstype().map(str::to_owned),
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use vmm::fs::{FolderOptions, SharedFolder};

    use super::*;
    use crate::options::{MountArgument, MountSourceArgument};

    fn wanted(text: &str) -> NamedMount {
        let MountArgument {
            source: MountSourceArgument::Named(volume),
            target,
            options,
        } = MountArgument::volume(text.as_ref()).unwrap()
        else {
            panic!("{text}")
        };
        let target = target.to_bytes();
        NamedMount {
            volume,
            target,
            options,
        }
    }

    #[test]
    fn a_volume_is_cached_as_its_kind_permits() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        let volumes = Volumes::open(&home).unwrap();
        let disk = VolumeConfig {
            kind: VolumeKind::Disk,
            size_mib: Some(16),
            ..VolumeConfig::default()
        };
        for (name, config) in [("dir", VolumeConfig::default()), ("disk", disk)] {
            volumes.create(&name.parse().unwrap(), &config).unwrap();
        }
        let mount = |text: &str| {
            let acquired = acquire(vec![wanted(text)], &"web".parse().unwrap(), &home);
            acquired.map(|(mut mounts, _)| mounts.remove(0).source)
        };
        let refusal = |text: &str| format!("{:#}", mount(text).unwrap_err());
        match mount("disk:/x:cache=writethrough").unwrap() {
            MountSource::Disk(image) => assert_eq!(image.cache, disk::Cache::Writethrough),
            source => panic!("{source:?}"),
        }
        mount("dir:/x:cache=none").unwrap();
        assert!(refusal("disk:/x:cache=none").contains("this one is a disk"));
        assert!(refusal("disk:/x:timeout=1s").contains("this one is a disk"));
        assert!(refusal("dir:/x:cache=writethrough").contains("this one is a dir"));
        assert!(refusal("new:/x:cache=writethrough").contains("this one is a dir"));
        assert_eq!(volumes.list().unwrap().len(), 2);
    }

    #[test]
    fn what_the_host_writes_is_in_the_account_of_the_machines() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(&Home::at(root.path().join("home"))).unwrap();
        let config = VolumeConfig {
            quota_mib: Some(1),
            ..VolumeConfig::default()
        };
        let volume = volumes.create(&"data".parse().unwrap(), &config).unwrap();
        let ledger = volume.usage_ledger().unwrap();
        volume.fs().write("before", vec![1; 100 << 10]).unwrap();
        let quota = vmm::fs::Quota {
            limit: 1 << 20,
            ledger: Some(ledger.clone()),
        };
        let folder = SharedFolder::open(&volume.path(), FolderOptions::DEFAULT).unwrap();
        let _machine = folder.with_quota(&quota).unwrap();
        let counted = || {
            let bytes = fs::read(&ledger).unwrap();
            u64::from_ne_bytes(bytes[8..16].try_into().unwrap())
        };
        let used = || volume.used_bytes().unwrap();
        assert_eq!(counted(), used());
        volume.fs().write("file", vec![1; 300 << 10]).unwrap();
        volume.fs().mkdir("a/b").unwrap();
        volume.fs().copy("file", "copy").unwrap();
        // A block for each name, which its directory may not have needed.
        let names = 4 * fs::metadata(volume.path()).unwrap().blksize();
        assert!(
            (used()..=used() + names).contains(&counted()),
            "{} {}",
            used(),
            counted()
        );
    }
}
