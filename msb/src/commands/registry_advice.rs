//! What to do about errors of registries.

use microsandbox::images::ImageError;
use microsandbox::images::distribution::{PullError, RegistryError, Shown};

use super::image;
use crate::failure::with_hint;

/// Adds to an error what to do about it.
pub(super) fn advise(error: ImageError) -> anyhow::Error {
    let registry = match &error {
        ImageError::Registry(registry) => Some(registry),
        ImageError::PullFailed { source, .. } => match &**source {
            PullError::Registry(registry) => Some(registry),
            _ => None,
        },
        _ => return image::advice::advise(error),
    };
    match registry.and_then(hint) {
        Some(hint) => with_hint(error, hint),
        None => error.into(),
    }
}

fn hint(error: &RegistryError) -> Option<String> {
    Some(match error {
        RegistryError::Unauthorized {
            registry,
            shown: Shown::Nothing,
            ..
        } => format!("the image may not exist, or be private: `msb login {registry}`"),
        RegistryError::Unauthorized { registry, .. } => format!(
            "the image may not exist, or be somebody else's; `msb login {registry}` takes another password"
        ),
        RegistryError::Denied { registry, .. } => {
            format!("`msb login {registry}` as somebody who may do this")
        }
        RegistryError::NotFound { .. } => "check the name and the tag for typing errors".to_owned(),
        RegistryError::Unreachable { .. } => {
            "plain HTTP needs --insecure, an authority of your own --ca-certs FILE, a proxy HTTPS_PROXY"
                .to_owned()
        }
        RegistryError::Stalled { .. } => "try again: what came is kept".to_owned(),
        RegistryError::TooManyRequests { registry, .. } => format!(
            "who is logged in may ask more often: `msb login {registry}`; or name a mirror in $MSB_HOME/registries.json"
        ),
        RegistryError::Unencrypted { .. } => {
            "--insecure permits it, if you trust everybody on the way".to_owned()
        }
        RegistryError::Settings { .. } => "docs/security.md describes the file".to_owned(),
        _ => return None,
    })
}
