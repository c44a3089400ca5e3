//! `config.json` of Docker, which other tools read and write too: what is in it beside credentials stays as it is.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value, json};

use super::helper::Helper;
use super::{CredentialError, Credentials, Secret};

/// The name under which Docker keeps what is for docker.io.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Most bytes of the file that are read.
const MAX_FILE: u64 = 4 << 20;

/// Docker's configuration file.
#[derive(Debug, Clone)]
pub struct CredentialFile {
    pub(super) path: PathBuf,
}

/// Where credentials are kept. Its text is the path of the file or the name of the helper's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptIn {
    /// In the file, readable for whoever can read it.
    File(PathBuf),
    /// By a credential helper of this name.
    Helper(String),
}

impl fmt::Display for KeptIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeptIn::File(path) => path.display().fmt(formatter),
            KeptIn::Helper(name) => write!(formatter, "docker-credential-{name}"),
        }
    }
}

impl CredentialFile {
    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. It need not exist.
    ///
    /// # Errors
    /// When neither variable is set.
    pub fn from_environment() -> Result<CredentialFile, CredentialError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let directory = set("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")))
            .ok_or(CredentialError::NoPlace)?;
        Ok(CredentialFile::at(directory.join("config.json")))
    }

    /// A file of the caller's choice.
    pub fn at(path: impl Into<PathBuf>) -> CredentialFile {
        CredentialFile { path: path.into() }
    }

    /// What is kept for a registry, in the file or by the helper that the file names. Blocks while a helper runs.
    ///
    /// # Errors
    /// When the file or the helper cannot be used.
    pub fn find(&self, registry: &str) -> Result<Credentials, CredentialError> {
        let content = self.read()?;
        if let Some(helper) = self.helper(&content, registry)? {
            for key in keys(registry) {
                if let Some(credentials) = helper.get(&key)? {
                    return Ok(credentials);
                }
            }
        }
        let Some(auths) = content.get("auths") else {
            return Ok(Credentials::Anonymous);
        };
        let auths = auths
            .as_object()
            .ok_or_else(|| self.malformed("\"auths\" is no object"))?;
        // The very name first, then every other spelling of the same host.
        let entry = keys(registry)
            .iter()
            .find_map(|key| auths.get(key))
            .or_else(|| {
                auths
                    .iter()
                    .find(|(key, _)| host_of(key) == registry)
                    .map(|(_, entry)| entry)
            });
        entry.map_or(Ok(Credentials::Anonymous), |entry| {
            self.credentials_of(entry)
        })
    }

    /// Keeps a password: by the helper that the file names, else in the file, which becomes readable for its owner alone.
    ///
    /// # Errors
    /// When the file or the helper cannot be used. The file is as before then.
    pub fn store(
        &self,
        registry: &str,
        username: &str,
        password: &Secret,
    ) -> Result<KeptIn, CredentialError> {
        let _lock = self.lock()?;
        let mut content = self.read()?;
        let key = main_key(registry);
        let helper = self.helper(&content, registry)?;
        let entry = match &helper {
            Some(helper) => {
                helper.store(&key, username, password)?;
                json!({})
            }
            None => json!({ "auth": STANDARD.encode(format!("{username}:{}", password.reveal())) }),
        };
        let auths = content.entry("auths").or_insert_with(|| json!({}));
        auths
            .as_object_mut()
            .ok_or_else(|| self.malformed("\"auths\" is no object"))?
            .insert(key, entry);
        self.write(&content)?;
        Ok(match helper {
            Some(helper) => KeptIn::Helper(helper.name().to_owned()),
            None => KeptIn::File(self.path.clone()),
        })
    }

    /// Forgets what is kept for a registry, under every spelling of it. Returns whether there was something.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn remove(&self, registry: &str) -> Result<bool, CredentialError> {
        let _lock = self.lock()?;
        let mut content = self.read()?;
        let mut found = false;
        if let Some(helper) = self.helper(&content, registry)? {
            for key in keys(registry) {
                if helper.get(&key)?.is_some() {
                    helper.erase(&key)?;
                    found = true;
                }
            }
        }
        if let Some(auths) = content.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| host_of(key) != registry);
            if auths.len() != before {
                found = true;
                self.write(&content)?;
            }
        }
        Ok(found)
    }

    /// The helper for a registry: its own in `credHelpers`, else that for all in `credsStore`.
    pub(super) fn helper(
        &self,
        content: &Map<String, Value>,
        registry: &str,
    ) -> Result<Option<Helper>, CredentialError> {
        let own = content
            .get("credHelpers")
            .and_then(Value::as_object)
            .and_then(|helpers| {
                keys(registry)
                    .iter()
                    .find_map(|key| helpers.get(key))
                    .or_else(|| {
                        helpers
                            .iter()
                            .find(|(key, _)| host_of(key) == registry)
                            .map(|(_, name)| name)
                    })
            });
        match own.or_else(|| content.get("credsStore")) {
            None => Ok(None),
            Some(Value::String(name)) if name.is_empty() => Ok(None),
            Some(Value::String(name)) => Helper::named(name).map(Some),
            Some(_) => Err(self.malformed("the name of a credential helper is no text")),
        }
    }

    pub(super) fn credentials_of(&self, entry: &Value) -> Result<Credentials, CredentialError> {
        let text = |name| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .filter(|text: &&str| !text.is_empty())
        };
        if let Some(token) = text("identitytoken") {
            return Ok(Credentials::IdentityToken(Secret::new(token)));
        }
        if let Some(auth) = text("auth") {
            let decoded = STANDARD
                .decode(auth)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let (username, password) = decoded
                .as_deref()
                .and_then(|pair| pair.split_once(':'))
                .ok_or_else(|| self.malformed("an \"auth\" is not NAME:PASSWORD in base64"))?;
            return Ok(Credentials::Password {
                username: username.to_owned(),
                // Docker's own files may end it with zeros (cli/config/configfile, decodeAuth).
                password: Secret::new(password.trim_end_matches('\0')),
            });
        }
        Ok(match (text("username"), text("password")) {
            (Some(username), Some(password)) => Credentials::Password {
                username: username.to_owned(),
                password: Secret::new(password),
            },
            _ => Credentials::Anonymous,
        })
    }

    /// The content of the file; empty if it does not exist.
    pub(super) fn read(&self) -> Result<Map<String, Value>, CredentialError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(source) => return Err(self.failed("open", source)),
        };
        let text = io::read_to_string(io::Read::take(file, MAX_FILE))
            .map_err(|source| self.failed("read", source))?;
        if text.trim().is_empty() {
            return Ok(Map::new());
        }
        // The parser's message may quote what it found.
        serde_json::from_str(&text).map_err(|_| self.malformed("it is no JSON object"))
    }

    /// Replaces the file as a whole.
    fn write(&self, content: &Map<String, Value>) -> Result<(), CredentialError> {
        // Somebody may keep the file elsewhere and link to it.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut text = serde_json::to_vec_pretty(content)
            .map_err(|source| self.failed("write", source.into()))?;
        text.push(b'\n');
        let temporary = path.with_extension(format!("json.{}", std::process::id()));
        let written = (|| {
            // What a killed process of this number left behind.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        })();
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            self.failed("write", source)
        })
    }

    /// Keeps other processes of ours from changing the file meanwhile; makes its directory.
    fn lock(&self) -> Result<Flock<File>, CredentialError> {
        use std::os::unix::fs::DirBuilderExt;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| self.failed("make the directory of", source))?;
        let directory = File::open(directory).map_err(|source| self.failed("lock", source))?;
        Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| self.failed("lock", errno.into()))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> CredentialError {
        CredentialError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }

    pub(super) fn malformed(&self, what: &'static str) -> CredentialError {
        CredentialError::Malformed {
            path: self.path.clone(),
            what,
        }
    }
}

/// The name under which a registry's credentials are written.
fn main_key(registry: &str) -> String {
    match registry {
        "docker.io" => DOCKER_HUB_KEY.to_owned(),
        _ => registry.to_owned(),
    }
}

/// The names under which a registry's credentials are looked for, the likeliest first.
pub(super) fn keys(registry: &str) -> Vec<String> {
    match registry {
        "docker.io" => vec![DOCKER_HUB_KEY.to_owned(), "docker.io".to_owned()],
        _ => vec![registry.to_owned(), format!("https://{registry}")],
    }
}

/// The registry that a key stands for: its host and port, without scheme and path.
pub(super) fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Fixture {
        file: CredentialFile,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    fn fixture(content: Option<&str>) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker/config.json");
        if let Some(content) = content {
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
        }
        Fixture {
            file: CredentialFile::at(&path),
            path,
            _directory: directory,
        }
    }

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password {
            username: username.to_owned(),
            password: Secret::new(password),
        }
    }

    #[test]
    fn what_docker_wrote_is_found() {
        // alice:p:w
        let fixture = fixture(Some(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "YWxpY2U6cDp3"},
                "ghcr.io": {"identitytoken": "t", "auth": "YWxpY2U6"},
                "https://registry.example.com/v2/": {"username": "bob", "password": "q"},
                "localhost:5000": {}}}"#,
        ));
        for (registry, expected) in [
            ("docker.io", password("alice", "p:w")),
            ("ghcr.io", Credentials::IdentityToken(Secret::new("t"))),
            ("registry.example.com", password("bob", "q")),
            ("localhost:5000", Credentials::Anonymous),
            ("quay.io", Credentials::Anonymous),
        ] {
            assert_eq!(fixture.file.find(registry).unwrap(), expected, "{registry}");
        }
    }

    #[test]
    fn a_password_is_kept_for_its_owner_alone_and_removed_again() {
        let fixture = fixture(None);
        let secret = Secret::new("hunter2");
        for registry in ["docker.io", "localhost:5000"] {
            let kept = fixture.file.store(registry, "alice", &secret).unwrap();
            assert_eq!(kept, KeptIn::File(fixture.path.clone()));
            assert_eq!(
                fixture.file.find(registry).unwrap(),
                password("alice", "hunter2")
            );
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&fixture.path), 0o600);
        assert_eq!(mode(fixture.path.parent().unwrap()), 0o700);
        let content: Value = serde_json::from_slice(&fs::read(&fixture.path).unwrap()).unwrap();
        assert_eq!(
            content["auths"][DOCKER_HUB_KEY]["auth"],
            "YWxpY2U6aHVudGVyMg=="
        );
        assert!(fixture.file.remove("docker.io").unwrap());
        assert!(!fixture.file.remove("docker.io").unwrap());
        assert_eq!(
            fixture.file.find("docker.io").unwrap(),
            Credentials::Anonymous
        );
        assert_eq!(
            fixture.file.find("localhost:5000").unwrap(),
            password("alice", "hunter2")
        );
    }

    #[test]
    fn what_else_is_in_the_file_stays_and_links_are_kept() {
        let fixture = fixture(None);
        let elsewhere = fixture
            .path
            .parent()
            .unwrap()
            .with_file_name("elsewhere.json");
        fs::write(
            &elsewhere,
            r#"{"psFormat": "x", "auths": {"a": {"auth": "YTpi"}}}"#,
        )
        .unwrap();
        fs::create_dir(fixture.path.parent().unwrap()).unwrap();
        symlink(&elsewhere, &fixture.path).unwrap();
        fixture.file.store("b", "alice", &Secret::new("p")).unwrap();
        assert!(fs::symlink_metadata(&fixture.path).unwrap().is_symlink());
        let content: Value = serde_json::from_slice(&fs::read(&elsewhere).unwrap()).unwrap();
        assert_eq!(content["psFormat"], "x");
        assert_eq!(content["auths"]["a"]["auth"], "YTpi");
        assert_eq!(fixture.file.find("b").unwrap(), password("alice", "p"));
    }

    #[test]
    fn a_file_that_is_none_is_refused_unchanged_and_not_shown() {
        for content in [
            "[\"hunter2\"]",
            "hunter2",
            r#"{"auths": "hunter2"}"#,
            r#"{"auths": {"r": {"auth": "hunter2"}}}"#,
            r#"{"credsStore": ["hunter2"]}"#,
        ] {
            let fixture = fixture(Some(content));
            let error = fixture.file.find("r").unwrap_err();
            assert!(
                matches!(error, CredentialError::Malformed { .. }),
                "{error}"
            );
            assert!(!format!("{error:?}{error}").contains("hunter2"), "{error}");
            if !content.contains("auth\"") {
                assert!(fixture.file.store("r", "a", &Secret::new("p")).is_err());
                assert_eq!(fs::read_to_string(&fixture.path).unwrap(), content);
            }
        }
    }

    #[test]
    fn a_helper_of_the_registry_comes_before_that_for_all() {
        let fixture = fixture(Some(
            r#"{"credsStore": "msb-test-none", "credHelpers": {"ghcr.io": "msb-test-other"}}"#,
        ));
        for (registry, name) in [
            ("docker.io", "msb-test-none"),
            ("ghcr.io", "msb-test-other"),
        ] {
            let error = fixture.file.find(registry).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
