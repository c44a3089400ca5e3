//! Who is logged in at which registry, as Docker and its like keep it.

use distribution::{CredentialFile, Credentials, Identity, KeptIn, Login, RegistryError};
use image::Reference;

use super::ImageError;
use super::pull::{RegistryAuth, RegistryOptions, access, waiting};
use crate::home::Home;

/// Asks a registry (host and port) whether it accepts these credentials, and keeps them if it does: in Docker's
/// `config.json`, or with the credential helper that it names.
///
/// # Errors
/// [`ImageError::Registry`] when the registry does not accept them, or they cannot be kept.
pub async fn login(
    home: &Home,
    registry: &str,
    auth: RegistryAuth,
    options: RegistryOptions,
) -> Result<KeptIn, ImageError> {
    let registry = registry_name(registry)?;
    let file = CredentialFile::from_environment().map_err(RegistryError::from)?;
    let identity = Identity::Given(Credentials::Password {
        username: auth.username.clone(),
        password: auth.password.clone(),
    });
    access(home, identity, options)?.check(&registry).await?;
    waiting(move || {
        let kept = file.store(&registry, &auth.username, &auth.password);
        Ok(kept.map_err(RegistryError::from)?)
    })
    .await
}

/// Forgets the credentials for a registry (host and port). Returns whether there were some. Blocks while a credential
/// helper works.
///
/// # Errors
/// [`ImageError::Registry`] when they cannot be removed.
pub fn logout(registry: &str) -> Result<bool, ImageError> {
    let registry = registry_name(registry)?;
    let file = CredentialFile::from_environment().map_err(RegistryError::from)?;
    Ok(file.remove(&registry).map_err(RegistryError::from)?)
}

/// The registries for which credentials are kept. Blocks while credential helpers work.
///
/// # Errors
/// [`ImageError::Registry`] when Docker's file or a helper cannot be used.
pub fn logins() -> Result<Vec<Login>, ImageError> {
    let file = CredentialFile::from_environment().map_err(RegistryError::from)?;
    Ok(file.list().map_err(RegistryError::from)?)
}

/// A registry as names of images have it.
fn registry_name(text: &str) -> Result<String, ImageError> {
    let refused = || ImageError::NotARegistry {
        text: text.chars().take(300).collect(),
    };
    let reference: Reference = format!("{text}/x").parse().map_err(|_| refused())?;
    // Otherwise it was taken for the beginning of a path.
    let is_host = reference.repository() == "x" || reference.repository() == "library/x";
    if is_host {
        Ok(reference.registry().to_owned())
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_called_as_in_names_of_images() {
        for (text, name) in [
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
        ] {
            assert_eq!(registry_name(text).unwrap(), name);
        }
        for text in [
            "",
            "ghcr",
            "https://ghcr.io",
            "ghcr.io/x",
            "a b",
            "user@host.io",
        ] {
            let error = registry_name(text).unwrap_err();
            assert!(
                matches!(error, ImageError::NotARegistry { .. }),
                "{text}: {error}"
            );
        }
    }
}
