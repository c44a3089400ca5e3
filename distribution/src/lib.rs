//! Images from registries: the distribution protocol of OCI and Docker, and what Docker keeps to log in.
//!
//! A registry is hostile: it may send anything, as slowly or as long as it likes, and lead anywhere. What it sends is bounded,
//! what is kept has the digest that was asked for, and credentials go to nobody but the registry itself and the server that
//! it names for tokens, over TLS.

mod answer;
mod authorization;
mod challenge;
mod client;
pub mod credentials;
mod download;
mod endpoint;
mod error;
mod pull;
mod resolver;
mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod transport;

use std::path::PathBuf;

pub use credentials::{CredentialError, CredentialFile, Credentials, KeptIn, Login};
pub use error::{PullError, Reason, RegistryError, Shown};
pub use secret::Secret;
pub use settings::{RegistrySettings, Settings};

use client::Repository;
use endpoint::{Endpoint, Scheme, is_loopback};
use transport::{Security, TimeLimits, Transport};

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct Access {
    /// What the user says about registries.
    pub settings: Settings,
    /// Speaks HTTP without TLS, to any registry.
    pub plain_http: bool,
    /// Certificates in PEM that are trusted beside the system's.
    pub ca_certs: Option<PathBuf>,
    /// Who asks.
    pub identity: Identity,
    limits: TimeLimits,
}

/// Who asks a registry.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Whoever these credentials belong to. Mirrors do not get them.
    Given(Credentials),
    /// Whoever logged in before.
    Kept(CredentialFile),
}

impl Access {
    /// With TLS, as `identity`.
    pub fn new(settings: Settings, identity: Identity) -> Access {
        Access {
            settings,
            plain_http: false,
            ca_certs: None,
            identity,
            limits: TimeLimits::default(),
        }
    }

    /// Asks a registry whether it accepts the credentials.
    ///
    /// # Errors
    /// When it does not, or cannot be asked.
    pub async fn check(&self, registry: &str) -> Result<(), RegistryError> {
        let endpoint = self.registry_itself(registry)?;
        self.repository(endpoint, registry, "")
            .await?
            .check_access()
            .await
    }

    /// Where a repository is to be had: first the mirrors of its registry, then the registry itself.
    fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let settings = self.settings.of(registry);
        let mut endpoints: Vec<_> = settings.mirrors.iter().map(Endpoint::of_mirror).collect();
        endpoints.push(self.registry_itself(registry)?);
        Ok(endpoints)
    }

    fn registry_itself(&self, registry: &str) -> Result<Endpoint, RegistryError> {
        let settings = self.settings.of(registry);
        let has_certs = self.ca_certs.is_some() || settings.ca_certs.is_some();
        let scheme = match settings.plain_http {
            _ if self.plain_http => Scheme::PlainAsked,
            Some(true) => Scheme::PlainAsked,
            None if is_loopback(registry) && !has_certs => Scheme::PlainHere,
            _ => Scheme::Tls,
        };
        Endpoint::of_registry(registry, scheme)
    }

    /// A repository at an endpoint of `registry`.
    async fn repository(
        &self,
        endpoint: Endpoint,
        registry: &str,
        path: &str,
    ) -> Result<Repository, RegistryError> {
        let settings = self.settings.of(registry);
        let ca_certs = self.ca_certs.clone().or(settings.ca_certs);
        let security = Security {
            plain_http: endpoint.plain_asked(),
            ca_certs: ca_certs.as_deref(),
        };
        let transport = Transport::new(security, &self.limits)?;
        let credentials = match &self.identity {
            Identity::Given(credentials) if endpoint.name == registry => credentials.clone(),
            Identity::Given(_) => Credentials::Anonymous,
            Identity::Kept(file) => {
                let (file, name) = (file.clone(), endpoint.name.clone());
                // A helper may take its time.
                let found = tokio::task::spawn_blocking(move || file.find(&name)).await;
                found.map_err(|_| RegistryError::Client {
                    what: "the search for credentials panicked".to_owned(),
                })??
            }
        };
        Ok(Repository::new(
            endpoint,
            path,
            transport,
            self.limits,
            credentials,
        ))
    }
}
