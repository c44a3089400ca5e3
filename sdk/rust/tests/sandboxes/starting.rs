//! Creations and starts that fail, are cancelled, or take the place of others.

use std::error::Error;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use microsandbox::home::Home;
use microsandbox::launch::StartStage;
use microsandbox::protocol::Stage;
use microsandbox::sandbox::{MountConfig, RootAccessConfig, SandboxStatus, StopReason};
use microsandbox::volumes::{VolumeConfig, Volumes};
use microsandbox::{ErrorKind, Microsandbox, MicrosandboxError, sdk_version};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::little_room::{Failure, until_there_is_enough};
use crate::machine::{FAILS, HANGS};
use crate::{Fixture, Test, block_on};

pub(super) const TESTS: &[Test] = &[
    ("a_start_that_fails_says_why_and_leaves_nothing", fails),
    ("a_creation_that_is_cancelled_leaves_nothing", cancelled),
    (
        "what_makes_no_sandbox_is_refused_before_anything_is_made",
        refused,
    ),
    ("a_sandbox_takes_the_place_of_another", replaces),
    ("the_layer_on_disk_is_found_again", upper),
    ("the_layer_is_a_copy_of_one_that_is_made_once", template),
    ("a_full_disk_for_the_layer_leaves_nothing", full_disk),
    ("what_is_missing_is_named", not_installed),
    ("a_start_that_cannot_begin_changes_nothing", cannot_begin),
    (
        "what_a_later_release_recorded_is_not_started_but_all_else",
        of_later_release,
    ),
];

fn fails() {
    let fixture = Fixture::new();
    block_on(async {
        // A volume that was made for it goes as well; one that was there stays.
        let volumes = Volumes::open(fixture.home()).unwrap();
        let old = "old".parse().unwrap();
        volumes.create(&old, &VolumeConfig::default()).unwrap();
        let builder = fixture
            .builder("web")
            .volume("/new", MountConfig::named("new").create())
            .volume("/old", MountConfig::named("old").ensure_exists());
        let mut config = builder.config().clone();
        config.kernel_cmdline = Some(FAILS.to_owned());
        let error = fixture.microsandbox.create(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BootFailed);
        let MicrosandboxError::BootFailed(failure) = error else {
            panic!("{error}")
        };
        assert_eq!(failure.stage, Some(StartStage::Guest(Stage::Root)));
        assert_eq!(failure.errno, libc::EIO);
        assert_eq!(failure.causes, ["bad luck"]);
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
        let left = volumes.list().unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        volumes.remove(&old).unwrap();
    });
    assert_eq!(fixture.directories(), (vec![], vec![]));
}

fn cancelled() {
    let fixture = Fixture::new();
    let pipe = fixture.home().path().join("root").join(HANGS);
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    block_on(async {
        let mut config = fixture.builder("web").config().clone();
        config.kernel_cmdline = Some(HANGS.to_owned());
        tokio::select! {
            result = fixture.microsandbox.create(config) => panic!("{result:?}"),
            // The machine opens it, too.
            opened = tokio::task::spawn_blocking(|| fs::read(pipe)) => drop(opened.unwrap()),
        }
        // What had begun on another thread is taken back there.
        if let Ok(begun) = fixture.microsandbox.get("web").await {
            let _ = begun.wait_until_stopped().await;
        }
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
        // The name is free.
        let mount = MountConfig::named("new").create();
        let sandbox = fixture.builder("web").volume("/new", mount);
        let sandbox = sandbox.create().await.unwrap();
        sandbox.close().await.unwrap();
        let volumes = Volumes::open(fixture.home()).unwrap();
        volumes.get(&"new".parse().unwrap()).unwrap();
    });
    let (sandboxes, run) = fixture.directories();
    assert_eq!((sandboxes.len(), run.len()), (1, 0));
}

fn refused() {
    let fixture = Fixture::new();
    let text = fixture.home().path().join("image.txt");
    fs::write(&text, "").unwrap();
    block_on(async {
        for (builder, field, reason) in [
            (
                fixture.builder("web").memory(63),
                "memory_mib",
                "64 to 65536",
            ),
            (fixture.builder("web").cpus(33), "cpus", "1 to 32"),
            (
                fixture.builder("web").label("service.a", ""),
                "labels",
                "reserved",
            ),
            (
                fixture.builder("web").workdir("src"),
                "workdir",
                "begin with /",
            ),
            (
                fixture.builder("web").image("./no/such/folder"),
                "image",
                "No such file",
            ),
            (fixture.builder("web").image(text), "image", ".qcow2"),
            (
                fixture.builder("web").image("/dev/null"),
                "image",
                "neither a file nor",
            ),
            (fixture.builder("web").image(""), "image", "missing"),
        ] {
            match builder.create().await.unwrap_err() {
                MicrosandboxError::InvalidConfig {
                    field: found,
                    reason: found_reason,
                } => {
                    assert_eq!(found, field);
                    assert!(found_reason.contains(reason), "{found_reason}");
                }
                error => panic!("{error:?}"),
            }
        }
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
    });
    assert_eq!(fixture.directories(), (vec![], vec![]));
}

fn replaces() {
    let fixture = Fixture::new();
    block_on(async {
        let old = fixture.builder("web").env("A", "1").create().await.unwrap();
        // What cannot be leaves what is as it is.
        let missing = MountConfig::named("missing");
        let impossible = fixture.builder("web").replace().volume("/data", missing);
        let error = impossible.create().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VolumeNotFound);
        let found = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(found.status(), SandboxStatus::Running);
        assert_eq!(found.config().unwrap().env["A"], "1");
        let new = fixture.builder("web").env("A", "2").replace();
        let new = new.create().await.unwrap();
        let error = old.stop().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidHandle);
        let found = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(found.config().unwrap().env["A"], "2");
        let newest = fixture.builder("web").replace_with_timeout(Duration::ZERO);
        let newest = newest.create().await.unwrap();
        drop(new);
        newest.stop().await.unwrap();
        // One that is stopped, and one that is not there.
        fixture
            .builder("web")
            .replace()
            .create()
            .await
            .unwrap()
            .close()
            .await
            .unwrap();
        fixture
            .builder("other")
            .replace()
            .create()
            .await
            .unwrap()
            .close()
            .await
            .unwrap();
        assert_eq!(fixture.microsandbox.list().await.unwrap().len(), 2);
    });
    assert_eq!(fixture.directories().0.len(), 2);
}

fn upper() {
    let fixture = Fixture::new();
    block_on(async {
        let builder = fixture
            .builder("web")
            .root_access(RootAccessConfig::Upper { mib: 4096 });
        let sandbox = builder.create().await.unwrap();
        let directory = fixture.microsandbox.get("web").await.unwrap().directory();
        let image = directory.join("upper.img");
        let metadata = fs::metadata(&image).unwrap();
        assert_eq!(metadata.len(), 4 << 30);
        // Sparse, or shared with the template.
        assert!(metadata.blocks() * 512 < 256 << 20, "{}", metadata.blocks());
        sandbox.stop().await.unwrap();
        let inode = metadata.ino();
        let again = fixture.microsandbox.start("web").await.unwrap();
        assert_eq!(fs::metadata(&image).unwrap().ino(), inode);
        again.close().await.unwrap();
        fixture.microsandbox.remove("web").await.unwrap();
        assert!(!image.exists());
    });
}

/// The layer of every sandbox is a copy of one image, which is made once for each size.
fn template() {
    let fixture = Fixture::new();
    let create = |name: &str, mib| {
        let builder = fixture.builder(name);
        let builder = builder.root_access(RootAccessConfig::Upper { mib });
        block_on(async {
            let sandbox = builder.create().await.unwrap();
            sandbox.close().await.unwrap();
            fixture.microsandbox.get(name).await.unwrap().directory()
        })
    };
    let templates = || {
        let entries = fs::read_dir(fixture.home().cache()).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    create("first", 64);
    let [template] = &templates()[..] else {
        panic!("{:?}", templates())
    };
    // What no other program would put there.
    let (mark, place) = ("made once", 32 << 20);
    let file = File::options().write(true).open(template).unwrap();
    file.write_all_at(mark.as_bytes(), place).unwrap();
    let read = |path: PathBuf| {
        let mut found = vec![0; mark.len()];
        File::open(path)
            .unwrap()
            .read_exact_at(&mut found, place)
            .unwrap();
        found
    };
    let second = create("second", 64).join("upper.img");
    assert_eq!(read(second.clone()), mark.as_bytes());
    // It is the sandbox's own.
    let file = File::options().write(true).open(second).unwrap();
    file.write_all_at(b"its own !", place).unwrap();
    assert_eq!(read(template.clone()), mark.as_bytes());
    create("third", 16);
    assert_eq!(templates().len(), 2);
}

/// Creates a sandbox with a layer on disk, or tells why not.
pub(crate) fn layered(home: Home) {
    let microsandbox = Microsandbox::at(home);
    let builder = crate::builder(&microsandbox, "web");
    let builder = builder.root_access(RootAccessConfig::Upper { mib: 64 });
    block_on(async {
        match builder.create().await {
            Ok(sandbox) => sandbox.close().await.unwrap(),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                eprintln!("{error}: {}", cause.unwrap_or_default());
                std::process::exit(1);
            }
        }
    });
}

/// The disk of the sandboxes, or that of the layers that are copied, has less room than a layer takes, until there is enough.
fn full_disk() {
    let fixture = Fixture::new();
    let home = fixture.home();
    full_until_there_is_room(&home.cache(), &fixture);
    full_until_there_is_room(&home.sandboxes(), &fixture);
}

fn full_until_there_is_room(directory: &Path, fixture: &Fixture) {
    let home = fixture.home();
    fs::create_dir_all(directory).unwrap();
    let sizes = (0..40).map(|step| 4 + step * 12);
    let check = |Failure {
                     kilobytes,
                     error,
                     left,
                 }: Failure| {
        assert_eq!(left, "", "{kilobytes}: {error}");
        assert!(
            error.contains("No space left on device") || error.contains("mke2fs failed"),
            "{kilobytes}: {error}"
        );
        let listed = block_on(fixture.microsandbox.list()).unwrap();
        assert_eq!(listed.len(), 0, "{kilobytes}: {error}");
    };
    let failures = until_there_is_enough("layered", home.path(), directory, sizes, check);
    assert!(failures > 3, "the disk was never full");
    block_on(async {
        let made = fixture.microsandbox.get("web").await.unwrap();
        made.remove().await.unwrap();
    });
}

fn not_installed() {
    let fixture = Fixture::new();
    fixture.microsandbox.ensure_installed().unwrap();
    assert!(fixture.microsandbox.is_installed());
    let release = block_on(fixture.microsandbox.runtime_version()).unwrap();
    assert_eq!(release, sdk_version());
    let program = fixture.home().path().join("bin/msb");
    let own = fs::read_link(&program).unwrap();
    fs::remove_file(&program).unwrap();
    fs::write(&program, "#!/bin/sh\necho '{\"version\": \"0.0.1\"}'\n").unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    assert!(!fixture.microsandbox.is_installed());
    let error = fixture.microsandbox.ensure_installed().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotInstalled);
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("release 0.0.1"), "{cause}");
    fs::remove_file(&program).unwrap();
    symlink(own, &program).unwrap();
    fs::remove_file(fixture.home().kernel().join("vmlinux")).unwrap();
    assert!(!fixture.microsandbox.is_installed());
    block_on(async {
        let error = fixture.builder("web").create().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotInstalled);
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("vmlinux"), "{reason}");
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
    });
}

fn cannot_begin() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        sandbox.stop().await.unwrap();
        let before = fixture.microsandbox.get("web").await.unwrap();
        fs::remove_dir(fixture.home().path().join("root")).unwrap();
        let error = before.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let after = before.refresh().await.unwrap();
        assert_eq!(after.status(), SandboxStatus::Stopped);
        let stop = after.last_stop().unwrap();
        assert_eq!(stop.reason, StopReason::Stopped);
        assert_eq!(after.last_stop().unwrap().observed_at, stop.observed_at);
        fs::create_dir(fixture.home().path().join("root")).unwrap();
        after.start().await.unwrap().close().await.unwrap();
    });
}

fn of_later_release() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let handle = fixture.microsandbox.get("web").await.unwrap();
        let config = handle.config_json().replacen('{', "{\"later\": true, ", 1);
        let database = rusqlite::Connection::open(fixture.home().database()).unwrap();
        let changed = database.execute("UPDATE sandboxes SET config = ?1", [&config]);
        assert_eq!(changed.unwrap(), 1);
        let listed = fixture.microsandbox.list().await.unwrap();
        let [listed] = &listed[..] else {
            panic!("{listed:?}")
        };
        assert_eq!(listed.status(), SandboxStatus::Running);
        assert_eq!(listed.config_json(), config);
        let error = listed.config().unwrap_err();
        assert!(error.to_string().contains("later"), "{error}");
        listed.stop().await.unwrap();
        let error = fixture.microsandbox.start("web").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let handle = handle.refresh().await.unwrap();
        assert_eq!(handle.status(), SandboxStatus::Stopped);
        handle.remove().await.unwrap();
        drop(sandbox);
    });
    assert_eq!(fixture.directories(), (vec![], vec![]));
}
