//! Registries that fail, lie, and stall.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::sample::Image;
use super::server::{Answer, Body, Request, Server};
use super::{Puller, reference};
use crate::{PullError, RegistryError};
use image::digest::Digest;
use image::manifest::{ManifestError, OCI_INDEX};
use image::store::StoreError;

fn registry_error(result: Result<Digest, PullError>) -> RegistryError {
    match result {
        Err(PullError::Registry(error)) => error,
        other => panic!("no error of the registry: {other:?}"),
    }
}

/// A registry with an image of one layer, that answers the requests for this layer as `fault` says: it is given the
/// number of the request and the layer, and leaves those that it does not want to a registry that behaves.
fn faulty_layer(
    image: &Image,
    fault: impl Fn(usize, &Request, &[u8]) -> Option<Answer> + Send + Sync + 'static,
) -> Server {
    let (plain, layer) = (image.clone().serve(), image.layers[0].clone());
    let digest = Digest::of(&layer).to_string();
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        if !request.target.ends_with(&digest) {
            return plain(request);
        }
        let number = count.fetch_add(1, Ordering::SeqCst);
        fault(number, request, &layer).unwrap_or_else(|| plain(request))
    })
}

#[test]
fn what_breaks_off_or_stalls_is_taken_up_where_it_was() {
    let bodies: [fn(&[u8]) -> Body; 2] = [
        |layer| Body::Cut(layer[..40_000].to_vec(), layer.len()),
        |layer| Body::Stuck(layer[..40_000].to_vec(), layer.len()),
    ];
    for body in bodies {
        let image = Image::new(1);
        let server = faulty_layer(&image, move |number, _, layer| {
            (number == 0).then(|| Answer::status(200).with_body(body(layer)))
        });
        let puller = Puller::impatient();
        puller.pull(&reference(&server)).unwrap();
        assert!(puller.has(&image));
        let ranges: Vec<_> = server
            .requests()
            .iter()
            .filter_map(Request::range)
            .collect();
        assert_eq!(ranges.first(), Some(&40_000));
    }
}

/// A reset takes what has arrived and was not read with it, so that where the next request begins is not known.
#[test]
fn a_connection_that_is_reset_is_made_again() {
    let image = Image::new(1);
    let server = faulty_layer(&image, move |number, _, layer| {
        let body = Body::Reset(layer[..40_000].to_vec(), layer.len());
        (number < 3).then(|| Answer::status(200).with_body(body))
    });
    let puller = Puller::new();
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
    let layer = Digest::of(&image.layers[0]).to_string();
    assert!(server.count(&layer) > 1);
}

#[test]
fn the_pauses_before_repetitions_grow() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let server = Server::start(move |_| {
        seen.lock().unwrap().push(Instant::now());
        Answer::status(503)
    });
    let mut puller = Puller::new();
    let first = Duration::from_millis(40);
    puller.access.limits.first_pause = first;
    registry_error(puller.pull(&reference(&server)));
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 5);
    for (number, pair) in (0..).zip(times.windows(2)) {
        let pause = pair[1] - pair[0];
        assert!(pause >= first * (1 << number), "{number}: {pause:?}");
    }
}

#[test]
fn a_registry_may_break_off_often_as_long_as_something_comes() {
    let image = Image::new(1);
    let server = faulty_layer(&image, |_, request, layer| {
        let from = request.range().unwrap_or(0);
        let to = layer.len().min(from + 9_000);
        let range = format!("bytes {from}-{}/{}", layer.len() - 1, layer.len());
        let body = Body::Cut(layer[from..to].to_vec(), layer.len() - from);
        let status = if from == 0 { 200 } else { 206 };
        Some(
            Answer::status(status)
                .with("content-range", range)
                .with_body(body),
        )
    });
    let puller = Puller::new();
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
    let layer = Digest::of(&image.layers[0]).to_string();
    assert!(server.count(&layer) > 8);
}

#[test]
fn a_registry_that_knows_no_ranges_sends_all_again() {
    let image = Image::new(1);
    let server = faulty_layer(&image, |number, _, layer| {
        Some(match number {
            0 => Answer::status(200).with_body(Body::Cut(layer[..40_000].to_vec(), layer.len())),
            _ => Answer::ok(layer),
        })
    });
    let puller = Puller::new();
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
}

#[test]
fn another_part_than_was_asked_for_is_refused() {
    let image = Image::new(1);
    let server = faulty_layer(&image, |number, _, layer| {
        Some(match number {
            0 => Answer::status(200).with_body(Body::Cut(layer[..40_000].to_vec(), layer.len())),
            _ => {
                let range = format!("bytes 0-{}/{}", layer.len() - 1, layer.len());
                let answer = Answer::ok(layer).with("content-range", range);
                Answer {
                    status: 206,
                    ..answer
                }
            }
        })
    });
    let error = registry_error(Puller::new().pull(&reference(&server)));
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
}

#[test]
fn a_part_that_was_damaged_on_disk_is_downloaded_again() {
    let image = Image::new(1);
    let server = Server::start(image.clone().serve());
    let puller = Puller::new();
    let hex = Digest::of(&image.layers[0]).hex();
    fs::write(
        puller.root.path().join("images/partial").join(hex),
        [7; 5000],
    )
    .unwrap();
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter_map(Request::range)
        .collect();
    assert_eq!(ranges, [5000]);
}

#[test]
fn a_registry_that_hangs_is_given_up() {
    let server = Server::start(|_| Answer::status(200).with_body(Body::Silence));
    let start = Instant::now();
    let error = registry_error(Puller::impatient().pull(&reference(&server)));
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn nobody_there_is_told_at_once() {
    let name = {
        let server = Server::start(|_| Answer::status(404));
        server.name()
    };
    let error = registry_error(Puller::new().pull(&format!("{name}/x")));
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error}"
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("onnection refused"), "{source}");
}

#[test]
fn refusals_are_told_apart_and_only_passing_ones_repeated() {
    for (status, requests) in [
        (401, 1),
        (403, 1),
        (404, 1),
        (418, 1),
        (429, 5),
        (500, 5),
        (503, 5),
    ] {
        let server = Server::start(move |_| Answer {
            status,
            ..Answer::ok(r#"{"errors":[{"code":"SOME_CODE","message":"m"}]}"#)
        });
        let error = registry_error(Puller::new().pull(&reference(&server)));
        let fits = match status {
            401 => matches!(error, RegistryError::Unauthorized { .. }),
            403 => matches!(error, RegistryError::Denied { .. }),
            404 => matches!(error, RegistryError::NotFound { .. }),
            429 => matches!(
                error,
                RegistryError::TooManyRequests {
                    retry_after: None,
                    ..
                }
            ),
            _ => error
                .to_string()
                .ends_with(&format!("status {status} (SOME_CODE)")),
        };
        assert!(fits, "{status}: {error}");
        assert_eq!(server.requests().len(), requests, "{status}");
    }
}

/// What is refused, and by whom: a server of tokens, or a registry that has given the manifest already.
#[test]
fn tokens_and_blobs_are_refused_as_manifests_are() {
    for (status, requests) in [(403, 1), (404, 1), (429, 5), (500, 5)] {
        let refusal = move || Answer {
            status,
            ..Answer::ok(r#"{"errors":[{"code":"SOME_CODE","message":"m"}]}"#)
        };
        let tokens = Server::start(move |request| {
            if request.target.starts_with("/token") {
                return refusal();
            }
            let host = request.header("host").unwrap();
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="here""#);
            Answer::status(401).with("www-authenticate", challenge)
        });
        let image = Image::new(1);
        let blobs = faulty_layer(&image, move |_, _, _| Some(refusal()));
        let layer = Digest::of(&image.layers[0]).to_string();
        for (server, refused) in [(&tokens, "/token"), (&blobs, &*layer)] {
            let puller = Puller::new();
            let error = registry_error(puller.pull(&reference(server)));
            let fits = match status {
                403 => matches!(error, RegistryError::Denied { .. }),
                404 => matches!(error, RegistryError::NotFound { .. }),
                429 => matches!(error, RegistryError::TooManyRequests { .. }),
                _ => error
                    .to_string()
                    .ends_with(&format!("status {status} (SOME_CODE)")),
            };
            assert!(fits, "{refused} {status}: {error}");
            assert_eq!(server.count(refused), requests, "{refused} {status}");
            assert!(!puller.has(&image));
        }
    }
}

#[test]
fn a_registry_says_when_to_come_back() {
    let image = Image::new(1);
    let server = faulty_layer(&image, |number, _, _| {
        (number == 0).then(|| Answer::status(429).with("retry-after", "1"))
    });
    let start = Instant::now();
    Puller::new().pull(&reference(&server)).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let server = faulty_layer(&image, |_, _, _| {
        Some(Answer::status(429).with("retry-after", "3600"))
    });
    let error = registry_error(Puller::new().pull(&reference(&server)));
    let expected = RegistryError::TooManyRequests {
        registry: server.name(),
        retry_after: Some(3600),
    };
    assert_eq!(error.to_string(), expected.to_string());
}

#[test]
fn nothing_of_the_wrong_digest_is_kept() {
    let image = Image::new(1);
    let server = faulty_layer(&image, |_, _, layer| {
        let mut wrong = layer.to_vec();
        wrong[70_000] ^= 1;
        Some(Answer::ok(wrong))
    });
    let puller = Puller::new();
    let error = puller.pull(&reference(&server)).unwrap_err();
    assert!(
        matches!(error, PullError::Store(StoreError::WrongDigest { .. })),
        "{error}"
    );
    assert_eq!(puller.partial(), [""; 0]);
    assert!(!puller.has(&image));
    let layer = Digest::of(&image.layers[0]).to_string();
    assert_eq!(server.count(&layer), 1);
}

#[test]
fn nothing_of_the_wrong_size_is_taken() {
    let answers: [fn(&[u8]) -> Answer; 3] = [
        |layer| Answer::ok([layer, b"more"].concat()),
        |layer| Answer::ok(&layer[1..]),
        |_| Answer::status(200).with_body(Body::Endless),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let image = Image::new(1);
        let server = faulty_layer(&image, move |_, _, layer| Some(answer(layer)));
        let puller = Puller::new();
        let error = puller.pull(&reference(&server)).unwrap_err();
        let fits = matches!(
            &error,
            PullError::Registry(RegistryError::Protocol { .. })
                | PullError::Store(StoreError::WrongDigest { .. })
        );
        assert!(fits, "{number}: {error}");
        assert!(!puller.has(&image), "{number}");
    }
}

#[test]
fn a_manifest_has_the_digest_that_was_asked_for() {
    let image = Image::new(1);
    let other = Digest::of(b"other");
    let manifest = image.manifest.clone();
    let server = Server::start(move |_| Answer::ok(manifest.clone()));
    let error = registry_error(Puller::new().pull(&format!("{}@{other}", reference(&server))));
    assert!(
        matches!(error, RegistryError::WrongDigest { .. }),
        "{error}"
    );
    let manifest = image.manifest;
    let server = Server::start(move |_| {
        Answer::ok(manifest.clone()).with("docker-content-digest", other.to_string())
    });
    let error = registry_error(Puller::new().pull(&reference(&server)));
    assert!(
        matches!(error, RegistryError::WrongDigest { .. }),
        "{error}"
    );
}

#[test]
fn a_manifest_without_an_end_or_too_slow_is_refused() {
    let server = Server::start(|_| Answer::status(200).with_body(Body::Endless));
    let error = registry_error(Puller::impatient().pull(&reference(&server)));
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
    let server = Server::start(|_| {
        Answer::status(200).with_body(Body::Drip(vec![b' '; 1000], Duration::from_millis(20)))
    });
    let error = registry_error(Puller::impatient().pull(&reference(&server)));
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error}");
}

#[test]
fn a_slow_layer_may_take_its_time() {
    let image = Image::new(1);
    let server = faulty_layer(&image, |_, request, layer| {
        // All but the last bytes at once, then longer than a document may take.
        let from = request.range().unwrap_or(0);
        if from == 0 {
            let begin = layer[..layer.len() - 12].to_vec();
            return Some(Answer::status(200).with_body(Body::Cut(begin, layer.len())));
        }
        let range = format!("bytes {from}-{}/{}", layer.len() - 1, layer.len());
        let drip = Body::Drip(layer[from..].to_vec(), Duration::from_millis(100));
        Some(
            Answer::status(206)
                .with("content-range", range)
                .with_body(drip),
        )
    });
    let puller = Puller::impatient();
    let start = Instant::now();
    puller.pull(&reference(&server)).unwrap();
    assert!(start.elapsed() > puller.access.limits.document);
    assert!(puller.has(&image));
}

#[test]
fn an_index_without_our_platform_and_old_formats_are_refused() {
    let index = Image::new(1).index("riscv64");
    let server = Server::start(move |_| Answer::ok(index.clone()).with("content-type", OCI_INDEX));
    match Puller::new().pull(&reference(&server)) {
        Err(PullError::Document {
            source: ManifestError::NoPlatform { available },
            ..
        }) => assert_eq!(available, ["linux/riscv64"]),
        other => panic!("{other:?}"),
    }
    let server = Server::start(|_| {
        let schema1 = r#"{"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}"#;
        let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        Answer::ok(schema1).with("content-type", media_type)
    });
    match Puller::new().pull(&reference(&server)) {
        Err(PullError::Document {
            source: ManifestError::Schema1,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn indices_that_lead_to_each_other_end() {
    let server = Server::start(|request| {
        // Each leads to the next; digests cannot be made to agree, so the first step is refused.
        let manifests = serde_json::json!([{
            "mediaType": OCI_INDEX, "digest": Digest::of(request.target.as_bytes()).to_string(),
            "size": 7, "platform": {"os": "linux", "architecture": "amd64"},
        }]);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        Answer::ok(index.to_string()).with("content-type", OCI_INDEX)
    });
    let error = registry_error(Puller::new().pull(&reference(&server)));
    assert!(
        matches!(error, RegistryError::WrongDigest { .. }),
        "{error}"
    );
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn redirects_end() {
    let server = Server::start(|request| {
        Answer::status(307).with("location", format!("{}x", request.target))
    });
    let error = registry_error(Puller::new().pull(&reference(&server)));
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error}"
    );
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn a_redirect_does_not_leave_this_machine_without_tls() {
    let server =
        Server::start(|_| Answer::status(307).with("location", "http://registry.example.com/x"));
    match registry_error(Puller::new().pull(&reference(&server))) {
        RegistryError::Unencrypted { host, .. } => assert_eq!(host, "registry.example.com"),
        other => panic!("{other}"),
    }
}
