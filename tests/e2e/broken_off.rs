//! Programs that are killed in the middle of what they ask of a sandbox.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use microsandbox::control::{Change, ControlClient, MachineState, StopReason, Watch};
use microsandbox::logs::{LogOptions, LogStreamOptions};
use microsandbox::names::Name;
use microsandbox::run_directory::RunDirectory;
use microsandbox::sandbox::{ExecOptions, SandboxStatus};
use microsandbox::{MicrosandboxError, Sandbox};
use msb_tests::running::piped;
use msb_tests::sandboxes::{microsandbox, run, sandbox, stop};
use msb_tests::{Home, LIMIT, Running, product};
use nix::sys::signal::Signal;

/// Tells the program that it is another one, and what it asks for.
const ROLE: &str = "MSB_TEST_ASKS";

/// What is asked again and again until the program is killed, each by a program of its own, those of a line at the same time.
const CALLS: [&[&str]; 7] = [
    &[
        "exec",
        "exec_stream",
        "exec_detached",
        "reattach",
        "connect",
    ],
    &[
        "metrics",
        "metrics_stream",
        "logs",
        "log_stream",
        "wait_until_stopped",
    ],
    // What is asked of one that is paused may fail.
    &["pause"],
    &["read", "read_stream", "write", "list", "stat", "mkdir"],
    &["rename", "copy", "symlink", "chmod", "set_times"],
    &[
        "shell",
        "signals",
        "look_up",
        "read_range",
        "write_stream",
        "remove",
    ],
    &[
        "copy_from_host",
        "copy_to_host",
        "read_archive",
        "write_archive",
    ],
];

/// Not a test but a role: a program that asks for something until it is killed.
#[test]
fn program() {
    let Ok(call) = env::var(ROLE) else { return };
    run(async {
        let handle = Sandbox::get("box").await.unwrap();
        println!("asks");
        match &*call {
            "stop" => handle
                .stop_with_timeout(Duration::from_secs(2))
                .await
                .unwrap(),
            "drain" => {
                handle.request_drain().await.unwrap();
                handle.wait_until_stopped().await.map(drop).unwrap();
            }
            "start" => handle.start().await.map(drop).unwrap(),
            _ => loop {
                let sandbox = handle.connect().await.unwrap();
                let home = PathBuf::from(env::var_os("HOME").unwrap());
                ask(&call, &sandbox, &home).await.unwrap();
            },
        }
    });
}

async fn ask(call: &str, sandbox: &Sandbox, home: &Path) -> Result<(), MicrosandboxError> {
    let guest = sandbox.fs();
    let forever = ExecOptions::new().args(["1000"]);
    match call {
        "exec" => sandbox.exec("sleep", ["0.01"]).await.map(drop),
        "exec_stream" => {
            let mut cat = sandbox
                .exec_stream("cat", ExecOptions::new().stdin_pipe())
                .await?;
            let mut stdin = cat.stdin().unwrap();
            loop {
                stdin.write_all(&[b'x'; 10_000]).await.unwrap();
                cat.recv().await?;
            }
        }
        "exec_detached" => sandbox
            .exec_detached("true", ExecOptions::new())
            .await
            .map(drop),
        "reattach" => {
            let number = sandbox.exec_detached("sleep", forever).await?;
            let sleep = sandbox.reattach(number, 0).await?;
            sleep.kill().await?;
            sleep.collect().await.map(drop)
        }
        "connect" => Ok(()),
        "metrics" => sandbox.metrics().await.map(drop),
        "metrics_stream" => {
            let mut stream = sandbox.metrics_stream(Duration::ZERO).await?;
            while stream.recv().await?.is_some() {}
            Ok(())
        }
        "logs" => sandbox.logs(LogOptions::default()).await.map(drop),
        "log_stream" => {
            let options = LogStreamOptions {
                follow: true,
                ..LogStreamOptions::default()
            };
            let mut stream = sandbox.log_stream(options).await?;
            while stream.recv().await.unwrap().is_some() {}
            Ok(())
        }
        "wait_until_stopped" => sandbox.wait_until_stopped().await.map(drop),
        "pause" => {
            sandbox.pause().await?;
            sandbox.resume().await
        }
        "read" => guest.read("/bin/busybox").await.map(drop),
        "write" => guest.write("/tmp/written", vec![0; 1 << 20]).await,
        "list" => guest.list("/bin").await.map(drop),
        "stat" => {
            guest.lstat("/bin/sh").await?;
            guest.exists("/none").await.map(drop)
        }
        "mkdir" => {
            guest.mkdir("/tmp/made/in").await?;
            guest.remove_all("/tmp/made").await
        }
        "rename" => {
            guest.write("/tmp/before", "contents").await?;
            guest.rename("/tmp/before", "/tmp/after").await
        }
        "copy" => guest.copy("/bin/busybox", "/tmp/copy").await,
        "symlink" => {
            guest.remove_all("/tmp/link").await?;
            guest.symlink("/none", "/tmp/link").await?;
            guest.read_link("/tmp/link").await.map(drop)
        }
        "chmod" => {
            guest.chmod("/tmp", 0o1777).await?;
            guest.chown("/tmp", Some(0), None).await
        }
        "shell" => sandbox.shell("exec sleep 0.01").await.map(drop),
        "signals" => {
            let mut sleep = sandbox.exec_stream("sleep", forever.tty(24, 80)).await?;
            sleep.resize(30, 100).await?;
            sleep.signal(15).await?;
            sleep.wait().await.map(drop)
        }
        "look_up" => {
            Sandbox::list().await?;
            Sandbox::get("box").await?.refresh().await?;
            microsandbox::all_sandbox_metrics().await.map(drop)
        }
        "read_range" => {
            let mut part = guest.read_range("/tmp/large", 1 << 30, 1 << 20).await?;
            while part.recv().await?.is_some() {}
            Ok(())
        }
        "write_stream" => {
            let mut file = guest.write_stream("/tmp/streamed", None).await?;
            for _ in 0..16 {
                file.write_all(&[7; 100_000]).await?;
            }
            file.finish().await
        }
        "remove" => {
            guest.write("/tmp/removed", "contents").await?;
            guest.remove("/tmp/removed").await
        }
        "set_times" => guest.set_times("/tmp", None, None).await,
        "copy_from_host" => guest
            .copy_from_host(home.join("tree"), "/tmp/tree")
            .await
            .map(drop),
        "copy_to_host" => {
            // There is none the first time.
            let _ = fs::remove_dir_all(home.join("bin"));
            guest.copy_to_host("/bin", home.join("bin")).await.map(drop)
        }
        "read_archive" => {
            let nowhere = File::options().write(true).open("/dev/null").unwrap();
            guest.read_archive("/bin", nowhere).await.map(drop)
        }
        "write_archive" => {
            let archive = File::open(home.join("tree.tar")).unwrap();
            guest.write_archive(archive, "/tmp").await.map(drop)
        }
        "read_stream" => {
            let mut stream = guest.read_stream("/tmp/large").await?;
            while stream.recv().await?.is_some() {}
            Ok(())
        }
        call => panic!("{call}"),
    }
}

fn program_that(home: &Home, call: &str) -> Running {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "broken_off::program", "--nocapture"])
        .env("MSB_HOME", home.msb_home())
        .env("HOME", home.path())
        .env(ROLE, call);
    Running::start(piped(&mut command))
}

/// Files for those who copy some.
fn make_files(home: &Home) {
    let tree = home.folder("tree");
    for number in 0..50 {
        fs::write(tree.join(number.to_string()), vec![7; number * 1000]).unwrap();
    }
    let mut archive = tar::Builder::new(File::create(home.path().join("tree.tar")).unwrap());
    archive.append_dir_all("tree", &tree).unwrap();
    archive.finish().unwrap();
}

#[test]
fn nobody_notices_a_program_that_is_killed_in_the_middle_of_a_call() {
    let home = Home::new();
    make_files(&home);
    run(async {
        let sandbox = sandbox(&home, "box").image(product::busybox());
        let sandbox = sandbox.create().await.unwrap();
        // Threads of the kernel, which come and go, have no command line.
        let count = "grep -l . /proc/[0-9]*/cmdline 2>/dev/null | wc -l";
        let before = sandbox.shell(count).await.unwrap().stdout_text();
        let large = sandbox.exec("truncate", ["-s", "100G", "/tmp/large"]).await;
        assert!(large.unwrap().success());
        for (number, calls) in CALLS.into_iter().enumerate() {
            let programs: Vec<_> = calls.iter().map(|call| program_that(&home, call)).collect();
            for program in &programs {
                program.stdout.wait_for("asks\n");
            }
            // At another moment each time.
            tokio::time::sleep(Duration::from_millis(200 + 50 * number as u64)).await;
            for (call, program) in calls.iter().zip(&programs) {
                let errors = program.stderr.so_far();
                assert!(!errors.contains("panicked"), "{call}: {errors}");
                program.signal(Signal::SIGKILL);
            }
            drop(programs);
            // It may have been paused.
            let resumed = sandbox.resume().await;
            let output = sandbox.exec("echo", ["works"]).await;
            let output = output.unwrap_or_else(|error| panic!("{calls:?}: {error}, {resumed:?}"));
            assert_eq!(output.stdout_text(), "works\n", "{calls:?}");
        }
        // Nothing is left of any of them, but commands that are to outlive their clients.
        let script = format!(
            // The shell that counts here is one more.
            "killall sleep; while [ $({count}) -gt $(({} + 1)) ]; do usleep 10000; done",
            before.trim()
        );
        assert!(sandbox.shell(&script).await.unwrap().success());
        while sandbox.metrics().await.unwrap().sessions > 0 {
            tokio::task::yield_now().await;
        }
        stop(sandbox).await;
    });
}

fn watch(home: &Home) -> Watch {
    let name: Name = "box".parse().unwrap();
    let place = microsandbox::home::Home::at(home.msb_home());
    let directory = RunDirectory::of(&place, &name);
    let client = ControlClient::connect(&directory, &name, LIMIT).unwrap();
    client.watch(LIMIT).unwrap()
}

/// Waits until the machine does this.
fn wait_for(watch: &mut Watch, state: MachineState) {
    loop {
        match watch.next(Some(LIMIT)).unwrap() {
            Change::State(now) if now == state => return,
            Change::State(_) => {}
            change => panic!("{change:?} before {state:?}"),
        }
    }
}

#[test]
fn what_was_begun_is_ended_without_who_asked_for_it() {
    let home = Home::new();
    run(async {
        let builder = sandbox(&home, "box").image(product::busybox());
        let sandbox = builder.ephemeral(false).create().await.unwrap();
        // What does not listen to SIGTERM lasts as long as it may.
        let deaf = "trap '' TERM; echo deaf; while :; do sleep 0.1; done";
        let mut command = sandbox.shell_stream(deaf).await.unwrap();
        while !matches!(
            command.recv().await.unwrap(),
            Some(microsandbox::sandbox::ExecEvent::Stdout(_))
        ) {}
        let mut stopping = watch(&home);
        let program = program_that(&home, "stop");
        program.stdout.wait_for("asks\n");
        wait_for(&mut stopping, MachineState::Stopping);
        drop(program);
        let result = sandbox.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Stopped);

        // Who is attached takes it with it, also before it is up; it can be started again.
        let here = microsandbox(&home);
        let program = program_that(&home, "start");
        program.stdout.wait_for("asks\n");
        loop {
            let status = here.get("box").await.unwrap().status();
            if status == SandboxStatus::Starting {
                break;
            }
            assert_eq!(status, SandboxStatus::Stopped);
            tokio::task::yield_now().await;
        }
        drop(program);
        let handle = here.get("box").await.unwrap();
        let result = handle.wait_until_stopped().await.unwrap();
        assert!(!result.status.is_alive(), "{result:?}");
        let sandbox = here.start("box").await.unwrap();

        let mut command = sandbox.shell_stream("read line; echo ended").await.unwrap();
        command.recv().await.unwrap();
        let mut draining = watch(&home);
        let program = program_that(&home, "drain");
        program.stdout.wait_for("asks\n");
        wait_for(&mut draining, MachineState::Draining);
        drop(program);
        command.kill().await.unwrap();
        let result = sandbox.wait_until_stopped().await.unwrap();
        assert_eq!(result.reason, StopReason::Drained);
        here.remove("box").await.unwrap();
    });
}
