//! Images from registries.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use distribution::{
    Access, CredentialFile, Credentials, Identity, RegistryError, Secret, Settings,
};
use image::store::Shared;
use image::{Digest, Progress, Reference, StoreError};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::resolve::{ResolvedImage, is_archive};
use super::{ImageError, ImageHandle, Images};
use crate::home::Home;

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Each time: a tag may lead to another image by now. What is here of it is not downloaded again.
    Always,
    /// When no image of this name is here.
    #[default]
    IfMissing,
    /// Never.
    Never,
}

/// Who asks a registry. `Debug` does not show the password, and it cannot be serialised: it is recorded nowhere.
#[derive(Debug, Clone)]
pub struct RegistryAuth {
    /// Name of the user.
    pub username: String,
    /// The password, or a personal access token in its place.
    pub password: Secret,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Without TLS, also where the registry is not this machine.
    pub insecure: bool,
    /// Certificates in PEM that are trusted beside the system's.
    pub ca_certs: Option<PathBuf>,
}

/// How an image is pulled.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// When.
    pub policy: PullPolicy,
    /// Gets all of it again when it is pulled, and makes its file system again, whatever is here. That stays, and takes
    /// nothing from sandboxes, until what replaces it is complete.
    pub renew: bool,
    /// As whom; as who is logged in if `None`.
    pub auth: Option<RegistryAuth>,
    /// How the registry is spoken to.
    pub registry: RegistryOptions,
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            PullPolicy::Always => "always",
            PullPolicy::IfMissing => "if-missing",
            PullPolicy::Never => "never",
        })
    }
}

/// The text is none of `always`, `if-missing` and `never`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("images are pulled always, if-missing or never")]
pub struct UnknownPullPolicy;

impl FromStr for PullPolicy {
    type Err = UnknownPullPolicy;

    fn from_str(text: &str) -> Result<PullPolicy, UnknownPullPolicy> {
        match text {
            "always" => Ok(PullPolicy::Always),
            "if-missing" => Ok(PullPolicy::IfMissing),
            "never" => Ok(PullPolicy::Never),
            _ => Err(UnknownPullPolicy),
        }
    }
}

/// The image of this name, pulled if the policy says so. It is complete and recorded when this is over. Dropping the
/// future ends the pull; the next one goes on from what came.
///
/// # Errors
/// [`ImageError::ImageNotFound`] when it is not here and is not to be pulled; [`ImageError::PullFailed`].
pub async fn pull(
    home: &Home,
    reference: &Reference,
    options: PullOptions,
    progress: Arc<dyn Progress + Send + Sync>,
) -> Result<ImageHandle, ImageError> {
    let pulled = pull_and_hold(home, reference, options, progress).await?;
    Ok(pulled.image)
}

/// An image that stays as long as this lives.
struct Held {
    image: ImageHandle,
    images: Images,
    store: Shared,
}

/// See [`pull`].
async fn pull_and_hold(
    home: &Home,
    reference: &Reference,
    options: PullOptions,
    progress: Arc<dyn Progress + Send + Sync>,
) -> Result<Held, ImageError> {
    let (policy, name, renew) = (options.policy, reference.clone(), options.renew);
    let identity = identity(options.auth)?;
    let here = home.clone();
    let begun = waiting(move || begin(&here, policy, &name)).await?;
    let (images, shared) = match begun {
        Begun::Here(held) => return Ok(held),
        Begun::Wanted { images, shared } if renew => (images, Arc::new(shared.renewing())),
        Begun::Wanted { images, shared } => (images, Arc::new(shared)),
    };
    let failed = |source| ImageError::PullFailed {
        reference: reference.clone(),
        source: Box::new(source),
    };
    let access = access(home, identity, options.registry).map_err(|error| failed(error.into()))?;
    let pulled = access
        .pull(reference, Arc::clone(&shared), Arc::clone(&progress))
        .await;
    let digest = pulled.map_err(failed)?;
    let name = reference.clone();
    waiting(move || {
        if renew {
            join_again(&shared, &digest)?;
        }
        // What was made again is not to be made a third time.
        let store = images.store().share()?;
        let image = images.record(&store, &digest, &[name], &*progress)?;
        Ok(Held {
            image,
            images,
            store,
        })
    })
    .await
}

/// As [`resolve`](super::resolve), of an image that is pulled if the policy says so and a registry may have it: of an archive
/// or a layout nothing is pulled, nor of what is here by its digest. From when it is found or pulled nobody removes it.
///
/// # Errors
/// As there; [`ImageError::PullFailed`].
pub async fn provide(
    home: &Home,
    image: &str,
    options: PullOptions,
    progress: Arc<dyn Progress + Send + Sync>,
) -> Result<ResolvedImage, ImageError> {
    let find = || {
        let (home, name, progress) = (home.clone(), image.to_owned(), Arc::clone(&progress));
        waiting(move || Images::open(&home)?.resolve(&name, &*progress))
    };
    let wanted = registry_name(image).filter(|_| options.policy != PullPolicy::Never);
    let Some(reference) = wanted else {
        return find().await;
    };
    if options.policy == PullPolicy::IfMissing {
        match find().await {
            Err(ImageError::ImageNotFound { .. }) => {}
            found => return found,
        }
    }
    let held = pull_and_hold(home, &reference, options, Arc::clone(&progress)).await?;
    waiting(move || {
        let digest = *held.image.digest();
        held.images.resolve_held(held.store, digest, &*progress)
    })
    .await
}

/// The name of an image, if a registry may have it.
pub(super) fn registry_name(image: &str) -> Option<Reference> {
    match is_archive(image) {
        true => None,
        false => image.parse().ok(),
    }
}

/// What is known before a registry is asked.
enum Begun {
    /// It need not be.
    Here(Held),
    /// The store is shared from before the first byte comes until the image is recorded.
    Wanted { images: Images, shared: Shared },
}

fn begin(home: &Home, policy: PullPolicy, name: &Reference) -> Result<Begun, ImageError> {
    let images = Images::open(home)?;
    let shared = images.store().share()?;
    if policy != PullPolicy::Always {
        match images.get(&name.to_string()) {
            Ok(image) => {
                return Ok(Begun::Here(Held {
                    image,
                    images,
                    store: shared,
                }));
            }
            Err(ImageError::ImageNotFound { .. }) if policy == PullPolicy::IfMissing => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Begun::Wanted { images, shared })
}

/// Makes again what joins the layers of an image.
fn join_again(store: &Shared, digest: &Digest) -> Result<(), StoreError> {
    let manifest = store.manifest(digest)?;
    store.make_root(&store.config(&manifest)?.diff_ids)?;
    Ok(())
}

/// Who is logged in, unless somebody is given.
fn identity(auth: Option<RegistryAuth>) -> Result<Identity, ImageError> {
    Ok(match auth {
        Some(auth) => Identity::Given(Credentials::Password {
            username: auth.username,
            password: auth.password,
        }),
        None => Identity::Kept(CredentialFile::from_environment().map_err(RegistryError::from)?),
    })
}

/// How registries are spoken to, as the home's settings and `options` say.
pub(super) fn access(
    home: &Home,
    identity: Identity,
    options: RegistryOptions,
) -> Result<Access, RegistryError> {
    let mut access = Access::new(Settings::read(&home.registries())?, identity);
    access.plain_http = options.insecure;
    access.ca_certs = options.ca_certs;
    Ok(access)
}

/// Does what may wait where that keeps nobody else waiting.
pub(super) async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ImageError::GivenUp),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for policy in [PullPolicy::Always, PullPolicy::IfMissing, PullPolicy::Never] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.to_string());
        }
        assert_eq!("".parse::<PullPolicy>(), Err(UnknownPullPolicy));
    }

    #[test]
    fn a_password_is_not_shown() {
        let auth = RegistryAuth {
            username: "alice".to_owned(),
            password: Secret::new("hunter2"),
        };
        let options = PullOptions {
            auth: Some(auth),
            ..PullOptions::default()
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
