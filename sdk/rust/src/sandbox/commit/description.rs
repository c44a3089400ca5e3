//! What an image says of itself that was a sandbox.

use std::time::SystemTime;

use image::manifest::{ContainerConfig, History};

use super::CommitOptions;
use crate::sandbox::{SandboxConfig, image_stop_signal};
use crate::utc::rfc3339_nanos;

/// What the image says that a sandbox becomes which was made of `image`: how it was run, as Docker takes it from containers.
pub(super) fn describe(
    config: &SandboxConfig,
    image: &ContainerConfig,
    options: &CommitOptions,
) -> (ContainerConfig, History) {
    let created_by = match config.command.is_empty() {
        true => format!("msb commit {}", config.name),
        false => [&config.entrypoint[..], &config.command[..]]
            .concat()
            .join(" "),
    };
    let history = History {
        created: Some(rfc3339_nanos(SystemTime::now())),
        created_by: Some(created_by),
        author: options.author.clone(),
        comment: options.message.clone(),
        empty_layer: false,
    };
    (container(config, image), history)
}

fn container(config: &SandboxConfig, image: &ContainerConfig) -> ContainerConfig {
    let cmd = match &config.command[..] {
        // The arguments are those of the image's own entry point.
        [] if config.entrypoint != image.entrypoint => Vec::new(),
        [] => image.cmd.clone(),
        command => command.to_vec(),
    };
    let mut labels = image.labels.clone();
    labels.extend(config.labels.clone());
    ContainerConfig {
        env: environment(config, image),
        user: config.user.clone().unwrap_or_default(),
        working_dir: config.workdir.clone().unwrap_or_default(),
        entrypoint: config.entrypoint.clone(),
        cmd,
        labels,
        stop_signal: stop_signal(config, image),
        ..image.clone()
    }
}

/// The signal of the sandbox, in the words of the image if it means the same.
fn stop_signal(config: &SandboxConfig, image: &ContainerConfig) -> Option<String> {
    let own = config
        .stop_signal
        .filter(|signal| Some(*signal) != image_stop_signal(image));
    own.map(String::from).or_else(|| image.stop_signal.clone())
}

/// The variables of the sandbox, those of the image first and in its order.
fn environment(config: &SandboxConfig, image: &ContainerConfig) -> Vec<String> {
    let key_of = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let keys: Vec<_> = image.env.iter().map(|pair| key_of(pair)).collect();
    let known = keys.iter().filter_map(|key| config.env.get_key_value(key));
    // That of a terminal is the one of whoever sat at it.
    let is_known = |key: &String| keys.contains(key) || (config.tty && key == "TERM");
    let new = config.env.iter().filter(|(key, _)| !is_known(key));
    known
        .chain(new)
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ContainerConfig {
        ContainerConfig {
            env: vec!["PATH=/bin".into(), "A=1".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["argument".into()],
            labels: [("kept".into(), "1".into()), ("changed".into(), "1".into())].into(),
            stop_signal: Some("RTMIN+3".into()),
            ..ContainerConfig::default()
        }
    }

    /// A sandbox of that image, as it is recorded when nothing else was said.
    fn sandbox() -> SandboxConfig {
        let mut config = SandboxConfig::new("box", "image");
        config.env = [("A", "1"), ("PATH", "/bin")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        config.entrypoint = vec!["/entry".into()];
        config.stop_signal = Some("SIGRTMIN+3".parse().unwrap());
        config
    }

    #[test]
    fn a_sandbox_that_was_run_as_its_image_says_says_the_same() {
        assert_eq!(container(&sandbox(), &image()), image());
    }

    #[test]
    fn what_the_user_said_is_what_the_image_says() {
        let mut config = sandbox();
        config.env.insert("A".into(), "2".into());
        config.env.insert("B".into(), "3".into());
        config.env.insert("TERM".into(), "xterm".into());
        config.tty = true;
        config.user = Some("daemon".into());
        config.workdir = Some("/srv".into());
        config.command = vec!["serve".into(), "80".into()];
        config.labels = [("changed".to_owned(), "2".to_owned())].into();
        config.stop_signal = Some("quit".parse().unwrap());
        let (said, history) = describe(&config, &image(), &CommitOptions::default());
        assert_eq!(said.env, ["PATH=/bin", "A=2", "B=3"]);
        assert_eq!(
            (said.user.as_str(), said.working_dir.as_str()),
            ("daemon", "/srv")
        );
        assert_eq!(said.cmd, ["serve", "80"]);
        assert_eq!(
            (
                said.labels["kept"].as_str(),
                said.labels["changed"].as_str()
            ),
            ("1", "2")
        );
        assert_eq!(said.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(history.created_by.as_deref(), Some("/entry serve 80"));
    }

    #[test]
    fn another_entry_point_has_no_arguments_of_the_images() {
        let mut config = sandbox();
        config.entrypoint = vec!["/other".into()];
        assert!(container(&config, &image()).cmd.is_empty());
    }
}
