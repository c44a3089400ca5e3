//! Sandboxes that are made of images: what the image says of them, and where its file system is.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use image::Digest;
use image::manifest::ContainerConfig;
use image::progress::Silent;
use image::store::RootDisk;

use super::validate::check_label;
use super::{InitConfig, SandboxConfig, StopSignal};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::images::{self, PullOptions, RegistryAuth, ResolvedImage, is_archive};
use crate::launch::{DiskImage, HostPath, Patch};

/// Where images have an init as their entry point.
const INITS: [&str; 7] = [
    "/init",
    "/sbin/init",
    "/usr/sbin/init",
    "/bin/init",
    "/etc/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
];

/// The name of an image, if `image` is one and not a path: paths begin with `/`, `./`, `../` or `~`, or end as disk images do.
#[must_use]
pub fn image_name(image: &Path) -> Option<&str> {
    let text = image.to_str()?;
    if is_archive(text) {
        return Some(text);
    }
    let is_path = text.starts_with(['/', '.', '~'])
        || text.is_empty()
        || disk::Format::from_extension(image).is_some();
    (!is_path).then_some(text)
}

/// Finds the image that a sandbox that is to be created names, and pulls it if that is wanted and possible. `auth` is who asks
/// the registry, if not whoever is logged in. The image stays as long as the result lives.
///
/// # Errors
/// [`MicrosandboxError::Image`].
pub(super) async fn provide_image(
    home: &Home,
    config: &SandboxConfig,
    auth: Option<RegistryAuth>,
) -> Result<Option<ResolvedImage>, MicrosandboxError> {
    let name = image_name(&config.image).filter(|_| config.image_digest.is_none());
    let Some(name) = name else {
        return Ok(None);
    };
    let options = PullOptions {
        policy: config.pull_policy,
        auth,
        ..PullOptions::default()
    };
    let found = images::provide(home, name, options, Arc::new(Silent)).await?;
    Ok(Some(found))
}

/// Takes over what the image of a sandbox that is to be created says and `config` does not. It is the one that was
/// `provided`, or has the digest that `config` gives; it stays as long as the result lives.
///
/// # Errors
/// [`MicrosandboxError::Image`].
pub(super) fn take_image(
    home: &Home,
    config: &mut SandboxConfig,
    provided: Option<ResolvedImage>,
) -> Result<Option<ResolvedImage>, MicrosandboxError> {
    let digest = image_name(&config.image).and(config.image_digest.as_ref());
    let found = match (provided, digest) {
        (Some(provided), _) => provided,
        (None, Some(digest)) => images::resolve(home, digest)?,
        (None, None) => return Ok(None),
    };
    config.image_digest = Some(found.manifest_digest.to_string());
    apply(config, &found.config.config);
    Ok(Some(found))
}

/// Takes over what an image says of the sandboxes that are made of it: the environment, the labels, the user, the working
/// directory, the entry point and the signal that stops it, each unless `config` has its own. An entry point that is an init becomes
/// PID 1 if `config` leaves that to the image.
fn apply(config: &mut SandboxConfig, image: &ContainerConfig) {
    // A label that sandboxes cannot have is no reason not to run the image.
    for (key, value) in &image.labels {
        if check_label(key).is_ok() && !config.labels.contains_key(key) {
            config.labels.insert(key.clone(), value.clone());
        }
    }
    for (key, value) in image_environment(image) {
        if !config.env.contains_key(key) {
            config.env.insert(key.to_owned(), value.to_owned());
        }
    }
    if config.user.is_none() {
        config.user = image_user(image);
    }
    if config.workdir.is_none() {
        config.workdir = working_directory(image);
    }
    config.stop_signal = config.stop_signal.or_else(|| image_stop_signal(image));
    let entrypoint = std::mem::take(&mut config.entrypoint);
    let command = std::mem::take(&mut config.command);
    if config.init == Some(InitConfig::Auto)
        && let Some((program, arguments)) = image_init(image, &entrypoint, &command)
    {
        config.init = Some(InitConfig::cmd(program, arguments));
        config.command = command;
        return;
    }
    (config.entrypoint, config.command) =
        image_command(image, entrypoint, command, config.run_entrypoint);
}

/// The init that a sandbox of an image has as its entry point, with its arguments, which are those of the image where there is no
/// command of the user's. It is for PID 1, and comes before no command.
#[must_use]
pub fn image_init<Word: for<'a> From<&'a str> + AsRef<OsStr> + Clone>(
    image: &ContainerConfig,
    entrypoint: &[Word],
    command: &[Word],
) -> Option<(Word, Vec<Word>)> {
    let runs = command.is_empty();
    let (entrypoint, arguments) = image_command(image, entrypoint.to_vec(), Vec::new(), runs);
    let (program, first) = entrypoint.split_first()?;
    let is_init = INITS.iter().any(|init| program.as_ref() == *init);
    is_init.then(|| (program.clone(), [first, &arguments].concat()))
}

/// The entry point and the command of a sandbox that is made of an image, given those that its user wants; empty is what
/// the image says. An entry point of the user's own has no arguments of the image, and the image's command is
/// for a sandbox that `runs` by itself.
#[must_use]
pub fn image_command<Word: for<'a> From<&'a str>>(
    image: &ContainerConfig,
    entrypoint: Vec<Word>,
    command: Vec<Word>,
    runs: bool,
) -> (Vec<Word>, Vec<Word>) {
    if !entrypoint.is_empty() {
        return (entrypoint, command);
    }
    let of_image = |words: &[String]| words.iter().map(|word| Word::from(word.as_str())).collect();
    let command = match command.is_empty() && runs {
        true => of_image(&image.cmd),
        false => command,
    };
    (of_image(&image.entrypoint), command)
}

/// The variables that an image sets.
pub fn image_environment(image: &ContainerConfig) -> impl Iterator<Item = (&str, &str)> {
    let pairs = image.env.iter().filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| !key.is_empty())
}

/// The user whose processes an image's are, unless that is root.
#[must_use]
pub fn image_user(image: &ContainerConfig) -> Option<String> {
    Some(image.user.clone()).filter(|user| !user.is_empty())
}

/// The signal that asks the process of an image to end, if it names one that there is; nonsense is ignored, as container
/// engines do.
#[must_use]
pub fn image_stop_signal(image: &ContainerConfig) -> Option<StopSignal> {
    image.stop_signal.as_deref()?.parse().ok()
}

/// The working directory that an image names, as an absolute path.
#[must_use]
pub fn working_directory(image: &ContainerConfig) -> Option<String> {
    match image.working_dir.trim_start_matches('/') {
        "" => None,
        path => Some(format!("/{path}")),
    }
}

/// The disk with the file system of an image.
#[must_use]
pub fn root_disk(root: &RootDisk) -> DiskImage {
    let (path, format) = match root {
        RootDisk::Raw(path) => (path, disk::Format::Raw),
        RootDisk::Vmdk(path) => (path, disk::Format::Vmdk),
    };
    DiskImage {
        path: HostPath(path.clone()),
        format,
        cache: disk::Cache::Writeback,
        partition: None,
        fstype: Some("erofs".to_owned()),
    }
}

/// What every root of an image is given, as containers have it: names of the guest, and the directories that the image
/// says will be there.
#[must_use]
pub fn image_patches(image: &ContainerConfig, hostname: &str, workdir: Option<&str>) -> Vec<Patch> {
    let file = |path: &str, contents: String| {
        Patch::Inline(protocol::Patch::Write {
            path: bytes(path),
            contents: bytes(&contents),
            mode: None,
            replace: true,
        })
    };
    let hosts = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
    );
    let mut patches = vec![
        file("/etc/hosts", hosts),
        file("/etc/hostname", format!("{hostname}\n")),
        file("/etc/resolv.conf", "# There is no network.\n".to_owned()),
    ];
    let volumes = image.volumes.iter().map(String::as_str);
    for path in workdir.into_iter().chain(volumes) {
        if path.starts_with('/') && path.split('/').all(|name| name != "..") && path != "/" {
            patches.push(Patch::Inline(protocol::Patch::MakeDirectory {
                path: bytes(path),
                mode: None,
            }));
        }
    }
    patches
}

fn bytes(text: &str) -> protocol::Bytes {
    protocol::Bytes(text.as_bytes().to_vec())
}

/// The image that a sandbox was made of, if its root is no path.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`] if it is no digest.
pub(super) fn recorded(config: &SandboxConfig) -> Result<Option<Digest>, MicrosandboxError> {
    let digest = config
        .image_digest
        .as_deref()
        .filter(|_| image_name(&config.image).is_some());
    let parsed = digest.map(str::parse::<Digest>).transpose();
    parsed.map_err(|error| MicrosandboxError::invalid("image_digest", error))
}

#[cfg(test)]
mod tests {
    use image::archive::Input;

    use super::*;
    use crate::images::Images;
    use crate::images::tests::docker_archive;

    #[test]
    fn names_and_paths_are_told_apart() {
        for path in [
            "",
            "/",
            "/a",
            "./a",
            ".",
            "..",
            "../a",
            "~/a",
            "disk.qcow2",
            "dir/disk.raw",
            "a.img",
        ] {
            assert_eq!(image_name(Path::new(path)), None, "{path:?}");
        }
        for name in [
            "alpine",
            "python:3.12",
            "localhost:5000/x",
            "ghcr.io/x/y",
            "oci:/a/b",
            "docker-archive:./x.tar",
        ] {
            assert_eq!(image_name(Path::new(name)), Some(name));
        }
    }

    #[tokio::test]
    async fn an_image_is_looked_up_once_and_held() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        let archive = root.path().join("both.tar");
        docker_archive(&archive, &["one", "two"]);
        let images = Images::open(&home).unwrap();
        let loaded = images.load(Input::Path(&archive), None, &[], &Silent);
        loaded.unwrap();
        let mut config = SandboxConfig::new("box", "one");
        let provided = provide_image(&home, &config, None).await.unwrap();
        // Its name goes to another image.
        images.tag("two", &"one".parse().unwrap()).unwrap();
        let digest = provided.as_ref().unwrap().manifest_digest.to_string();
        let taken = take_image(&home, &mut config, provided).unwrap().unwrap();
        assert_eq!(config.image_digest, Some(digest));
        assert_eq!(config.env["NAME"], "one");
        let RootDisk::Raw(disk) = &taken.root else {
            panic!("one layer is one file: {taken:?}")
        };
        assert!(disk.exists());
    }

    #[test]
    fn what_the_user_says_counts_more_than_what_the_image_says() {
        let image = ContainerConfig {
            user: "daemon".into(),
            env: vec!["A=image".into(), "B=image=x".into(), "broken".into()],
            labels: ["a", "b", "", "sandbox.a", "microsandbox.a", "service.a"]
                .map(|key| (key.to_owned(), "image".to_owned()))
                .into(),
            entrypoint: vec!["/entry".into()],
            working_dir: "srv".into(),
            stop_signal: Some("SIGQUIT".into()),
            ..ContainerConfig::default()
        };
        let mut config = SandboxConfig::new("box", "alpine");
        config.env.insert("A".into(), "user".into());
        config.labels.insert("a".into(), "user".into());
        config.user = Some("root".into());
        apply(&mut config, &image);
        let labels = [("a", "user"), ("b", "image")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(config.labels, labels.into());
        assert_eq!(config.env["A"], "user");
        assert_eq!(config.env["B"], "image=x");
        assert_eq!(config.env.len(), 2);
        assert_eq!(config.user.as_deref(), Some("root"));
        assert_eq!(config.workdir.as_deref(), Some("/srv"));
        assert_eq!(config.entrypoint, ["/entry"]);
        assert!(config.command.is_empty());
        let quit = config.stop_signal;
        assert_eq!(quit.map(StopSignal::number), Some(3));
        let other = ContainerConfig {
            stop_signal: Some("SIGINT".into()),
            ..ContainerConfig::default()
        };
        apply(&mut config, &other);
        assert_eq!(config.stop_signal, quit);
        let nonsense = ContainerConfig {
            stop_signal: Some("SIGNONE".into()),
            ..ContainerConfig::default()
        };
        assert_eq!(image_stop_signal(&nonsense), None);
    }

    #[test]
    fn an_init_as_entry_point_becomes_the_first_process() {
        let of = |entrypoint: &[&str], command: &[&str], init: Option<InitConfig>| {
            let words = |words: &[&str]| words.iter().copied().map(str::to_owned).collect();
            let image = ContainerConfig {
                entrypoint: words(entrypoint),
                cmd: vec!["--image".into()],
                ..ContainerConfig::default()
            };
            let mut config = SandboxConfig::new("box", "alpine");
            config.init = init;
            config.run_entrypoint = true;
            config.command = words(command);
            apply(&mut config, &image);
            let words = [config.entrypoint, config.command].concat();
            (config.init, words.join(" "))
        };
        let auto = || Some(InitConfig::auto());
        let init = |arguments: &[&str]| {
            let arguments = arguments.iter().copied();
            Some(InitConfig::cmd("/usr/sbin/init", arguments))
        };
        let entry = ["/usr/sbin/init", "-v"];
        let alone = of(&entry, &[], auto());
        assert_eq!(alone, (init(&["-v", "--image"]), String::new()));
        let beside = of(&entry, &["work"], auto());
        assert_eq!(beside, (init(&["-v"]), "work".to_owned()));
        let other = of(&["/entry"], &["work"], auto());
        assert_eq!(other, (auto(), "/entry work".to_owned()));
        // Who names one, or wants none, has said so.
        for wanted in [init(&[]), None] {
            let (found, words) = of(&entry, &["work"], wanted.clone());
            assert_eq!((found, &*words), (wanted, "/usr/sbin/init -v work"));
        }
    }

    #[test]
    fn an_entry_point_of_the_users_own_has_no_arguments_of_the_image() {
        let image = ContainerConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["argument".into()],
            ..ContainerConfig::default()
        };
        let applied = |entrypoint: &[&str], command: &[&str]| {
            let mut config = SandboxConfig::new("box", "alpine");
            config.run_entrypoint = true;
            config.entrypoint = entrypoint.iter().copied().map(str::to_owned).collect();
            config.command = command.iter().copied().map(str::to_owned).collect();
            apply(&mut config, &image);
            [config.entrypoint, config.command].concat().join(" ")
        };
        assert_eq!(applied(&[], &[]), "/entry argument");
        assert_eq!(applied(&[], &["other"]), "/entry other");
        assert_eq!(applied(&["sh"], &[]), "sh");
        assert_eq!(applied(&["sh"], &["-c"]), "sh -c");
    }
}
