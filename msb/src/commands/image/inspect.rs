//! `msb image inspect`

use std::time::Duration;

use clap::Args;
use microsandbox::images::image::manifest::{ContainerConfig, Healthcheck};
use microsandbox::images::{ImageDetails, Images};
use serde::Serialize;

use super::advice::advise;
use super::view::{View, pairs};
use crate::commands::Format;
use crate::options::display_rounded_size;
use crate::output;

/// Shows all that is known of images
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb image inspect debian
  msb image inspect debian --format json | jq '.[0].config.Env'")]
pub(super) struct Arguments {
    /// Names or digests of the images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// As `--format json` prints it. The configuration has the names that it has in the image.
#[derive(Debug, Serialize)]
struct Details {
    #[serde(flatten)]
    image: View,
    os: String,
    architecture: String,
    made_at: Option<String>,
    author: Option<String>,
    download_bytes: u64,
    layers: Vec<Layer>,
    config: ContainerConfig,
    sandboxes: Vec<String>,
    snapshots: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Layer {
    digest: String,
    diff_id: String,
    media_type: String,
    size_bytes: u64,
}

/// Shows it.
pub(super) fn execute(images: &Images, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut all = Vec::new();
    for image in &arguments.images {
        all.push(details(images.inspect(image).map_err(advise)?));
    }
    let text = match arguments.format {
        Format::Text => {
            let descriptions: Vec<_> = all.iter().map(describe).collect();
            descriptions.join("\n")
        }
        Format::Json => output::json(&all)?,
    };
    output::print(&text)?;
    Ok(0)
}

fn details(found: ImageDetails) -> Details {
    let layers = found.manifest.layers.iter().zip(&found.config.diff_ids);
    Details {
        image: View::of(&found.image),
        os: found.config.platform.os.clone(),
        architecture: found.config.platform.architecture.clone(),
        made_at: found.config.created.clone(),
        author: found.config.author.clone(),
        download_bytes: found.manifest.total_bytes(),
        layers: layers
            .map(|(layer, diff_id)| Layer {
                digest: layer.descriptor.digest.to_string(),
                diff_id: diff_id.to_string(),
                media_type: layer.descriptor.media_type.clone(),
                size_bytes: layer.descriptor.size,
            })
            .collect(),
        config: found.config.config,
        sandboxes: found.sandboxes,
        snapshots: found.snapshots,
    }
}

/// All of it, for people: a line for each thing that it says.
fn describe(details: &Details) -> String {
    let config = &details.config;
    let set = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
    let one = |text: &str| vec![text.to_owned()];
    let lines = [
        ("name", details.image.references.clone()),
        ("digest", one(&details.image.digest)),
        (
            "platform",
            one(&format!("{}/{}", details.os, details.architecture)),
        ),
        ("size", one(&display_rounded_size(details.image.size_bytes))),
        (
            "download",
            one(&display_rounded_size(details.download_bytes)),
        ),
        ("here since", one(&details.image.created_at)),
        ("made", details.made_at.clone().into_iter().collect()),
        ("author", details.author.clone().into_iter().collect()),
        ("entrypoint", quoted(&config.entrypoint)),
        ("cmd", quoted(&config.cmd)),
        ("user", one(&config.user)),
        ("workdir", one(&config.working_dir)),
        ("env", config.env.clone()),
        ("volumes", set(&config.volumes)),
        ("ports", set(&config.exposed_ports)),
        (
            "stop signal",
            config.stop_signal.clone().into_iter().collect(),
        ),
        (
            "healthcheck",
            config.healthcheck.iter().map(healthcheck).collect(),
        ),
        ("labels", pairs(&config.labels)),
        (
            "layers",
            details
                .layers
                .iter()
                .map(|layer| layer.digest.clone())
                .collect(),
        ),
        ("sandboxes", details.sandboxes.clone()),
        ("snapshots", details.snapshots.clone()),
    ];
    let mut text = String::new();
    for (title, values) in lines {
        for value in values.iter().filter(|value| !value.is_empty()) {
            text.push_str(&format!("{title}: {}\n", output::clean(value)));
        }
    }
    text
}

/// Arguments in one line, as JSON has them.
fn quoted(arguments: &[String]) -> Vec<String> {
    if arguments.is_empty() {
        return Vec::new();
    }
    serde_json::to_string(arguments).into_iter().collect()
}

/// The check and what is said of when it is made.
fn healthcheck(check: &Healthcheck) -> String {
    let times = [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start period", check.start_period),
        ("start interval", check.start_interval),
    ];
    let times = times.into_iter().filter(|(_, time)| *time > 0);
    let times =
        times.map(|(what, time)| format!("{what} {:?}", Duration::from_nanos(time.unsigned_abs())));
    let retries = (check.retries > 0).then(|| format!("retries {}", check.retries));
    let parts = quoted(&check.test).into_iter().chain(times).chain(retries);
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use microsandbox::home::Home;
    use microsandbox::images::image::Descriptor;
    use microsandbox::images::image::archive::Input;
    use microsandbox::images::image::manifest::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
    use microsandbox::images::image::progress::Silent;
    use serde_json::json;

    use super::*;

    /// A layout with an image that has one empty layer and this configuration.
    fn layout(folder: &Path, config: &serde_json::Value) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let blob = |content: &[u8], media_type: &str| {
            let described = Descriptor::of(content, media_type);
            fs::write(blobs.join(described.digest.hex()), content).unwrap();
            described
        };
        let layer = blob(&[0; 1024], OCI_LAYER);
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config, "author": "somebody",
            "created": "2024-01-02T03:04:05Z",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest.to_string()]},
        });
        let config = blob(config.to_string().as_bytes(), OCI_CONFIG);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let manifest = blob(manifest.to_string().as_bytes(), OCI_MANIFEST);
        let mut entry = serde_json::to_value(manifest).unwrap();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "x:1"});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
    }

    #[test]
    fn there_is_a_line_for_each_thing_that_an_image_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layout");
        layout(
            &path,
            &json!({
                "User": "daemon:adm", "WorkingDir": "/srv", "Env": ["A=b", "C=d"],
                "Entrypoint": ["/entry"], "Cmd": ["a b", "c"], "StopSignal": "SIGQUIT",
                "Volumes": {"/data": {}, "/more": {}}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Healthcheck": {"Test": ["CMD", "true"], "Retries": 2}, "Labels": {"k": "v\u{1b}"},
            }),
        );
        let images = Images::open(&Home::at(folder.path().join("home"))).unwrap();
        images.load(Input::Path(&path), None, &[], &Silent).unwrap();
        let text = describe(&details(images.inspect("x:1").unwrap()));
        let said = text.lines().filter(|line| {
            let when_or_what = [
                "digest: ",
                "here since: ",
                "size: ",
                "download: ",
                "layers: ",
            ];
            !when_or_what.iter().any(|title| line.starts_with(title))
        });
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                "name: x:1",
                "platform: linux/amd64",
                "made: 2024-01-02T03:04:05Z",
                "author: somebody",
                "entrypoint: [\"/entry\"]",
                "cmd: [\"a b\",\"c\"]",
                "user: daemon:adm",
                "workdir: /srv",
                "env: A=b",
                "env: C=d",
                "volumes: /data",
                "volumes: /more",
                "ports: 53/udp",
                "ports: 80/tcp",
                "stop signal: SIGQUIT",
                "healthcheck: [\"CMD\",\"true\"], retries 2",
                "labels: k=v ",
            ],
            "{text}"
        );
        // What is not said has no line.
        layout(&path, &json!({}));
        images.load(Input::Path(&path), None, &[], &Silent).unwrap();
        let text = describe(&details(images.inspect("x:1").unwrap()));
        for title in [
            "user",
            "workdir",
            "volumes",
            "ports",
            "stop signal",
            "healthcheck",
        ] {
            assert!(!text.contains(&format!("{title}:")), "{text}");
        }
    }

    #[test]
    fn a_healthcheck_is_one_line_with_all_that_is_said() {
        let check = Healthcheck {
            test: vec!["CMD-SHELL".to_owned(), "curl -f localhost".to_owned()],
            interval: 30_000_000_000,
            timeout: 1_500_000_000,
            start_period: 0,
            start_interval: 500_000_000,
            retries: 3,
        };
        let expected = r#"["CMD-SHELL","curl -f localhost"], interval 30s, timeout 1.5s, start interval 500ms, retries 3"#;
        assert_eq!(healthcheck(&check), expected);
        assert_eq!(healthcheck(&Healthcheck::default()), "");
    }
}
