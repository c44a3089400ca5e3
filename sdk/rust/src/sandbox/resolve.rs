//! From a configuration to what the machine's process is told: paths are looked at, volumes taken into use.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use protocol::{Bytes, Exec, Init, MountOptions, Script, TerminalSize};

use super::image::recorded;
use super::{
    BindCache, DEFAULT_UPPER_MIB, DiskCache, InitConfig, LogLevel, MountConfig, MountKind,
    NamedMode, NamedStorage, PatchConfig, RootAccessConfig, SandboxConfig, SecurityProfile,
    image_name, image_patches, launch_patches, root_disk, upper,
};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::images::{self, ResolvedImage};
use crate::launch::{
    BOOT_TIMEOUT_MS, DiskImage, HostPath, INITRAMFS, KERNEL, LaunchConfig, Lifetime, LogTarget,
    Mount, MountSource, Patch, Program, Quota, Root, RootAccess, RootSource, SharedCache, Sharing,
};
use crate::names::Name;
use crate::registry::SandboxDirectory;
use crate::volumes::{
    NamedVolume, VolumeConfig, VolumeHandle, VolumeKind, VolumeMode, VolumeUse, Volumes,
};

/// Permission bits of a root directory in guest memory, as `/tmp` has them.
const TMPFS_MODE: u32 = 0o1777;

/// Terminal of the sandbox's own process until somebody attaches who has one.
const TERMINAL: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// The types of images that there are.
const IMAGES: &str = "an image is the name of one that is here, ./FOLDER with a Linux system in it, a disk image whose name \
                      ends with .raw, .img, .qcow2 or .vmdk, or ./FILE with its format given";

/// Makes the paths of the host in `config` those that they are from here: absolute, and without symbolic links.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`] when one leads nowhere.
pub(super) fn make_absolute(config: &mut SandboxConfig) -> Result<(), MicrosandboxError> {
    if config.image.as_os_str().is_empty() {
        return Err(MicrosandboxError::invalid(
            "image",
            format!("it is missing; {IMAGES}"),
        ));
    }
    let find = |field: &str, path: &mut PathBuf| {
        let found = fs::canonicalize(&*path);
        *path = found.map_err(|error| unusable(field, path, &error))?;
        Ok::<_, MicrosandboxError>(())
    };
    if image_name(&config.image).is_none() {
        find("image", &mut config.image)?;
    }
    for path in &mut config.allow {
        find("allow", path)?;
    }
    for source in config
        .patches
        .iter_mut()
        .filter_map(PatchConfig::source_mut)
    {
        find("patches", source)?;
    }
    for mount in config.volumes.values_mut() {
        if let MountKind::Bind { path, .. } | MountKind::Disk { path, .. } = &mut mount.kind {
            find("volumes", path)?;
        }
    }
    for (field, path) in [
        ("kernel", config.kernel.as_mut()),
        ("initramfs", config.initramfs.as_mut()),
    ] {
        if let Some(path) = path {
            find(field, path)?;
        }
    }
    Ok(())
}

/// What a machine needs besides its name and place.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) launch: LaunchConfig,
    pub(super) volumes: Vec<VolumeUse>,
}

/// What is known about the start besides the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) home: &'a Home,
    pub(super) program: &'a Program,
    pub(super) name: &'a Name,
    pub(super) directory: &'a SandboxDirectory,
    /// Whether the sandbox is created, not started again.
    pub(super) created: bool,
    /// Whether the machine outlives this process.
    pub(super) detached: bool,
}

/// Looks at what `config` names, makes the layer of the root if there is none, and takes volumes into use.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`], [`MicrosandboxError::Volume`], [`MicrosandboxError::NotInstalled`].
pub(super) fn resolve(
    config: &SandboxConfig,
    of: Circumstances<'_>,
) -> Result<Resolved, MicrosandboxError> {
    let find = |file: crate::launch::BootFile, option: &Option<PathBuf>| {
        file.find(option.as_deref(), of.program, of.home)
    };
    let kernel = find(KERNEL, &config.kernel)?;
    let initramfs = find(INITRAMFS, &config.initramfs)?;
    let image = recorded(config)?
        .map(|digest| images::resolve(of.home, &digest.to_string()))
        .transpose()?;
    let root = resolve_root(config, image.as_ref(), of)?;
    let (mounts, volumes) = resolve_mounts(config, of)?;
    let log_level = config.log_level.unwrap_or(LogLevel::Warn);
    let patches = patches(config, image.as_ref(), &root, of)?;
    let launch = LaunchConfig {
        name: of.name.to_string(),
        vcpus: config.cpus,
        memory: u64::from(config.memory_mib) << 20,
        kernel,
        initramfs,
        extra_command_line: config.kernel_cmdline.clone().unwrap_or_default(),
        root,
        mounts,
        allowed: config.allow.iter().cloned().map(HostPath).collect(),
        hostname: hostname(config, of.name),
        boot_timeout_ms: BOOT_TIMEOUT_MS,
        log_level: log_level.name().to_owned(),
        scripts: config.scripts.iter().map(script).collect(),
        patches,
        restricted: config.security_profile == SecurityProfile::Restricted,
        init: config.init.as_ref().map(init),
        lifetime: Lifetime {
            detached: of.detached,
            max_duration_ms: milliseconds(config.max_duration_secs),
            idle_timeout_ms: milliseconds(config.idle_timeout_secs),
        },
        main: main(config).map(Box::new),
        state: Some(HostPath(of.directory.path().to_owned())),
        log: (!config.quiet_logs).then(|| LogTarget {
            directory: HostPath(of.directory.logs()),
            limit: crate::logs::DEFAULT_LIMIT,
        }),
    };
    Ok(Resolved { launch, volumes })
}

fn resolve_root(
    config: &SandboxConfig,
    image: Option<&ResolvedImage>,
    of: Circumstances<'_>,
) -> Result<Root, MicrosandboxError> {
    let source = match image {
        Some(image) => RootSource::Disk(root_disk(&image.root)),
        None => path_source(config)?,
    };
    let is_layered = image.is_some() || matches!(source, RootSource::Folder(_));
    let default = match is_layered {
        true if config.ephemeral => RootAccessConfig::Tmpfs { mib: None },
        true => RootAccessConfig::Upper {
            mib: DEFAULT_UPPER_MIB,
        },
        false => RootAccessConfig::Writable,
    };
    let access = config.root_access.unwrap_or(default);
    if image.is_some() && access == RootAccessConfig::Writable {
        return Err(MicrosandboxError::invalid(
            "root_access",
            "an image is shared and never written; changes are kept in a layer of the sandbox",
        ));
    }
    let access = match access {
        RootAccessConfig::Writable => RootAccess::Writable,
        RootAccessConfig::ReadOnly => RootAccess::ReadOnly,
        RootAccessConfig::Tmpfs { mib } => RootAccess::Layer {
            size: mib.map(|mib| u64::from(mib) << 20),
        },
        RootAccessConfig::Upper { mib } => {
            let path = of.directory.upper();
            // A layer that is gone is not made anew behind the user's back.
            if of.created {
                upper::make(of.home, &path, mib)?;
            }
            RootAccess::DiskLayer(DiskImage {
                path: HostPath(path),
                format: disk::Format::Raw,
                cache: disk::Cache::Writeback,
                partition: None,
                fstype: Some("ext4".to_owned()),
            })
        }
    };
    Ok(Root { source, access })
}

/// The root at a path.
fn path_source(config: &SandboxConfig) -> Result<RootSource, MicrosandboxError> {
    let kind = fs::metadata(&config.image)
        .map_err(|error| unusable("image", &config.image, &error))?
        .file_type();
    Ok(if kind.is_dir() {
        if config.image_format.is_some() || config.image_fstype.is_some() {
            return Err(MicrosandboxError::invalid(
                "image",
                "it is a folder, and has neither a format nor a type of file system",
            ));
        }
        fs::read_dir(&config.image).map_err(|error| unusable("image", &config.image, &error))?;
        RootSource::Folder(HostPath(config.image.clone()))
    } else {
        RootSource::Disk(DiskImage {
            path: HostPath(config.image.clone()),
            format: format("image", &config.image, config.image_format.as_deref())?,
            cache: config.image_cache.into(),
            partition: config.image_partition,
            fstype: config.image_fstype.clone(),
        })
    })
}

/// The changes that are still to be made: a layer on disk has them since the sandbox was created.
fn patches(
    config: &SandboxConfig,
    image: Option<&ResolvedImage>,
    root: &Root,
    of: Circumstances<'_>,
) -> Result<Vec<Patch>, MicrosandboxError> {
    match root.access {
        RootAccess::DiskLayer(_) if !of.created => return Ok(Vec::new()),
        RootAccess::DiskLayer(_) | RootAccess::Layer { .. } => {}
        RootAccess::Writable | RootAccess::ReadOnly if config.patches.is_empty() => {
            return Ok(Vec::new());
        }
        RootAccess::Writable | RootAccess::ReadOnly => {
            return Err(MicrosandboxError::invalid(
                "patches",
                "the root has no private layer that could take them; a disk image gets one with the root access tmpfs or upper",
            ));
        }
    }
    let mut patches = image.map_or(Vec::new(), |image| {
        let hostname = hostname(config, of.name);
        image_patches(&image.config.config, &hostname, config.workdir.as_deref())
    });
    patches.extend(launch_patches(&config.patches)?);
    Ok(patches)
}

fn hostname(config: &SandboxConfig, name: &Name) -> String {
    let given = config.hostname.clone();
    given.unwrap_or_else(|| name.to_hostname())
}

fn resolve_mounts(
    config: &SandboxConfig,
    of: Circumstances<'_>,
) -> Result<(Vec<Mount>, Vec<VolumeUse>), MicrosandboxError> {
    let mut mounts = Vec::with_capacity(config.volumes.len());
    let mut uses = Vec::new();
    for (target, mount) in &config.volumes {
        let source = match &mount.kind {
            MountKind::Named { .. } => {
                let (source, volume_use) = take_volume(mount, of)?;
                uses.push(volume_use);
                source
            }
            MountKind::Bind {
                path,
                cache,
                cache_timeout_ms,
                quota_mib,
            } => {
                let sharing = sharing(*cache, *cache_timeout_ms);
                bind(path, sharing, *quota_mib)?
            }
            &MountKind::Tmpfs { size_mib, mode } => MountSource::Tmpfs {
                size: size_mib.map(|mib| u64::from(mib) << 20),
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

fn bind(
    path: &Path,
    sharing: Sharing,
    quota_mib: Option<u32>,
) -> Result<MountSource, MicrosandboxError> {
    let kind = fs::metadata(path).map_err(|error| unusable("volumes", path, &error))?;
    let shared = HostPath(path.to_owned());
    if kind.is_dir() {
        let quota = quota_mib.map(|mib| Quota {
            limit: u64::from(mib) << 20,
            ledger: None,
        });
        let sharing = Sharing { quota, ..sharing };
        return Ok(MountSource::Folder {
            path: shared,
            sharing,
        });
    }
    if quota_mib.is_some() {
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
        name: name
            .parse()
            .map_err(|error| MicrosandboxError::invalid("volumes", error))?,
        mode: match mode {
            NamedMode::EnsureExists => VolumeMode::EnsureExists(description),
            NamedMode::Create if of.created => VolumeMode::Create(description),
            NamedMode::Create | NamedMode::Existing => VolumeMode::Existing,
        },
        read_only: mount.readonly,
    };
    let volume_use = Volumes::open(of.home)?.acquire(&wanted, of.name)?;
    let source = volume_source(volume_use.volume(), sharing(*cache, *cache_timeout_ms))?;
    Ok((source, volume_use))
}

fn volume_source(
    volume: &VolumeHandle,
    sharing: Sharing,
) -> Result<MountSource, MicrosandboxError> {
    let Some(image) = volume.disk_image() else {
        let quota = volume.quota_mib().map(|mib| Quota {
            limit: u64::from(mib) << 20,
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
        cache: disk::Cache::Writeback,
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

/// The format of an image: as given, else as its name tells. Contents can be written by a guest, and tell nothing.
fn format(
    field: &str,
    path: &Path,
    given: Option<&str>,
) -> Result<disk::Format, MicrosandboxError> {
    let kind = fs::metadata(path)
        .map_err(|error| unusable(field, path, &error))?
        .file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(MicrosandboxError::invalid(
            field,
            format!(
                "{} is neither a file nor a block device; {IMAGES}",
                path.display()
            ),
        ));
    }
    match given {
        Some(given) => given
            .parse()
            .map_err(|error| MicrosandboxError::invalid(field, error)),
        None => disk::Format::from_extension(path).ok_or_else(|| {
            MicrosandboxError::invalid(
                field,
                format!("the name of {} tells no format; {IMAGES}", path.display()),
            )
        }),
    }
}

fn main(config: &SandboxConfig) -> Option<Exec> {
    let runs_entrypoint = config.run_entrypoint && !config.entrypoint.is_empty();
    if config.command.is_empty() && !runs_entrypoint && !config.tty {
        return None;
    }
    // The agent knows the shell of the user.
    let (entrypoint, command) = if config.command.is_empty() && !runs_entrypoint {
        (&[][..], config.shell.as_slice())
    } else {
        (&config.entrypoint[..], &config.command[..])
    };
    let bytes = |text: &String| Bytes(text.clone().into_bytes());
    Some(Exec {
        args: entrypoint.iter().chain(command).map(bytes).collect(),
        env: config
            .env
            .iter()
            .map(|(key, value)| (bytes(key), bytes(value)))
            .collect(),
        cwd: config.workdir.as_ref().map(bytes),
        user: config.user.clone(),
        rlimits: config.rlimits.iter().copied().map(Into::into).collect(),
        terminal: config.tty.then(|| {
            config
                .tty_size
                .map_or(TERMINAL, |(rows, columns)| TerminalSize { rows, columns })
        }),
        stdin: config.tty,
        timeout_ms: None,
    })
}

fn script((name, body): (&String, &String)) -> Script {
    Script {
        name: name.clone(),
        body: Bytes(body.clone().into_bytes()),
    }
}

fn init(init: &InitConfig) -> Init {
    let bytes = |text: &String| Bytes(text.clone().into_bytes());
    match init {
        InitConfig::Auto => Init::Auto,
        InitConfig::Cmd { cmd, args, env } => Init::Program {
            path: bytes(cmd),
            args: args.iter().map(bytes).collect(),
            env: env
                .iter()
                .map(|(key, value)| (bytes(key), bytes(value)))
                .collect(),
        },
    }
}

fn milliseconds(seconds: Option<u64>) -> Option<u64> {
    seconds
        .filter(|&seconds| seconds > 0)
        .map(|seconds| seconds.saturating_mul(1000))
}

fn unusable(field: &str, path: &Path, error: &io::Error) -> MicrosandboxError {
    MicrosandboxError::invalid(field, format!("{} cannot be used: {error}", path.display()))
}

impl From<DiskCache> for disk::Cache {
    fn from(cache: DiskCache) -> disk::Cache {
        match cache {
            DiskCache::Writeback => disk::Cache::Writeback,
            DiskCache::Writethrough => disk::Cache::Writethrough,
        }
    }
}
