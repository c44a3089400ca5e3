//! What is mounted in a sandbox; volumes are taken into use.

use std::fs;
use std::path::Path;

use protocol::{Bytes, MountOptions};

use super::{Circumstances, format, unusable};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::launch::{DiskImage, HostPath, Mount, MountSource, Quota, SharedCache, Sharing};
use crate::sandbox::mount::given;
use crate::sandbox::{
    BindCache, DiskCache, MountConfig, MountKind, NamedMode, NamedStorage, SandboxConfig,
};
use crate::volumes::{
    NamedVolume, VolumeConfig, VolumeHandle, VolumeKind, VolumeMode, VolumeName, VolumeUse, Volumes,
};

/// Permission bits of a root directory in guest memory, as `/tmp` has them.
const TMPFS_MODE: u32 = 0o1777;

pub(super) fn resolve_mounts(
    config: &SandboxConfig,
    of: Circumstances<'_>,
) -> Result<(Vec<Mount>, Vec<VolumeUse>), MicrosandboxError> {
    let mut mounts = Vec::with_capacity(config.volumes.len());
    let mut uses = Vec::new();
    for (target, mount) in &config.volumes {
        let source = match unnamed(&mount.kind)? {
            Some(source) => source,
            None => {
                let (source, volume_use) = take_volume(mount, of)?;
                uses.push(volume_use);
                source
            }
        };
        mounts.push(Mount {
            target: Bytes(target.clone().into_bytes()),
            source,
            options: MountOptions {
                read_only: mount.readonly,
                no_exec: mount.noexec,
                no_suid: mount.nosuid,
                no_dev: mount.nodev,
            },
        });
    }
    Ok((mounts, uses))
}

/// Looks at what is mounted, and takes nothing into use.
///
/// # Errors
/// When something of it cannot be mounted.
pub(super) fn check_mounts(config: &SandboxConfig, home: &Home) -> Result<(), MicrosandboxError> {
    for mount in config.volumes.values() {
        unnamed(&mount.kind)?;
        // Of other modes, they are made when they are taken.
        if let MountKind::Named {
            name,
            mode: NamedMode::Existing,
            ..
        } = &mount.kind
        {
            Volumes::open(home)?.get(&volume_name(name)?)?;
        }
    }
    Ok(())
}

/// The source of a mount; `None` for a named volume, which has to be taken.
fn unnamed(kind: &MountKind) -> Result<Option<MountSource>, MicrosandboxError> {
    Ok(Some(match kind {
        MountKind::Named { .. } => return Ok(None),
        MountKind::Bind {
            path,
            cache,
            cache_timeout_ms,
            quota_mib,
        } => bind(path, sharing(*cache, *cache_timeout_ms), *quota_mib)?,
        &MountKind::Tmpfs { size_mib, mode } => MountSource::Tmpfs {
            size: bytes(size_mib),
            mode: mode.unwrap_or(TMPFS_MODE),
        },
        MountKind::Disk {
            path,
            format: given,
            fstype,
            partition,
            cache,
        } => MountSource::Disk(DiskImage {
            path: HostPath(path.clone()),
            format: format("volumes", path, given.as_deref())?,
            cache: (*cache).into(),
            partition: *partition,
            fstype: fstype.clone(),
        }),
    }))
}

/// Bytes of a size that was given.
fn bytes(mib: Option<u32>) -> Option<u64> {
    given(mib).map(|mib| u64::from(mib) << 20)
}

fn volume_name(name: &str) -> Result<VolumeName, MicrosandboxError> {
    name.parse()
        .map_err(|error| MicrosandboxError::invalid("volumes", error))
}

fn bind(
    path: &Path,
    sharing: Sharing,
    quota_mib: Option<u32>,
) -> Result<MountSource, MicrosandboxError> {
    let kind = fs::metadata(path).map_err(|error| unusable("volumes", path, &error))?;
    let limit = bytes(quota_mib);
    let shared = HostPath(path.to_owned());
    if kind.is_dir() {
        let quota = limit.map(|limit| Quota {
            limit,
            ledger: None,
        });
        let sharing = Sharing { quota, ..sharing };
        return Ok(MountSource::Folder {
            path: shared,
            sharing,
        });
    }
    if limit.is_some() {
        return Err(MicrosandboxError::invalid(
            "volumes",
            format!("{} is no folder, and has no quota", path.display()),
        ));
    }
    Ok(MountSource::File {
        path: shared,
        sharing,
    })
}

fn take_volume(
    mount: &MountConfig,
    of: Circumstances<'_>,
) -> Result<(MountSource, VolumeUse), MicrosandboxError> {
    let MountKind::Named {
        name,
        mode,
        storage,
        size_mib,
        quota_mib,
        cache,
        cache_timeout_ms,
        disk_cache,
    } = &mount.kind
    else {
        return Err(MicrosandboxError::invalid(
            "volumes",
            "it is no named volume",
        ));
    };
    let description = VolumeConfig {
        kind: match storage {
            NamedStorage::Dir => VolumeKind::Dir,
            NamedStorage::Disk => VolumeKind::Disk,
        },
        quota_mib: *quota_mib,
        size_mib: *size_mib,
        labels: Default::default(),
    };
    let wanted = NamedVolume {
        name: volume_name(name)?,
        mode: match mode {
            NamedMode::EnsureExists => VolumeMode::EnsureExists(description),
            NamedMode::Create if of.layer.is_new() => VolumeMode::Create(description),
            NamedMode::Create | NamedMode::Existing => VolumeMode::Existing,
        },
        read_only: mount.readonly,
    };
    let volume_use = Volumes::open(of.home)?.acquire(&wanted, of.name)?;
    let sharing = sharing(*cache, *cache_timeout_ms);
    let source = volume_source(volume_use.volume(), sharing, *disk_cache)?;
    Ok((source, volume_use))
}

fn volume_source(
    volume: &VolumeHandle,
    sharing: Sharing,
    disk_cache: DiskCache,
) -> Result<MountSource, MicrosandboxError> {
    let Some(image) = volume.disk_image() else {
        let quota = bytes(volume.quota_mib()).map(|limit| Quota {
            limit,
            ledger: volume.usage_ledger().map(HostPath),
        });
        return Ok(MountSource::Folder {
            path: HostPath(volume.path()),
            sharing: Sharing { quota, ..sharing },
        });
    };
    let format = volume.disk_format();
    Ok(MountSource::Disk(DiskImage {
        format: self::format("volumes", &image, format)?,
        path: HostPath(image),
        cache: disk_cache.into(),
        partition: None,
        fstype: volume.disk_fstype().map(str::to_owned),
    }))
}

fn sharing(cache: BindCache, cache_timeout_ms: Option<u64>) -> Sharing {
    Sharing {
        cache: match cache {
            BindCache::None => SharedCache::None,
            BindCache::Auto => SharedCache::Auto,
            BindCache::Always => SharedCache::Always,
        },
        cache_timeout_ms,
        quota: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_volume_is_cached_as_it_is_recorded() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(&Home::at(root.path().join("home"))).unwrap();
        let config = VolumeConfig {
            kind: VolumeKind::Disk,
            size_mib: Some(16),
            ..VolumeConfig::default()
        };
        let volume = volumes.create(&"db".parse().unwrap(), &config).unwrap();
        for cache in [DiskCache::Writeback, DiskCache::Writethrough] {
            let mount = MountConfig::named("db").disk_cache(cache);
            let text = serde_json::to_string(&mount).unwrap();
            let MountKind::Named { disk_cache, .. } =
                serde_json::from_str::<MountConfig>(&text).unwrap().kind
            else {
                panic!("{text}")
            };
            match volume_source(&volume, Sharing::default(), disk_cache).unwrap() {
                MountSource::Disk(image) => assert_eq!(image.cache, cache.into()),
                source => panic!("{source:?}"),
            }
        }
    }

    #[test]
    fn a_size_of_zero_is_none() {
        let source = |mount: MountConfig| unnamed(&mount.kind).unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let memory = |mib| match source(MountConfig::tmpfs().size_mib(mib)) {
            MountSource::Tmpfs { size, .. } => size,
            source => panic!("{source:?}"),
        };
        assert_eq!((memory(0), memory(3)), (None, Some(3 << 20)));
        let limit = |mib| match source(MountConfig::bind(folder.path()).quota_mib(mib)) {
            MountSource::Folder { sharing, .. } => sharing.quota.map(|quota| quota.limit),
            source => panic!("{source:?}"),
        };
        assert_eq!((limit(0), limit(3)), (None, Some(3 << 20)));
        let single = |mib| unnamed(&MountConfig::bind(&file).quota_mib(mib).kind);
        assert!(matches!(single(0), Ok(Some(MountSource::File { .. }))));
        assert!(single(3).is_err());
    }
}
