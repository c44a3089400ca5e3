//! What a guest is besides its file systems: an init of its own, scripts, the restricted profile.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use msb_tests::{Home, product};

#[test]
fn systemd_boots_and_is_stopped_cleanly() {
    let home = Home::new();
    let share = home.folder("share");
    // The service is systemd's, not the session's; what it does when it is stopped shows who stopped it, and when.
    let script = "
        # The session begins as soon as systemd has been executed; it listens a little later.
        until [ -S /run/systemd/private ]; do sleep 0.2; done
        systemctl is-system-running --wait; systemctl --failed --no-legend
        cat /proc/1/comm
        systemd-run --quiet --unit=witness -p 'ExecStop=/bin/sh -c \"echo stopped >/share/witness\"' sleep 1000
        systemctl is-active witness";
    let finished = home
        .guest(product::systemd())
        .with(["--memory=512M", "--init=auto", "--volume"])
        .with([format!("{}:/share", share.display())])
        .shell(script);
    assert_eq!(
        (finished.code(), finished.text(), finished.errors()),
        (0, "running\nsystemd\nactive\n", "")
    );
    assert_eq!(
        fs::read_to_string(share.join("witness")).unwrap(),
        "stopped\n"
    );
}

#[test]
fn systemd_powers_its_machine_off() {
    let home = Home::new();
    let root = product::systemd();
    let root = root.to_str().unwrap();
    let created = home.msb(["create", "--memory=512M", "--init=auto", "--name=box", root]);
    assert_eq!(created.code(), 0, "{}", created.errors());
    let script = "until [ -S /run/systemd/private ]; do sleep 0.2; done
        systemctl is-system-running --wait; systemctl poweroff; sleep 600";
    let finished = home.exec_shell("box", script);
    assert!(finished.text().starts_with("running\n"), "{finished:?}");
    assert_eq!(home.msb(["wait", "box"]).text(), "0\n");
    let told = home.msb(["inspect", "box"]);
    assert!(
        told.text().contains("last stop: completed"),
        "{}",
        told.text()
    );
}

#[test]
fn an_init_that_is_not_there_is_an_error() {
    let home = Home::new();
    let finished = home.busybox().with(["--init=/no/such"]).run(["true"]);
    assert_eq!(finished.code(), 125);
    assert!(finished.errors().contains("/no/such"), "{finished:?}");
}

#[test]
fn scripts_are_found_without_a_path() {
    let home = Home::new();
    let finished = home
        .busybox()
        .with(["--script=go=echo gone", "--root-ro"])
        .shell("go; ls -d /.msb");
    // The root is read-only and has no place for them.
    assert_eq!(finished.code(), 125);
    assert!(finished.errors().contains("/.msb"), "{finished:?}");
    let finished = home
        .busybox()
        .with(["--script=go=echo gone"])
        .shell("go; stat -c '%a %u' /.msb/scripts /.msb/scripts/go");
    assert_eq!(finished.text(), "gone\n755 0\n755 0\n");
    let finished = home.busybox().shell("ls -d /.msb");
    assert_eq!(finished.code(), 1);
}

#[test]
fn root_of_the_restricted_profile_cannot_mount() {
    let home = Home::new();
    // Each of these is a way to mount, or to get there.
    let ways = [
        "mount -t tmpfs none /tmp",
        "mount -o remount,ro /",
        "mount -o remount,suid /t",
        "umount /t",
        "unshare -m true",
        "unshare -U true",
        "unshare -Urm mount -t tmpfs none /tmp",
        "echo 5 >/proc/sys/user/max_user_namespaces",
        "echo '|/bin/sh' >/proc/sys/kernel/core_pattern",
        "cat /proc/1/environ",
    ];
    let mut script = String::from("grep -o ' /t tmpfs rw,nosuid,nodev' /proc/mounts;");
    for way in ways {
        script.push_str(&format!(
            "({way}) 2>/dev/null && echo \"this works: {way}\";"
        ));
    }
    script.push_str("grep NoNewPrivs /proc/self/status");
    let finished = home
        .busybox()
        .with(["--security=restricted", "--tmpfs=/t"])
        .shell(&script);
    assert_eq!(
        finished.text(),
        " /t tmpfs rw,nosuid,nodev\nNoNewPrivs:\t1\n"
    );
}
