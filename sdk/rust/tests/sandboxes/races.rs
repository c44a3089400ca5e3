//! Many at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use microsandbox::ErrorKind;

use crate::{Fixture, Test, block_on};

pub(super) const TESTS: &[Test] = &[
    ("of_many_creators_one_gets_the_name", one_winner),
    ("nobody_sees_half_a_sandbox", churn),
];

/// How many work at once.
const THREADS: usize = 50;

fn one_winner() {
    let fixture = Fixture::new();
    let winners = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                block_on(async {
                    let result = fixture.builder("web").detached(true).create().await;
                    match result {
                        Ok(_) => winners.fetch_add(1, Ordering::SeqCst),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::SandboxAlreadyExists, "{error}");
                            0
                        }
                    }
                });
            });
        }
    });
    assert_eq!(winners.load(Ordering::SeqCst), 1);
    block_on(async {
        fixture
            .microsandbox
            .get("web")
            .await
            .unwrap()
            .kill()
            .await
            .unwrap()
    });
}

fn churn() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let fixture = &fixture;
            scope.spawn(move || block_on(work(fixture, thread)));
        }
    });
    block_on(async {
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
    });
    assert_eq!(fixture.directories(), (vec![], vec![]));
}

/// Creates a sandbox, whose name others want, too, looks at all that there are, and takes it away again.
async fn work(fixture: &Fixture, thread: usize) {
    let microsandbox = &fixture.microsandbox;
    let name = format!("sandbox {}", thread % (THREADS / 2));
    let builder = fixture.builder(&name).label("thread", thread.to_string());
    let created = builder.ephemeral(thread.is_multiple_of(3)).create().await;
    for sandbox in microsandbox.list().await.unwrap() {
        let config = sandbox.config().unwrap();
        assert_eq!(config.name, sandbox.name());
        assert!(config.labels.contains_key("thread"));
    }
    let sandbox = match created {
        Ok(sandbox) => sandbox,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::SandboxAlreadyExists, "{error}"),
    };
    let mine = microsandbox.get(&name).await.unwrap();
    assert_eq!(mine.config().unwrap().labels["thread"], thread.to_string());
    sandbox.close().await.unwrap();
    if !mine.is_ephemeral() {
        mine.remove().await.unwrap();
    }
}
