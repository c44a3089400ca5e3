//! The addresses of hosts, from the system's resolver.

use std::io;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The system has no address for a host. It has asked its servers more than once (resolv.conf(5), `attempts`).
#[derive(Debug, thiserror::Error)]
#[error("no address of {host} can be had")]
pub(super) struct Unresolved {
    host: String,
    source: io::Error,
}

/// getaddrinfo(3), with an error that can be told from others.
#[derive(Debug)]
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::net::lookup_host((host, 0)).await;
            let found: Vec<_> = found
                .map_err(|source| Unresolved {
                    host: host.to_owned(),
                    source,
                })?
                .collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
