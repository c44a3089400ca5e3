//! Images that are made of others by a further layer.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{ContainerConfig, History, ImageConfig, ManifestError};
use crate::digest::Digest;

/// What Docker notes of the container that an image was made in. Of the next image it is not true.
const OF_THE_MAKING: [&str; 6] = [
    "container",
    "container_config",
    "docker_version",
    "id",
    "parent",
    "parent_id",
];

/// The step that makes an image of another.
#[derive(Debug, Clone)]
pub struct Step {
    /// Digest of the layer's tar archive.
    pub diff_id: Digest,
    /// What is told of it; whether it makes a layer is not looked at.
    pub history: History,
    /// Environment, user, working directory, entry point, command, labels and stop signal of the new image. Everything else
    /// stays as it is.
    pub config: ContainerConfig,
}

impl Step {
    /// Makes the configuration of the new image of that of the old one. What this program knows nothing of is kept.
    ///
    /// # Errors
    /// When it is no configuration, or the new one would not be one: it has too many layers, or a value with a NUL.
    pub fn apply(&self, config: &[u8]) -> Result<Vec<u8>, ManifestError> {
        ImageConfig::read(config)?;
        let failed = |source| ManifestError::json("configuration", source);
        let mut document: Map<String, Value> = serde_json::from_slice(config).map_err(failed)?;
        for key in OF_THE_MAKING {
            document.remove(key);
        }
        for (key, value) in [
            ("created", &self.history.created),
            ("author", &self.history.author),
        ] {
            if let Some(value) = value {
                document.insert(key.to_owned(), json!(value));
            }
        }
        let mut config = take_object(&mut document, "config");
        self.describe(&mut config);
        let mut layers = take_object(&mut document, "rootfs");
        let mut diff_ids = take_list(&mut layers, "diff_ids");
        let below = diff_ids.len();
        diff_ids.push(json!(self.diff_id.to_string()));
        layers.insert("diff_ids".to_owned(), json!(diff_ids));
        let mut history = take_list(&mut document, "history");
        let makes_layer = |step: &&Value| step["empty_layer"] != json!(true);
        let told = history.iter().filter(makes_layer).count();
        // Steps and layers are matched by counting: those of which nothing is told must not take this step for theirs.
        history.extend((told..below).map(|_| json!({})));
        history.push(step(&self.history));
        for (key, value) in [
            ("config", json!(config)),
            ("rootfs", json!(layers)),
            ("history", json!(history)),
        ] {
            document.insert(key.to_owned(), value);
        }
        let bytes = serde_json::to_vec(&document).map_err(failed)?;
        ImageConfig::read(&bytes)?;
        Ok(bytes)
    }

    fn describe(&self, config: &mut Map<String, Value>) {
        let new = &self.config;
        set(config, "Env", &new.env, new.env.is_empty());
        set(config, "User", &new.user, new.user.is_empty());
        set(
            config,
            "WorkingDir",
            &new.working_dir,
            new.working_dir.is_empty(),
        );
        set(
            config,
            "Entrypoint",
            &new.entrypoint,
            new.entrypoint.is_empty(),
        );
        set(config, "Cmd", &new.cmd, new.cmd.is_empty());
        set(config, "Labels", &new.labels, new.labels.is_empty());
        let signal = &new.stop_signal;
        set(config, "StopSignal", signal, signal.is_none());
    }
}

fn set(config: &mut Map<String, Value>, key: &str, value: impl Serialize, is_empty: bool) {
    if is_empty {
        config.remove(key);
    } else {
        config.insert(key.to_owned(), json!(value));
    }
}

/// Takes out the object of this name; an empty one if there is none.
fn take_object(map: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match map.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Takes out the list of this name; an empty one if there is none.
fn take_list(map: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match map.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// A step as a configuration tells of it.
fn step(history: &History) -> Value {
    let fields = [
        ("created", &history.created),
        ("created_by", &history.created_by),
        ("author", &history.author),
        ("comment", &history.comment),
    ];
    let told = fields
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref().filter(|text| !text.is_empty())?)));
    json!(told.collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step {
            diff_id: Digest::of(b"layer"),
            history: History {
                created: Some("2026-11-26T00:00:00Z".into()),
                created_by: Some("make".into()),
                author: None,
                comment: Some("why".into()),
                empty_layer: false,
            },
            config: ContainerConfig {
                env: vec!["A=1".into()],
                cmd: vec!["run".into()],
                stop_signal: Some("SIGQUIT".into()),
                ..ContainerConfig::default()
            },
        }
    }

    #[test]
    fn a_step_is_added_and_what_is_unknown_stays() {
        let below = Digest::of(b"below").to_string();
        let config = json!({
            "architecture": "amd64", "os": "linux", "os.features": ["x"],
            "author": "somebody", "container": "0123", "container_config": {"Cmd": ["old"]},
            "config": {"User": "daemon", "Entrypoint": ["/entry"], "StopSignal": "SIGINT", "OnBuild": null},
            "rootfs": {"type": "layers", "diff_ids": [below]},
            "history": [{"created_by": "before"}],
        });
        let new = step().apply(config.to_string().as_bytes()).unwrap();
        let expected = json!({
            "architecture": "amd64", "os": "linux", "os.features": ["x"],
            "author": "somebody", "created": "2026-11-26T00:00:00Z",
            "config": {"StopSignal": "SIGQUIT", "OnBuild": null, "Env": ["A=1"], "Cmd": ["run"]},
            "rootfs": {"type": "layers", "diff_ids": [below, Digest::of(b"layer").to_string()]},
            "history": [
                {"created_by": "before"},
                {"created": "2026-11-26T00:00:00Z", "created_by": "make", "comment": "why"},
            ],
        });
        assert_eq!(serde_json::from_slice::<Value>(&new).unwrap(), expected);
    }

    #[test]
    fn what_go_writes_for_nothing_is_filled() {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": null, "history": null,
            "rootfs": {"type": "layers", "diff_ids": null},
        });
        let new = step().apply(config.to_string().as_bytes()).unwrap();
        let new = ImageConfig::read(&new).unwrap();
        assert_eq!(new.diff_ids, [Digest::of(b"layer")]);
        assert_eq!((new.config.cmd.len(), new.history.len()), (1, 1));
    }

    #[test]
    fn a_layer_without_a_step_does_not_get_that_of_another() {
        let below = Digest::of(b"below").to_string();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [below, below]},
            "history": [{"created_by": "first"}, {"created_by": "env", "empty_layer": true}],
        });
        let new = step().apply(config.to_string().as_bytes()).unwrap();
        let new = ImageConfig::read(&new).unwrap();
        let steps: Vec<_> = new
            .history
            .iter()
            .map(|step| step.created_by.as_deref())
            .collect();
        assert_eq!(steps, [Some("first"), Some("env"), None, Some("make")]);
    }

    #[test]
    fn what_would_be_no_configuration_is_refused() {
        assert!(step().apply(b"{}").is_err());
        let diff_ids = vec![Digest::of(b"").to_string(); super::super::MAX_LAYERS];
        let full = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let error = step().apply(full.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::TooMany { .. }), "{error:?}");
    }
}
