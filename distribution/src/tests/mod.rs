//! Pulls from registries that behave, and from those that do not.

mod credentials;
mod faults;
mod mirrors;
mod sample;
mod server;

use std::fs;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::transport::TimeLimits;
use super::{Access, Credentials, Identity, PullError, Settings};
use image::digest::Digest;
use image::progress::{LayerState, Progress};
use image::store::Store;
use sample::Image;
use server::Server;

/// No pull of these tests may take longer.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A store, and somebody who fills it.
struct Puller {
    access: Access,
    store: Store,
    seen: Arc<Seen>,
    root: tempfile::TempDir,
}

/// What was told of progress.
#[derive(Default)]
struct Seen(Mutex<Vec<(Digest, u64, u64)>>);

impl Progress for Seen {
    fn blob(&self, digest: &Digest, done: u64, total: u64) {
        self.0.lock().unwrap().push((*digest, done, total));
    }

    fn layer(&self, _: &Digest, _: LayerState) {}

    fn archive(&self, _: u64) {}
}

impl Puller {
    fn new() -> Puller {
        Puller::with(Credentials::Anonymous)
    }

    fn with(credentials: Credentials) -> Puller {
        let root = tempfile::tempdir().unwrap();
        let mut access = Access::new(Settings::default(), Identity::Given(credentials));
        access.limits = TimeLimits {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(20),
            document: Duration::from_secs(20),
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_secs(2),
        };
        Puller {
            access,
            store: Store::open(root.path().join("images")).unwrap(),
            seen: Arc::default(),
            root,
        }
    }

    /// One that does not wait long, for registries that are slow on purpose.
    fn impatient() -> Puller {
        let mut puller = Puller::new();
        puller.access.limits.stall = Duration::from_millis(300);
        puller.access.limits.document = Duration::from_millis(600);
        puller
    }

    fn pull(&self, reference: &str) -> Result<Digest, PullError> {
        run(self.start(reference))
    }

    fn start(&self, reference: &str) -> impl Future<Output = Result<Digest, PullError>> {
        let reference = reference.parse().unwrap();
        let shared = Arc::new(self.store.share().unwrap());
        let progress = Arc::clone(&self.seen);
        async move { self.access.pull(&reference, shared, progress).await }
    }

    /// Whether all of an image is there, and file systems of its layers.
    fn has(&self, image: &Image) -> bool {
        let shared = self.store.share().unwrap();
        let manifest = Digest::of(&image.manifest);
        let config = Digest::of(&image.config);
        let layers: Vec<_> = image.layers.iter().map(|layer| Digest::of(layer)).collect();
        let made = layers.iter().all(|layer| shared.layer(layer).is_some());
        let mut blobs = layers.iter().chain([&manifest, &config]);
        made && blobs.all(|digest| shared.has_blob(digest))
    }

    /// Names of blobs of which a part is there.
    fn partial(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path().join("images/partial")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// Runs a future to its end, which comes in time.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(TIME_LIMIT, future).await })
        .expect("it hangs")
}

fn reference(server: &Server) -> String {
    format!("{}/x", server.name())
}

#[test]
fn an_image_is_pulled_once() {
    let image = Image::new(6);
    let server = Server::start(image.clone().serve());
    let puller = Puller::new();
    assert_eq!(puller.pull(&reference(&server)).unwrap(), image.digest());
    assert!(puller.has(&image));
    assert_eq!(puller.partial(), [""; 0]);
    assert_eq!(server.count("/blobs/"), 7);
    puller.pull(&reference(&server)).unwrap();
    assert_eq!(server.count("/blobs/"), 7, "something was downloaded again");
    let seen = puller.seen.0.lock().unwrap();
    for layer in &image.layers {
        let digest = Digest::of(layer);
        let size = layer.len() as u64;
        assert!(
            seen.contains(&(digest, size, size)),
            "{digest} was not told to be complete"
        );
    }
}

#[test]
fn an_image_is_pulled_by_digest_and_through_an_index() {
    let image = Image::new(1);
    let (index, plain) = (image.index("amd64"), image.clone().serve());
    let of_index = Digest::of(&index);
    let server = Server::start(move |request| match request.target.rsplit('/').next() {
        Some(last) if last == "latest" || last == of_index.to_string() => {
            server::Answer::ok(index.clone()).with("content-type", image::manifest::OCI_INDEX)
        }
        _ => plain(request),
    });
    for version in [
        ":latest".to_owned(),
        format!("@{of_index}"),
        format!("@{}", image.digest()),
    ] {
        let puller = Puller::new();
        let pulled = puller
            .pull(&format!("{}{version}", reference(&server)))
            .unwrap();
        assert_eq!(pulled, image.digest(), "{version}");
        assert!(puller.has(&image), "{version}");
    }
}

/// The registry answers for layers only when so many are asked for at once, or somebody has waited long for that.
#[test]
fn four_layers_come_at_a_time() {
    const AT_ONCE: usize = 4;
    /// How many are asked for now, and how many were at most.
    #[derive(Default)]
    struct Asked {
        now: usize,
        most: usize,
    }
    let image = Image::new(2 * AT_ONCE);
    let (plain, config) = (image.clone().serve(), Digest::of(&image.config).to_string());
    let state = Arc::new((Mutex::new(Asked::default()), Condvar::new()));
    let shared = Arc::clone(&state);
    let server = Server::start(move |request| {
        if request.target.contains("/blobs/") && !request.target.ends_with(&config) {
            let (asked, changed) = &*shared;
            let mut asked_now = asked.lock().unwrap();
            asked_now.now += 1;
            asked_now.most = asked_now.most.max(asked_now.now);
            changed.notify_all();
            let few = |asked: &mut Asked| asked.most < AT_ONCE;
            let waited = changed.wait_timeout_while(asked_now, TIME_LIMIT / 3, few);
            waited.unwrap().0.now -= 1;
        }
        plain(request)
    });
    let puller = Puller::new();
    puller.pull(&reference(&server)).unwrap();
    assert!(puller.has(&image));
    assert_eq!(state.0.lock().unwrap().most, AT_ONCE);
}

#[test]
fn only_this_machine_is_spoken_to_without_tls_unless_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registries.json");
    let said =
        r#"{"plain.example.com": {"plain_http": true}, "localhost:1": {"plain_http": false}}"#;
    fs::write(&path, said).unwrap();
    let identity = Identity::Given(Credentials::Anonymous);
    let mut access = Access::new(Settings::read(&path).unwrap(), identity);
    let scheme = |access: &Access, registry: &str| {
        let endpoints = access.endpoints(registry).unwrap();
        let schemes = endpoints
            .iter()
            .map(|endpoint| endpoint.url("").scheme().to_owned());
        schemes.collect::<Vec<_>>().join(" ")
    };
    for registry in [
        "docker.io",
        "ghcr.io",
        "10.0.0.1:5000",
        "localhost.example.com",
        "localhost:1",
    ] {
        assert_eq!(scheme(&access, registry), "https", "{registry}");
    }
    for registry in ["localhost:5000", "127.0.0.1:5000", "plain.example.com"] {
        assert_eq!(scheme(&access, registry), "http", "{registry}");
    }
    access.plain_http = true;
    assert_eq!(scheme(&access, "ghcr.io"), "http");
}

#[test]
fn two_pulls_of_an_image_download_each_layer_once() {
    let image = Image::new(5);
    let slow = image.clone().serve();
    let server = Server::start(move |request| {
        // Long enough that both want it.
        std::thread::sleep(Duration::from_millis(30));
        slow(request)
    });
    let puller = Puller::new();
    let reference = reference(&server);
    run(async {
        let (one, other) = tokio::join!(puller.start(&reference), puller.start(&reference));
        assert_eq!(one.unwrap(), other.unwrap());
    });
    assert!(puller.has(&image));
    assert_eq!(server.count("/blobs/"), 6);
}

#[test]
fn a_pull_that_is_given_up_goes_on_where_it_was() {
    let image = Image::new(1);
    let (plain, layer) = (image.clone().serve(), image.layers[0].clone());
    let digest = Digest::of(&layer).to_string();
    let server = Server::start(move |request| {
        if request.target.ends_with(&digest) && request.range().is_none() {
            let stuck = server::Body::Stuck(layer[..60_000].to_vec(), layer.len());
            return server::Answer::status(200).with_body(stuck);
        }
        plain(request)
    });
    let puller = Puller::new();
    let reference = reference(&server);
    run(async {
        let pull = puller.start(&reference);
        let arrived = async {
            while !puller
                .seen
                .0
                .lock()
                .unwrap()
                .iter()
                .any(|(_, done, _)| *done == 60_000)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            result = pull => panic!("it ended: {result:?}"),
            () = arrived => {}
        }
    });
    assert_eq!(puller.partial(), [Digest::of(&image.layers[0]).hex()]);
    assert_eq!(puller.pull(&reference).unwrap(), image.digest());
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter_map(|request| request.range())
        .collect();
    assert_eq!(ranges, [60_000]);
    assert!(puller.has(&image));
}
