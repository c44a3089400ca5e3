//! Commands in a running sandbox, with the library.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attached;
mod broken_off;
mod calls;

use std::time::Duration;

use microsandbox::protocol::Stage;
use microsandbox::sandbox::{ExecEvent, ExecExit, ExecOptions, Rlimit, RlimitResource};
use microsandbox::{MicrosandboxError, Sandbox};
use msb_tests::client::{frame, shell};
use msb_tests::sandboxes::{run, sandbox, stop};
use msb_tests::{Client, Home, product};
use protocol::{Bytes, FileRequest, FilesRequest, Hello, HostMessage};

async fn busybox(home: &Home) -> Sandbox {
    let builder = sandbox(home, "box").image(product::busybox());
    builder.create().await.unwrap()
}

#[test]
fn a_hundred_commands_at_a_time() {
    let home = Home::new();
    run(async {
        let sandbox = std::sync::Arc::new(busybox(&home).await);
        let commands = (0..100).map(|number| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move {
                let script = format!("read line; echo $line; echo {number} >&2; exit {number}");
                let options = ExecOptions::new()
                    .args(["-c", &script])
                    .stdin_bytes(format!("input {number}\n"));
                sandbox.exec_with("sh", options).await.unwrap()
            })
        });
        let commands: Vec<_> = commands.collect();
        for (number, command) in commands.into_iter().enumerate() {
            let output = command.await.unwrap();
            assert_eq!(output.stdout_text(), format!("input {number}\n"));
            assert_eq!(output.stderr_text(), format!("{number}\n"));
            assert_eq!(output.exit.code, Some(i32::try_from(number).unwrap()));
        }
        stop(std::sync::Arc::into_inner(sandbox).unwrap()).await;
    });
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn a_command_is_run_as_its_options_say() {
    let home = Home::new();
    run(async {
        let builder = sandbox(&home, "box")
            .image(product::busybox())
            .env("A", "config")
            .env("B", "config")
            .workdir("/tmp");
        let sandbox = builder.create().await.unwrap();
        let output = sandbox.shell("echo $A $B $PWD; id -u").await.unwrap();
        assert_eq!(output.stdout_text(), "config config /tmp\n0\n");
        let script = "echo $A $B $PWD; id -u; ulimit -n; stty size";
        let options = ExecOptions::new()
            .args(["-c", script])
            .env("B", "call")
            .cwd("/")
            .user("1234:56")
            .rlimit(Rlimit::new(RlimitResource::Nofile, 77))
            .tty(50, 200);
        let output = sandbox.exec_with("sh", options).await.unwrap();
        assert_eq!(
            output.stdout_text().replace('\r', ""),
            "config call /\n1234\n77\n50 200\n"
        );
        let input = vec![b'x'; 3_000_000];
        let options = ExecOptions::new().stdin_bytes(input.clone());
        let output = sandbox.exec_with("cat", options).await.unwrap();
        assert!(output.stdout == input);
        stop(sandbox).await;
    });
}

#[test]
fn ends_are_told_apart() {
    let home = Home::new();
    run(async {
        let sandbox = busybox(&home).await;
        let error = sandbox.exec("nothing-like-it", [""; 0]).await.unwrap_err();
        assert!(matches!(
            error,
            MicrosandboxError::ExecFailed {
                stage: Stage::ProgramNotFound,
                errno: 2,
                ..
            }
        ));
        let options = ExecOptions::new()
            .args(["-c", "sleep 1000 & sleep 1000"])
            .timeout(Duration::from_millis(300));
        let error = sandbox.exec_with("sh", options).await.unwrap_err();
        assert!(
            matches!(error, MicrosandboxError::ExecTimeout { .. }),
            "{error}"
        );
        let mut sleep = sandbox
            .exec_stream("sleep", ExecOptions::new().args(["1000"]))
            .await
            .unwrap();
        sleep.signal(15).await.unwrap();
        let exit = sleep.wait().await.unwrap();
        let expected = ExecExit {
            code: None,
            signal: Some(15),
            timed_out: false,
        };
        assert_eq!(exit, expected);
        assert!(sleep.recv().await.unwrap().is_none());
        // Nothing is left of any of them.
        let script = "while pidof sleep; do usleep 10000; done >/dev/null";
        assert!(sandbox.shell(script).await.unwrap().success());
        stop(sandbox).await;
    });
}

#[test]
fn who_reads_nothing_stops_only_its_own_command() {
    let home = Home::new();
    run(async {
        let sandbox = busybox(&home).await;
        let script = "yes | head -c 30000000; echo the end >&2";
        let mut stream = sandbox.shell_stream(script).await.unwrap();
        for _ in 0..20 {
            assert!(sandbox.exec("true", [""; 0]).await.unwrap().success());
        }
        let (mut bytes, mut errors) = (0, Vec::new());
        while let Some(event) = stream.recv().await.unwrap() {
            match event {
                ExecEvent::Stdout(data) => bytes += data.len(),
                ExecEvent::Stderr(data) => errors.extend_from_slice(&data),
                _ => {}
            }
        }
        assert_eq!((bytes, errors), (30_000_000, b"the end\n".to_vec()));
        // Nor does input that nobody reads.
        let options = ExecOptions::new().args(["1000"]).stdin_pipe();
        let mut sleep = sandbox.exec_stream("sleep", options).await.unwrap();
        let mut stdin = sleep.stdin().unwrap();
        let much = vec![0; 4 << 20];
        tokio::select! {
            outcome = stdin.write_all(&much) => panic!("{outcome:?}"),
            output = sandbox.exec("echo", ["other"]) => {
                assert_eq!(output.unwrap().stdout, b"other\n");
            }
        }
        drop((sleep, stdin));
        stop(sandbox).await;
    });
}

#[test]
fn clients_that_go_in_the_middle_leave_nothing() {
    let home = Home::new();
    run(async {
        let sandbox = busybox(&home).await;
        // Threads of the kernel, which come and go, have no command line.
        let count = "grep -l . /proc/[0-9]*/cmdline 2>/dev/null | wc -l";
        let before = sandbox.shell(count).await.unwrap().stdout_text();
        let hello = frame(&HostMessage::Hello(Hello::current("test")));
        let directory = Bytes(b"/".to_vec());
        let files = frame(&HostMessage::Files(FilesRequest { directory }));
        let mut tree = Vec::new();
        let request = FileRequest::WriteTree(Bytes(b"tmp".to_vec()));
        protocol::encode(&request, &mut tree).unwrap();
        let tree = frame(&HostMessage::Stdin(&tree));
        let exec = frame(&HostMessage::Exec(Box::new(shell("cat /dev/zero"))));
        for request in [
            [hello.clone(), exec].concat(),
            [hello, files, tree].concat(),
        ] {
            for part in 1..=8 {
                let mut client = Client::connect(&home);
                client.send(&request[..request.len() * part / 8]);
                if part == 8 {
                    client.wait_for_start();
                }
            }
        }
        // Calls of the library that are given up are the same.
        for _ in 0..4 {
            let mut yes = sandbox
                .exec_stream("yes", ExecOptions::new())
                .await
                .unwrap();
            yes.recv().await.unwrap();
            drop(
                sandbox
                    .fs()
                    .read_stream("/dev/../bin/busybox")
                    .await
                    .unwrap(),
            );
        }
        let script = format!(
            // The shell that counts here is one more.
            "while [ $({count}) -gt $(({} + 1)) ]; do usleep 10000; done",
            before.trim()
        );
        assert!(sandbox.shell(&script).await.unwrap().success());
        stop(sandbox).await;
    });
    assert_eq!(home.left_over(), [""; 0]);
}
