//! Who gets to see credentials.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::sample::Image;
use super::server::{Answer, Request, Server};
use super::{Puller, reference, run};
use crate::{Credentials, PullError, RegistryError, Secret, Shown};

const PASSWORD: &str = "hunter2hunter2";

fn alice() -> Credentials {
    Credentials::Password {
        username: "alice".to_owned(),
        password: Secret::new(PASSWORD),
    }
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("alice:{PASSWORD}")))
}

/// A registry that wants a token, which it gives out itself: `token1`, `token2` and so on, each good for `uses` requests.
fn with_tokens(image: &Image, uses: usize) -> Server {
    let plain = image.clone().serve();
    let (given, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Server::start(move |request| {
        if request.target.starts_with("/token") {
            if request.header("authorization") != Some(&basic()) {
                return Answer::status(401);
            }
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            used.store(0, Ordering::SeqCst);
            return Answer::ok(format!(r#"{{"token": "token{number}", "expires_in": 1}}"#));
        }
        let valid = format!("Bearer token{}", given.load(Ordering::SeqCst));
        let shown = request.header("authorization");
        if shown == Some(&valid) && used.fetch_add(1, Ordering::SeqCst) < uses {
            return plain(request);
        }
        let host = request.header("host").unwrap();
        let challenge = format!(
            r#"Bearer realm="http://{host}/token",service="here",scope="repository:x:pull""#
        );
        Answer::status(401).with("www-authenticate", challenge)
    })
}

#[test]
fn a_token_is_got_once_and_again_when_it_expires() {
    let image = Image::new(4);
    let server = with_tokens(&image, 1000);
    let puller = Puller::with(alice());
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
    assert_eq!(server.count("/token"), 1);
    let token = server
        .requests()
        .into_iter()
        .find(|request| request.target.contains("token"));
    assert_eq!(
        token.unwrap().target,
        "/token?service=here&scope=repository%3Ax%3Apull"
    );

    let server = with_tokens(&image, 3);
    let puller = Puller::with(alice());
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
    assert_eq!(server.count("/token"), 2);
}

/// As Docker Hub has it: whoever is nobody gets a token, too, and only who gives it out sees a password.
#[test]
fn a_token_comes_from_whom_the_registry_names() {
    for (credentials, expected) in [(alice(), Some(basic())), (Credentials::Anonymous, None)] {
        let tokens = Server::start(|_| Answer::ok(r#"{"token": "t"}"#));
        let image = Image::new(2);
        let plain = image.clone().serve();
        let realm = format!(
            r#"Bearer realm="http://{}/give?a=b",service="c d""#,
            tokens.name()
        );
        let server = Server::start(move |request| match request.header("authorization") {
            Some("Bearer t") => plain(request),
            _ => Answer::status(401).with("www-authenticate", realm.clone()),
        });
        let puller = Puller::with(credentials);
        puller.pull(&reference(&server)).unwrap();
        assert!(puller.has(&image));
        let asked = tokens.requests();
        assert_eq!(asked.len(), 1);
        let target = "/give?a=b&service=c+d&scope=repository%3Ax%3Apull";
        assert_eq!(asked[0].target, target);
        assert_eq!(asked[0].header("authorization"), expected.as_deref());
        let shown = server.requests();
        let mut shown = shown.iter().map(|request| request.header("authorization"));
        assert!(shown.all(|shown| matches!(shown, None | Some("Bearer t"))));
    }
}

#[test]
fn wrong_credentials_are_refused_once() {
    let server = with_tokens(&Image::new(1), 1000);
    for (credentials, expected) in [
        (Credentials::Anonymous, Shown::Nothing),
        (
            Credentials::Password {
                username: "mallory".to_owned(),
                password: Secret::new("x"),
            },
            Shown::Credentials,
        ),
    ] {
        match Puller::with(credentials).pull(&reference(&server)) {
            Err(PullError::Registry(RegistryError::Unauthorized { shown, .. })) => {
                assert_eq!(shown, expected);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_password_goes_with_each_request_where_that_is_asked_for() {
    let image = Image::new(2);
    let plain = image.clone().serve();
    let server = Server::start(move |request| {
        if request.header("authorization") == Some(&basic()) {
            return plain(request);
        }
        Answer::status(401).with("www-authenticate", "Basic realm=\"x\"")
    });
    let puller = Puller::with(alice());
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
    let without = server
        .requests()
        .iter()
        .filter(|request| request.header("authorization").is_none())
        .count();
    assert_eq!(without, 1);
    run(puller.access.check(&server.name())).unwrap();
    let mallory = Puller::with(Credentials::Anonymous);
    let error = run(mallory.access.check(&server.name())).unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
}

#[test]
fn an_identity_token_is_exchanged() {
    let image = Image::new(1);
    let plain = image.clone().serve();
    let server = Server::start(move |request| {
        if request.target.starts_with("/token") {
            return Answer::ok(r#"{"access_token": "t"}"#);
        }
        if request.header("authorization") == Some("Bearer t") {
            return plain(request);
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\"",
            request.header("host").unwrap()
        );
        Answer::status(401).with("www-authenticate", realm)
    });
    let puller = Puller::with(Credentials::IdentityToken(Secret::new("identity")));
    puller.pull(&reference(&server)).unwrap();
    let requests = server.requests();
    let token = requests
        .iter()
        .find(|request| request.target == "/token")
        .unwrap();
    assert_eq!(token.method, "POST");
    for part in [
        "grant_type=refresh_token",
        "refresh_token=identity",
        "scope=repository%3Ax%3Apull",
    ] {
        assert!(
            token.body.split('&').any(|pair| pair == part),
            "{part}: {}",
            token.body
        );
    }
}

#[test]
fn who_is_redirected_to_sees_no_credentials() {
    let image = Image::new(2);
    let storage = Server::start(image.clone().serve());
    // Another host, and the same port of the same address under another name.
    for other in [storage.name(), storage.other_name()] {
        let plain = image.clone().serve();
        let server = Server::start(move |request| {
            if request.header("authorization") != Some(&basic()) {
                return Answer::status(401).with("www-authenticate", "Basic");
            }
            if request.target.contains("/blobs/") {
                let location = format!("http://{other}{}", request.target);
                return Answer::status(307).with("location", location);
            }
            plain(request)
        });
        let puller = Puller::with(alice());
        puller.pull(&reference(&server)).unwrap();
        assert!(puller.has(&image));
    }
    assert!(storage.count("/blobs/") >= 6);
    let leaked = |request: &Request| request.header("authorization").is_some();
    assert!(!storage.requests().iter().any(leaked));
}

#[test]
fn who_is_redirected_to_cannot_ask_for_credentials() {
    let thief = Server::start(|request| {
        let realm = format!(
            "Bearer realm=\"http://{}/token\"",
            request.header("host").unwrap()
        );
        Answer::status(401)
            .with("www-authenticate", realm)
            .with("www-authenticate", "Basic")
    });
    let location = format!("http://{}/x", thief.name());
    let server = Server::start(move |_| Answer::status(307).with("location", location.clone()));
    let error = Puller::with(alice()).pull(&reference(&server)).unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Registry(RegistryError::Unauthorized { .. })
        ),
        "{error}"
    );
    assert_eq!(thief.requests().len(), 1);
    assert_eq!(thief.requests()[0].header("authorization"), None);
}

#[test]
fn a_server_for_tokens_leads_nowhere_else() {
    let thief = Server::start(|_| Answer::ok(r#"{"token": "t"}"#));
    for credentials in [alice(), Credentials::IdentityToken(Secret::new(PASSWORD))] {
        let location = format!("http://{}/token", thief.other_name());
        let server = Server::start(move |request| {
            if request.target.starts_with("/token") {
                return Answer::status(307).with("location", location.clone());
            }
            let host = request.header("host").unwrap();
            Answer::status(401).with(
                "www-authenticate",
                format!("Bearer realm=\"http://{host}/token\""),
            )
        });
        let error = Puller::with(credentials)
            .pull(&reference(&server))
            .unwrap_err();
        assert!(error.to_string().contains("307"), "{error}");
    }
    assert_eq!(thief.requests().len(), 0);
}

#[test]
fn passwords_go_nowhere_without_tls() {
    let server = Server::start(|_| {
        let realm = "Bearer realm=\"http://auth.example.com/token\"";
        Answer::status(401).with("www-authenticate", realm)
    });
    match Puller::with(alice()).pull(&reference(&server)) {
        Err(PullError::Registry(RegistryError::Unencrypted { host, .. })) => {
            assert_eq!(host, "auth.example.com");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokens_that_are_none_are_refused() {
    for token in [
        "",
        "{}",
        "[]",
        "{\"token\": \"\"}",
        "{\"token\": \"a\\nb\"}",
        "{\"token\": 7}",
    ] {
        let server = Server::start(move |request| {
            if request.target.starts_with("/token") {
                return Answer::ok(token);
            }
            let host = request.header("host").unwrap();
            Answer::status(401).with(
                "www-authenticate",
                format!("Bearer realm=\"http://{host}/token\""),
            )
        });
        let error = Puller::with(alice()).pull(&reference(&server)).unwrap_err();
        assert!(
            matches!(error, PullError::Registry(RegistryError::Protocol { .. })),
            "{error}"
        );
    }
}

#[test]
fn no_error_and_no_debug_output_shows_a_secret() {
    // It writes what it was shown wherever an error's text may come from.
    let server = Server::start(|request| {
        let shown = request
            .header("authorization")
            .unwrap_or_default()
            .to_owned();
        if request.target.starts_with("/token") {
            return Answer::ok(format!("{{\"token\": \"{PASSWORD}\"}}"));
        }
        if shown.is_empty() {
            let host = request.header("host").unwrap();
            let realm = format!("Bearer realm=\"http://{host}/token?secret={PASSWORD}\"");
            return Answer::status(401).with("www-authenticate", realm);
        }
        let body = format!(r#"{{"errors":[{{"code":"{shown}","message":"{shown}"}}]}}"#);
        Answer {
            status: 400,
            ..Answer::ok(body)
        }
    });
    let puller = Puller::with(alice());
    let error = puller.pull(&reference(&server)).unwrap_err();
    let mut texts = vec![format!("{error:?}"), format!("{:?}", puller.access)];
    let mut next: Option<&dyn Error> = Some(&error);
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    for text in texts {
        assert!(!text.contains(PASSWORD), "{text}");
        assert!(
            !text.contains(&STANDARD.encode(format!("alice:{PASSWORD}"))),
            "{text}"
        );
    }
    assert!(error.to_string().contains("400"), "{error}");
}
