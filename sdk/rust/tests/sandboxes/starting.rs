//! Creations and starts that fail, are cancelled, or take the place of others.

use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use microsandbox::launch::StartStage;
use microsandbox::protocol::Stage;
use microsandbox::sandbox::{MountConfig, RootAccessConfig, SandboxStatus, StopReason};
use microsandbox::{ErrorKind, MicrosandboxError, sdk_version};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

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
    ("what_is_missing_is_named", not_installed),
    ("a_start_that_cannot_begin_changes_nothing", cannot_begin),
];

fn fails() {
    let fixture = Fixture::new();
    block_on(async {
        let mut config = fixture.builder("web").config().clone();
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
        let sandbox = fixture.builder("web").create().await.unwrap();
        sandbox.close().await.unwrap();
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
