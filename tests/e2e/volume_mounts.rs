//! Volumes, disks and memory that the library mounts: what their options forbid, what is there after a restart, and who keeps a
//! volume from being removed.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use microsandbox::Sandbox;
use microsandbox::sandbox::{MountConfig, RootAccessConfig, SandboxBuilder, SandboxStatus};
use microsandbox::volumes::{VolumeConfig, VolumeError, VolumeName, Volumes};
use msb_tests::disk_images::{assert_clean, ext4, program, sum};
use msb_tests::sandboxes::{microsandbox, run, sandbox};
use msb_tests::{Home, product};

/// A sandbox that stays, with the changes of its root in its memory.
fn builder(home: &Home, name: &str) -> SandboxBuilder {
    let builder = sandbox(home, name).ephemeral(false).memory(128);
    builder.root_access(RootAccessConfig::Tmpfs { mib: None })
}

fn volumes(home: &Home) -> Volumes {
    Volumes::open(&microsandbox::home::Home::at(home.msb_home())).unwrap()
}

/// An image of the format with an ext4 on which there is a file that says `image`.
fn image(home: &Home, name: &str) -> PathBuf {
    let files = home.folder(&format!("files of {name}"));
    fs::write(files.join("file"), "image\n").unwrap();
    let raw = home.path().join(format!("{name}.raw"));
    ext4(&raw, 16 << 20, &files);
    let image = home.path().join(name);
    if image.extension().is_some_and(|format| format == "qcow2") {
        let arguments = ["convert", "-f", "raw", "-O", "qcow2"].map(AsRef::as_ref);
        let files = [raw.as_os_str(), image.as_os_str()];
        program("qemu-img", [&arguments[..], &files].concat());
    } else {
        fs::rename(raw, &image).unwrap();
    }
    image
}

async fn shell(sandbox: &Sandbox, script: &str) -> String {
    let output = sandbox.shell(script).await.unwrap();
    assert!(output.success(), "{output:?}");
    output.stdout_text()
}

#[test]
fn what_was_mounted_is_mounted_again_after_a_restart() {
    let home = Home::new();
    let (disk, read_only) = (image(&home, "disk.qcow2"), image(&home, "ro.img"));
    let before = sum(&read_only);
    run(async {
        let sandbox = builder(&home, "web")
            .image(product::busybox())
            .volume(
                "/dir",
                MountConfig::named("dir").ensure_exists().quota_mib(8),
            )
            .volume("/db", MountConfig::named("db").create().on_disk(16))
            .volume("/memory", MountConfig::tmpfs().size_mib(4))
            .volume("/disk", MountConfig::disk(&disk))
            .volume("/ro", MountConfig::disk(&read_only).readonly())
            .create()
            .await
            .unwrap();
        let script = "
            cat /disk/file /ro/file; df -m /dir /memory | awk 'NR > 1 { print $2 }'
            for place in dir db memory disk ro; do echo $place >/$place/own 2>/dev/null || echo no $place; done
            grep -c -e ' /dir ' -e ' /db ' -e ' /memory ' -e ' /disk ' -e ' /ro ' /proc/mounts";
        let first = shell(&sandbox, script).await;
        assert_eq!(first, "image\nimage\n8\n4\nno ro\n5\n");
        sandbox.stop().await.unwrap();
        drop(sandbox);

        let again = microsandbox(&home).start("web").await.unwrap();
        let script = "
            cat /dir/own /db/own /disk/own /ro/file; ls -A /memory; df -m /dir /memory | awk 'NR > 1 { print $2 }'
            touch /ro/own 2>/dev/null || echo no ro; for disk in /sys/block/vd*; do echo $(cat $disk/serial); done | sort | tr '\\n' ' '";
        let second = shell(&again, script).await;
        // Mounts are counted in the order of their places, and each disk has its number.
        assert_eq!(
            second,
            "dir\ndb\ndisk\nimage\n8\n4\nno ro\ndisk-0 disk-2 disk-4 "
        );
        again.stop().await.unwrap();
        microsandbox(&home).remove("web").await.unwrap();
    });
    assert_eq!(sum(&read_only), before);
    let raw = home.path().join("copy.raw");
    let arguments = ["convert", "-f", "qcow2", "-O", "raw"].map(AsRef::as_ref);
    let files = [disk.as_os_str(), raw.as_os_str()];
    program("qemu-img", [&arguments[..], &files].concat());
    assert_clean(&raw);
    let db = volumes(&home).get(&"db".parse().unwrap()).unwrap();
    assert_clean(&db.disk_image().unwrap());
}

#[test]
fn options_hold_on_disks_on_volumes_that_are_disks_and_in_memory() {
    let home = Home::new();
    let images =
        ["plain.img", "noexec.img", "nosuid.img", "nodev.img"].map(|name| image(&home, name));
    let kinds = |index: usize, name: &str| {
        [
            ("disk", MountConfig::disk(&images[index])),
            ("db", MountConfig::named(name).ensure_exists().on_disk(16)),
            ("memory", MountConfig::tmpfs()),
        ]
    };
    run(async {
        let mut sandbox = builder(&home, "web").image(product::debian()).memory(256);
        for (index, name) in ["plain", "noexec", "nosuid", "nodev"]
            .into_iter()
            .enumerate()
        {
            for (kind, mount) in kinds(index, name) {
                let mount = match name {
                    "noexec" => mount.noexec(),
                    "nosuid" => mount.nosuid(),
                    "nodev" => mount.nodev(),
                    _ => mount,
                };
                sandbox = sandbox.volume(format!("/{kind}/{name}"), mount);
            }
        }
        let sandbox = sandbox.create().await.unwrap();
        let script = "
            for kind in disk db memory; do for name in plain noexec nosuid nodev; do
                cd /$kind/$name; chmod 755 .; cp /usr/bin/id id; chmod 4755 id; mknod -m 666 null c 1 3
                said=$(setpriv --reuid=1000 --clear-groups ./id -u 2>/dev/null || echo no programs)
                (echo x >null) 2>/dev/null && device=devices || device='no devices'
                echo $kind $name: $said, $device
            done; done";
        let said = shell(&sandbox, script).await;
        let mut expected = String::new();
        for kind in ["disk", "db"] {
            expected.push_str(&format!(
                "{kind} plain: 0, devices\n{kind} noexec: no programs, devices\n\
                 {kind} nosuid: 1000, devices\n{kind} nodev: 0, no devices\n"
            ));
        }
        // In memory there are neither in any case.
        for name in ["plain", "noexec", "nosuid", "nodev"] {
            let user = if name == "noexec" {
                "no programs"
            } else {
                "1000"
            };
            expected.push_str(&format!("memory {name}: {user}, no devices\n"));
        }
        assert_eq!(said, expected);
        sandbox.stop().await.unwrap();
        microsandbox(&home).remove("web").await.unwrap();
    });
}

/// Whom the volume's removal is refused for.
fn users(home: &Home, name: &VolumeName) -> Vec<String> {
    match volumes(home).remove(name).unwrap_err() {
        VolumeError::VolumeInUse { sandboxes, .. } => sandboxes,
        error => panic!("{error}"),
    }
}

#[test]
fn a_volume_stays_while_a_sandbox_starts_runs_and_drains() {
    let home = Home::new();
    let name: VolumeName = "data".parse().unwrap();
    volumes(&home)
        .create(&name, &VolumeConfig::default())
        .unwrap();
    run(async {
        let creating = builder(&home, "web")
            .image(product::busybox())
            .volume("/data", MountConfig::named("data"))
            .create();
        let uses = home.msb_home().join("volumes/data/uses");
        let early = async {
            loop {
                // The volume is in use before the machine starts, and that long before the guest is up.
                let found = microsandbox(&home).get("web").await;
                let starting = found.is_ok_and(|web| web.status() == SandboxStatus::Starting);
                if starting && fs::read_dir(&uses).unwrap().count() > 0 {
                    break;
                }
                tokio::task::yield_now().await;
            }
            users(&home, &name)
        };
        let (sandbox, while_starting) = tokio::join!(creating, early);
        assert_eq!(while_starting, ["web"]);
        let sandbox = sandbox.unwrap();
        assert_eq!(users(&home, &name), ["web"]);
        let refused = home.msb(["volume", "rm", "data"]);
        refused.assert_error(1, "is used by the sandbox \"web\"");

        let mut running = sandbox.shell_stream("sleep 600").await.unwrap();
        sandbox.request_drain().await.unwrap();
        let draining = microsandbox(&home).get("web").await.unwrap().status();
        assert_eq!(draining, SandboxStatus::Draining);
        assert_eq!(users(&home, &name), ["web"]);
        running.kill().await.unwrap();
        running.wait().await.unwrap();
        sandbox.wait_until_stopped().await.unwrap();
        // A sandbox that is stopped keeps nothing from being removed.
        volumes(&home).remove(&name).unwrap();
        microsandbox(&home).remove("web").await.unwrap();
    });
}
