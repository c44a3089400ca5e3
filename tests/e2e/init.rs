//! What a guest is besides its file systems: an init of its own, scripts, the restricted profile.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use microsandbox::sandbox::{
    ExecEvent, ExecOptions, InitConfig, MountConfig, Rlimit, RlimitResource, SandboxStatus,
    SecurityProfile, StopReason,
};
use msb_tests::sandboxes::{run, sandbox};
use msb_tests::{Home, product};

/// Waits until systemd is up, and leaves a service that is systemd's, not the session's: what it does when it is stopped shows
/// who stopped it, and when.
const WITNESS: &str = "
    # The session begins as soon as systemd has been executed; it listens a little later.
    until [ -S /run/systemd/private ]; do sleep 0.2; done
    systemctl is-system-running --wait; systemctl --failed --no-legend
    cat /proc/1/comm
    systemd-run --quiet --unit=witness -p 'ExecStop=/bin/sh -c \"echo stopped >/share/witness\"' sleep 1000
    systemctl is-active witness";

#[test]
fn systemd_boots_and_is_stopped_cleanly() {
    let home = Home::new();
    let share = home.folder("share");
    let finished = home
        .guest(product::systemd())
        .with(["--memory=512M", "--init=auto", "--volume"])
        .with([format!("{}:/share", share.display())])
        .shell(WITNESS);
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
fn systemd_of_a_recorded_sandbox_is_stopped_cleanly() {
    let home = Home::new();
    let share = home.folder("share");
    run(async {
        let builder = sandbox(&home, "box").image(product::systemd()).memory(512);
        let sandbox = builder
            .init(InitConfig::auto())
            .volume("/share", MountConfig::bind(&share))
            .create()
            .await
            .unwrap();
        let output = sandbox.shell(WITNESS).await.unwrap();
        assert_eq!(output.stdout_text(), "running\nsystemd\nactive\n");
        let (result, stopped) = tokio::join!(sandbox.wait_until_stopped(), sandbox.stop());
        stopped.unwrap();
        let result = result.unwrap();
        assert_eq!(
            (result.reason, result.status),
            (StopReason::Stopped, SandboxStatus::Stopped)
        );
    });
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

/// A shell that says that it is one.
const WRAPPED: &str = "#!/bin/sh\necho wrapped\nexec /bin/sh \"$@\"";

/// What of its configuration a sandbox's commands can see.
const LOOK: &str = "hostname; nproc; id -u; twice word; grep NoNewPrivs /proc/self/status
    grep -c -E ' (/t|/data) .*nosuid,nodev' /proc/mounts";

/// The sandbox's own process: its limits, and the signal by which it was asked to end.
const MAIN: &str =
    "trap 'echo told >/data/told; exit 7' USR1; ulimit -n; while :; do sleep 0.1; done";

#[test]
fn a_recorded_sandbox_is_what_its_configuration_says() {
    let home = Home::new();
    let data = home.folder("data");
    fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    run(async {
        let builder = sandbox(&home, "box").image(product::busybox()).cpus(2);
        let sandbox = builder
            .security_profile(SecurityProfile::Restricted)
            .hostname("witness")
            .user("1234:56")
            .script("twice", "echo $1 $1")
            .scripts([("wrapped", WRAPPED)])
            .shell("/.msb/scripts/wrapped")
            .volume("/data", MountConfig::bind(&data))
            .volume("/t", MountConfig::tmpfs())
            .rlimit(Rlimit::new(RlimitResource::Nofile, 77))
            .stop_signal("SIGUSR1".parse().unwrap())
            .command(["/bin/sh", "-c", MAIN])
            .create()
            .await
            .unwrap();
        let output = sandbox.shell(LOOK).await.unwrap();
        assert_eq!(
            output.stdout_text(),
            "wrapped\nwitness\n2\n1234\nword word\nNoNewPrivs:\t1\n2\n"
        );
        let options = ExecOptions::new()
            .user("0")
            .args(["-t", "tmpfs", "none", "/tmp"]);
        assert!(!sandbox.exec_with("mount", options).await.unwrap().success());
        let mut main = sandbox.reattach(None, 0).await.unwrap();
        let limit = loop {
            match main.recv().await.unwrap() {
                Some(ExecEvent::Stdout(data)) => break data,
                Some(_) => {}
                None => panic!("it ended"),
            }
        };
        assert_eq!(limit.as_ref(), b"77\n");
        drop(main);
        let (result, stopped) = tokio::join!(sandbox.wait_until_stopped(), sandbox.stop());
        stopped.unwrap();
        let result = result.unwrap();
        assert_eq!(
            (result.reason, result.exit_code),
            (StopReason::Stopped, Some(7))
        );
    });
    assert_eq!(fs::read_to_string(data.join("told")).unwrap(), "told\n");
}

#[test]
fn a_recorded_sandbox_is_what_its_options_say() {
    let home = Home::new();
    let data = home.folder("data");
    fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    let script = home.path().join("script");
    fs::write(&script, "echo $1 $1").unwrap();
    // What becomes PID 1 tells of its environment; its arguments are seen.
    let init = "echo $WITNESS >/tmp/witness; while :; do sleep 600; done";
    let finished = home
        .busybox()
        .with([
            "--detach",
            "--log-level=debug",
            "--name=box",
            "--security=restricted",
            "--hostname=witness",
        ])
        .with(["--cpus=2", "--user=1234:56", "--tmpfs=/t", "--volume"])
        .with([format!("{}:/data", data.display())])
        .with([
            "--init=/bin/sh",
            "--init-arg=-c",
            "--init-env=WITNESS=here",
            "--init-arg",
        ])
        .with([init])
        .with([format!("--script-path=twice:{}", script.display())])
        .with([format!("--script=wrapped={WRAPPED}")])
        .with([
            "--shell=/.msb/scripts/wrapped",
            "--rlimit=nofile=77",
            "--stop-signal=SIGUSR1",
        ])
        .shell(MAIN);
    assert_eq!(finished.lines(), ["box"], "{finished}");
    let finished = home.msb(["shell", "box", LOOK]);
    assert_eq!(
        finished.lines(),
        [
            "wrapped",
            "witness",
            "2",
            "1234",
            "word word",
            "NoNewPrivs:\t1",
            "2"
        ]
    );
    let finished = home.exec_shell("box", "cat /tmp/witness; tr '\\0' '\\n' </proc/1/cmdline");
    assert_eq!(finished.lines(), ["here", "/bin/sh", "-c", init]);
    assert_eq!(
        home.msb(["logs", "--tail=1", "--grep=77", "box"]).lines(),
        ["77"]
    );
    assert_eq!(home.msb(["stop", "box"]).lines(), ["box"]);
    assert_eq!(home.msb(["wait", "box"]).lines(), ["7"]);
    assert_eq!(fs::read_to_string(data.join("told")).unwrap(), "told\n");
    // Its machine's process says every step.
    let steps = home.msb(["logs", "--source=system", "--grep=DEBUG", "box"]);
    assert!(!steps.lines().is_empty(), "{steps}");
    assert_eq!(home.msb(["rm", "box"]).lines(), ["box"]);
}
