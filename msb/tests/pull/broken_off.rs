//! Pulls that are broken off, or that a full disk or others come in the way of.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};

use microsandbox::images::Images;

use super::*;

#[test]
fn an_interrupted_pull_ends_at_once() {
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/box", silent.local_addr().unwrap());
    let user = User::new();
    let mut pull = user.msb(&["pull", &image]);
    let mut pull = Killed(pull.stderr(Stdio::piped()).spawn().unwrap());
    let (mut connection, _) = silent.accept().unwrap();
    // The request shows that it waits.
    connection.read_exact(&mut [0; 4]).unwrap();
    let process = Pid::from_raw(pull.0.id().try_into().unwrap());
    kill(process, Signal::SIGINT).unwrap();
    let status = pull.0.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let errors = std::io::read_to_string(pull.0.stderr.take().unwrap()).unwrap();
    assert_eq!(errors, "");
}

#[test]
fn a_pull_that_is_killed_at_any_moment_leaves_nothing_broken() {
    let registry = Registry::start();
    for user in [User::new(), User::ordinary()] {
        pull_and_kill(&registry, &user.log_in(&registry));
    }
}

fn pull_and_kill(registry: &Registry, user: &User) {
    let start = Instant::now();
    user.pulls(registry);
    let whole = start.elapsed();
    for round in 0..10 {
        // Each second one begins with nothing.
        if round % 2 == 0 {
            fs::remove_dir_all(user.path().join("home")).unwrap();
        }
        let mut pull = user.pull(registry, &registry.image());
        let mut killed = Killed(
            pull.stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let random = RandomState::new().hash_one(round) % 1000;
        std::thread::sleep(whole * u32::try_from(random).unwrap() / 1000);
        killed.0.kill().unwrap();
        let is_killed = killed.0.wait().unwrap().code().is_none();
        // Without the image there is nothing that could be of use.
        if is_killed && round % 4 == 0 {
            let pruned = user.msb(&["image", "prune", "-f"]).output().unwrap();
            assert!(pruned.status.success(), "{pruned:?}");
            let listed = user.msb(&["image", "ls", "-q"]).output().unwrap();
            let left: usize = STORE
                .map(|directory| user.stored(directory).len())
                .iter()
                .sum();
            assert!(left == 0 || !listed.stdout.is_empty(), "{left} files");
        }
    }
    user.pulls(registry);
    user.has_only(registry);
}

/// Each time with more room on the disk of the home, until there is enough.
#[test]
fn a_full_disk_in_a_pull_is_told_and_leaves_nothing_broken() {
    let registry = Registry::start();
    let user = User::logged_in(&registry);
    let home = user.path().join("home");
    fs::create_dir_all(&home).unwrap();
    let pull = user.pull(&registry, &registry.image());
    let pull: Vec<_> = std::iter::once(pull.get_program())
        .chain(pull.get_args())
        .map(|word| word.to_str().unwrap().to_owned())
        .collect();
    for (failures, kilobytes) in (0..60).map(|step| 64 + step * 512).enumerate() {
        // What the first one leaves, the second finds, with room enough.
        let script = format!(
            "mount -t tmpfs -o size={kilobytes}k none '{0}'
            status=0; \"$@\" || status=$?
            mount -o remount,size=64m '{0}'
            \"$@\" >/dev/null && exit $status",
            home.display()
        );
        let output = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-uc", &script, "sh"])
            .args(&pull)
            .env("MSB_HOME", &home)
            .env("DOCKER_CONFIG", user.path().join("docker"))
            .output()
            .unwrap();
        if output.status.success() {
            assert!(failures > 4, "the disk was never full");
            return;
        }
        let errors = text(&output.stderr);
        assert_eq!(errors.matches("error:").count(), 1, "{kilobytes}: {errors}");
        assert!(
            errors.to_lowercase().contains("no space left on device") || errors.contains("full"),
            "{kilobytes}: {errors}"
        );
    }
    panic!("there was never room enough");
}

/// Says so when the test ends, however that is.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn two_pulls_and_a_prune_at_once() {
    let registry = Registry::start();
    let user = User::logged_in(&registry);
    for _ in 0..2 {
        let _ = fs::remove_dir_all(user.path().join("home/images"));
        let _ = fs::remove_dir_all(user.path().join("home/db"));
        let sent = registry.blobs_sent();
        let images = Images::open(&user.home()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ended = SetOnDrop(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    images.prune(false).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let pull = || {
                let mut pull = user.pull(&registry, &registry.image());
                Killed(pull.stdout(Stdio::null()).spawn().unwrap())
            };
            for mut pull in [pull(), pull()] {
                let status = pull.0.wait().unwrap();
                assert!(status.success(), "{status}");
            }
            drop(ended);
        });
        assert_eq!(
            registry.blobs_sent() - sent,
            5,
            "something was downloaded twice"
        );
        user.has_only(&registry);
    }
}
