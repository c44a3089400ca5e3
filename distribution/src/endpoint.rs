//! Where a registry's interface is, and whether it is spoken to with TLS.

use std::net::IpAddr;

use reqwest::Url;

use super::error::RegistryError;

/// The host that answers for docker.io; the name itself is a web site.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// A place that speaks the distribution protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The name under which its credentials are kept, and which errors tell: host and port.
    pub(super) name: String,
    /// What comes before `/v2/`.
    base: Url,
    /// Whether the user asked for plain HTTP, so that what it leads to may be without TLS too.
    plain_asked: bool,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// With TLS.
    Tls,
    /// Without, because it is this machine itself.
    PlainHere,
    /// Without, because the user asked for it.
    PlainAsked,
}

impl Endpoint {
    /// The registry itself.
    pub(super) fn of_registry(registry: &str, scheme: Scheme) -> Result<Endpoint, RegistryError> {
        let host = if registry == "docker.io" {
            DOCKER_HUB
        } else {
            registry
        };
        let prefix = match scheme {
            Scheme::Tls => "https",
            Scheme::PlainHere | Scheme::PlainAsked => "http",
        };
        let base = Url::parse(&format!("{prefix}://{host}"))
            .ok()
            .filter(|url| url.has_host() && url.path() == "/" && is_bare(url))
            .ok_or_else(|| RegistryError::Client {
                what: format!("{registry:?} is no host"),
            })?;
        Ok(Endpoint {
            name: registry.to_owned(),
            base,
            plain_asked: scheme == Scheme::PlainAsked,
        })
    }

    /// A mirror.
    pub(super) fn of_mirror(base: &Url) -> Endpoint {
        let host = base.host_str().unwrap_or_default();
        let name = base
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Endpoint {
            name,
            base: base.clone(),
            plain_asked: base.scheme() == "http",
        }
    }

    /// The address of something below `/v2/`.
    pub(super) fn url(&self, below: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/v2/{below}",
            self.base.path().trim_end_matches('/')
        ));
        url
    }

    /// Whether what it leads to may be without TLS.
    pub(super) fn plain_asked(&self) -> bool {
        self.plain_asked
    }
}

/// Whether an address has none of what is no part of a host.
fn is_bare(url: &Url) -> bool {
    url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// Whether a host, with or without a port, is this machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{host}")) else {
        return false;
    };
    url_is_loopback(&url)
}

/// Whether an address leads to this machine itself.
pub(super) fn url_is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_this_machine() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.8.7",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "docker.io",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:5000",
            "[::2]",
            "user@localhost:x",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn addresses_lie_below_v2_and_below_the_path_of_a_mirror() {
        let hub = Endpoint::of_registry("docker.io", Scheme::Tls).unwrap();
        assert_eq!(
            hub.url("library/alpine/manifests/latest").as_str(),
            "https://registry-1.docker.io/v2/library/alpine/manifests/latest"
        );
        let mirror = Endpoint::of_mirror(&Url::parse("https://m.example.com:8443/hub/").unwrap());
        assert_eq!(mirror.name, "m.example.com:8443");
        assert_eq!(
            mirror.url("x").as_str(),
            "https://m.example.com:8443/hub/v2/x"
        );
        for (host, scheme) in [("host:443", Scheme::Tls), ("host:80", Scheme::PlainAsked)] {
            assert!(Endpoint::of_registry(host, scheme).is_ok(), "{host}");
        }
        let local = Endpoint::of_registry("localhost:5000", Scheme::PlainHere).unwrap();
        assert_eq!(local.url("").as_str(), "http://localhost:5000/v2/");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for registry in ["a/b", "user@host", "", "host:port", "host?x", "host#x"] {
            assert!(
                Endpoint::of_registry(registry, Scheme::Tls).is_err(),
                "{registry}"
            );
        }
    }
}
