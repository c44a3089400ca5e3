//! Sandboxes that stay: the commands that make, use, stop and remove them.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use msb_tests::running::piped;
use msb_tests::{Home, Running, Terminal, product};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What `msb ls --format json` says.
#[track_caller]
fn list(home: &Home, options: &[&str]) -> Vec<Value> {
    let arguments = ["ls", "--format=json"].iter().chain(options);
    let finished = home.msb(arguments);
    serde_json::from_str(finished.text()).unwrap()
}

/// The names of these sandboxes.
fn names(sandboxes: &[Value]) -> Vec<&str> {
    let names = sandboxes.iter();
    names
        .map(|sandbox| sandbox["name"].as_str().unwrap())
        .collect()
}

#[track_caller]
fn remove(home: &Home, names: &[&str]) {
    let finished = home.msb(["rm", "-f"].iter().chain(names));
    assert_eq!(finished.code(), 0, "{finished}");
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn a_sandbox_stays_with_its_files_until_it_is_removed() {
    let home = Home::new();
    home.create(&["--label=tier=web", "-e", "A=1", "-w", "/tmp"], "web");
    assert_eq!(
        home.exec_shell("web", "echo $A; pwd; echo kept >/file")
            .lines(),
        ["1", "/tmp"]
    );
    let [web] = &list(&home, &[])[..] else {
        panic!()
    };
    assert_eq!(
        (&web["name"], &web["status"]),
        (&"web".into(), &"running".into())
    );
    assert_eq!(web["labels"]["tier"], "web");

    // As docker spells it.
    assert_eq!(home.msb(["stop", "--time=5", "web"]).lines(), ["web"]);
    assert_eq!(list(&home, &[])[0]["status"], "stopped");
    home.wait_until_alone();
    assert_eq!(home.msb(["start", "web"]).lines(), ["web"]);
    assert_eq!(home.exec_shell("web", "cat /file").lines(), ["kept"]);
    assert_eq!(home.msb(["restart", "-t", "0", "web"]).lines(), ["web"]);
    assert_eq!(home.msb(["kill", "web"]).lines(), ["web"]);
    // Of one that does not run it is a start.
    let restarted = home.msb(["restart", "--format=json", "web"]);
    let restarted: Value = serde_json::from_str(restarted.text()).unwrap();
    assert_eq!(restarted, serde_json::json!([{ "name": "web" }]));
    assert_eq!(home.exec_shell("web", "cat /file").lines(), ["kept"]);
    let stopped = home.msb(["stop", "--force", "--quiet", "web"]);
    assert_eq!((stopped.code(), stopped.text()), (0, ""));
    let inspected = home.msb(["inspect", "web"]);
    assert!(
        inspected.text().contains("last stop: killed, "),
        "{inspected}"
    );
    assert_eq!(home.msb(["rm", "web"]).lines(), ["web"]);
    assert_eq!(list(&home, &[]), [Value::Null; 0]);
    assert!(
        fs::read_dir(home.msb_home().join("sandboxes"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn what_cannot_be_done_now_says_what_can() {
    let home = Home::new();
    home.create(&[], "web");
    home.msb(["start", "web"]).assert_error(1, "msb exec web");
    home.msb(["rm", "web"]).assert_error(1, "msb rm -f web");
    let root = product::busybox();
    let again = home.msb(["create", "--name=web", root.to_str().unwrap()]);
    again.assert_error(1, "--replace");
    home.msb(["stop", "wev"])
        .assert_error(1, "did you mean \"web\"?");
    home.msb(["exec", "nobody", "true"])
        .assert_error(125, "nobody");
    assert_eq!(home.msb(["stop", "web"]).code(), 0);
    home.msb(["stop", "web"]).assert_error(1, "msb start web");
    home.msb(["kill", "web"]).assert_error(1, "msb start web");
    home.msb(["exec", "web", "true"])
        .assert_error(125, "msb start web");
    home.msb(["attach", "web"])
        .assert_error(125, "msb start web");
    home.msb(["pause", "web"]).assert_error(1, "msb start web");
    remove(&home, &["web"]);
    home.msb(["rm", "web"]).assert_error(1, "web");
    // As with docker.
    assert_eq!(home.msb(["rm", "-f", "web"]).code(), 0);
}

#[test]
fn a_long_name_in_any_script_is_one_like_any_other() {
    let home = Home::new();
    // 128 bytes. The other one differs in the case of one letter.
    let name = format!("\u{4e2d} \u{1f980}\"$('%{}a", "\u{fc}".repeat(57));
    let other = name.replace('a', "A");
    assert_eq!((name.len(), other.len()), (128, 128));
    let named = |command: &[&str], name: &str, rest: &[&str]| {
        home.msb([command, &["--", name], rest].concat())
    };
    for name in [&name, &other] {
        home.create(&["--label=long"], name);
        let finished = named(&["exec"], name, &["sh", "-c", "echo \"is $0\"", name]);
        assert_eq!(finished.lines(), [format!("is {name}")]);
    }
    let file = home.path().join("file");
    fs::write(&file, "contents").unwrap();
    let copied = named(&["cp"], file.to_str().unwrap(), &[&format!("{name}:/tmp")]);
    assert_eq!(copied.code(), 0, "{copied}");
    assert_eq!(
        named(&["exec"], &name, &["cat", "/tmp/file"]).text(),
        "contents"
    );
    assert_eq!(named(&["exec"], &other, &["ls", "/tmp"]).text(), "");
    assert_eq!(
        named(&["logs"], &other, &[]).lines(),
        [format!("is {other}")]
    );
    let listed = list(&home, &["--label=long"]);
    assert_eq!(names(&listed), [&*other, &*name]);
    assert_eq!(named(&["stop"], &other, &[]).lines(), [&*other]);
    assert_eq!(list(&home, &["--running"])[0]["name"], *name);
    assert_eq!(home.msb(["rm", "-f", "--label=long"]).code(), 0);
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn several_are_named_or_found_by_their_labels() {
    let home = Home::new();
    home.create(&["--label=tier=batch", "--label=n=1"], "one");
    home.create(&["--label=tier=batch", "--label=n=2"], "two");
    home.create(&[], "Three");
    let running = ["--filter=status=running"];
    assert_eq!(names(&list(&home, &running)), ["Three", "one", "two"]);
    assert_eq!(names(&list(&home, &["--label=tier"])), ["one", "two"]);
    assert_eq!(
        names(&list(&home, &["--label=tier", "--label=n=2"])),
        ["two"]
    );
    assert_eq!(names(&list(&home, &["--filter=label=n=1"])), ["one"]);
    assert_eq!(names(&list(&home, &["--stopped"])), [""; 0]);
    let finished = home.msb(["stop", "--label=tier=batch", "none", "Three"]);
    let mut stopped = finished.text().lines().collect::<Vec<_>>();
    stopped.sort_unstable();
    assert_eq!(stopped, ["Three", "one", "two"], "{finished}");
    assert_eq!(finished.code(), 1);
    assert!(finished.errors().contains("\"none\""), "{finished}");
    assert_eq!(home.msb(["ps", "-q"]).text(), "");
    assert_eq!(home.msb(["ps", "-aq"]).lines(), ["Three", "one", "two"]);
    let ended = ["ps", "-q", "-f", "status=crashed", "-f", "status=stopped"];
    assert_eq!(home.msb(ended).lines(), ["Three", "one", "two"]);
    let named = home.msb(["status", "two", "one", "none"]);
    assert_eq!(named.text().lines().count(), 3, "{named}");
    assert!(
        named.text().contains("one ") && named.text().contains("two "),
        "{named}"
    );
    named.assert_error(1, "\"none\"");
    let table = home.msb(["ps", "-a"]);
    let titles = ["NAME", "IMAGE", "COMMAND", "CPUS", "MEMORY", "STATUS"];
    assert_eq!(
        table.lines()[0].split_whitespace().collect::<Vec<_>>(),
        titles
    );
    assert!(table.lines()[2].contains("  128 MiB  stopped"), "{table}");
    let table = home.msb(["list"]);
    assert!(table.lines()[0].starts_with("NAME "), "{table}");
    assert!(table.lines()[1].contains(" stopped "), "{table}");
    let stopped = list(&home, &["--stopped"]);
    assert_eq!(names(&stopped), ["Three", "one", "two"]);
    let pruned = home.msb(["prune", "--force", "--label=n=1", "--format=json"]);
    let pruned: Value = serde_json::from_str(pruned.text()).unwrap();
    assert_eq!(pruned, serde_json::json!([{ "name": "one" }]));
    home.msb(["prune"]).assert_error(1, "--force");
    // Whoever sits at a terminal is asked, and asked again.
    for (answer, left) in [("n\r", 2), ("y\r", 0)] {
        let mut terminal = Terminal::start(home.command(["prune"]));
        terminal.screen.wait_for("two");
        terminal.screen.wait_for("? [y/N] ");
        terminal.type_keys(answer);
        assert_eq!(terminal.finish().code, 0);
        assert_eq!(list(&home, &[]).len(), left);
    }
}

#[test]
fn a_paused_sandbox_stands_still_and_goes_on() {
    let home = Home::new();
    home.create(&[], "web");
    assert_eq!(home.msb(["pause", "web"]).lines(), ["web"]);
    assert_eq!(list(&home, &["--running"])[0]["status"], "paused");
    home.msb(["exec", "web", "true"])
        .assert_error(125, "msb unpause web");
    assert_eq!(home.msb(["unpause", "web"]).lines(), ["web"]);
    assert_eq!(home.exec_shell("web", "echo on").lines(), ["on"]);
    assert_eq!(home.msb(["pause", "web"]).code(), 0);
    assert_eq!(home.msb(["stop", "web"]).lines(), ["web"]);
    remove(&home, &["web"]);
}

#[test]
fn a_drained_sandbox_ends_what_it_does_and_takes_nothing_new() {
    let home = Home::new();
    home.create(&[], "web");
    let mut command = home.command([
        "exec",
        "-i",
        "web",
        "sh",
        "-c",
        "echo up; read line; echo $line",
    ]);
    let mut running = Running::start(&mut command);
    running.stdout.wait_for("up");
    assert_eq!(home.msb(["drain", "web"]).lines(), ["web"]);
    home.msb(["exec", "web", "true"])
        .assert_error(125, "draining");
    running.send("done\n");
    assert_eq!(running.finish().lines(), ["up", "done"]);
    assert_eq!(home.msb(["wait", "web"]).lines(), ["0"]);
    remove(&home, &["web"]);
}

#[test]
fn the_status_of_exec_is_that_of_its_command() {
    let home = Home::new();
    home.create(&[], "web");
    for (script, code) in [("exit 3", 3), ("kill -9 $$", 137)] {
        assert_eq!(home.exec_shell("web", script).code(), code);
    }
    home.msb(["exec", "web", "no-such-program"])
        .assert_error(127, "no-such-program");
    home.msb(["exec", "web", "/etc"]).assert_error(126, "/etc");
    home.msb(["exec", "--timeout=500ms", "web", "sleep", "60"])
        .assert_error(124, "--timeout");
    home.msb(["exec", "--user=nobody-here", "web", "true"])
        .assert_error(125, "--user");
    // Standard input is the caller's with -i only, as scripts with `while read` expect.
    let mut running = Running::start(&mut home.command(["exec", "-i", "web", "wc", "-c"]));
    running.send([b'x'; 100_000]);
    running.end_input();
    assert_eq!(running.finish().lines(), ["100000"]);
    assert_eq!(home.msb(["exec", "web", "cat"]).text(), "");
    let finished = home.msb([
        "exec",
        "-e",
        "B=2",
        "-w",
        "/bin",
        "web",
        "sh",
        "-c",
        "echo $B $PWD",
    ]);
    assert_eq!(finished.lines(), ["2 /bin"]);
    assert_eq!(
        home.msb(["shell", "web", "echo $((6 * 7))"]).lines(),
        ["42"]
    );
    remove(&home, &["web"]);
}

#[test]
fn a_detached_command_is_come_back_to() {
    let home = Home::new();
    home.create(&[], "web");
    let script = "echo first; while [ ! -e /go ]; do sleep 0.1; done; echo last; exit 5";
    let finished = home.msb(["exec", "-d", "web", "sh", "-c", script]);
    let [number] = *finished.lines() else {
        panic!("{finished}")
    };
    let mut client = home.command(["exec", "--reattach", number, "web"]);
    let client = Running::start(&mut client);
    client.stdout.wait_for("first");
    // One that is killed takes nothing with it.
    client.signal(Signal::SIGKILL);
    drop(client);
    assert_eq!(home.exec_shell("web", "touch /go").code(), 0);
    let finished = home.msb(["exec", "--reattach", number, "web"]);
    assert_eq!(finished.code(), 5, "{finished}");
    assert_eq!(finished.text(), "first\nlast\n");
    // Its time is kept in the guest, where nobody has to be there for it.
    let command = ["exec", "-d", "--timeout=500ms", "web", "sleep", "1000"];
    let finished = home.msb(command);
    let [number] = *finished.lines() else {
        panic!("{finished}")
    };
    let finished = home.msb(["exec", "--reattach", number, "web"]);
    assert_eq!(finished.code(), 124, "{finished}");
    let finished = home.msb(["exec", "--reattach", "12345", "web"]);
    finished.assert_error(125, "12345");
    remove(&home, &["web"]);
}

#[test]
fn a_detached_run_ends_with_its_command() {
    let home = Home::new();
    // With its end the sandbox stops, and whoever makes the file is to have ended before.
    let script =
        "echo begun; while [ ! -e /go ]; do sleep 0.1; done; rm /go; sleep 2; echo ended; exit 4";
    let finished = home.busybox().with(["-d", "--name=job"]).shell(script);
    assert_eq!(finished.lines(), ["job"], "{finished}");
    assert_eq!(home.exec_shell("job", "touch /go").code(), 0);
    assert_eq!(home.msb(["wait", "job"]).lines(), ["4"]);
    let inspected = home.msb(["inspect", "job"]);
    assert!(
        inspected
            .text()
            .contains("last stop: completed, exit code 4, "),
        "{inspected}"
    );
    assert_eq!(list(&home, &[])[0]["status"], "stopped");
    // Again, as it was.
    assert_eq!(home.msb(["start", "job"]).lines(), ["job"]);
    let attached = Running::start(piped(&mut home.command(["attach", "job"])));
    attached.stdout.wait_for("begun\n");
    assert_eq!(home.exec_shell("job", "touch /go").code(), 0);
    let attached = attached.finish();
    assert_eq!(attached.code(), 4, "{attached}");
    assert_eq!(attached.text(), "begun\nended\n");
    let again = home.busybox().with(["--name=job"]).shell("true");
    again.assert_error(125, "--replace");
    let replaced = home
        .busybox()
        .with(["--name=job", "--replace"])
        .shell("echo new");
    assert_eq!(replaced.lines(), ["new"]);
    remove(&home, &["job"]);

    let finished = home
        .busybox()
        .with(["-d", "--rm", "--name=gone"])
        .shell("true");
    assert_eq!(finished.lines(), ["gone"]);
    home.wait_until_alone();
    let brief = home.busybox().with(["-d", "--rm", "--name=brief"]);
    assert_eq!(brief.shell("sleep 1000").lines(), ["brief"]);
    remove(&home, &["brief"]);
    assert_eq!(names(&list(&home, &[])), [""; 0]);
}

#[test]
fn keys_leave_a_process_alone() {
    let home = Home::new();
    let script = "echo up; read line; echo got $line; exit 6";
    let guest = home
        .busybox()
        .with(["--name=box", "--detach-keys=ctrl-],q"]);
    let attach = home.command(["attach", "box"]);
    for (command, keys) in [(guest.shell_command(script), "\x1dq"), (attach, "\x10\x11")] {
        let mut terminal = Terminal::start(command);
        terminal.screen.wait_for("up\r\n");
        terminal.type_keys(keys);
        let closed = terminal.finish();
        assert_eq!(closed.code, 0, "{}", closed.screen);
        assert!(
            closed.screen.contains("msb attach box"),
            "{}",
            closed.screen
        );
        assert_eq!(list(&home, &[])[0]["status"], "running");
    }

    let mut terminal = Terminal::start(home.command(["attach", "--detach-keys=q", "box"]));
    terminal.screen.wait_for("up\r\n");
    terminal.type_keys("it\r");
    let closed = terminal.finish();
    assert_eq!(closed.code, 6, "{}", closed.screen);
    assert!(closed.screen.contains("got it"), "{}", closed.screen);
    assert_eq!(home.msb(["wait", "box"]).lines(), ["6"]);
    remove(&home, &["box"]);
}

#[test]
fn a_detached_shell_waits_for_whoever_attaches() {
    let home = Home::new();
    let root = product::busybox();
    let detached = home.msb(["run", "-dit", "--name=box", root.to_str().unwrap()]);
    assert_eq!(detached.lines(), ["box"]);
    let mut terminal = Terminal::start(home.command(["attach", "box"]));
    terminal.screen.wait_for("# ");
    terminal.type_keys("echo $((6 * 7)) there\r");
    terminal.screen.wait_for("42 there\r\n");
    terminal.type_keys("exit 6\r");
    assert_eq!(terminal.finish().code, 6);
    assert_eq!(home.msb(["wait", "box"]).lines(), ["6"]);
    // The same with `create`; with --rm nothing is left of it.
    let options = [
        "create",
        "-t",
        "--rm",
        "--format=json",
        "--memory=128M",
        "--name=brief",
    ];
    let words = [
        root.to_str().unwrap(),
        "sh",
        "-c",
        "tty; read line; echo got $line",
    ];
    let created = home.msb(options.iter().chain(&words));
    let created: Value = serde_json::from_str(created.text()).unwrap();
    assert_eq!(
        (&created["name"], &created["status"]),
        (&"brief".into(), &"running".into())
    );
    let mut terminal = Terminal::start(home.command(["attach", "brief"]));
    terminal.screen.wait_for("/dev/pts/0\r\n");
    terminal.type_keys("it\r");
    let closed = terminal.finish();
    assert_eq!(closed.code, 0, "{closed:?}");
    assert!(closed.screen.contains("got it\r\n"), "{closed:?}");
    home.wait_until_alone();
    assert_eq!(names(&list(&home, &[])), ["box"]);
    remove(&home, &["box"]);
}

#[test]
fn a_foreground_run_with_a_name_stops_and_keeps_its_files() {
    let home = Home::new();
    let run = |script: &str, options: &[&str]| home.busybox().with(options).shell(script);
    assert_eq!(run("echo kept >/file; exit 9", &["--name=box"]).code(), 9);
    assert_eq!(list(&home, &[])[0]["status"], "stopped");
    assert_eq!(home.msb(["start", "box"]).code(), 0);
    assert_eq!(home.exec_shell("box", "cat /file").lines(), ["kept"]);
    let inspected = home.msb(["inspect", "box", "--format=json"]);
    let details: Value = serde_json::from_str(inspected.text()).unwrap();
    assert_eq!(details[0]["config"]["name"], "box");
    // How its last run ended, and what it uses now.
    assert_eq!(details[0]["last_stop"]["reason"], "stopped");
    assert!(details[0]["metrics"]["memory_bytes"].as_u64().unwrap() > 0);
    let directory = details[0]["directory"].as_str().unwrap();
    assert!(fs::metadata(directory).unwrap().is_dir(), "{directory}");
    let inspected = home.msb(["inspect", "box"]);
    for part in ["status: running\n", "last stop: stopped, ", "uses: "] {
        assert!(inspected.text().contains(part), "{inspected}");
    }
    remove(&home, &["box"]);
}

#[test]
fn a_foreground_run_that_others_end_is_told_once() {
    let home = Home::new();
    for (end, code, said) in [
        ("stop", 143, None),
        ("kill", 125, Some("\"job\" ended meanwhile")),
    ] {
        let guest = home.busybox().with(["--name=job", "--replace"]);
        let running = guest.start("echo up; exec sleep 1000");
        running.stdout.wait_for("up");
        assert_eq!(home.msb([end, "job"]).lines(), ["job"]);
        let finished = running.finish();
        assert_eq!(finished.code(), code, "{finished}");
        let errors = finished.errors().matches("error: ").count();
        assert_eq!(errors, usize::from(said.is_some()), "{finished}");
        assert!(finished.errors().contains(said.unwrap_or("")), "{finished}");
    }
    remove(&home, &["job"]);
}

#[test]
fn what_ended_because_nobody_used_it_lives_again() {
    let home = Home::new();
    home.create(&["--idle-timeout=3s"], "web");
    assert_eq!(home.msb(["wait", "web"]).code(), 0);
    let inspected = home.msb(["inspect", "web"]);
    assert!(
        inspected.text().contains("last stop: idle, "),
        "{inspected}"
    );
    assert_eq!(home.msb(["start", "web"]).lines(), ["web"]);
    // Longer than the time-out, computing and not: a command is use.
    let busy =
        "n=0; while [ $(($(cut -d. -f1 /proc/uptime) - $0)) -lt 6 ]; do n=1; done; echo busy";
    let script = format!("sh -c '{busy}' $(cut -d. -f1 /proc/uptime)");
    assert_eq!(home.exec_shell("web", &script).lines(), ["busy"]);
    assert_eq!(
        home.exec_shell("web", "sleep 5; echo slept").lines(),
        ["slept"]
    );
    remove(&home, &["web"]);
}

#[test]
fn files_go_in_and_out() {
    let home = Home::new();
    home.create(&[], "web");
    let folder = home.folder("out");
    fs::write(folder.join("a"), "contents").unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let copy = |from: &str, to: &str| {
        let finished = home.msb(["cp", from, to]);
        assert_eq!(finished.code(), 0, "{finished}");
    };
    copy(&path("out"), "web:/srv");
    assert_eq!(home.exec_shell("web", "cat /srv/a").lines(), ["contents"]);
    // Into a directory that exists.
    copy(&path("out/a"), "web:/tmp");
    assert_eq!(home.exec_shell("web", "cat /tmp/a").lines(), ["contents"]);
    // What is in it, not it.
    copy(&path("out/."), "web:/mnt");
    assert_eq!(home.exec_shell("web", "cat /mnt/a").lines(), ["contents"]);
    // A path in a sandbox begins at its root, and . is what is in this directory.
    copy(&path("out/a"), "web:opt");
    assert_eq!(home.exec_shell("web", "cat /opt").lines(), ["contents"]);
    let mut here = home.command(["cp", ".", "web:home"]);
    let copied = Running::start(here.current_dir(home.path().join("out"))).finish();
    assert_eq!(copied.code(), 0, "{copied}");
    assert_eq!(home.exec_shell("web", "cat /home/a").lines(), ["contents"]);
    // Only a folder is meant.
    home.msb(["cp", &path("out/a"), "web:/none/"])
        .assert_error(1, "no folder /none/");
    home.msb(["cp", "web:/opt", &path("none/")])
        .assert_error(1, "no folder");
    assert_eq!(home.exec_shell("web", "ls -d /none*").code(), 1);
    copy("web:/srv/a", &path("b"));
    assert_eq!(
        fs::read_to_string(home.path().join("b")).unwrap(),
        "contents"
    );
    copy("web:/srv", &path("out"));
    assert_eq!(
        fs::read_to_string(home.path().join("out/srv/a")).unwrap(),
        "contents"
    );
    let tar = home.msb(["cp", "web:/srv", "-"]);
    assert_eq!(tar.code(), 0, "{tar}");
    let mut command = home.command(["cp", "-", "web:/tmp"]);
    let mut running = Running::start(&mut command);
    running.send(&tar.stdout);
    running.end_input();
    assert_eq!(running.finish().code(), 0);
    assert_eq!(
        home.exec_shell("web", "cat /tmp/srv/a").lines(),
        ["contents"]
    );
    home.msb(["cp", "web:/none", &path("c")])
        .assert_error(1, "/none");
    home.msb(["cp", &path("none"), "web:/"])
        .assert_error(1, "none");
    home.msb(["cp", &path("b"), &path("c")])
        .assert_error(1, "NAME:PATH");
    remove(&home, &["web"]);
}

#[test]
fn wait_tells_signals_crashes_and_kills() {
    let home = Home::new();
    let finished = home
        .busybox()
        .with(["-d", "--name=job"])
        .shell("kill -KILL $$");
    assert_eq!(finished.lines(), ["job"], "{finished}");
    assert_eq!(home.msb(["wait", "job"]).lines(), ["137"]);
    let inspected = home.msb(["inspect", "job"]);
    assert!(
        inspected
            .text()
            .contains("last stop: completed, signal 9, "),
        "{inspected}"
    );
    let other = home.busybox().with(["-d", "--name=another"]);
    assert_eq!(other.shell("sleep 2; exit 5").lines(), ["another"]);
    // In the order in which they are named, and not in that in which they end.
    let both = home.msb(["wait", "another", "job"]);
    assert_eq!(both.lines(), ["5", "137"]);
    let told = home.msb(["wait", "--format=json", "job", "another"]);
    let told: Vec<Value> = serde_json::from_str(told.text()).unwrap();
    assert_eq!(names(&told), ["job", "another"]);
    assert_eq!(
        (&told[0]["signal"], &told[0]["exit_code"]),
        (&9.into(), &Value::Null)
    );
    assert_eq!(
        (&told[1]["exit_code"], &told[1]["reason"]),
        (&5.into(), &"completed".into())
    );
    home.create(&[], "web");
    let crashed = home.exec_shell("web", "echo c >/proc/sysrq-trigger");
    assert_eq!(crashed.code(), 125, "{crashed}");
    assert_eq!(home.msb(["wait", "web"]).lines(), ["1"]);
    let inspected = home.msb(["inspect", "web"]);
    // The headline, and what the kernel said before.
    for part in [
        "status: crashed\n",
        "last stop: crashed, ",
        "  [",
        "sysrq: Trigger a crash",
    ] {
        assert!(inspected.text().contains(part), "{part:?}: {inspected}");
    }
    assert_eq!(home.msb(["start", "web"]).code(), 0);
    assert_eq!(home.msb(["kill", "web"]).code(), 0);
    assert_eq!(home.msb(["wait", "web"]).lines(), ["137"]);
    remove(&home, &["job", "another", "web"]);
}
