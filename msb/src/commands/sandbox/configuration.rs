//! A sandbox that is recorded, as the library takes it. Its configuration is kept as text, so everything in it must be text.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use microsandbox::launch::{DiskImage, MountSource, RootSource, SharedCache, Sharing};
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Init, MountOptions};
use microsandbox::sandbox::{
    BindCache, DiskCache, InitConfig, MountConfig, MountKind, NamedMode, NamedStorage,
    SandboxConfig, SecurityProfile,
};
use microsandbox::volumes::{VolumeConfig, VolumeKind, VolumeMode};

use super::{NamedMount, SandboxPlan, milliseconds, named_volumes};
use crate::failure::with_hint;
use crate::logging::LogLevel;
use crate::options::GuestPath;

impl SandboxPlan {
    /// The sandbox `name` as the library takes it.
    ///
    /// # Errors
    /// When something is no text, or a named volume is not as it is asked for.
    pub(in crate::commands) fn configuration(self, name: &Name) -> anyhow::Result<SandboxConfig> {
        let log_level = Some(level(self.machine.log_level()));
        let mut config = SandboxConfig::new(name.as_str(), PathBuf::new());
        config.snapshot = self.root.snapshot;
        match (self.root.image, self.root.source) {
            // What it is based on, and the size of its layer, the snapshot says.
            _ if config.snapshot.is_some() => {}
            (Some((name, image)), _) => {
                config.image = name;
                config.image_digest = Some(image.manifest_digest.to_string());
            }
            (None, RootSource::Folder(path)) => config.image = path.0,
            (None, RootSource::Disk(image)) => {
                config.image_format = Some(image.format.to_string());
                config.image_fstype = image.fstype;
                config.image_partition = image.partition;
                config.image_cache = disk_cache(image.cache);
                config.image = image.path.0;
            }
            (None, RootSource::Memory) => {}
        }
        check_path(&config.image)?;
        config.root_access = self.root.access.filter(|_| config.snapshot.is_none());
        config.memory_mib = self.machine.memory;
        config.cpus = self.machine.cpus;
        config.kernel = self.machine.kernel.map(absolute).transpose()?;
        config.initramfs = self.machine.initramfs.map(absolute).transpose()?;
        config.kernel_cmdline = self.machine.cmdline;
        config.log_level = log_level;
        config.labels = self.labels;
        config.replace = self.replace;
        config.replace_timeout_ms = self.replace_timeout.map(milliseconds);
        config.hostname = self.guest.hostname;
        config.init = self.guest.init.map(init).transpose()?;
        config.scripts = self
            .guest
            .scripts
            .into_iter()
            .map(|script| {
                let body = text(script.body, "a script")?;
                Ok((script.name, body))
            })
            .collect::<anyhow::Result<_>>()?;
        config.patches = self.patches;
        if self.guest.restricted {
            config.security_profile = SecurityProfile::Restricted;
        }
        config.env = pairs(self.process.environment(false))?;
        config.workdir = self.process.workdir.as_ref().map(GuestPath::to_string);
        config.user = self.process.user;
        config.rlimits = self.process.rlimit;
        config.stop_signal = self.stop_signal;
        config.shell = self.shell.as_ref().map(GuestPath::to_string);
        config.run_entrypoint = self.runs_image || self.entrypoint.is_some();
        config.entrypoint = words(self.entrypoint.into_iter().collect())?;
        config.command = words(self.command)?;
        config.max_duration_secs = self.max_duration.map(whole_seconds);
        config.idle_timeout_secs = self.idle_timeout.map(whole_seconds);
        config.quiet_logs = self.quiet_logs;
        config.allow = self.mounts.allowed.into_iter().map(|path| path.0).collect();
        for mount in self.mounts.mounts {
            let target = text(mount.target, "the target of a mount")?;
            let mount = with_options(source(mount.source)?, mount.options);
            config.volumes.insert(target, mount);
        }
        for mount in self.mounts.named {
            let target = text(mount.target.clone(), "the target of a mount")?;
            config.volumes.insert(target, named(mount)?);
        }
        Ok(config)
    }
}

fn source(source: MountSource) -> anyhow::Result<MountKind> {
    Ok(match source {
        MountSource::Folder { path, sharing } | MountSource::File { path, sharing } => {
            check_path(&path.0)?;
            let quota = sharing.quota.as_ref();
            MountKind::Bind {
                path: path.0,
                cache: bind_cache(&sharing),
                cache_timeout_ms: sharing.cache_timeout_ms,
                quota_mib: quota.map(|quota| mebibytes(quota.limit)).transpose()?,
            }
        }
        MountSource::Disk(DiskImage {
            path,
            format,
            cache,
            partition,
            fstype,
        }) => {
            check_path(&path.0)?;
            MountKind::Disk {
                path: path.0,
                format: Some(format.to_string()),
                fstype,
                partition,
                cache: disk_cache(cache),
            }
        }
        MountSource::Tmpfs { size, mode } => MountKind::Tmpfs {
            size_mib: size.map(mebibytes).transpose()?,
            mode: Some(mode),
        },
    })
}

/// A named volume. One that is not told whether it exists is looked up: it is taken as it is, or made as a directory.
fn named(mount: NamedMount) -> anyhow::Result<MountConfig> {
    let NamedMount {
        volume, options, ..
    } = mount;
    let (mode, kind) = named_volumes::mode_and_kind(&volume)?;
    let (sharing, cache) = named_volumes::caching(&volume, kind)?;
    let (mode, made) = match mode {
        VolumeMode::Existing => (NamedMode::Existing, VolumeConfig::default()),
        VolumeMode::Create(made) => (NamedMode::Create, made),
        VolumeMode::EnsureExists(made) => (NamedMode::EnsureExists, made),
    };
    let kind = MountKind::Named {
        name: volume.name.to_string(),
        mode,
        storage: match made.kind {
            VolumeKind::Dir => NamedStorage::Dir,
            VolumeKind::Disk => NamedStorage::Disk,
        },
        size_mib: made.size_mib,
        quota_mib: made.quota_mib,
        cache: bind_cache(&sharing),
        cache_timeout_ms: sharing.cache_timeout_ms,
        disk_cache: disk_cache(cache),
    };
    Ok(with_options(kind, options))
}

fn with_options(kind: MountKind, options: MountOptions) -> MountConfig {
    MountConfig {
        readonly: options.read_only,
        noexec: options.no_exec,
        nosuid: options.no_suid,
        nodev: options.no_dev,
        kind,
    }
}

fn init(init: Init) -> anyhow::Result<InitConfig> {
    Ok(match init {
        Init::Auto => InitConfig::Auto,
        Init::Program { path, args, env } => InitConfig::Cmd {
            cmd: text(path, "--init")?,
            args: args
                .into_iter()
                .map(|argument| text(argument, "--init-arg"))
                .collect::<anyhow::Result<_>>()?,
            env: pairs(env)?,
        },
    })
}

fn bind_cache(sharing: &Sharing) -> BindCache {
    match sharing.cache {
        SharedCache::None => BindCache::None,
        SharedCache::Auto => BindCache::Auto,
        SharedCache::Always => BindCache::Always,
    }
}

fn disk_cache(cache: disk::Cache) -> DiskCache {
    match cache {
        disk::Cache::Writeback => DiskCache::Writeback,
        disk::Cache::Writethrough => DiskCache::Writethrough,
    }
}

fn level(level: LogLevel) -> microsandbox::sandbox::LogLevel {
    use microsandbox::sandbox::LogLevel as Level;
    match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
        LogLevel::Trace => Level::Trace,
    }
}

/// MiB, rounded up.
fn mebibytes(bytes: u64) -> anyhow::Result<u32> {
    u32::try_from(bytes.div_ceil(1 << 20)).context("a size is too large")
}

/// Seconds, rounded up.
fn whole_seconds(duration: std::time::Duration) -> u64 {
    milliseconds(duration).div_ceil(1000)
}

fn absolute(path: PathBuf) -> anyhow::Result<PathBuf> {
    let path =
        std::path::absolute(&path).with_context(|| format!("cannot use {}", path.display()))?;
    check_path(&path)?;
    Ok(path)
}

fn check_path(path: &Path) -> anyhow::Result<()> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(not_text(&format!("the path {}", path.display()))),
    }
}

fn words(words: Vec<OsString>) -> anyhow::Result<Vec<String>> {
    let words = words.into_iter();
    words
        .map(|word| word.into_string().map_err(|_| not_text("an argument")))
        .collect()
}

fn pairs(pairs: Vec<(Bytes, Bytes)>) -> anyhow::Result<BTreeMap<String, String>> {
    let pairs = pairs.into_iter();
    pairs
        .map(|(key, value)| {
            let key = text(key, "the name of a variable")?;
            let value = text(value, &format!("the value of {key}"))?;
            Ok((key, value))
        })
        .collect()
}

fn text(bytes: Bytes, what: &str) -> anyhow::Result<String> {
    String::from_utf8(bytes.0).map_err(|_| not_text(what))
}

fn not_text(what: &str) -> anyhow::Error {
    with_hint(
        anyhow!("{what} is no text in UTF-8, and what a sandbox is like is recorded as text"),
        "a command of `msb exec`, and `msb run` without --name and --detach, take any bytes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{MountArgument, MountSourceArgument};

    #[test]
    fn it_is_recorded_when_a_write_to_the_disk_of_a_volume_is_durable() {
        let text = "db:/db:kind=disk,size=16M,cache=writethrough";
        let argument = MountArgument::volume(text.as_ref()).unwrap();
        let MountSourceArgument::Named(volume) = argument.source else {
            panic!("{argument:?}")
        };
        let mount = named(NamedMount {
            volume,
            target: argument.target.to_bytes(),
            options: argument.options,
        });
        match mount.unwrap().kind {
            MountKind::Named { disk_cache, .. } => assert_eq!(disk_cache, DiskCache::Writethrough),
            kind => panic!("{kind:?}"),
        }
    }
}
