//! What the user says about registries: `registries.json`.
//!
//! ```json
//! {
//!   "docker.io": { "mirrors": ["https://mirror.example.com"] },
//!   "registry.lan:5000": { "plain_http": true },
//!   "registry.example.com": { "ca_certs": "/etc/ssl/example.pem" }
//! }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::error::RegistryError;

/// What is said about each registry, by host and port.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Settings {
    registries: BTreeMap<String, RegistrySettings>,
}

/// What is said about a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// Where to ask before the registry itself: addresses without a query.
    #[serde(deserialize_with = "addresses")]
    pub mirrors: Vec<Url>,
    /// Whether it speaks HTTP without TLS; `None` leaves it to its name: only this machine itself does.
    pub plain_http: Option<bool>,
    /// Certificates in PEM that are trusted beside the system's. Means TLS for this machine too.
    pub ca_certs: Option<PathBuf>,
}

impl Settings {
    /// Reads the file; without one, nothing is said.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Settings, RegistryError> {
        let refused = |what: String| RegistryError::Settings {
            path: path.to_owned(),
            what,
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Settings::default()),
            Err(error) => return Err(refused(error.to_string())),
        };
        serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))
    }

    /// What is said about one registry.
    pub fn of(&self, registry: &str) -> RegistrySettings {
        self.registries.get(registry).cloned().unwrap_or_default()
    }
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Url>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let addresses = texts.iter().map(|text| {
        let url = Url::parse(text).ok().filter(is_usable);
        // Not the text: it may hold a password.
        url.ok_or_else(|| {
            D::Error::custom("a mirror is no address like https://mirror.example.com")
        })
    });
    addresses.collect()
}

fn is_usable(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, RegistryError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.json");
        fs::write(&path, text).unwrap();
        Settings::read(&path)
    }

    #[test]
    fn what_is_said_about_a_registry_is_found_by_its_name() {
        let settings = read(
            r#"{"docker.io": {"mirrors": ["https://mirror.example.com/hub"]},
                "registry.lan:5000": {"plain_http": true}}"#,
        )
        .unwrap();
        let hub = settings.of("docker.io");
        assert_eq!(hub.mirrors[0].as_str(), "https://mirror.example.com/hub");
        assert_eq!(settings.of("registry.lan:5000").plain_http, Some(true));
        assert_eq!(settings.of("ghcr.io"), RegistrySettings::default());
    }

    #[test]
    fn without_a_file_nothing_is_said() {
        let settings = Settings::read(Path::new("/nonexistent/registries.json")).unwrap();
        assert_eq!(settings.of("docker.io"), RegistrySettings::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "[]",
            r#"{"docker.io": {"mirror": "https://x"}}"#,
            r#"{"docker.io": {"mirrors": ["mirror.example.com"]}}"#,
            r#"{"docker.io": {"mirrors": ["ftp://mirror.example.com"]}}"#,
        ] {
            assert!(
                matches!(read(text), Err(RegistryError::Settings { .. })),
                "{text}"
            );
        }
        let secret = read(r#"{"docker.io": {"mirrors": ["https://u:hunter2@x"]}}"#).unwrap_err();
        assert!(!secret.to_string().contains("hunter2"), "{secret}");
    }
}
