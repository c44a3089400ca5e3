//! Sandboxes of the library in real VMs: every state, every reason, who ends with whom.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use microsandbox::run_directory::RunDirectory;
use microsandbox::sandbox::{
    ExecOptions, InitConfig, MountConfig, RootAccessConfig, SandboxBuilder, SandboxStatus,
    SandboxStopResult, StopReason,
};
use microsandbox::{ErrorKind, Microsandbox, MicrosandboxError, Sandbox};
use msb_tests::sandboxes::{microsandbox, run_within};
use msb_tests::{Home, LIMIT, product};

/// Tells the program that it is a creator, and in which home.
const CREATOR: &str = "MSB_TEST_CREATOR";

/// Tells a creator how its sandbox comes to outlive it: `detached` from the beginning, or `released` later.
const OUTLIVES: &str = "MSB_TEST_OUTLIVES";

/// Memory of each sandbox, in MiB.
const MEMORY: u32 = 96;

fn builder(microsandbox: &Microsandbox, name: &str) -> SandboxBuilder {
    microsandbox
        .builder(name)
        .image(product::busybox())
        .memory(MEMORY)
        .root_access(RootAccessConfig::Tmpfs { mib: None })
}

/// Runs a test to its end, or fails it.
fn block_on(test: impl Future<Output = ()>) {
    run_within(10 * LIMIT, test);
}

async fn status(sandbox: &Sandbox, microsandbox: &Microsandbox) -> SandboxStatus {
    microsandbox.get(sandbox.name()).await.unwrap().status()
}

/// How it ends, without anybody asking for it.
async fn end(sandbox: &Sandbox) -> SandboxStopResult {
    let waiting = tokio::time::timeout(LIMIT, sandbox.wait_until_stopped());
    waiting.await.unwrap().unwrap()
}

#[test]
fn a_sandbox_passes_through_its_states_and_keeps_its_layer() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        let sandbox = builder(&microsandbox, "web")
            .root_access(RootAccessConfig::Upper { mib: 64 })
            .create()
            .await
            .unwrap();
        assert_eq!(
            status(&sandbox, &microsandbox).await,
            SandboxStatus::Running
        );
        // Its machine says whose it is, so that nobody has to look it up.
        let place = microsandbox::home::Home::at(home.msb_home());
        let running = RunDirectory::of(&place, &"web".parse().unwrap());
        let directory = microsandbox.get("web").await.unwrap().directory();
        assert_eq!(
            running.status().unwrap().unwrap().sandbox.as_deref(),
            directory.file_name().unwrap().to_str()
        );
        let written = sandbox.shell("echo kept >/kept && sync").await.unwrap();
        assert!(written.success(), "{written:?}");
        let metrics = sandbox.metrics().await.unwrap();
        assert_eq!(metrics.memory_limit_bytes, u64::from(MEMORY) << 20);
        assert!(metrics.vcpu_time_ns > 0);

        let mut running = sandbox.shell_stream("sleep 600").await.unwrap();
        sandbox.request_drain().await.unwrap();
        assert_eq!(
            status(&sandbox, &microsandbox).await,
            SandboxStatus::Draining
        );
        for refused in [
            sandbox.shell("true").await.unwrap_err(),
            sandbox.fs().read("/etc/passwd").await.unwrap_err(),
            sandbox
                .exec_detached("true", ExecOptions::new())
                .await
                .unwrap_err(),
        ] {
            assert_eq!(refused.kind(), ErrorKind::SandboxDraining, "{refused}");
        }
        running.kill().await.unwrap();
        assert!(running.wait().await.is_ok());
        let result = end(&sandbox).await;
        assert_eq!(result.reason, StopReason::Drained);
        assert_eq!(result.status, SandboxStatus::Stopped);
        let refused = sandbox.shell("true").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::SandboxNotRunning, "{refused}");

        let again = microsandbox.start("web").await.unwrap();
        assert_eq!(
            again.shell("cat /kept").await.unwrap().stdout_text(),
            "kept\n"
        );
        again.stop().await.unwrap();
        assert_eq!(end(&again).await.reason, StopReason::Stopped);
        microsandbox.remove("web").await.unwrap();
    });
}

#[test]
fn what_is_run_in_a_sandbox_that_starts_waits_for_its_guest() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        let creating = builder(&microsandbox, "web").create();
        let early = async {
            let handle = loop {
                // Its record comes before its machine, and both long before the guest.
                match microsandbox.get("web").await {
                    Ok(handle) => break handle,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::SandboxNotFound),
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(handle.status(), SandboxStatus::Starting);
            let sandbox = handle.connect().await.unwrap();
            let fs = sandbox.fs();
            let (output, files, detached) = tokio::join!(
                sandbox.shell("echo early"),
                fs.exists("/bin"),
                sandbox.exec_detached("true", ExecOptions::new())
            );
            assert_eq!(output.unwrap().stdout_text(), "early\n");
            assert!(files.unwrap());
            let kept = sandbox.reattach(detached.unwrap(), 0).await.unwrap();
            assert!(kept.collect().await.unwrap().success());
        };
        let (sandbox, ()) = tokio::join!(creating, early);
        sandbox.unwrap().stop().await.unwrap();
        microsandbox.remove("web").await.unwrap();

        // A guest that never comes up is waited for no longer than it exists.
        let creating = builder(&microsandbox, "broken")
            .init(InitConfig::cmd("/no/such", [""; 0]))
            .create();
        let early = async {
            let handle = loop {
                if let Ok(handle) = microsandbox.get("broken").await {
                    break handle;
                }
                tokio::task::yield_now().await;
            };
            let sandbox = handle.connect().await.unwrap();
            sandbox.shell("true").await.unwrap_err()
        };
        let (created, error) = tokio::join!(creating, early);
        assert_eq!(created.unwrap_err().kind(), ErrorKind::BootFailed);
        assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
    });
}

#[test]
fn a_command_is_told_how_its_sandbox_ended() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        let sandbox = builder(&microsandbox, "web").create().await.unwrap();
        let mut command = sandbox.shell_stream("sleep 600").await.unwrap();
        command.recv().await.unwrap();
        let (ended, killed) = tokio::join!(command.wait(), sandbox.kill());
        killed.unwrap();
        match ended.unwrap_err() {
            MicrosandboxError::SandboxEnded { end: Some(end), .. } => {
                assert_eq!(end.reason, StopReason::Killed);
            }
            error => panic!("{error:?}"),
        }
    });
}

#[test]
fn a_guest_with_its_own_init_ends_itself_in_every_way() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        for (cpus, command) in [(1, "poweroff -f"), (2, "halt -f"), (1, "reboot -f")] {
            let init = InitConfig::cmd("/bin/sh", ["-c", "while :; do sleep 600; done"]);
            let builder = builder(&microsandbox, "own").cpus(cpus).init(init);
            let sandbox = builder.replace().create().await.unwrap();
            let error = sandbox.shell(command).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
            let result = end(&sandbox).await;
            assert_eq!(
                result.reason,
                StopReason::Completed,
                "{command}: {result:?}"
            );
            assert_eq!(result.status, SandboxStatus::Stopped);
        }
        // Only an init may do so.
        let sandbox = builder(&microsandbox, "none").create().await.unwrap();
        sandbox.shell("poweroff -f").await.unwrap_err();
        let result = end(&sandbox).await;
        assert_eq!(result.status, SandboxStatus::Crashed);
        assert!(result.detail.unwrap().contains("halted"));
    });
}

#[test]
fn waiting_tells_why_a_sandbox_ended() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        let sandbox = builder(&microsandbox, "main")
            .command(["sh", "-c", "sleep 1; exit 3"])
            .create()
            .await
            .unwrap();
        let result = end(&sandbox).await;
        assert_eq!(result.reason, StopReason::Completed);
        assert_eq!((result.exit_code, result.signal), (Some(3), None));

        // A signal is no exit code.
        let sandbox = builder(&microsandbox, "signal").command(["sh", "-c", "kill -TERM $$"]);
        let sandbox = sandbox.create().await.unwrap();
        let result = end(&sandbox).await;
        assert_eq!(result.reason, StopReason::Completed);
        assert_eq!((result.exit_code, result.signal), (None, Some(15)));

        let sandbox = builder(&microsandbox, "idle").idle_timeout(Duration::from_millis(1));
        let sandbox = sandbox.create().await.unwrap();
        assert_eq!(end(&sandbox).await.reason, StopReason::Idle);

        let sandbox = builder(&microsandbox, "limit").max_duration(Duration::from_secs(1));
        let sandbox = sandbox.create().await.unwrap();
        assert_eq!(end(&sandbox).await.reason, StopReason::MaxDuration);

        let sandbox = builder(&microsandbox, "panic").create().await.unwrap();
        // The session ends with the machine.
        let _ = sandbox.shell("echo c >/proc/sysrq-trigger").await;
        let result = end(&sandbox).await;
        assert_eq!(result.status, SandboxStatus::Crashed);
        assert_eq!(result.reason, StopReason::Crashed);
        let detail = result.detail.unwrap();
        let (headline, console) = detail.split_once('\n').unwrap();
        assert!(headline.contains("panic"), "{detail}");
        // The kernel's last lines, before and after that.
        assert!(console.contains("Kernel panic"), "{detail}");
        assert!(console.contains("sysrq: Trigger a crash"), "{detail}");

        let sandbox = builder(&microsandbox, "killed").create().await.unwrap();
        sandbox.kill().await.unwrap();
        assert_eq!(end(&sandbox).await.reason, StopReason::Killed);
    });
}

#[test]
fn a_command_that_does_not_listen_ends_with_its_sandbox() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        let sandbox = builder(&microsandbox, "deaf").create().await.unwrap();
        let hung = sandbox.shell("trap '' TERM; while :; do :; done");
        let stopped = async { sandbox.stop_with_timeout(Duration::from_secs(1)).await };
        let (hung, stopped) = tokio::join!(hung, stopped);
        drop(hung);
        stopped.unwrap();
        assert_eq!(
            status(&sandbox, &microsandbox).await,
            SandboxStatus::Stopped
        );
    });
}

#[test]
fn a_sandbox_takes_the_place_of_a_running_one() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        // What is asked to end says so.
        let data = home.folder("data");
        let main =
            "trap 'echo told >/data/told; exit' TERM; echo >/data/up; while :; do sleep 0.1; done";
        let begin = async |value: &str, replace: fn(SandboxBuilder) -> SandboxBuilder| {
            let builder = builder(&microsandbox, "web")
                .env("A", value)
                .volume("/data", MountConfig::bind(&data))
                .command(["sh", "-c", main]);
            let sandbox = replace(builder).create().await.unwrap();
            let up = "until [ -e /data/up ]; do sleep 0.1; done; rm /data/up; echo $A";
            let output = sandbox.shell(up).await.unwrap();
            assert_eq!(output.stdout_text(), format!("{value}\n"));
            sandbox
        };
        let first = begin("1", |builder| builder).await;
        let second = begin("2", SandboxBuilder::replace).await;
        let error = first.stop().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidHandle);
        // Nor does a command come into the other one.
        for error in [
            first.shell("true").await.unwrap_err(),
            first.fs().read("/etc/passwd").await.unwrap_err(),
            first.metrics().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidHandle, "{error}");
        }
        fs::remove_file(data.join("told")).unwrap();
        // Without any time it is not even asked.
        let third = begin("3", |builder| builder.replace_with_timeout(Duration::ZERO)).await;
        let error = second.stop().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidHandle);
        let root = product::busybox();
        let command = [
            "create",
            "--name=web",
            "--replace-with-timeout=0",
            "--memory=96M",
        ];
        let replaced = home.msb(command.iter().map(Path::new).chain([&*root]));
        assert_eq!(replaced.lines(), ["web"]);
        assert!(!data.join("told").exists());
        let error = third.stop().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidHandle);
        microsandbox.get("web").await.unwrap().kill().await.unwrap();
    });
}

/// Not a test but a role: a creator that waits to be killed.
#[test]
fn creator() {
    let Some(home) = std::env::var_os(CREATOR) else {
        return;
    };
    let microsandbox = Microsandbox::at(microsandbox::home::Home::at(home));
    block_on(async {
        let outlives = std::env::var(OUTLIVES).unwrap_or_default();
        let sandbox = builder(&microsandbox, "web").detached(outlives == "detached");
        let sandbox = sandbox.create().await.unwrap();
        let kept = match &*outlives {
            "released" => sandbox.detach().await.map(|()| None).unwrap(),
            _ => Some(sandbox),
        };
        // Standard output is the harness's.
        fs::write("/dev/stderr", "ready\n").unwrap();
        std::future::pending::<()>().await;
        drop(kept);
    });
}

fn kill_creator(home: &Home, outlives: &str) {
    let mut creator = Command::new(std::env::current_exe().unwrap());
    creator
        .args(["--exact", "creator", "--nocapture"])
        .env(CREATOR, home.msb_home())
        .env(OUTLIVES, outlives)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut creator = creator.spawn().unwrap();
    let lines = BufReader::new(creator.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let ready = lines.any(|line| line.contains("ready"));
    creator.kill().unwrap();
    creator.wait().unwrap();
    assert!(ready);
}

#[test]
fn who_is_attached_dies_with_its_creator_and_who_is_detached_does_not() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    kill_creator(&home, "");
    block_on(async {
        let handle = microsandbox.get("web").await.unwrap();
        let result = tokio::time::timeout(LIMIT, handle.wait_until_stopped()).await;
        assert_eq!(result.unwrap().unwrap().reason, StopReason::CreatorDied);
        handle.remove().await.unwrap();
    });
    for outlives in ["detached", "released"] {
        kill_creator(&home, outlives);
        block_on(async {
            let handle = microsandbox.get("web").await.unwrap();
            assert_eq!(handle.status(), SandboxStatus::Running, "{outlives}");
            let sandbox = handle.connect().await.unwrap();
            assert_eq!(
                sandbox.shell("echo alive").await.unwrap().stdout_text(),
                "alive\n"
            );
            sandbox.stop().await.unwrap();
            handle.remove().await.unwrap();
        });
    }
}

/// Memory that is left to others, in MiB.
const OTHER_TESTS: usize = 1024;

/// Memory of each of many, in MiB.
const LITTLE_MEMORY: u32 = 64;

/// As many as the host has memory for besides what the tests beside this one take, 30 at most.
fn how_many() -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let available = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib: usize = available
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap()
        .parse()
        .unwrap();
    // A guest that idles does not touch all of its memory, which makes up for what the host needs of its own.
    let each = usize::try_from(LITTLE_MEMORY).unwrap();
    ((kib / 1024).saturating_sub(OTHER_TESTS) / each).clamp(2, 30)
}

#[test]
fn many_are_started_and_stopped_at_once() {
    let home = Home::new();
    let microsandbox = microsandbox(&home);
    block_on(async {
        let mut creations = tokio::task::JoinSet::new();
        for number in 0..how_many() {
            let builder = builder(&microsandbox, &format!("sandbox {number}"));
            creations.spawn(builder.memory(LITTLE_MEMORY).ephemeral(true).create());
        }
        let wanted = creations.len();
        println!("{wanted} at once");
        let sandboxes: Vec<_> = creations.join_all().await;
        let sandboxes: Vec<_> = sandboxes.into_iter().map(Result::unwrap).collect();
        assert_eq!(microsandbox.list().await.unwrap().len(), wanted);
        assert_eq!(
            microsandbox.all_sandbox_metrics().await.unwrap().len(),
            wanted
        );
        let mut stops = tokio::task::JoinSet::new();
        for sandbox in sandboxes {
            stops.spawn(sandbox.close());
        }
        for stopped in stops.join_all().await {
            stopped.unwrap();
        }
        assert!(microsandbox.list().await.unwrap().is_empty());
    });
}
