//! Snapshots of stopped sandboxes, and what begins with them.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use msb_tests::archives::DockerImage;
use msb_tests::disk_images::{blank, program};
use msb_tests::running::Finished;
use msb_tests::sandboxes::{microsandbox, run, sandbox};
use msb_tests::{Home, Running, product};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use serde_json::{Value, json};

#[track_caller]
fn succeed<const N: usize>(home: &Home, arguments: [&str; N]) -> Finished {
    let finished = home.msb(arguments);
    assert_eq!(finished.code(), 0, "{}", finished.errors());
    finished
}

/// An image `demo` that says how it is run, and a sandbox `web` of it that was changed and stopped.
fn changed_demo(home: &Home) {
    let config = json!({ "Env": ["COLOUR=red", "PATH=/bin"], "Entrypoint": ["/bin/sh"], "WorkingDir": "/srv" });
    let image = DockerImage::new("demo", config).layer(|layer| {
        layer
            .folder(&product::busybox())
            .file("old", "of the image\n")
    });
    let archive = image.write(home.path());
    succeed(home, ["image", "load", archive.to_str().unwrap()]);
    let upper = "--root-upper=64M";
    succeed(home, ["create", "--name=web", "-m128M", upper, "demo"]);
    let changed = home.exec_shell(
        "web",
        "echo kept >/file; rm /old; mkdir /srv/d; dd if=/dev/urandom of=/random bs=1M count=1 2>&-; hostname; sync",
    );
    assert_eq!(changed.lines(), ["web"], "{}", changed.errors());
}

#[test]
fn sandboxes_begin_with_a_snapshot_and_change_their_own() {
    let home = Home::new();
    changed_demo(&home);
    let running = home.msb(["snapshot", "create", "base", "--from", "web"]);
    running.assert_error(1, "is running");
    assert!(running.errors().contains("msb stop web"), "{running}");
    succeed(&home, ["stop", "web"]);
    let made = succeed(
        &home,
        ["snapshot", "create", "base", "--from=web", "--label=a=1"],
    );
    assert_eq!(made.lines(), ["base"]);
    succeed(&home, ["rm", "web"]);
    for name in ["one", "two"] {
        succeed(
            &home,
            ["create", "-m128M", "--from-snapshot=base", "--name", name],
        );
    }
    let script =
        "cat /file; ls -d /old /srv/d 2>&-; echo $COLOUR; pwd; hostname; cat /etc/hostname";
    let seen = |name| ["kept", "/srv/d", "red", "/srv", name, name];
    assert_eq!(home.exec_shell("one", script).lines(), seen("one"));
    home.exec_shell("one", "echo changed >/file; rmdir /srv/d; sync");
    assert_eq!(home.exec_shell("two", script).lines(), seen("two"));
    // What it has is its own at its next start, too.
    succeed(&home, ["stop", "one"]);
    succeed(&home, ["start", "one"]);
    assert_eq!(home.exec_shell("one", "cat /file").text(), "changed\n");
    let verified = succeed(&home, ["snapshot", "verify", "base"]);
    assert_eq!(verified.lines(), ["base"]);
    succeed(&home, ["rm", "-f", "one", "two"]);

    // Of a run without a name nothing stays; its command stands behind --.
    let shown = home.msb([
        "run",
        "-m128M",
        "--from-snap=base",
        "--",
        "-c",
        "cat /file; rm /file",
    ]);
    assert_eq!(shown.text(), "kept\n", "{}", shown.errors());
    let patched = home.msb([
        "run",
        "-m128M",
        "--from-snapshot=base",
        "--write=/patch=new",
        "--entrypoint=cat",
        "/file",
        "/patch",
    ]);
    assert_eq!(patched.text(), "kept\nnew", "{}", patched.errors());
    assert_eq!(succeed(&home, ["ls", "-q"]).text(), "");
    assert_eq!(home.left_over(), [""; 0]);

    // The image stays as long as the snapshot does.
    let refused = home.msb(["image", "rm", "demo"]);
    refused.assert_error(1, "snapshot base");
    succeed(&home, ["image", "prune", "--all", "--force"]);
    let shown = home.msb([
        "run",
        "-m128M",
        "--from-snapshot=base",
        "--",
        "-c",
        "cat /file",
    ]);
    assert_eq!(shown.text(), "kept\n", "{}", shown.errors());
    for command in ["verify", "rm"] {
        let told = succeed(&home, ["snap", command, "--format=json", "base"]);
        let told: serde_json::Value = serde_json::from_str(told.text()).unwrap();
        assert_eq!(told, serde_json::json!([{ "name": "base" }]), "{command}");
    }
    succeed(&home, ["image", "rm", "demo"]);
}

#[test]
fn snapshots_travel_in_archives_and_as_directories() {
    let home = Home::new();
    changed_demo(&home);
    succeed(&home, ["stop", "web"]);
    let made = succeed(
        &home,
        ["snapshot", "create", "base", "--from=web", "--format=json"],
    );
    let made: Value = serde_json::from_str(made.text()).unwrap();
    let list = succeed(&home, ["snapshots", "ls"]);
    let words: Vec<_> = list.lines()[1].split_whitespace().collect();
    assert_eq!(words[..5], ["base", "demo", "web", "64", "MiB"], "{list}");
    let inspected = succeed(&home, ["snapshot", "inspect", "--format=json", "base"]);
    let inspected: Value = serde_json::from_str(inspected.text()).unwrap();
    assert_eq!(inspected[0]["root"]["kind"], "image");
    assert_eq!(made, inspected[0]);

    let folder = home.folder("out");
    let dest = format!("--dest-dir={}", folder.display());
    let made = succeed(&home, ["snapshot", "create", "here", "--from=web", &dest]);
    let here = made.lines()[0].to_owned();
    assert_eq!(here, folder.join("here").display().to_string());
    let archive = folder.join("base.tar.zst").display().to_string();
    let saved = format!("--output={archive}");
    succeed(&home, ["snapshot", "save", "base", &saved, "--with-image"]);

    // In another home there is nothing of it.
    let other = Home::new();
    let missing = other.msb(["run", "--from-snapshot", &here, "--", "-c", "true"]);
    missing.assert_error(125, "which is not here");
    assert!(missing.errors().contains("msb pull"), "{missing}");
    let loaded = succeed(&other, ["snapshot", "load", "-i", &archive]);
    assert_eq!(loaded.lines(), ["base"]);
    let again = other.msb(["snapshot", "load", "-i", &archive]);
    again.assert_error(1, "exists already");
    for snapshot in ["base", &here] {
        let option = format!("--from-snapshot={snapshot}");
        let shown = other.msb(["run", "-m128M", &option, "--", "-c", "cat /file; ls /old"]);
        assert_eq!(shown.text(), "kept\n", "{}", shown.errors());
    }
    assert_eq!(
        succeed(&other, ["image", "ls", "-q"]).lines(),
        ["demo:latest"]
    );

    // What was damaged is noticed by whoever looks.
    let upper = folder.join("here/upper.img");
    let upper = File::options().write(true).open(upper).unwrap();
    upper.write_all_at(b"damage", 40 << 20).unwrap();
    let damaged = home.msb(["snapshot", "verify", "base", &here]);
    damaged.assert_error(1, "is damaged");
    assert_eq!(damaged.stdout, b"base\n");
    home.msb(["snapshot", "inspect", "--verify", &here])
        .assert_error(1, "is damaged");

    let whole = fs::read(&archive).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(&archive, half).unwrap();
    let refused = other.msb(["snapshot", "load", "-i", &archive, "--name=other"]);
    refused.assert_error(1, "cannot be loaded");
    let mut loading = Running::start(&mut other.command(["snapshot", "load", "--name=other"]));
    // It is more than a pipe holds, so the command is at it when this is over.
    loading.send(half);
    loading.signal(Signal::SIGINT);
    assert_eq!(loading.finish().code(), 128 + Signal::SIGINT as i32);
    let left = fs::read_dir(other.msb_home().join("snapshots")).unwrap();
    assert_eq!(left.count(), 1);
    succeed(&home, ["rm", "web"]);
}

/// An XFS, whose files can share their data, in place of a home directory, as long as this lives.
struct Xfs(PathBuf);

impl Xfs {
    fn under(home: &Home) -> Xfs {
        let (disk, place) = (home.path().join("xfs"), home.msb_home());
        // No smaller one is made.
        blank(&disk, 300 << 20);
        program("mkfs.xfs", ["-q".as_ref(), disk.as_os_str()]);
        let options = ["-o", "loop"].map(AsRef::as_ref);
        let paths = [disk.as_os_str(), place.as_os_str()];
        program("mount", options.into_iter().chain(paths));
        Xfs(place)
    }

    /// MiB that are not free.
    fn used(&self) -> u64 {
        program("sync", ["-f".as_ref(), self.0.as_os_str()]);
        let status = statvfs(&self.0).unwrap();
        ((status.blocks() - status.blocks_free()) * status.fragment_size()) >> 20
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        // A test that failed may have left somebody who uses it.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(unmounted.unwrap().success());
        }
    }
}

#[test]
fn snapshots_share_the_data_of_sandboxes_where_files_can() {
    let home = Home::new();
    // Nobody else can mount one.
    let xfs = geteuid().is_root().then(|| Xfs::under(&home));
    let used = || xfs.as_ref().map_or(0, Xfs::used);
    home.create(&["--root-upper=64M"], "web");
    let fill = "yes | head -c 25165824 >/data; echo kept >/file; sync";
    assert_eq!(home.exec_shell("web", fill).code(), 0);
    succeed(&home, ["stop", "web"]);
    let before = used();
    succeed(&home, ["snapshot", "create", "base", "--from=web"]);
    let of_snapshot = used() - before;
    let script = "wc -c </data; cat /file; echo changed >/file";
    let run = ["run", "-m128M", "--name=two", "--from-snapshot=base"];
    let seen = home.msb(run.into_iter().chain(["--", "sh", "-c", script]));
    assert_eq!(seen.lines(), ["25165824", "kept"], "{seen}");
    let of_both = used() - before;
    assert!(of_snapshot < 4 && of_both < 12, "{of_snapshot}, {of_both}");
    succeed(&home, ["snapshot", "verify", "base"]);
    succeed(&home, ["rm", "web", "two"]);
}

#[test]
fn what_has_no_layer_has_no_snapshot_and_folders_stay_here() {
    let home = Home::new();
    home.create(&["--root-upper=tmpfs"], "memory");
    home.create(&["--root-upper=32M"], "disk");
    home.exec_shell("disk", "echo kept >/file; sync");
    succeed(&home, ["stop", "memory", "disk"]);
    let refused = home.msb(["snapshot", "create", "base", "--from=memory"]);
    refused.assert_error(1, "no changes on a disk");
    assert!(refused.errors().contains("--root-upper"), "{refused}");
    succeed(&home, ["snapshot", "create", "base", "--from=disk"]);
    let shown = home.msb(["run", "-m128M", "--from-snapshot=base", "cat", "/file"]);
    assert_eq!(shown.text(), "kept\n", "{}", shown.errors());
    let refused = home.msb(["snapshot", "save", "base"]);
    refused.assert_error(1, "based on");
    home.msb(["run", "--from-snapshot=none", "true"])
        .assert_error(125, "no snapshot \"none\" exists");
    let refused = home.msb(["run", "--from-snapshot=base", "--root-ro", "true"]);
    assert_eq!(refused.code(), 125, "{refused}");
    assert!(refused.errors().contains("--root-ro"), "{refused}");
    succeed(&home, ["rm", "memory", "disk"]);
}

#[test]
fn programs_make_and_use_snapshots() {
    let home = Home::new();
    let name = |sandbox: &microsandbox::Sandbox| sandbox.name().to_owned();
    run(async {
        let first = sandbox(&home, "first")
            .ephemeral(false)
            .image(product::busybox())
            .create()
            .await
            .unwrap();
        let here = microsandbox(&home);
        let written = first.shell("echo kept >/file; sync").await.unwrap();
        assert!(written.success());
        let handle = here.get(&name(&first)).await.unwrap();
        let error = handle.snapshot("base").await.unwrap_err();
        assert_eq!(error.kind(), microsandbox::ErrorKind::SandboxRunning);
        first.stop().await.unwrap();
        assert_eq!(handle.snapshot("base").await.unwrap().name(), Some("base"));
        let path = home.path().join("at");
        handle.snapshot_to(&path).await.unwrap();
        handle.remove().await.unwrap();
        for (number, snapshot) in ["base", path.to_str().unwrap()].into_iter().enumerate() {
            let next = sandbox(&home, &format!("next-{number}"))
                .snapshot(snapshot)
                .create()
                .await
                .unwrap();
            let shown = next.shell("cat /file").await.unwrap();
            assert_eq!(shown.stdout_text(), "kept\n");
            next.stop().await.unwrap();
        }
        let both = sandbox(&home, "both").snapshot("base").image("/");
        let error = both.create().await.unwrap_err();
        assert_eq!(error.kind(), microsandbox::ErrorKind::InvalidConfig);
    });
    let made = Command::new("ls")
        .arg(home.path().join("at"))
        .output()
        .unwrap();
    assert_eq!(made.stdout, b"snapshot.json\nupper.img\n");
}
