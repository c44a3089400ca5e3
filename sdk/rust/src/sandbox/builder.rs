//! A configuration, step by step.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    InitConfig, LogLevel, MountConfig, PatchConfig, Rlimit, RootAccessConfig, Sandbox,
    SandboxConfig, SecurityProfile, StopSignal, start,
};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::images::{PullPolicy, RegistryAuth};
use crate::milliseconds::milliseconds;

/// Makes a sandbox, see [`Sandbox::builder`](super::Sandbox::builder). Setters of one value replace it, setters of several add to them.
#[derive(Debug)]
pub struct SandboxBuilder {
    home: Option<Home>,
    config: SandboxConfig,
    console: Option<File>,
    registry_auth: Option<RegistryAuth>,
}

impl SandboxBuilder {
    pub(super) fn new(name: String) -> SandboxBuilder {
        SandboxBuilder {
            home: None,
            config: SandboxConfig::new(name, ""),
            console: None,
            registry_auth: None,
        }
    }

    /// Keeps the sandbox in `home`, not in the one that the environment names.
    #[must_use]
    pub(crate) fn home(mut self, home: Home) -> SandboxBuilder {
        self.home = Some(home);
        self
    }

    /// The root file system: the name of an image; or a path, which begins with `/`, `./`, `../` or `~` or ends as disk images do,
    /// of a folder or a disk image.
    #[must_use]
    pub fn image(mut self, image: impl Into<PathBuf>) -> SandboxBuilder {
        self.config.image = image.into();
        self
    }

    /// The snapshot that the sandbox begins with, instead of an image: its name; or its path, which contains `/` or begins
    /// with `.` or `~`.
    #[must_use]
    pub fn snapshot(mut self, snapshot: impl Into<String>) -> SandboxBuilder {
        self.config.snapshot = Some(snapshot.into());
        self
    }

    /// The root file system: a disk image with a file system of this type, as mount(8) takes it; "" is what its superblock
    /// says.
    #[must_use]
    pub fn image_disk(
        mut self,
        image: impl Into<PathBuf>,
        fstype: impl Into<String>,
    ) -> SandboxBuilder {
        self.config.image = image.into();
        self.config.image_fstype = Some(fstype.into()).filter(|fstype| !fstype.is_empty());
        self
    }

    /// When the image is pulled.
    #[must_use]
    pub fn pull_policy(mut self, policy: PullPolicy) -> SandboxBuilder {
        self.config.pull_policy = policy;
        self
    }

    /// Who asks the image's registry, if not whoever is logged in. It is not recorded.
    #[must_use]
    pub fn registry_auth(mut self, auth: RegistryAuth) -> SandboxBuilder {
        self.registry_auth = Some(auth);
        self
    }

    /// What becomes of changes to the root.
    #[must_use]
    pub fn root_access(mut self, access: RootAccessConfig) -> SandboxBuilder {
        self.config.root_access = Some(access);
        self
    }

    /// Size in MiB of the layer on disk that keeps the changes to the root of an image. Only for the name of an image: what
    /// becomes of changes to other roots says [`root_access`](Self::root_access).
    #[must_use]
    pub fn oci_upper_size(mut self, mib: u32) -> SandboxBuilder {
        self.config.oci_upper_size_mib = Some(mib);
        self
    }

    /// Memory of the guest in MiB.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> SandboxBuilder {
        self.config.memory_mib = mib;
        self
    }

    /// Virtual processors.
    #[must_use]
    pub fn cpus(mut self, cpus: u8) -> SandboxBuilder {
        self.config.cpus = cpus;
        self
    }

    /// Working directory of commands, an absolute path in the guest.
    #[must_use]
    pub fn workdir(mut self, path: impl Into<String>) -> SandboxBuilder {
        self.config.workdir = Some(path.into());
        self
    }

    /// The shell of `shell` and `attach_shell`.
    #[must_use]
    pub fn shell(mut self, path: impl Into<String>) -> SandboxBuilder {
        self.config.shell = Some(path.into());
        self
    }

    /// How much processes in the guest may do.
    #[must_use]
    pub fn security_profile(mut self, profile: SecurityProfile) -> SandboxBuilder {
        self.config.security_profile = profile;
        self
    }

    /// Host name of the guest.
    #[must_use]
    pub fn hostname(mut self, hostname: impl Into<String>) -> SandboxBuilder {
        self.config.hostname = Some(hostname.into());
        self
    }

    /// User of commands: a name or a UID, with a group after `:` if wanted.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> SandboxBuilder {
        self.config.user = Some(user.into());
        self
    }

    /// Replaces a sandbox of the same name; if it runs, its processes have 10 s between SIGTERM and SIGKILL. It stays as it is
    /// when what the new one names is not there, and is gone when the new one does not come up for another reason.
    #[must_use]
    pub fn replace(mut self) -> SandboxBuilder {
        self.config.replace = true;
        self
    }

    /// Replaces a sandbox of the same name; if it runs, its processes have so long between SIGTERM and SIGKILL. Zero ends
    /// it at once.
    #[must_use]
    pub fn replace_with_timeout(mut self, timeout: Duration) -> SandboxBuilder {
        self.config.replace = true;
        self.config.replace_timeout_ms = Some(milliseconds(timeout));
        self
    }

    /// An environment variable of commands.
    #[must_use]
    pub fn env(self, key: impl Into<String>, value: impl Into<String>) -> SandboxBuilder {
        self.envs([(key, value)])
    }

    /// Environment variables of commands.
    #[must_use]
    pub fn envs<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> SandboxBuilder {
        self.config.env.extend(texts(variables));
        self
    }

    /// A label, to be found by.
    #[must_use]
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> SandboxBuilder {
        self.labels([(key, value)])
    }

    /// Labels, to be found by.
    #[must_use]
    pub fn labels<K: Into<String>, V: Into<String>>(
        mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> SandboxBuilder {
        self.config.labels.extend(texts(labels));
        self
    }

    /// Whether the sandbox outlives this process.
    #[must_use]
    pub fn detached(mut self, detached: bool) -> SandboxBuilder {
        self.config.detached = detached;
        self
    }

    /// Whether nothing of it remains when it has ended.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> SandboxBuilder {
        self.config.ephemeral = ephemeral;
        self
    }

    /// What comes before the sandbox's own command.
    #[must_use]
    pub fn entrypoint<A: Into<String>>(
        mut self,
        command: impl IntoIterator<Item = A>,
    ) -> SandboxBuilder {
        self.config.entrypoint = command.into_iter().map(Into::into).collect();
        self
    }

    /// The sandbox's own process: it is started first, and with its end the sandbox ends.
    #[must_use]
    pub fn command<A: Into<String>>(
        mut self,
        command: impl IntoIterator<Item = A>,
    ) -> SandboxBuilder {
        self.config.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Whether the sandbox's own process has a terminal.
    #[must_use]
    pub fn tty(mut self, tty: bool) -> SandboxBuilder {
        self.config.tty = tty;
        self
    }

    /// A resource limit of the sandbox's own process, and of each command that has no other limit of the resource.
    #[must_use]
    pub fn rlimit(mut self, limit: Rlimit) -> SandboxBuilder {
        self.config.rlimits.push(limit);
        self
    }

    /// The signal that asks the sandbox's own process to end when the sandbox is stopped, in the place of the image's, or of
    /// SIGTERM.
    #[must_use]
    pub fn stop_signal(mut self, signal: StopSignal) -> SandboxBuilder {
        self.config.stop_signal = Some(signal);
        self
    }

    /// The program that becomes PID 1 of the guest.
    #[must_use]
    pub fn init(mut self, init: InitConfig) -> SandboxBuilder {
        self.config.init = Some(init);
        self
    }

    /// Least severe lines that the machine's process logs.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> SandboxBuilder {
        self.config.log_level = Some(level);
        self
    }

    /// Logs nothing of what processes write.
    #[must_use]
    pub fn quiet_logs(mut self) -> SandboxBuilder {
        self.config.quiet_logs = true;
        self
    }

    /// A program in the guest's `/.msb/scripts`, which is in `PATH`.
    #[must_use]
    pub fn script(self, name: impl Into<String>, body: impl Into<String>) -> SandboxBuilder {
        self.scripts([(name, body)])
    }

    /// Programs in the guest's `/.msb/scripts`, which is in `PATH`.
    #[must_use]
    pub fn scripts<K: Into<String>, V: Into<String>>(
        mut self,
        scripts: impl IntoIterator<Item = (K, V)>,
    ) -> SandboxBuilder {
        self.config.scripts.extend(texts(scripts));
        self
    }

    /// A change to the root before anything runs in it. Those of several calls are made in the order of the calls.
    #[must_use]
    pub fn patch(mut self, patch: PatchConfig) -> SandboxBuilder {
        self.config.patches.push(patch);
        self
    }

    /// After this time it drains and stops. Rounded up to whole seconds; zero is no limit.
    #[must_use]
    pub fn max_duration(mut self, duration: Duration) -> SandboxBuilder {
        self.config.max_duration_secs = Some(whole_seconds(duration));
        self
    }

    /// After this time without use it stops. Rounded up to whole seconds; zero is no limit.
    #[must_use]
    pub fn idle_timeout(mut self, duration: Duration) -> SandboxBuilder {
        self.config.idle_timeout_secs = Some(whole_seconds(duration));
        self
    }

    /// Mounts something at an absolute path of the guest, in the place of what was to be mounted there before.
    #[must_use]
    pub fn volume(mut self, guest_path: impl Into<String>, mount: MountConfig) -> SandboxBuilder {
        let guest_path = guest_path.into();
        // Whether with a slash at its end or without.
        let is_another = |path: &String| Path::new(path) != Path::new(&guest_path);
        self.config.volumes.retain(|path, _| is_another(path));
        self.config.volumes.insert(guest_path, mount);
        self
    }

    /// Where the guest kernel's log goes as it comes.
    #[must_use]
    pub fn console(mut self, console: File) -> SandboxBuilder {
        self.console = Some(console);
        self
    }

    /// What has been set, as data.
    pub fn config(&self) -> &SandboxConfig {
        &self.config
    }

    /// Creates the sandbox and waits until its guest is up. If the future is dropped before, it is taken back, and soon
    /// nothing of it remains.
    ///
    /// # Errors
    /// [`MicrosandboxError::InvalidConfig`] with the field; [`MicrosandboxError::SandboxAlreadyExists`];
    /// [`MicrosandboxError::BootFailed`] with the step that failed; [`MicrosandboxError::NotInstalled`];
    /// [`MicrosandboxError::Image`], [`MicrosandboxError::Snapshot`] and [`MicrosandboxError::Volume`] when the image, the
    /// snapshot or a volume cannot be used.
    pub async fn create(self) -> Result<Sandbox, MicrosandboxError> {
        let home = match self.home {
            Some(home) => home,
            None => Home::from_environment()?,
        };
        start::create(home, self.config, self.console, self.registry_auth).await
    }

    /// Goes on from data.
    #[must_use]
    pub fn with_config(mut self, config: SandboxConfig) -> SandboxBuilder {
        self.config = config;
        self
    }
}

fn texts<K: Into<String>, V: Into<String>>(
    pairs: impl IntoIterator<Item = (K, V)>,
) -> impl Iterator<Item = (String, String)> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()))
}

fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up() {
        for (duration, seconds) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_secs(2), 2),
            (Duration::from_millis(2001), 3),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(whole_seconds(duration), seconds);
        }
    }

    #[test]
    fn a_disk_image_as_root_has_a_type_unless_its_superblock_is_to_tell() {
        for (given, fstype) in [("ext4", Some("ext4")), ("", None)] {
            let builder = SandboxBuilder::new("web".to_owned())
                .image("busybox")
                .image_disk("/disks/root.qcow2", given);
            let config = builder.config();
            assert_eq!(config.image, PathBuf::from("/disks/root.qcow2"));
            assert_eq!(config.image_fstype.as_deref(), fstype, "{given:?}");
        }
    }

    #[test]
    fn of_two_mounts_at_one_place_the_later_counts() {
        let builder = SandboxBuilder::new("web".to_owned())
            .volume("/a", MountConfig::bind("/x"))
            .volume("/b", MountConfig::tmpfs())
            .volume("//a/", MountConfig::tmpfs());
        let volumes = &builder.config().volumes;
        assert_eq!(volumes.len(), 2);
        assert_eq!(volumes["//a/"], MountConfig::tmpfs());
    }

    #[test]
    fn maps_add_up_and_values_replace() {
        let builder = SandboxBuilder::new("web".to_owned())
            .image("/a")
            .image("/b")
            .env("A", "1")
            .envs([("A", "2"), ("B", "3")]);
        assert_eq!(builder.config().image, PathBuf::from("/b"));
        let env: Vec<_> = builder.config().env.iter().collect();
        assert_eq!(
            env,
            [
                (&"A".to_owned(), &"2".to_owned()),
                (&"B".to_owned(), &"3".to_owned())
            ]
        );
    }
}
