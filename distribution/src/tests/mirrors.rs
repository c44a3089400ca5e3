//! Mirrors of registries.

use std::fs;

use super::sample::Image;
use super::server::{Answer, Server};
use super::{Puller, reference};
use crate::{Credentials, Secret, Settings};
use image::digest::Digest;

/// A puller for which `mirror` is a mirror of `registry`.
fn puller(registry: &Server, mirror: &Server, credentials: Credentials) -> Puller {
    let mut puller = Puller::with(credentials);
    let path = puller.root.path().join("registries.json");
    let (registry, mirror) = (registry.name(), mirror.name());
    fs::write(
        &path,
        format!(r#"{{"{registry}": {{"mirrors": ["http://{mirror}"]}}}}"#),
    )
    .unwrap();
    puller.access.settings = Settings::read(&path).unwrap();
    puller
}

#[test]
fn a_mirror_is_asked_first_and_for_everything() {
    let image = Image::new(2);
    let registry = Server::start(|_| Answer::status(500));
    let mirror = Server::start(image.clone().serve());
    let puller = puller(&registry, &mirror, Credentials::Anonymous);
    puller.pull(&reference(&registry)).unwrap();
    assert!(puller.has(&image));
    assert_eq!(registry.requests().len(), 0);
}

#[test]
fn what_a_mirror_lacks_or_spoils_comes_from_the_registry() {
    let image = Image::new(2);
    let (lacking, spoilt) = (Digest::of(&image.layers[0]), Digest::of(&image.layers[1]));
    let plain = image.clone().serve();
    let mirror = Server::start(move |request| {
        if request.target.ends_with(&lacking.to_string()) {
            return Answer::status(404);
        }
        let answer = plain(request);
        if request.target.ends_with(&spoilt.to_string())
            && let super::server::Body::Whole(mut body) = answer.body
        {
            body[500] ^= 1;
            return Answer::ok(body);
        }
        plain(request)
    });
    let registry = Server::start(image.clone().serve());
    let puller = puller(&registry, &mirror, Credentials::Anonymous);
    puller.pull(&reference(&registry)).unwrap();
    assert!(puller.has(&image));
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn a_mirror_that_fails_is_no_matter_and_gets_no_credentials() {
    let image = Image::new(1);
    let mirror = Server::start(|_| Answer::status(401).with("www-authenticate", "Basic"));
    let plain = image.clone().serve();
    let registry = Server::start(move |request| match request.header("authorization") {
        Some(_) => plain(request),
        None => Answer::status(401).with("www-authenticate", "Basic"),
    });
    let credentials = Credentials::Password {
        username: "alice".to_owned(),
        password: Secret::new("hunter2"),
    };
    let puller = puller(&registry, &mirror, credentials);
    puller.pull(&reference(&registry)).unwrap();
    assert!(puller.has(&image));
    assert!(
        mirror
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}
