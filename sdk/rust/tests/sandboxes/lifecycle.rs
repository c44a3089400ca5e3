//! From the creation to the removal.

use std::time::{Duration, SystemTime};

use microsandbox::sandbox::{ExecOptions, SandboxFilter, SandboxStatus, StopReason};
use microsandbox::{ErrorKind, MicrosandboxError, Sandbox};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{COMPLETES, FOREIGN};
use crate::{Fixture, Test, block_on};

pub(super) const TESTS: &[Test] = &[
    ("an_orderly_life", an_orderly_life),
    ("every_status_is_reached", every_status),
    ("waiting_tells_exit_and_reason", waiting_tells),
    (
        "what_is_asked_of_the_wrong_state_says_what_to_do",
        wrong_state,
    ),
    ("nothing_of_an_ephemeral_one_remains", ephemeral),
    ("a_killed_machine_is_noticed_and_can_be_started", crashed),
    (
        "who_runs_something_is_told_how_the_sandbox_ended",
        ended_meanwhile,
    ),
    ("a_stuck_machine_is_killed_in_time", stuck),
    (
        "a_machine_of_another_release_is_not_killed_unasked",
        foreign,
    ),
    ("labels_find_sandboxes", labels),
    ("a_handle_does_not_mean_another_of_its_name", stale_handle),
    ("metrics_come_for_one_for_all_and_as_a_stream", metrics),
    ("processes_have_ten_seconds_unless_said", grace),
    (
        "who_looked_at_a_stopped_one_waits_for_the_run_that_was_begun_since",
        begun_since,
    ),
];

pub(super) fn pid(sandbox: &Sandbox, fixture: &Fixture) -> Pid {
    let name = sandbox.name().parse().unwrap();
    let directory = microsandbox::run_directory::RunDirectory::of(fixture.home(), &name);
    let status = directory.status().unwrap().unwrap();
    Pid::from_raw(i32::try_from(status.pid).unwrap())
}

fn an_orderly_life() {
    let fixture = Fixture::new();
    let microsandbox = &fixture.microsandbox;
    block_on(async {
        let sandbox = fixture.builder("web").memory(64).create().await.unwrap();
        assert!(sandbox.owns_lifecycle());
        let handle = microsandbox.get("web").await.unwrap();
        assert_eq!(handle.status(), SandboxStatus::Running);
        assert_eq!(handle.config().unwrap().memory_mib, 64);
        assert!(handle.log_directory().is_dir());
        // It is noted in milliseconds.
        let begun = SystemTime::now() - Duration::from_millis(1);
        sandbox.stop().await.unwrap();
        let result = sandbox.wait_until_stopped().await.unwrap();
        assert_eq!(result.status, SandboxStatus::Stopped);
        assert!((begun..=SystemTime::now()).contains(&result.observed_at));
        assert_eq!(result.reason, StopReason::Stopped);
        assert_eq!(result.source.as_deref(), Some("machine"));
        let stopped = handle.refresh().await.unwrap();
        assert_eq!(stopped.status(), SandboxStatus::Stopped);
        assert!(stopped.updated_at() >= handle.updated_at());

        let again = microsandbox.start("web").await.unwrap();
        assert_eq!(again.config(), sandbox.config());
        again.kill().await.unwrap();
        let result = again.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Killed);
        microsandbox.remove("web").await.unwrap();
        let error = microsandbox.get("web").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxNotFound);
    });
    assert_eq!(fixture.directories(), (vec![], vec![]));
}

fn every_status() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let status = async || fixture.microsandbox.get("web").await.unwrap().status();
        sandbox.pause().await.unwrap();
        assert_eq!(status().await, SandboxStatus::Paused);
        // Its guest would answer when it is resumed, which may be never.
        for error in [
            sandbox.exec("true", [""; 0]).await.unwrap_err(),
            sandbox
                .exec_detached("true", ExecOptions::new())
                .await
                .unwrap_err(),
            sandbox.fs().read("/etc/passwd").await.unwrap_err(),
        ] {
            assert!(error.to_string().ends_with("resume it first"), "{error}");
            let MicrosandboxError::SandboxNotRunning { status, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!(status, SandboxStatus::Paused);
        }
        sandbox.resume().await.unwrap();
        assert_eq!(status().await, SandboxStatus::Running);
        sandbox.request_drain().await.unwrap();
        assert_eq!(status().await, SandboxStatus::Draining);
        sandbox.request_stop().await.unwrap();
        sandbox.wait_until_stopped().await.unwrap();
        assert_eq!(status().await, SandboxStatus::Stopped);
        let again = fixture.microsandbox.start("web").await.unwrap();
        kill(pid(&again, &fixture), Signal::SIGKILL).unwrap();
        again.wait_until_stopped().await.unwrap();
        assert_eq!(status().await, SandboxStatus::Crashed);
    });
}

fn waiting_tells() {
    let fixture = Fixture::new();
    block_on(async {
        let config = fixture.builder("job").ephemeral(true);
        let mut config = config.config().clone();
        config.kernel_cmdline = Some(COMPLETES.to_owned());
        let sandbox = fixture.microsandbox.create(config).await.unwrap();
        let (result, drained) = tokio::join!(sandbox.wait_until_stopped(), sandbox.request_drain());
        drained.unwrap();
        let result = result.unwrap();
        assert_eq!((result.exit_code, result.signal), (Some(3), None));
        assert_eq!(result.reason, StopReason::Completed);
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
    });
}

fn wrong_state() {
    let fixture = Fixture::new();
    let microsandbox = &fixture.microsandbox;
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let kind = |error: microsandbox::MicrosandboxError, advice: &str| {
            assert!(error.to_string().contains(advice), "{error}");
            error.kind()
        };
        let error = microsandbox.start("web").await.unwrap_err();
        assert_eq!(kind(error, "stop it first"), ErrorKind::SandboxRunning);
        let error = microsandbox.remove("web").await.unwrap_err();
        assert_eq!(kind(error, "stop it first"), ErrorKind::SandboxRunning);
        let error = fixture.builder("web").create().await.unwrap_err();
        assert_eq!(kind(error, "exists"), ErrorKind::SandboxAlreadyExists);
        // Another name on every file system that Linux has.
        let other = fixture.builder("Web").create().await.unwrap();
        other.close().await.unwrap();

        sandbox.stop().await.unwrap();
        for result in [
            sandbox.stop().await,
            sandbox.kill().await,
            sandbox.request_stop().await,
            sandbox.request_drain().await,
            sandbox.pause().await,
            sandbox.metrics().await.map(drop),
            sandbox.connect_agent().await.map(drop),
            microsandbox
                .get("web")
                .await
                .unwrap()
                .connect()
                .await
                .map(drop),
        ] {
            let error = result.unwrap_err();
            assert_eq!(kind(error, "start it first"), ErrorKind::SandboxNotRunning);
        }
        let error = fixture.builder("web").create().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxAlreadyExists);
        for result in [
            microsandbox.start("none").await.map(drop),
            microsandbox.remove("none").await,
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::SandboxNotFound);
        }
    });
}

fn ephemeral() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture
            .builder("job")
            .ephemeral(true)
            .create()
            .await
            .unwrap();
        assert_eq!(fixture.microsandbox.list().await.unwrap().len(), 1);
        sandbox.stop().await.unwrap();
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
        // Also if its machine cannot clean up.
        let sandbox = fixture
            .builder("job")
            .ephemeral(true)
            .create()
            .await
            .unwrap();
        kill(pid(&sandbox, &fixture), Signal::SIGKILL).unwrap();
        match sandbox.wait_until_stopped().await {
            Ok(result) => assert_eq!(result.reason, StopReason::Crashed),
            // It was over before anybody waited, and nothing is kept of it.
            Err(error) => assert_eq!(error.kind(), ErrorKind::SandboxNotFound, "{error}"),
        }
        assert!(fixture.microsandbox.list().await.unwrap().is_empty());
    });
    assert_eq!(fixture.directories().0, Vec::<std::path::PathBuf>::new());
}

fn crashed() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let machine = pid(&sandbox, &fixture);
        let waiting = sandbox.wait_until_stopped();
        kill(machine, Signal::SIGKILL).unwrap();
        let result = waiting.await.unwrap();
        assert_eq!(result.status, SandboxStatus::Crashed);
        assert_eq!(result.source.as_deref(), Some("host"));
        assert!(result.detail.unwrap().contains("killed"));
        let again = fixture.microsandbox.start("web").await.unwrap();
        again.stop().await.unwrap();
        // The end of the run before is not taken for that of this one.
        let again = fixture.microsandbox.start("web").await.unwrap();
        kill(pid(&again, &fixture), Signal::SIGKILL).unwrap();
        let result = again.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Crashed);
    });
}

fn ended_meanwhile() {
    let fixture = Fixture::new();
    block_on(async {
        let begin = async |ephemeral| {
            let sandbox = fixture
                .builder("web")
                .ephemeral(ephemeral)
                .create()
                .await
                .unwrap();
            let options = ExecOptions::new();
            let mut command = sandbox.exec_stream("sleep", options).await.unwrap();
            command.recv().await.unwrap();
            (sandbox, command)
        };
        let how = |error| match error {
            MicrosandboxError::SandboxEnded { name, end } if name == "web" => {
                end.map(|end| end.reason)
            }
            error => panic!("{error:?}"),
        };
        let (sandbox, command) = begin(false).await;
        kill(pid(&sandbox, &fixture), Signal::SIGKILL).unwrap();
        let error = command.collect().await.unwrap_err();
        assert_eq!(how(error), Some(StopReason::Crashed));
        fixture.microsandbox.remove("web").await.unwrap();

        let (sandbox, mut command) = begin(false).await;
        let (ended, killed) = tokio::join!(command.wait(), sandbox.kill());
        killed.unwrap();
        assert_eq!(how(ended.unwrap_err()), Some(StopReason::Killed));
        let error = sandbox.exec("true", [""; 0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxNotRunning, "{error}");
        fixture.microsandbox.remove("web").await.unwrap();

        let sandbox = fixture.builder("web").create().await.unwrap();
        let detached = sandbox.exec_detached("true", ExecOptions::new()).await;
        assert_eq!(how(detached.unwrap_err()), Some(StopReason::Crashed));
        fixture.microsandbox.remove("web").await.unwrap();

        // Nothing is left that could tell how, but that it ended.
        let (sandbox, command) = begin(true).await;
        kill(pid(&sandbox, &fixture), Signal::SIGKILL).unwrap();
        let error = command.collect().await.unwrap_err();
        assert!([None, Some(StopReason::Crashed)].contains(&how(error)));
    });
}

fn stuck() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let job = fixture.builder("job").ephemeral(true).create();
        let job = job.await.unwrap();
        let waiting = fixture.microsandbox.get("job").await.unwrap();
        for stuck in [&sandbox, &job] {
            kill(pid(stuck, &fixture), Signal::SIGSTOP).unwrap();
        }
        let (waited, killed, ended) =
            tokio::join!(waiting.wait_until_stopped(), job.kill(), sandbox.kill());
        killed.unwrap();
        ended.unwrap();
        let result = sandbox.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Killed);
        assert_eq!(result.status, SandboxStatus::Stopped);
        // Nobody tells those who wait for an ephemeral one, and nothing is made up.
        let error = waited.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxNotFound, "{error}");
    });
}

fn foreign() {
    let fixture = Fixture::new();
    block_on(async {
        let mut config = fixture.builder("web").config().clone();
        config.kernel_cmdline = Some(FOREIGN.to_owned());
        let sandbox = fixture.microsandbox.create(config.clone()).await.unwrap();
        config.replace = true;
        for error in [
            sandbox.stop().await.unwrap_err(),
            fixture.microsandbox.create(config).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("another version"), "{error}");
        }
        let handle = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(handle.status(), SandboxStatus::Running);
        handle.kill().await.unwrap();
        let result = handle.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Killed);
    });
}

fn labels() {
    let fixture = Fixture::new();
    block_on(async {
        let mut sandboxes = Vec::new();
        for (name, user, role) in [
            ("a", "alice", "web"),
            ("b", "alice", "db"),
            ("c", "bob", "web"),
        ] {
            let builder = fixture
                .builder(name)
                .label("user.id", user)
                .label("role", role);
            sandboxes.push(builder.create().await.unwrap());
        }
        let list = async |labels: &[(&str, &str)]| {
            let filter = SandboxFilter::new().with_labels(labels.iter().copied());
            let found = fixture.microsandbox.list_with(filter).await.unwrap();
            found
                .iter()
                .map(|found| found.name().to_owned())
                .collect::<Vec<_>>()
                .concat()
        };
        // Newest first.
        assert_eq!(list(&[]).await, "cba");
        assert_eq!(list(&[("user.id", "alice")]).await, "ba");
        assert_eq!(list(&[("user.id", "alice"), ("role", "web")]).await, "a");
        assert_eq!(list(&[("user.id", "web")]).await, "");
        for sandbox in sandboxes {
            sandbox.close().await.unwrap();
        }
    });
}

fn stale_handle() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let old = fixture.microsandbox.get("web").await.unwrap();
        sandbox.stop().await.unwrap();
        old.remove().await.unwrap();
        let new = fixture.builder("web").create().await.unwrap();
        for error in [
            old.stop().await.unwrap_err(),
            sandbox.kill().await.unwrap_err(),
            old.remove().await.unwrap_err(),
            old.start().await.unwrap_err(),
            // Nor does anything reach the other one.
            sandbox.connect_agent().await.unwrap_err(),
            sandbox.shell_stream("true").await.unwrap_err(),
            sandbox
                .exec_detached("true", ExecOptions::new())
                .await
                .unwrap_err(),
            sandbox.reattach(1, 0).await.unwrap_err(),
            sandbox.fs().write("/etc/passwd", "").await.unwrap_err(),
            sandbox.metrics().await.unwrap_err(),
            old.metrics_stream(Duration::ZERO).await.unwrap_err(),
            old.wait_until_stopped().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidHandle, "{error}");
        }
        new.close().await.unwrap();
        for error in [
            old.start().await.unwrap_err(),
            old.start_detached().await.unwrap_err(),
            old.remove().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidHandle);
        }
        let found = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(found.status(), SandboxStatus::Stopped);
    });
}

fn metrics() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let paused = fixture.builder("paused").create().await.unwrap();
        paused.pause().await.unwrap();
        let metrics = sandbox.metrics().await.unwrap();
        assert_eq!(metrics.uptime, Duration::from_millis(1500));
        assert_eq!((metrics.net_tx_bytes, metrics.sessions), (10, 11));
        let all = fixture.microsandbox.all_sandbox_metrics().await.unwrap();
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            [("web".to_owned(), metrics.clone())]
        );
        let mut stream = sandbox.metrics_stream(Duration::ZERO).await.unwrap();
        for _ in 0..3 {
            // Who gives up waiting has not ended it.
            let _ = tokio::time::timeout(Duration::ZERO, stream.recv()).await;
            assert_eq!(stream.recv().await.unwrap(), Some(metrics.clone()));
        }
        sandbox.stop().await.unwrap();
        assert_eq!(stream.recv().await.unwrap(), None);
        paused.close().await.unwrap();
    });
}

fn grace() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        sandbox.stop().await.unwrap();
        let detail = async |sandbox: Sandbox| sandbox.wait_until_stopped().await.unwrap().detail;
        let default = Some("within 10000 ms".to_owned());
        assert_eq!(detail(sandbox).await, default);
        let again = async || fixture.microsandbox.start("web").await.unwrap();
        let sandbox = again().await;
        sandbox.request_stop().await.unwrap();
        assert_eq!(detail(sandbox).await, default);
        let sandbox = again().await;
        sandbox.close().await.unwrap();
        let found = fixture.microsandbox.get("web").await.unwrap();
        assert_eq!(found.last_stop().unwrap().detail, default);
        for (timeout, told) in [
            (Duration::ZERO, "within 0 ms"),
            (Duration::from_millis(1500), "within 1500 ms"),
        ] {
            let sandbox = again().await;
            sandbox.stop_with_timeout(timeout).await.unwrap();
            assert_eq!(detail(sandbox).await.as_deref(), Some(told));
        }
    });
}

fn begun_since() {
    let fixture = Fixture::new();
    block_on(async {
        let sandbox = fixture.builder("web").create().await.unwrap();
        let during = fixture.microsandbox.get("web").await.unwrap();
        sandbox.stop().await.unwrap();
        let before = fixture.microsandbox.get("web").await.unwrap();
        let again = before.start().await.unwrap();
        let waiting = before.wait_until_stopped();
        let (end, killed) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            again.kill().await
        });
        killed.unwrap();
        assert_eq!(end.unwrap().reason, StopReason::Killed);
        // The run that somebody has seen is over when it is, whatever came then.
        let again = before.start().await.unwrap();
        let end = during.wait_until_stopped().await.unwrap();
        assert_eq!(end.reason, StopReason::Killed);
        again.close().await.unwrap();
    });
}
