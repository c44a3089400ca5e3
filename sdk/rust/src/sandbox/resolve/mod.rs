//! From a configuration to what the machine's process is told: paths are looked at, volumes taken into use.

mod mounts;
mod root;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use protocol::{Bytes, Exec, Init, Script, TerminalSize};

use super::image::recorded;
use super::{
    DiskCache, InitConfig, LogLevel, MountKind, PatchConfig, SandboxConfig, SecurityProfile,
    StopSignal, image_name,
};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::images;
use crate::launch::{
    BOOT_TIMEOUT_MS, HostPath, INITRAMFS, KERNEL, LaunchConfig, Lifetime, LogTarget, Program,
};
use crate::names::Name;
use crate::registry::SandboxDirectory;
use crate::volumes::VolumeUse;
use mounts::{check_mounts, resolve_mounts};
use root::{hostname, patches, resolve_root, root_source};

/// Terminal of the sandbox's own process until somebody attaches who has one.
const TERMINAL: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// The types of images that there are.
const IMAGES: &str = "an image is the name of one that is here, ./FOLDER with a Linux system in it, a disk image whose name \
                      ends with .raw, .img, .qcow2 or .vmdk, or ./FILE with its format given";

/// Makes the paths of the host in `config` those that they are from here: absolute, and without symbolic links. What the
/// name of a disk image tells is its caller's: where a link leads may be up to somebody else.
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
        if !config.image.is_dir() {
            name_format("image", &config.image, &mut config.image_format)?;
        }
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
        if let MountKind::Disk { path, format, .. } = &mut mount.kind {
            name_format("volumes", path, format)?;
        }
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
    /// What becomes of the layer of its root.
    pub(super) layer: Layer<'a>,
    /// Whether the machine outlives this process.
    pub(super) detached: bool,
}

/// What a start does about a layer of the root on disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layer<'a> {
    /// It is there since the sandbox was created.
    Kept,
    /// The sandbox is created, and the layer empty.
    New,
    /// The sandbox is created, and the layer a copy.
    CopyOf(&'a File),
}

impl Layer<'_> {
    /// Whether the sandbox is created, not started again.
    pub(super) fn is_new(self) -> bool {
        !matches!(self, Layer::Kept)
    }
}

/// Looks at what `config` names, and neither makes nor takes anything: whoever is replaced stays if the other one cannot be.
///
/// # Errors
/// As [`resolve`].
pub(super) fn check(config: &SandboxConfig, home: &Home) -> Result<(), MicrosandboxError> {
    let program = Program::find(home)?;
    boot_files(config, &program, home)?;
    let image = image(config, home)?;
    root_source(config, image.as_ref())?;
    check_mounts(config, home)
}

/// Looks at what `config` names, makes the layer of the root if there is none, and takes volumes into use.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`], [`MicrosandboxError::Volume`], [`MicrosandboxError::NotInstalled`].
pub(super) fn resolve(
    config: &SandboxConfig,
    of: Circumstances<'_>,
) -> Result<Resolved, MicrosandboxError> {
    let (kernel, initramfs) = boot_files(config, of.program, of.home)?;
    let image = image(config, of.home)?;
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

/// The kernel and the initramfs.
fn boot_files(
    config: &SandboxConfig,
    program: &Program,
    home: &Home,
) -> Result<(PathBuf, PathBuf), MicrosandboxError> {
    let kernel = KERNEL.find(config.kernel.as_deref(), program, home)?;
    let initramfs = INITRAMFS.find(config.initramfs.as_deref(), program, home)?;
    Ok((kernel, initramfs))
}

/// The image that a sandbox is made of, if it is one.
fn image(
    config: &SandboxConfig,
    home: &Home,
) -> Result<Option<images::ResolvedImage>, MicrosandboxError> {
    let digest = recorded(config)?;
    let image = digest.map(|digest| images::resolve(home, &digest.to_string()));
    Ok(image.transpose()?)
}

/// Says which format the image at `path` has, if that was left to its name.
fn name_format(
    field: &str,
    path: &Path,
    given: &mut Option<String>,
) -> Result<(), MicrosandboxError> {
    let format = format(field, path, given.as_deref())?;
    given.get_or_insert_with(|| format.to_string());
    Ok(())
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
        stop_signal: config.stop_signal.map(StopSignal::number),
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sandbox::MountConfig;

    #[test]
    fn no_time_is_no_limit() {
        for (seconds, expected) in [
            (None, None),
            (Some(0), None),
            (Some(2), Some(2000)),
            (Some(u64::MAX), Some(u64::MAX)),
        ] {
            assert_eq!(milliseconds(seconds), expected);
        }
    }

    #[test]
    fn the_name_that_was_given_tells_the_format() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for name in ["disk.raw", "disk.qcow2", "plain"] {
            fs::write(place(name), "").unwrap();
        }
        for (link, target) in [
            ("link.raw", "disk.qcow2"),
            ("link.vmdk", "plain"),
            ("bare", "disk.qcow2"),
        ] {
            symlink(place(target), place(link)).unwrap();
        }
        let formats = |name: &str, given: Option<&str>| {
            let mut config = SandboxConfig::new("web", place(name));
            config.image_format = given.map(str::to_owned);
            let mut mount = MountConfig::disk(place(name));
            if let Some(given) = given {
                mount = mount.format(given);
            }
            let mut other = SandboxConfig::new("web", "/");
            other.volumes.insert("/x".to_owned(), mount);
            let root = make_absolute(&mut config).map(|()| config.image_format);
            let mounted = make_absolute(&mut other).map(|()| other.volumes.remove("/x"));
            match (root, mounted.map(|mount| mount.unwrap().kind)) {
                (Ok(root), Ok(MountKind::Disk { format, path, .. })) => {
                    assert_eq!(root, format);
                    assert_eq!(path, fs::canonicalize(place(name)).unwrap());
                    Ok(root.unwrap())
                }
                (Err(one), Err(_)) => Err(one.to_string()),
                different => panic!("{different:?}"),
            }
        };
        for (name, given, expected) in [
            ("disk.qcow2", None, "qcow2"),
            ("link.raw", None, "raw"),
            ("link.vmdk", None, "vmdk"),
            ("link.raw", Some("qcow2"), "qcow2"),
            ("bare", Some("raw"), "raw"),
        ] {
            assert_eq!(formats(name, given).as_deref(), Ok(expected), "{name}");
        }
        let error = formats("bare", None).unwrap_err();
        assert!(error.contains("tells no format"), "{error}");
        // A folder has none.
        let mut config = SandboxConfig::new("web", folder.path());
        make_absolute(&mut config).unwrap();
        assert_eq!(config.image_format, None);
    }
}
