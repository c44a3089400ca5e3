//! For which registries there are credentials.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::file::{host_of, keys};
use super::helper::{Helper, TOKEN_USER};
use super::{CredentialError, CredentialFile, Credentials, KeptIn};

/// Credentials that are kept for a registry, without what is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Host and port of the registry.
    pub registry: String,
    /// Name of the user, if it is known: that of an identity token is not, nor are those of a helper that does not list them.
    pub username: Option<String>,
    /// Where they are.
    pub kept_in: KeptIn,
}

impl CredentialFile {
    /// The registries for which something is kept, in the file or by the helpers that the file names, by name. Blocks while
    /// helpers run.
    ///
    /// # Errors
    /// When the file or a helper cannot be used.
    pub fn list(&self) -> Result<Vec<Login>, CredentialError> {
        let content = self.read()?;
        let mut logins = BTreeMap::new();
        for login in self.in_file(&content)? {
            logins.insert(login.registry.clone(), login);
        }
        // They are asked first when somebody needs credentials.
        for name in helpers(&content) {
            for login in self.of_helper(&content, name)? {
                logins.insert(login.registry.clone(), login);
            }
        }
        Ok(logins.into_values().collect())
    }

    fn in_file(&self, content: &Map<String, Value>) -> Result<Vec<Login>, CredentialError> {
        let Some(auths) = content.get("auths") else {
            return Ok(Vec::new());
        };
        let auths = auths
            .as_object()
            .ok_or_else(|| self.malformed("\"auths\" is no object"))?;
        let mut logins = Vec::new();
        for (key, entry) in auths {
            let username = match self.credentials_of(entry)? {
                Credentials::Anonymous => continue,
                Credentials::Password { username, .. } => Some(username),
                Credentials::IdentityToken(_) => None,
            };
            logins.push(Login {
                registry: host_of(key).to_owned(),
                username,
                kept_in: KeptIn::File(self.path.clone()),
            });
        }
        Ok(logins)
    }

    /// What a helper keeps for the registries that it is the helper of.
    fn of_helper(
        &self,
        content: &Map<String, Value>,
        name: &str,
    ) -> Result<Vec<Login>, CredentialError> {
        let helper = Helper::named(name)?;
        let login = |registry: &str, username: Option<String>| Login {
            registry: registry.to_owned(),
            username,
            kept_in: KeptIn::Helper(name.to_owned()),
        };
        let Some(listed) = helper.list()? else {
            // It makes credentials when it is asked for some, as those of clouds do.
            let own = own_helpers(content).filter(|(_, of)| *of == name);
            return Ok(own.map(|(key, _)| login(host_of(key), None)).collect());
        };
        let mut logins = Vec::new();
        for (server, username) in listed {
            let registry = host_of(&server);
            let responsible = self.helper(content, registry)?;
            if responsible.is_some_and(|helper| helper.name() == name)
                && keys(registry).contains(&server)
            {
                let username = Some(username).filter(|user| user != TOKEN_USER && !user.is_empty());
                logins.push(login(registry, username));
            }
        }
        Ok(logins)
    }
}

/// The names of all helpers.
fn helpers(content: &Map<String, Value>) -> BTreeSet<&str> {
    let for_all = content.get("credsStore").and_then(Value::as_str);
    let own = own_helpers(content).map(|(_, name)| name);
    own.chain(for_all).filter(|name| !name.is_empty()).collect()
}

/// Registries with a helper of their own, as they are written, and its name.
fn own_helpers(content: &Map<String, Value>) -> impl Iterator<Item = (&str, &str)> {
    let helpers = content.get("credHelpers").and_then(Value::as_object);
    let helpers = helpers.into_iter().flatten();
    helpers.filter_map(|(key, name)| Some((key.as_str(), name.as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_file_is_listed_without_what_is_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        // alice:p:w
        let content = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "YWxpY2U6cDp3"},
            "ghcr.io": {"identitytoken": "hunter2"},
            "https://registry.example.com/v2/": {"username": "bob", "password": "hunter2"},
            "localhost:5000": {}}}"#;
        std::fs::write(&path, content).unwrap();
        let logins = CredentialFile::at(&path).list().unwrap();
        let found: Vec<_> = logins
            .iter()
            .map(|login| (login.registry.as_str(), login.username.as_deref()))
            .collect();
        let expected = [
            ("docker.io", Some("alice")),
            ("ghcr.io", None),
            ("registry.example.com", Some("bob")),
        ];
        assert_eq!(found, expected);
        assert!(
            logins
                .iter()
                .all(|login| login.kept_in == KeptIn::File(path.clone()))
        );
        assert!(!format!("{logins:?}").contains("hunter2"));
        let none = CredentialFile::at(directory.path().join("none.json"));
        assert_eq!(none.list().unwrap(), []);
    }

    #[test]
    fn a_file_that_is_none_and_a_helper_that_is_missing_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        for content in [
            r#"{"auths": "hunter2"}"#,
            r#"{"auths": {"r": {"auth": "hunter2"}}}"#,
            r#"{"credsStore": "msb-test-none"}"#,
            r#"{"credHelpers": {"ghcr.io": "../none"}}"#,
        ] {
            std::fs::write(&path, content).unwrap();
            let error = CredentialFile::at(&path).list().unwrap_err();
            assert!(!format!("{error:?}{error}").contains("hunter2"), "{error}");
        }
    }
}
