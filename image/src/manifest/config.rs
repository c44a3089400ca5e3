//! The configuration of an image (image specification, `config.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestError, Platform, json};
use crate::digest::Digest;

/// Most bytes of a configuration.
pub const MAX_CONFIG_BYTES: usize = 8 << 20;

/// What an image is made of and how it is run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageConfig {
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// When it was made, as RFC 3339 has it; not checked.
    #[serde(default)]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub author: Option<String>,
    /// How it is run.
    #[serde(default, deserialize_with = "json::null_as_default")]
    pub config: ContainerConfig,
    /// Digests of the layers' tar archives, the lowest first.
    #[serde(rename = "rootfs", deserialize_with = "diff_ids")]
    pub diff_ids: Vec<Digest>,
    /// How it was made, the oldest step first.
    #[serde(default, deserialize_with = "json::null_as_default")]
    pub history: Vec<History>,
}

/// How an image is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty for root.
    #[serde(deserialize_with = "json::null_as_default")]
    pub user: String,
    /// Ports that the program listens at, as `80/tcp`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: BTreeSet<String>,
    /// Environment, as `NAME=VALUE`.
    #[serde(deserialize_with = "json::null_as_default")]
    pub env: Vec<String>,
    /// What is put before the command.
    #[serde(deserialize_with = "json::null_as_default")]
    pub entrypoint: Vec<String>,
    /// The command, or arguments of the entry point.
    #[serde(deserialize_with = "json::null_as_default")]
    pub cmd: Vec<String>,
    /// Paths whose files are not part of the image.
    #[serde(deserialize_with = "keys")]
    pub volumes: BTreeSet<String>,
    /// Working directory; empty for the root.
    #[serde(deserialize_with = "json::null_as_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(deserialize_with = "json::null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that ends the program, as `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// How to tell whether the program is well (an extension of Docker).
    pub healthcheck: Option<Healthcheck>,
    /// Shell of instructions in shell form (an extension of Docker).
    #[serde(deserialize_with = "json::null_as_default")]
    pub shell: Vec<String>,
}

/// A check that a program is well. Recorded, not run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`, `CMD` with arguments, or `CMD-SHELL` with a script.
    #[serde(deserialize_with = "json::null_as_default")]
    pub test: Vec<String>,
    /// Time between two checks in nanoseconds; 0 for the default.
    pub interval: i64,
    /// Time that a check may take in nanoseconds; 0 for the default.
    pub timeout: i64,
    /// Time after the start in which failures do not count, in nanoseconds.
    pub start_period: i64,
    /// Time between two checks then, in nanoseconds; 0 for the default.
    pub start_interval: i64,
    /// Failures in a row before the program is considered unwell; 0 for the default.
    pub retries: i64,
}

/// A step in which an image was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct History {
    /// When, as RFC 3339 has it; not checked.
    pub created: Option<String>,
    /// By what command.
    pub created_by: Option<String>,
    /// By whom.
    pub author: Option<String>,
    /// A remark.
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(deserialize_with = "json::null_as_default")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads the configuration of the image with this manifest.
    ///
    /// # Errors
    /// When it is none, is not for linux/amd64, does not have one `diff_id` for each layer, or has values that no
    /// program could be started with.
    pub fn parse(bytes: &[u8], manifest: &Manifest) -> Result<ImageConfig, ManifestError> {
        let config = ImageConfig::read(bytes)?;
        if config.diff_ids.len() != manifest.layers.len() {
            return Err(ManifestError::LayerCount {
                layers: manifest.layers.len(),
                diff_ids: config.diff_ids.len(),
            });
        }
        Ok(config)
    }

    /// As [`parse`](Self::parse), of an image whose manifest is not known.
    ///
    /// # Errors
    /// As there, but for the layers.
    pub(crate) fn read(bytes: &[u8]) -> Result<ImageConfig, ManifestError> {
        json::check_size("configuration", bytes, MAX_CONFIG_BYTES)?;
        let config: ImageConfig = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::json("configuration", source))?;
        if !config.platform.is_ours() {
            return Err(ManifestError::NoPlatform {
                available: vec![config.platform.to_string()],
            });
        }
        json::check_count("layers", config.diff_ids.len(), super::MAX_LAYERS)?;
        config.config.check()?;
        Ok(config)
    }
}

impl ContainerConfig {
    /// A NUL would end an argument of execve(2) early.
    fn check(&self) -> Result<(), ManifestError> {
        let volumes: Vec<_> = self.volumes.iter().cloned().collect();
        for (field, values) in [
            ("user", slice::from_ref(&self.user)),
            ("working directory", slice::from_ref(&self.working_dir)),
            ("variable", &self.env[..]),
            ("entry point", &self.entrypoint[..]),
            ("command", &self.cmd[..]),
            ("volume", &volumes[..]),
            ("stop signal", self.stop_signal.as_slice()),
        ] {
            if values.iter().any(|value| value.contains('\0')) {
                return Err(ManifestError::Config {
                    field,
                    reason: "it contains a NUL",
                });
            }
        }
        Ok(())
    }
}

/// A set as Go writes it: the keys of a map to empty objects.
fn keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map: BTreeMap<String, serde::de::IgnoredAny> = json::null_as_default(deserializer)?;
    Ok(map.into_keys().collect())
}

fn diff_ids<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Digest>, D::Error> {
    #[derive(Deserialize)]
    struct RootFs {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default, deserialize_with = "json::digests")]
        diff_ids: Vec<Digest>,
    }
    let rootfs = RootFs::deserialize(deserializer)?;
    if rootfs.kind != "layers" {
        return Err(serde::de::Error::custom(
            "rootfs is not of the type \"layers\"",
        ));
    }
    Ok(rootfs.diff_ids)
}
