//! What else the library can be asked of a sandbox: kept sessions, logs, times of files, itself.

use std::env;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microsandbox::logs::{LogOptions, LogSource, LogStreamOptions};
use microsandbox::sandbox::{ExecEvent, ExecOptions, Execution, StopReason};
use microsandbox::{ErrorKind, Sandbox, SandboxConfig};
use msb_tests::running::piped;
use msb_tests::sandboxes::{microsandbox, run, sandbox, stop};
use msb_tests::{Finished, Home, Running, product};

/// Tells the program that it is another one, with a home in its environment.
const PROGRAM: &str = "MSB_TEST_ENVIRONMENT";

async fn busybox(home: &Home) -> Sandbox {
    let builder = sandbox(home, "box").image(product::busybox());
    builder.create().await.unwrap()
}

/// Waits until its standard output ends with `end`.
async fn read(execution: &mut Execution, end: &str) {
    let mut text = String::new();
    while !text.ends_with(end) {
        match execution.recv().await.unwrap() {
            Some(ExecEvent::Stdout(data)) => text += std::str::from_utf8(&data).unwrap(),
            Some(ExecEvent::Started { .. }) => {}
            event => panic!("{event:?} after {text:?}"),
        }
    }
}

#[test]
fn a_kept_command_has_one_client_at_a_time() {
    let home = Home::new();
    run(async {
        let sandbox = busybox(&home).await;
        let script = "echo up; read line; echo got $line; exit 3";
        let options = ExecOptions::new().args(["-c", script]);
        let number = sandbox
            .exec_detached("sh", options.clone().stdin_pipe())
            .await;
        let number = number.unwrap();
        let mut first = sandbox.reattach(number, 0).await.unwrap();
        read(&mut first, "up\n").await;
        assert_eq!((first.session(), first.position()), (number, 0));
        let error = sandbox.reattach(number, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionInUse, "{error}");
        for session in [Some(number + 1000), None] {
            let error = sandbox.reattach(session, 0).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SessionNotFound, "{error}");
        }
        first.stdin().unwrap().write_all(b"it\n").await.unwrap();
        let output = first.collect().await.unwrap();
        assert_eq!(
            (&*output.stdout, output.exit.code),
            (&b"got it\n"[..], Some(3))
        );

        // What cannot be is refused before anything runs.
        for error in [
            sandbox
                .exec_with("sh", options.clone().stdin_pipe())
                .await
                .map(drop),
            sandbox
                .exec_detached("sh", options.stdin_bytes("it\n"))
                .await
                .map(drop),
        ] {
            assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidConfig);
        }
        let script = "trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.1; done";
        let options = ExecOptions::new().args(["-c", script]).tty(10, 20);
        let mut sized = sandbox.exec_stream("sh", options).await.unwrap();
        read(&mut sized, "10 20\r\n").await;
        let controls = sized.controls();
        for number in [0, 65] {
            let error = controls.signal(number).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        }
        controls.resize(33, 44).await.unwrap();
        assert_eq!(sized.collect().await.unwrap().stdout_text(), "33 44\r\n");
        stop(sandbox).await;
    });
}

#[test]
fn parts_and_times_of_files() {
    let home = Home::new();
    run(async {
        let sandbox = busybox(&home).await;
        let fs = sandbox.fs();
        fs.write("/tmp/file", "0123456789").await.unwrap();
        for (offset, length, part) in [(3, 4, "3456"), (8, 100, "89"), (10, 1, ""), (99, 1, "")] {
            let mut stream = fs.read_range("/tmp/file", offset, length).await.unwrap();
            let mut read = Vec::new();
            while let Some(data) = stream.recv().await.unwrap() {
                read.extend_from_slice(&data);
            }
            assert_eq!(String::from_utf8(read).unwrap(), part);
        }
        let long_ago = UNIX_EPOCH - Duration::from_millis(1500);
        let later = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
        fs.set_times("/tmp/file", Some(later), Some(long_ago))
            .await
            .unwrap();
        fs.set_times("/tmp/file", None, Some(later)).await.unwrap();
        fs.set_times("/tmp/file", Some(long_ago), None)
            .await
            .unwrap();
        let found = fs.stat("/tmp/file").await.unwrap();
        assert_eq!((found.accessed, found.modified), (long_ago, later));
        let output = sandbox.shell("stat -c '%X %Y' /tmp/file").await.unwrap();
        assert_eq!(output.stdout_text(), "-2 1234567890\n");
        stop(sandbox).await;
    });
}

#[test]
fn a_log_is_read_and_followed_by_programs() {
    let home = Home::new();
    run(async {
        // How it ended is known afterwards, too.
        let sandbox = sandbox(&home, "box").ephemeral(false);
        let sandbox = sandbox.image(product::busybox()).create().await.unwrap();
        let here = microsandbox(&home);
        let handle = here.get("box").await.unwrap();
        for word in ["one", "two", "three"] {
            sandbox.exec("echo", [word]).await.unwrap();
        }
        let last = LogOptions {
            tail: Some(2),
            ..LogOptions::default()
        };
        // The log is written beside the session, which may end first.
        let entries = loop {
            let entries = sandbox.logs(last.clone()).await.unwrap();
            if entries.last().is_some_and(|entry| entry.data == b"three\n") {
                break entries;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(handle.logs(last).await.unwrap(), entries);
        assert_eq!((entries.len(), &*entries[0].data), (2, &b"two\n"[..]));
        assert_eq!(entries[0].source, LogSource::Stdout);

        let from_two = LogStreamOptions {
            from_cursor: Some(entries[0].cursor),
            follow: true,
            ..LogStreamOptions::default()
        };
        let mut ours = sandbox.log_stream(from_two.clone()).await.unwrap();
        let mut theirs = handle.log_stream(from_two).await.unwrap();
        for stream in [&mut ours, &mut theirs] {
            assert_eq!(stream.recv().await.unwrap().as_ref(), Some(&entries[1]));
        }
        sandbox.exec("echo", ["four"]).await.unwrap();
        for stream in [&mut ours, &mut theirs] {
            assert_eq!(stream.recv().await.unwrap().unwrap().data, b"four\n");
        }
        // Both end with the sandbox, which is only asked to end at once.
        let (result, asked) = tokio::join!(handle.wait_until_stopped(), sandbox.request_kill());
        asked.unwrap();
        let result = result.unwrap();
        assert_eq!(result.reason, StopReason::Killed, "{result:?}");
        for stream in [&mut ours, &mut theirs] {
            assert_eq!(stream.recv().await.unwrap(), None);
        }
        here.remove("box").await.unwrap();
    });
}

#[test]
fn a_handle_tells_what_is_recorded() {
    let home = Home::new();
    let begun = SystemTime::now();
    run(async {
        let sandbox = sandbox(&home, "box")
            .image(product::busybox())
            .label("a", "b");
        let sandbox = sandbox.create().await.unwrap();
        let here = microsandbox(&home);
        let handle = here.get("box").await.unwrap();
        let config: SandboxConfig = serde_json::from_str(handle.config_json()).unwrap();
        assert_eq!(&config, sandbox.config());
        assert_eq!(handle.config().unwrap(), config);
        assert_eq!((config.labels["a"].as_str(), config.memory_mib), ("b", 256));
        // It is recorded in milliseconds.
        let begun = begun - Duration::from_millis(1);
        assert!(handle.created_at() >= begun, "{:?}", handle.created_at());
        assert!(handle.updated_at() >= handle.created_at());
        assert!(handle.updated_at() <= SystemTime::now());

        // A program that has the home in its environment says so in fewer words.
        let finished = program_in(&home, "box");
        assert!(finished.text().contains("all is there"), "{finished}");
        handle
            .kill_with_timeout(Duration::from_secs(60))
            .await
            .unwrap();
        let error = here.get("box").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxNotFound);
    });
    let finished = program_in(&Home::new(), "");
    assert!(finished.text().contains("nothing is there"), "{finished}");
}

/// Runs [`program`], with a home whose sandbox has this name, or that has none.
fn program_in(home: &Home, name: &str) -> Finished {
    let mut program = Command::new(env::current_exe().unwrap());
    program
        .args(["--exact", "calls::program", "--nocapture"])
        .env("MSB_HOME", home.msb_home())
        .env("PATH", "")
        .env(PROGRAM, name);
    Running::start(piped(&mut program)).finish()
}

/// Not a test but a role: a program with a home in its environment.
#[test]
fn program() {
    let Ok(name) = env::var(PROGRAM) else { return };
    if name.is_empty() {
        assert!(!microsandbox::is_installed());
        let error = microsandbox::ensure_installed().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotInstalled);
        println!("nothing is there: {error}");
        return;
    }
    run(async {
        assert!(microsandbox::is_installed());
        microsandbox::ensure_installed().unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(microsandbox::sdk_version(), version);
        assert_eq!(microsandbox::runtime_version().await.unwrap(), version);
        let metrics = microsandbox::all_sandbox_metrics().await.unwrap();
        assert_eq!(metrics.keys().collect::<Vec<_>>(), [&name]);
        assert_eq!(metrics[&name].memory_limit_bytes, 256 << 20);
    });
    println!("all is there");
}
