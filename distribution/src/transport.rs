//! Connections: TLS, proxies, redirects and time limits.

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use reqwest::redirect::{self, Policy};
use reqwest::{Client, NoProxy, Proxy};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::endpoint::url_is_loopback;
use super::error::RegistryError;
use super::resolver::{SystemResolver, Unresolved};

/// Most redirects that are followed, one after the other.
const MAX_REDIRECTS: usize = 5;

/// The certificates that the system trusts, read once: each repository has a client of its own.
static SYSTEM_CERTIFICATES: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| rustls_native_certs::load_native_certs().certs);

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    /// A connection, with TLS.
    pub(super) connect: Duration,
    /// The next byte of anything.
    pub(super) stall: Duration,
    /// All of a token, a manifest or an error's text. A layer has none: it may be large and the line slow.
    pub(super) document: Duration,
    /// Before the first repetition; doubled with each.
    pub(super) first_pause: Duration,
    /// The longest that a registry may make us wait before a repetition.
    pub(super) longest_pause: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            document: Duration::from_secs(90),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// What a connection may do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Security<'a> {
    /// Redirects may lead to plain http on other machines.
    pub(super) plain_http: bool,
    /// Certificates in PEM that are trusted beside the system's.
    pub(super) ca_certs: Option<&'a Path>,
}

/// What requests are sent with.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    /// Follows redirects. To another host they carry no credentials: reqwest removes them (`remove_sensitive_headers`), and
    /// we refuse those that leave TLS.
    pub(super) following: Client,
    /// Follows none: for requests with credentials that are no header.
    pub(super) direct: Client,
}

impl Transport {
    /// With these limits.
    pub(super) fn new(
        security: Security<'_>,
        limits: &TimeLimits,
    ) -> Result<Transport, RegistryError> {
        let tls = tls(security.ca_certs)?;
        let proxies = proxies(|name| env::var(name).ok())?;
        let client = |policy| {
            let builder = Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("msb/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(limits.connect)
                .read_timeout(limits.stall)
                .redirect(policy)
                .referer(false)
                .dns_resolver(Arc::new(SystemResolver))
                .no_proxy();
            let builder = proxies
                .iter()
                .cloned()
                .fold(builder, |builder, proxy| builder.proxy(proxy));
            builder.build().map_err(|error| RegistryError::Client {
                what: error.without_url().to_string(),
            })
        };
        Ok(Transport {
            following: client(redirects(security.plain_http))?,
            direct: client(Policy::none())?,
        })
    }
}

/// The redirect would leave TLS.
#[derive(Debug, thiserror::Error)]
#[error("a redirect to {host} leaves TLS")]
pub(super) struct LeavesTls {
    pub(super) host: String,
}

fn redirects(plain_http: bool) -> Policy {
    Policy::custom(move |attempt: redirect::Attempt<'_>| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error(TooManyRedirects);
        }
        let from_tls = attempt
            .previous()
            .last()
            .is_some_and(|url| url.scheme() == "https");
        let allowed = match attempt.url().scheme() {
            "https" => true,
            "http" => !from_tls && (plain_http || url_is_loopback(attempt.url())),
            _ => false,
        };
        if allowed {
            return attempt.follow();
        }
        let host = attempt.url().host_str().unwrap_or_default().to_owned();
        attempt.error(LeavesTls { host })
    })
}

#[derive(Debug, thiserror::Error)]
#[error("it redirects without an end")]
struct TooManyRedirects;

/// TLS 1.2 and 1.3 with the system's certificates and those of `extra`.
fn tls(extra: Option<&Path>) -> Result<ClientConfig, RegistryError> {
    let mut roots = RootCertStore::empty();
    // What of the system's cannot be read is missed when a registry needs it, not before.
    roots.add_parsable_certificates(SYSTEM_CERTIFICATES.iter().cloned());
    if let Some(path) = extra {
        add_certificates(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Client {
            what: error.to_string(),
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn add_certificates(roots: &mut RootCertStore, path: &Path) -> Result<(), RegistryError> {
    let refused = |what: String| RegistryError::Certificates {
        path: path.to_owned(),
        what,
    };
    let text = fs::read(path).map_err(|error| refused(error.to_string()))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| refused(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(refused("there is none in it".to_owned()));
    }
    Ok(())
}

/// The proxies that the environment names, as curl understands it. This machine itself is never asked through one.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Proxy>, RegistryError> {
    let set = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| variable(name).filter(|value| !value.is_empty()))
    };
    let mut excepted = "localhost,127.0.0.0/8,::1".to_owned();
    if let Some(more) = set(&["no_proxy", "NO_PROXY"]) {
        excepted = format!("{excepted},{more}");
    }
    let all = set(&["all_proxy", "ALL_PROXY"]);
    let mut proxies = Vec::new();
    // Not HTTP_PROXY: in a CGI program its client sets it (httpoxy.org); curl does not read it either.
    for (scheme, address) in [
        ("https", set(&["https_proxy", "HTTPS_PROXY"])),
        ("http", set(&["http_proxy"])),
    ] {
        let Some(address) = address.or_else(|| all.clone()) else {
            continue;
        };
        let proxy = match scheme {
            "https" => Proxy::https(address),
            _ => Proxy::http(address),
        };
        let proxy = proxy.map_err(|_| RegistryError::Client {
            // Not the address: it may hold a password.
            what: format!("{scheme}_proxy or all_proxy names no proxy"),
        })?;
        proxies.push(proxy.no_proxy(NoProxy::from_string(&excepted)));
    }
    Ok(proxies)
}

/// What a request failed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It took too long.
    Stalled,
    /// It would leave TLS for this host.
    LeavesTls(String),
    /// Another attempt would fail the same way.
    Permanent,
    /// Another attempt may succeed.
    Transient,
}

impl Failure {
    /// Tells what a request failed by.
    pub(super) fn of(error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            return Failure::Stalled;
        }
        let mut next = error.source();
        while let Some(cause) = next {
            if let Some(LeavesTls { host }) = cause.downcast_ref() {
                return Failure::LeavesTls(host.clone());
            }
            // Neither would another attempt at once find an address.
            let final_already = cause.is::<rustls::Error>() || cause.is::<Unresolved>();
            let io = cause.downcast_ref::<io::Error>();
            let inner_tls = io
                .and_then(io::Error::get_ref)
                .is_some_and(|inner| inner.is::<rustls::Error>());
            let refused = io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused);
            if final_already || inner_tls || refused {
                return Failure::Permanent;
            }
            next = cause.source();
        }
        if error.is_builder() || error.is_redirect() {
            Failure::Permanent
        } else {
            Failure::Transient
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Vec<Proxy>, RegistryError> {
        proxies(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn proxies_come_from_the_environment() {
        assert_eq!(with(&[]).unwrap().len(), 0);
        assert_eq!(
            with(&[("HTTPS_PROXY", "http://proxy:3128")]).unwrap().len(),
            1
        );
        assert_eq!(
            with(&[("ALL_PROXY", "http://proxy:3128")]).unwrap().len(),
            2
        );
        assert_eq!(
            with(&[("HTTP_PROXY", "http://proxy:3128")]).unwrap().len(),
            0
        );
    }

    #[test]
    fn a_proxy_that_is_none_is_told_without_its_password() {
        let error = with(&[("https_proxy", "http://user:hunter2@[bad")]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.to_string().contains("https_proxy"), "{error}");
    }

    /// The domain `invalid` has no hosts (RFC 2606, section 2).
    #[test]
    fn a_host_without_an_address_is_asked_for_once() {
        let transport = Transport::new(Security::default(), &TimeLimits::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let send = async {
            transport
                .direct
                .get("https://registry.invalid/v2/")
                .send()
                .await
        };
        let error = runtime.block_on(send).unwrap_err();
        assert_eq!(Failure::of(&error), Failure::Permanent, "{error:?}");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        fs::write(&path, "nothing").unwrap();
        for path in [path.as_path(), Path::new("/nonexistent")] {
            assert!(matches!(
                tls(Some(path)),
                Err(RegistryError::Certificates { .. })
            ));
        }
    }
}
