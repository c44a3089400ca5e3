//! What a sandbox is to be like, as plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{MountConfig, PatchConfig, Rlimit, StopSignal};
use crate::images::PullPolicy;

/// Memory of a sandbox that asks for none, in MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 512;

/// Processors of a sandbox that asks for none.
pub const DEFAULT_CPUS: u8 = 1;

/// Size of the private layer on disk of a sandbox that asks for none, in MiB. The image is sparse: it takes up what is written.
pub const DEFAULT_UPPER_MIB: u32 = 4096;

/// The full configuration of a sandbox. [`SandboxBuilder`](super::SandboxBuilder) makes one; whoever prefers data makes it
/// directly, or reads it from JSON, where everything may be left out but `name`, and `image` or `snapshot`.
///
/// It is recorded when the sandbox is created, and each start uses it again.
///
/// ```
/// use microsandbox::SandboxConfig;
///
/// let text = r#"{"name": "worker", "image": "./rootfs", "memory_mib": 256, "labels": {"tier": "web"}}"#;
/// let config: SandboxConfig = serde_json::from_str(text)?;
/// assert_eq!((config.memory_mib, config.cpus), (256, 1));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxConfig {
    /// Name of the sandbox, up to 128 bytes of UTF-8.
    pub name: String,
    /// The root file system: the name of an image; or a path, which begins with `/`, `./`, `../` or `~` or ends as disk images
    /// do, of a folder, a disk image whose name tells its format (`.raw`, `.img`, `.qcow2`, `.vmdk`), or a block device with
    /// `image_format`. Empty where `snapshot` is given, until the sandbox is created: then what the snapshot is based on is
    /// recorded here.
    #[serde(default)]
    pub image: PathBuf,
    /// The snapshot that the sandbox begins with, instead of an image: its name; or its path, which contains `/` or begins with
    /// `.` or `~`. The root access is a layer on disk then, of the snapshot's size. The snapshot is not verified, see
    /// [`Snapshots::verify`](crate::snapshots::Snapshots::verify).
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Digest of the manifest that the name of the image stands for. `None` is what it stands for when the sandbox is
    /// created; that is recorded here then.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// When the image is pulled from its registry, if `image_digest` does not say which it is.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Format of a disk image whose name does not tell it: `raw`, `qcow2` or `vmdk`.
    #[serde(default)]
    pub image_format: Option<String>,
    /// File system on a disk image, as mount(8) takes it; `None` is what its superblock says.
    #[serde(default)]
    pub image_fstype: Option<String>,
    /// Partition of a disk image; `None` is the only one with a Linux file system, or a disk without partitions.
    #[serde(default)]
    pub image_partition: Option<u32>,
    /// When a write to a disk image is durable.
    #[serde(default)]
    pub image_cache: DiskCache,
    /// Files and folders that disk images may refer to outside their own folders.
    #[serde(default)]
    pub allow: Vec<PathBuf>,
    /// What becomes of changes to the root. `None`: an image and a folder get a private layer on disk; a disk image is
    /// written.
    #[serde(default)]
    pub root_access: Option<RootAccessConfig>,
    /// Size in MiB, 8 at least, of the layer on disk that keeps the changes to the root of an image. `None` is what `root_access`
    /// says. Only for the name of an image.
    #[serde(default)]
    pub oci_upper_size_mib: Option<u32>,
    /// Memory of the guest in MiB, 64 to 65536. A limit: the host gives what is touched.
    #[serde(default = "default_memory")]
    pub memory_mib: u32,
    /// Virtual processors, 1 to 32.
    #[serde(default = "default_cpus")]
    pub cpus: u8,
    /// Working directory of commands; `None` is `/`.
    #[serde(default)]
    pub workdir: Option<String>,
    /// The shell of `shell` and `attach_shell`; `None` is `/bin/sh`.
    #[serde(default)]
    pub shell: Option<String>,
    /// How much processes in the guest may do.
    #[serde(default)]
    pub security_profile: SecurityProfile,
    /// Host name of the guest; `None` is made from the name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// User of commands: a name or a UID, with a group after `:` if wanted; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether a sandbox of this name is stopped and replaced.
    #[serde(default)]
    pub replace: bool,
    /// Milliseconds that its processes then have between SIGTERM and SIGKILL; 0 ends it at once. Implies `replace`.
    #[serde(default)]
    pub replace_timeout_ms: Option<u64>,
    /// Environment of commands.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whatever its user wants to remember and to find it by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether the sandbox outlives the process that creates it.
    #[serde(default)]
    pub detached: bool,
    /// Whether nothing of it remains when it has ended.
    #[serde(default)]
    pub ephemeral: bool,
    /// What comes before `command`.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The sandbox's own process, after `entrypoint`: it is started first, and with its end the sandbox ends. Empty for a
    /// sandbox that waits for commands, unless it has a terminal.
    #[serde(default)]
    pub command: Vec<String>,
    /// Whether `entrypoint` is the sandbox's own process where `command` is empty; that of an image with the arguments that
    /// the image names.
    #[serde(default)]
    pub run_entrypoint: bool,
    /// Whether that process has a terminal, and a standard input with it. Without a command it is the shell then.
    #[serde(default)]
    pub tty: bool,
    /// Rows and columns of that terminal until somebody attaches who has one; `None` is 24 and 80.
    #[serde(default)]
    pub tty_size: Option<(u16, u16)>,
    /// Resource limits of that process, and of each command that has no other limit of the resource.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// The signal that asks that process to end when the sandbox is stopped; `None` is what the image says, else SIGTERM for
    /// it and all others.
    #[serde(default)]
    pub stop_signal: Option<StopSignal>,
    /// The program that becomes PID 1 of the guest, if not the agent.
    #[serde(default)]
    pub init: Option<InitConfig>,
    /// Least severe lines that the machine's process logs; `None` is `warn`.
    #[serde(default)]
    pub log_level: Option<LogLevel>,
    /// Whether nothing of what its processes write is logged.
    #[serde(default)]
    pub quiet_logs: bool,
    /// Programs that are made in the guest's `/.msb/scripts`, by name. They are in `PATH`.
    #[serde(default)]
    pub scripts: BTreeMap<String, String>,
    /// Changes to the root before anything runs in it, in this order. The root has a private layer then.
    #[serde(default)]
    pub patches: Vec<PatchConfig>,
    /// Seconds after which it drains and stops; `None` and 0 are no limit.
    #[serde(default)]
    pub max_duration_secs: Option<u64>,
    /// Seconds without use after which it stops; `None` and 0 are no limit.
    #[serde(default)]
    pub idle_timeout_secs: Option<u64>,
    /// What is mounted in it, by absolute path in the guest.
    #[serde(default)]
    pub volumes: BTreeMap<String, MountConfig>,
    /// The guest's kernel; `None` is the installed one.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// The initramfs with the agent; `None` is the installed one.
    #[serde(default)]
    pub initramfs: Option<PathBuf>,
    /// Appended to the kernel's command line.
    #[serde(default)]
    pub kernel_cmdline: Option<String>,
}

fn default_memory() -> u32 {
    DEFAULT_MEMORY_MIB
}

fn default_cpus() -> u8 {
    DEFAULT_CPUS
}

impl SandboxConfig {
    /// With `image` as root, and everything else as it is by default.
    pub fn new(name: impl Into<String>, image: impl Into<PathBuf>) -> SandboxConfig {
        SandboxConfig {
            name: name.into(),
            image: image.into(),
            snapshot: None,
            image_digest: None,
            pull_policy: PullPolicy::default(),
            image_format: None,
            image_fstype: None,
            image_partition: None,
            image_cache: DiskCache::default(),
            allow: Vec::new(),
            root_access: None,
            oci_upper_size_mib: None,
            memory_mib: DEFAULT_MEMORY_MIB,
            cpus: DEFAULT_CPUS,
            workdir: None,
            shell: None,
            security_profile: SecurityProfile::default(),
            hostname: None,
            user: None,
            replace: false,
            replace_timeout_ms: None,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            detached: false,
            ephemeral: false,
            entrypoint: Vec::new(),
            command: Vec::new(),
            run_entrypoint: false,
            tty: false,
            tty_size: None,
            rlimits: Vec::new(),
            stop_signal: None,
            init: None,
            log_level: None,
            quiet_logs: false,
            scripts: BTreeMap::new(),
            patches: Vec::new(),
            max_duration_secs: None,
            idle_timeout_secs: None,
            volumes: BTreeMap::new(),
            kernel: None,
            initramfs: None,
            kernel_cmdline: None,
        }
    }
}

impl SandboxConfig {
    /// What becomes of changes to the root, by whichever field says it.
    pub(crate) fn root_access(&self) -> Option<RootAccessConfig> {
        let upper = self
            .oci_upper_size_mib
            .map(|mib| RootAccessConfig::Upper { mib });
        self.root_access.or(upper)
    }
}

/// What becomes of changes to the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RootAccessConfig {
    /// They are kept in a layer on a disk of the sandbox, where the next start finds them.
    Upper {
        /// Size of the disk in MiB, 8 at least.
        mib: u32,
    },
    /// They are kept in a layer in guest memory, and gone when it stops.
    Tmpfs {
        /// Limit of the layer in MiB; `None` is half of the memory.
        mib: Option<u32>,
    },
    /// They are written through to the image.
    Writable,
    /// There are none.
    ReadOnly,
}

/// When a write to a disk image is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskCache {
    /// When the guest flushes it.
    #[default]
    Writeback,
    /// At once.
    Writethrough,
}

/// How much processes in the guest may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityProfile {
    /// As on any Linux.
    #[default]
    Default,
    /// They cannot gain privileges nor mount, and user mounts are `nosuid` and `nodev`.
    Restricted,
}

/// The program that becomes PID 1 of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum InitConfig {
    /// The one with which the entry point of the image begins; if that is none, the first of the usual ones that the root has:
    /// `/sbin/init`, `/lib/systemd/systemd` and others.
    Auto,
    /// This one.
    Cmd {
        /// Absolute path in the guest.
        cmd: String,
        /// Arguments after its own name.
        #[serde(default)]
        args: Vec<String>,
        /// Environment besides `PATH` and `HOME`.
        #[serde(default)]
        env: BTreeMap<String, String>,
    },
}

impl InitConfig {
    /// That of the image's entry point, or the first of the usual ones that the root has.
    pub fn auto() -> InitConfig {
        InitConfig::Auto
    }

    /// The program `cmd`, an absolute path in the guest, with `args` after its own name.
    pub fn cmd<A: Into<String>>(
        cmd: impl Into<String>,
        args: impl IntoIterator<Item = A>,
    ) -> InitConfig {
        InitConfig::Cmd {
            cmd: cmd.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
        }
    }
}

/// Severity of a line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happens.
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
}

impl LogLevel {
    /// `trace` to `error`.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_needs_a_name_and_an_image_only() {
        let config: SandboxConfig =
            serde_json::from_str(r#"{"name": "web", "image": "/srv/web"}"#).unwrap();
        assert_eq!(config, SandboxConfig::new("web", "/srv/web"));
        assert_eq!((config.memory_mib, config.cpus), (512, 1));
    }

    #[test]
    fn json_needs_no_image_beside_a_snapshot() {
        let config: SandboxConfig =
            serde_json::from_str(r#"{"name": "web", "snapshot": "base"}"#).unwrap();
        let mut expected = SandboxConfig::new("web", "");
        expected.snapshot = Some("base".to_owned());
        assert_eq!(config, expected);
    }

    #[test]
    fn a_misspelt_field_is_no_default() {
        let text = r#"{"name": "web", "image": "/srv/web", "memory": 64}"#;
        let error = serde_json::from_str::<SandboxConfig>(text).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    #[test]
    fn what_was_written_is_read_again() {
        let mut config = SandboxConfig::new("web", "/srv/web");
        config.root_access = Some(RootAccessConfig::Upper { mib: 64 });
        config.init = Some(InitConfig::cmd("/sbin/init", ["--test"]));
        config.log_level = Some(LogLevel::Debug);
        config.stop_signal = Some("SIGRTMIN+3".parse().unwrap());
        config
            .volumes
            .insert("/data".to_owned(), MountConfig::named("data").readonly());
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<SandboxConfig>(&text).unwrap(),
            config
        );
    }
}
