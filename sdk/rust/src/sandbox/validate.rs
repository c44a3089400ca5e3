//! Whether a configuration makes a sandbox. What can be known without looking at files is checked here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

use super::mount::given;
use super::{
    InitConfig, MountConfig, MountKind, NamedMode, NamedStorage, RootAccessConfig, SandboxConfig,
    image_name, patch, snapshot,
};
use crate::error::MicrosandboxError;
use crate::names::{Name, check_hostname};

/// Least and most memory, in MiB.
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 64..=65_536;

/// Fewest and most processors.
const CPUS: std::ops::RangeInclusive<u8> = 1..=32;

/// Label keys with these prefixes mean something to programs that read labels.
const RESERVED_PREFIXES: [&str; 3] = ["sandbox.", "microsandbox.", "service."];

/// Smallest layer on disk, in MiB: in less, mke2fs(8) makes no journal.
const MIN_UPPER_MIB: u32 = 8;

/// Most mounts of a guest.
const MAX_MOUNTS: usize = 64;

/// Longest path that Linux takes, without the NUL (`PATH_MAX`).
const MAX_PATH: usize = 4095;

/// Longest name of a file, in bytes (`NAME_MAX`).
const MAX_FILE_NAME: usize = 255;

/// The name of the sandbox, if everything else is in order, too.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`] with the first mistake.
pub(super) fn validate(config: &SandboxConfig) -> Result<Name, MicrosandboxError> {
    let name = parse_name(&config.name)?;
    if !MEMORY_MIB.contains(&config.memory_mib) {
        return Err(invalid("memory_mib", "it is 64 to 65536 MiB"));
    }
    if !CPUS.contains(&config.cpus) {
        return Err(invalid("cpus", "there are 1 to 32"));
    }
    check_upper(config)?;
    if let Some(hostname) = &config.hostname {
        check_hostname(hostname).map_err(|error| invalid("hostname", error))?;
    }
    if let Some(workdir) = &config.workdir {
        check_guest_path("workdir", workdir)?;
    }
    for (field, value) in [("shell", &config.shell), ("user", &config.user)] {
        if value.as_deref() == Some("") {
            return Err(invalid(field, "it is empty"));
        }
    }
    snapshot::check(config)?;
    check_labels(&config.labels)?;
    check_env("env", &config.env)?;
    check_scripts(&config.scripts)?;
    patch::check(&config.patches)?;
    check_init(config.init.as_ref())?;
    check_process(config)?;
    check_mounts(&config.volumes)?;
    Ok(name)
}

/// A name, as text of a user.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`].
pub(super) fn parse_name(name: &str) -> Result<Name, MicrosandboxError> {
    Name::from_str(name).map_err(|error| invalid("name", error))
}

fn check_upper(config: &SandboxConfig) -> Result<(), MicrosandboxError> {
    let field = match config.oci_upper_size_mib {
        Some(_) => "oci_upper_size_mib",
        None => "root_access",
    };
    if config.oci_upper_size_mib.is_some() && config.snapshot.is_none() {
        if image_name(&config.image).is_none() {
            let reason = format!(
                "it is for an image, and {} is a path: `root_access` says what becomes of changes to it",
                config.image.display()
            );
            return Err(invalid(field, reason));
        }
        if config.root_access.is_some() {
            return Err(invalid(
                field,
                "`root_access` has it already: only one of both is given",
            ));
        }
    }
    match config.root_access() {
        Some(RootAccessConfig::Upper { mib }) if mib < MIN_UPPER_MIB => Err(invalid(
            field,
            "a layer on disk has 8 MiB at least, for the journal of its file system",
        )),
        _ => Ok(()),
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), MicrosandboxError> {
    let mut keys = labels.keys();
    keys.try_for_each(|key| check_label(key).map_err(|reason| invalid("labels", reason)))
}

/// Whether a label may have this key.
///
/// # Errors
/// Why it may not.
pub(super) fn check_label(key: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err("the key of a label is empty".to_owned());
    }
    let mut prefixes = RESERVED_PREFIXES.iter();
    match prefixes.find(|prefix| key.starts_with(*prefix)) {
        Some(prefix) => Err(format!(
            "the key {key:?} begins with {prefix:?}, which is reserved"
        )),
        None => Ok(()),
    }
}

fn check_env(field: &str, env: &BTreeMap<String, String>) -> Result<(), MicrosandboxError> {
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(field, format!("{key:?} is no name of a variable")));
        }
        if value.contains('\0') {
            return Err(invalid(field, format!("the value of {key} contains NUL")));
        }
    }
    Ok(())
}

fn check_scripts(scripts: &BTreeMap<String, String>) -> Result<(), MicrosandboxError> {
    for name in scripts.keys() {
        let is_file_name = !name.is_empty()
            && name.len() <= MAX_FILE_NAME
            && name != "."
            && name != ".."
            && !name.contains(['/', '\0']);
        if !is_file_name {
            return Err(invalid("scripts", format!("{name:?} is no name of a file")));
        }
    }
    Ok(())
}

fn check_init(init: Option<&InitConfig>) -> Result<(), MicrosandboxError> {
    match init {
        None | Some(InitConfig::Auto) => Ok(()),
        Some(InitConfig::Cmd { cmd, args, env }) => {
            check_guest_path("init", cmd)?;
            check_arguments("init", args)?;
            check_env("init", env)
        }
    }
}

fn check_process(config: &SandboxConfig) -> Result<(), MicrosandboxError> {
    check_arguments("entrypoint", &config.entrypoint)?;
    check_arguments("command", &config.command)?;
    for limit in &config.rlimits {
        if limit.soft > limit.hard {
            return Err(invalid(
                "rlimits",
                format!(
                    "the soft limit of {:?} is above the hard limit",
                    limit.resource
                ),
            ));
        }
    }
    Ok(())
}

fn check_arguments(field: &str, arguments: &[String]) -> Result<(), MicrosandboxError> {
    if arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(invalid(field, "an argument contains NUL"));
    }
    Ok(())
}

fn check_mounts(volumes: &BTreeMap<String, MountConfig>) -> Result<(), MicrosandboxError> {
    if volumes.len() > MAX_MOUNTS {
        return Err(invalid(
            "volumes",
            format!("there are at most {MAX_MOUNTS}"),
        ));
    }
    let mut targets = BTreeSet::new();
    for (path, mount) in volumes {
        check_guest_path("volumes", path)?;
        // Paths are compared by their components, and slashes too many are none.
        if !targets.insert(Path::new(path)) {
            return Err(invalid("volumes", format!("{path:?} is there twice")));
        }
        if path.bytes().all(|byte| byte == b'/') {
            return Err(invalid("volumes", "nothing can be mounted at /"));
        }
        if let MountKind::Tmpfs {
            mode: Some(mode), ..
        } = mount.kind
            && mode > 0o7777
        {
            return Err(invalid(
                "volumes",
                format!("{mode:o} are no permission bits"),
            ));
        }
        check_named(&mount.kind)?;
    }
    Ok(())
}

/// What is said of a volume that is not made would be ignored.
fn check_named(kind: &MountKind) -> Result<(), MicrosandboxError> {
    match kind {
        MountKind::Named {
            name,
            mode: NamedMode::Existing,
            storage,
            size_mib,
            quota_mib,
            ..
        } if *storage != NamedStorage::Dir
            || given(*size_mib).is_some()
            || given(*quota_mib).is_some() =>
        {
            let reason = format!(
                "the volume {name:?} must exist, and is taken as it is: a kind, a size and a quota are those of a new volume"
            );
            Err(invalid("volumes", reason))
        }
        _ => Ok(()),
    }
}

/// Where `..` leads depends on symbolic links in the guest.
fn check_guest_path(field: &str, path: &str) -> Result<(), MicrosandboxError> {
    let reason = if !path.starts_with('/') {
        "does not begin with /"
    } else if path.split('/').any(|component| component == "..") {
        "contains .."
    } else if path.contains('\0') {
        "contains NUL"
    } else if path.len() > MAX_PATH {
        "is too long"
    } else {
        return Ok(());
    };
    Err(invalid(
        field,
        format!("the path in the guest, {path:?}, {reason}"),
    ))
}

fn invalid(field: &str, reason: impl ToString) -> MicrosandboxError {
    MicrosandboxError::invalid(field, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Rlimit, RlimitResource};

    fn field(change: impl FnOnce(&mut SandboxConfig)) -> Option<String> {
        let mut config = SandboxConfig::new("web", "/");
        change(&mut config);
        match validate(&config) {
            Ok(_) => None,
            Err(MicrosandboxError::InvalidConfig { field, .. }) => Some(field),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn limits_belong_to_what_is_allowed() {
        assert_eq!(field(|config| config.memory_mib = 64), None);
        assert_eq!(field(|config| config.memory_mib = 65_536), None);
        assert_eq!(field(|config| config.cpus = 32), None);
        let long = "\u{fc}".repeat(64);
        assert_eq!(field(|config| config.name = long), None);
    }

    #[test]
    fn mistakes_name_their_field() {
        type Change = fn(&mut SandboxConfig);
        let mistakes: [(&str, Change); 20] = [
            ("name", |config| config.name = String::new()),
            ("name", |config| config.name = "\u{fc}".repeat(65)),
            ("memory_mib", |config| config.memory_mib = 63),
            ("memory_mib", |config| config.memory_mib = 65_537),
            ("cpus", |config| config.cpus = 0),
            ("cpus", |config| config.cpus = 33),
            ("workdir", |config| config.workdir = Some("src".to_owned())),
            ("workdir", |config| {
                config.workdir = Some("/a/../b".to_owned())
            }),
            ("shell", |config| config.shell = Some(String::new())),
            ("user", |config| config.user = Some(String::new())),
            ("hostname", |config| config.hostname = Some("-".to_owned())),
            ("root_access", |config| {
                config.root_access = Some(RootAccessConfig::Upper { mib: 7 });
            }),
            ("labels", |config| {
                config
                    .labels
                    .insert("service.name".to_owned(), String::new());
            }),
            ("env", |config| {
                config.env.insert("A=B".to_owned(), String::new());
            }),
            ("scripts", |config| {
                config.scripts.insert("../x".to_owned(), String::new());
            }),
            ("init", |config| {
                config.init = Some(InitConfig::cmd("init", [""; 0]));
            }),
            ("command", |config| config.command = vec!["\0".to_owned()]),
            ("rlimits", |config| {
                config.rlimits = vec![Rlimit {
                    resource: RlimitResource::Nofile,
                    soft: 2,
                    hard: 1,
                }];
            }),
            ("volumes", |config| {
                config.volumes.insert("//".to_owned(), MountConfig::tmpfs());
            }),
            ("volumes", |config| {
                for path in ["/a", "/a/"] {
                    config.volumes.insert(path.to_owned(), MountConfig::tmpfs());
                }
            }),
        ];
        for (expected, change) in mistakes {
            assert_eq!(field(change).as_deref(), Some(expected));
        }
    }

    #[test]
    fn an_existing_volume_is_taken_as_it_is() {
        let mount = |mount: MountConfig| {
            field(|config| {
                config.volumes.insert("/x".to_owned(), mount);
            })
        };
        let named = || MountConfig::named("data");
        for wanted in [
            named().on_disk(16),
            named().on_disk(0),
            named().quota_mib(1),
        ] {
            assert_eq!(mount(wanted.clone()).as_deref(), Some("volumes"));
            assert_eq!(mount(wanted.clone().create()), None);
            assert_eq!(mount(wanted.ensure_exists()), None);
        }
        assert_eq!(mount(named().quota_mib(0)), None);
    }

    #[test]
    fn a_snapshot_stands_instead_of_an_image() {
        type Change = fn(&mut SandboxConfig);
        let of_snapshot = |change: Change| {
            field(|config| {
                config.image = "".into();
                config.snapshot = Some("base".to_owned());
                change(config);
            })
        };
        assert_eq!(of_snapshot(|_| {}), None);
        let besides: [(&str, Change); 5] = [
            ("image", |config| config.image = "/".into()),
            ("image_digest", |config| {
                config.image_digest = Some(String::new());
            }),
            ("image_partition", |config| config.image_partition = Some(1)),
            ("root_access", |config| {
                config.root_access = Some(RootAccessConfig::ReadOnly);
            }),
            ("oci_upper_size_mib", |config| {
                config.oci_upper_size_mib = Some(64);
            }),
        ];
        for (expected, change) in besides {
            assert_eq!(of_snapshot(change).as_deref(), Some(expected));
        }
    }

    #[test]
    fn only_an_image_has_an_upper_of_its_kind() {
        let upper = |image: &str, mib, access| {
            let error = field(|config| {
                config.image = image.into();
                config.oci_upper_size_mib = Some(mib);
                config.root_access = access;
            });
            error.is_none() || {
                assert_eq!(error.as_deref(), Some("oci_upper_size_mib"), "{image}");
                false
            }
        };
        for image in [
            "debian",
            "localhost:5000/x:1",
            "oci:./layout",
            "docker-archive:/x.tar",
        ] {
            assert!(upper(image, 8, None), "{image}");
            assert!(!upper(image, 7, None), "{image}");
            assert!(
                !upper(image, 8, Some(RootAccessConfig::Writable)),
                "{image}"
            );
        }
        for path in ["/", "./root", "~/root", "disk.qcow2", "/dev/sda"] {
            assert!(!upper(path, 8, None), "{path}");
        }
    }

    #[test]
    fn what_keeps_the_changes_is_the_same_by_either_name() {
        let mut config = SandboxConfig::new("web", "debian");
        assert_eq!(config.root_access(), None);
        config.oci_upper_size_mib = Some(64);
        assert_eq!(
            config.root_access(),
            Some(RootAccessConfig::Upper { mib: 64 })
        );
    }

    #[test]
    fn each_reserved_prefix_is_refused_and_nothing_else() {
        for key in ["sandbox.a", "microsandbox.a", "service.a", ""] {
            let key = key.to_owned();
            let set = |config: &mut SandboxConfig| {
                config.labels.insert(key, String::new());
            };
            assert_eq!(field(set).as_deref(), Some("labels"));
        }
        for key in ["sandbox", "user.id", "my.sandbox.a", "Service.a"] {
            let key = key.to_owned();
            let set = |config: &mut SandboxConfig| {
                config.labels.insert(key, String::new());
            };
            assert_eq!(field(set), None);
        }
    }
}
