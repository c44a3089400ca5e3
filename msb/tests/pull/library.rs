//! Images of sandboxes that the library makes: when they are pulled, and as whom. No machine starts, because its kernel is
//! none: what is looked at is what comes before.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;

use microsandbox::images::distribution::Secret;
use microsandbox::images::image::Digest;
use microsandbox::images::image::progress::Silent;
use microsandbox::images::{self, Images, PullOptions, PullPolicy, RegistryAuth};
use microsandbox::sandbox::{RootAccessConfig, SandboxBuilder};
use microsandbox::{ErrorKind, Microsandbox};

use crate::User;
use crate::registry::{PASSWORD, Registry, USER};

/// What the records of every sandbox contain.
const MARK: &str = "recorded-with-the-sandbox";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(future)
}

/// The sandboxes of a user who is not logged in and knows the registry's certificate.
fn sandboxes(user: &User, registry: &Registry) -> Microsandbox {
    let home = user.home();
    fs::create_dir_all(home.bin()).unwrap();
    fs::create_dir_all(home.kernel()).unwrap();
    for file in ["vmlinux", "initramfs.cpio"] {
        fs::write(home.kernel().join(file), "").unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_msb"), home.bin().join("msb")).unwrap();
    let ca = registry.ca();
    let settings = format!(r#"{{"{}": {{"ca_certs": {ca:?}}}}}"#, registry.name());
    fs::write(home.registries(), settings).unwrap();
    Microsandbox::at(home)
}

fn builder(microsandbox: &Microsandbox, registry: &Registry, password: &str) -> SandboxBuilder {
    let auth = RegistryAuth {
        username: USER.to_owned(),
        password: Secret::new(password),
    };
    microsandbox
        .builder("web")
        .image(registry.image())
        .env("MARK", MARK)
        // Every byte of it is looked at.
        .root_access(RootAccessConfig::Upper { mib: 16 })
        .registry_auth(auth)
}

/// The image that a creation would take, which fails when it has it.
fn image_of(builder: SandboxBuilder, user: &User, registry: &Registry) -> Option<Digest> {
    let error = block_on(builder.create()).unwrap_err().to_string();
    assert!(!error.contains(PASSWORD), "{error}");
    let images = Images::open(&user.home()).unwrap();
    let found = images.get(&registry.image()).ok()?;
    Some(*found.digest())
}

#[test]
fn a_policy_says_when_a_registry_is_asked_what_a_tag_is() {
    let registry = Registry::start();
    let user = User::new();
    let microsandbox = sandboxes(&user, &registry);
    let image = |policy| {
        let builder = builder(&microsandbox, &registry, PASSWORD).pull_policy(policy);
        image_of(builder, &user, &registry)
    };
    assert_eq!(image(PullPolicy::Never), None);
    let first = registry.digest();
    assert_eq!(image(PullPolicy::IfMissing), Some(first));
    let second = registry.move_tag();
    assert_ne!(first, second);
    assert_eq!(image(PullPolicy::Never), Some(first));
    assert_eq!(image(PullPolicy::IfMissing), Some(first));
    let sent = registry.blobs_sent();
    assert_eq!(image(PullPolicy::Always), Some(second));
    // Its layers are those of the other, and are here.
    assert_eq!(registry.blobs_sent() - sent, 1);
    assert_eq!(image(PullPolicy::IfMissing), Some(second));
}

#[test]
fn an_image_is_pulled_if_it_is_missing_unless_that_is_never_to_be() {
    let registry = Registry::start();
    let user = User::new();
    let microsandbox = sandboxes(&user, &registry);
    let builder = || builder(&microsandbox, &registry, PASSWORD);
    let never = builder().pull_policy(PullPolicy::Never);
    let error = block_on(never.create()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageNotFound, "{error}");
    assert_eq!(registry.blobs_sent(), 0);
    // What a builder says by itself.
    let first = registry.digest();
    assert_eq!(image_of(builder(), &user, &registry), Some(first));
    registry.move_tag();
    assert_eq!(image_of(builder(), &user, &registry), Some(first));
}

#[test]
fn what_was_pulled_for_a_sandbox_stays_until_it_is_let_go_of() {
    let registry = Registry::start_open();
    let user = User::new();
    for policy in [PullPolicy::IfMissing, PullPolicy::Always] {
        let options = PullOptions {
            policy,
            ..PullOptions::default()
        };
        let (home, image) = (user.home(), registry.image());
        let provided = images::provide(&home, &image, options, Arc::new(Silent));
        let provided = block_on(provided).unwrap();
        assert_eq!(provided.manifest_digest, registry.digest());
        let store = Images::open(&home).unwrap().store().clone();
        assert!(store.try_exclude().unwrap().is_none(), "{policy}");
        drop(provided);
        assert!(store.try_exclude().unwrap().is_some(), "{policy}");
    }
}

#[test]
fn who_asks_a_registry_is_recorded_nowhere() {
    let registry = Registry::start();
    let user = User::new();
    let microsandbox = sandboxes(&user, &registry);
    let wrong = builder(&microsandbox, &registry, "not the password");
    assert_eq!(image_of(wrong, &user, &registry), None);
    let right = builder(&microsandbox, &registry, PASSWORD);
    let config = serde_json::to_string(right.config()).unwrap();
    assert!(config.contains(MARK) && !config.contains(PASSWORD) && !config.contains(USER));
    assert!(!format!("{right:?}").contains(PASSWORD));
    assert_eq!(image_of(right, &user, &registry), Some(registry.digest()));
    let files_with = |text: &str| {
        let mut grep = Command::new("grep");
        let found = grep
            .args(["-rlaF", text])
            .arg(user.path())
            .output()
            .unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    // The sandbox is forgotten by now, and SQLite leaves what it had written where it was.
    assert!(files_with(MARK).contains("msb.db"), "{}", files_with(MARK));
    assert_eq!(files_with(PASSWORD), "");
    assert!(!user.config().exists(), "somebody is logged in");
}
