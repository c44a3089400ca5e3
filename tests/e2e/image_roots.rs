//! Images as root file systems.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use msb_tests::archives::DockerImage;
use msb_tests::{Home, product};
use serde_json::json;

/// An image of three layers that says how it is run, and is loaded as `demo`.
fn load_demo(home: &Home) {
    let config = json!({
        "Env": ["COLOUR=red", "SIZE=9", "PATH=/bin:/sbin"],
        "Entrypoint": ["/bin/echo", "entry"],
        "Cmd": ["of", "the image"],
        "WorkingDir": "/srv/app",
        "User": "nobody",
        "Volumes": { "/data": {} },
    });
    let image = DockerImage::new("demo", config)
        .layer(|layer| {
            layer
                .folder(&product::busybox())
                .file("a", "1")
                .file("b", "1")
        })
        .layer(|layer| layer.file("a", "2").file("c", "2").file("old/x", "2"))
        .layer(|layer| layer.file(".wh.b", "").file("old/.wh.x", "").file("d", "3"));
    load(home, image);
}

fn load(home: &Home, image: DockerImage) {
    let archive: PathBuf = image.write(home.path());
    let loaded = home.msb(["image".as_ref(), "load".as_ref(), archive.as_os_str()]);
    assert_eq!(loaded.code(), 0, "{}", loaded.errors());
}

#[test]
fn an_image_is_run_by_its_name_and_as_it_says() {
    let home = Home::new();
    load_demo(&home);
    let demo = || home.guest("demo");
    let none: [&str; 0] = [];
    assert_eq!(demo().run(none).text(), "entry of the image\n");
    assert_eq!(demo().run(["and", "mine"]).text(), "entry and mine\n");
    let shell = ["--entrypoint=/bin/sh"];
    let script = "echo $COLOUR $SIZE; pwd; id -un; ls -d /a /b /c /d /old/* /data 2>&-; cat /a /c /d; echo; \
                  grep -h . /etc/hosts /etc/resolv.conf; cat /etc/hostname; grep ' / ' /proc/mounts | cut -d' ' -f1,3";
    let options = ["-e", "SIZE=1", "--hostname=box"];
    let finished = demo().with(shell).with(options).run(["-c", script]);
    let expected = [
        "red 1",
        "/srv/app",
        "nobody",
        "/a",
        "/c",
        "/d",
        "/data",
        "223",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "127.0.1.1\tbox",
        "# There is no network.",
        "box",
        "overlay overlay",
    ];
    assert_eq!(finished.lines(), expected, "{}", finished.errors());
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn what_runs_is_stopped_with_the_signal_that_the_image_or_the_user_names() {
    let home = Home::new();
    let script =
        "trap 'echo quit; exit 3' QUIT; trap 'echo user; exit 4' USR1; trap 'echo term' TERM
        >/on; while :; do sleep 0.1; done";
    let config = json!({ "Cmd": ["/bin/sh", "-c", script], "StopSignal": "SIGQUIT" });
    let image = DockerImage::new("quits", config).layer(|layer| layer.folder(&product::busybox()));
    load(&home, image);
    for (name, option, said, code) in [
        ("image", None, "quit\n", "3"),
        ("user", Some("--stop-signal=usr1"), "user\n", "4"),
    ] {
        let arguments = ["run", "-d", "-m128M", "--name", name].into_iter();
        let started = home.msb(arguments.chain(option).chain(["quits"]));
        assert_eq!(started.code(), 0, "{}", started.errors());
        home.exec_shell(name, "until [ -e /on ]; do sleep 0.1; done");
        // The process tells that it got it, in time.
        let stopped = home.msb(["stop", "--timeout=1m", name]);
        assert_eq!(stopped.code(), 0, "{}", stopped.errors());
        assert_eq!(home.msb(["logs", name]).text(), said);
        assert_eq!(home.msb(["wait", name]).text(), format!("{code}\n"));
    }
    let refused = home.msb(["run", "--stop-signal=SIGNONE", "quits"]);
    assert_eq!(refused.code(), 125);
    assert!(refused.errors().contains("SIGNONE"), "{refused:?}");
}

#[test]
fn thirty_layers_are_one_root() {
    let home = Home::new();
    let mut image =
        DockerImage::new("tall", json!({})).layer(|layer| layer.folder(&product::busybox()));
    for number in 1..30 {
        image = image.layer(|layer| {
            layer
                .file(&format!("file-{number}"), &format!("{number}\n"))
                .file("top", &format!("{number}\n"))
                .file(&format!(".wh.file-{}", number - 1), "")
        });
    }
    load(&home, image);
    let finished = home
        .guest("tall")
        .run(["/bin/sh", "-c", "cat /top; echo /file-*"]);
    assert_eq!(finished.lines(), ["29", "/file-29"]);
}

#[test]
fn changes_are_the_sandboxs_own() {
    let home = Home::new();
    load_demo(&home);
    for name in ["one", "two"] {
        let created = home.msb(["create", "--name", name, "--user=root", "-m128M", "demo"]);
        assert_eq!(created.code(), 0, "{}", created.errors());
    }
    home.exec_shell(
        "one",
        "echo changed >/a; rm /c; mkdir /new; mkdir -p /tmp/kept",
    );
    assert_eq!(home.exec_shell("two", "cat /a /c").text(), "22");
    for command in ["stop", "start"] {
        assert_eq!(home.msb([command, "one"]).code(), 0);
    }
    let again = home.exec_shell(
        "one",
        "cat /a; ls -d /c /new /tmp/kept 2>&-; echo $COLOUR; pwd",
    );
    assert_eq!(
        again.lines(),
        ["changed", "/new", "/tmp/kept", "red", "/srv/app"]
    );
    // What a sandbox was made of stays.
    let refused = home.msb(["image", "rm", "demo"]);
    assert_ne!(refused.code(), 0);
    assert!(
        refused.errors().contains("one, two"),
        "{}",
        refused.errors()
    );
    assert_eq!(home.msb(["rm", "-f", "one", "two"]).code(), 0);
    assert_eq!(home.msb(["image", "rm", "demo"]).code(), 0);
}

#[test]
fn roots_are_patched_before_anything_runs() {
    let home = Home::new();
    load_demo(&home);
    let folder = home.folder("app");
    std::fs::write(folder.join("main"), "from the host\n").unwrap();
    let copy = format!("--copy={}:/opt/app", folder.display());
    let options = [
        "--user=root",
        "--entrypoint=/bin/sh",
        "--mkdir=/made/deep",
        "--write=/made/text=hello",
        "--append=/a=+",
        "--symlink=/link=/made/text",
        "--remove=/d",
        &copy,
    ];
    let script = "cat /made/text /a /opt/app/main /link; ls -d /d /made/deep 2>&-";
    let finished = home.guest("demo").with(options).run(["-c", script]);
    assert_eq!(
        finished.text(),
        "hello2+from the host\nhello/made/deep\n",
        "{}",
        finished.errors()
    );
    // A folder has a private layer, too.
    let finished = home.busybox().with(["--write=/x=1"]).shell("cat /x");
    assert_eq!(finished.text(), "1");

    let refused = home.guest("demo").with(["--write=/a=x"]).run(["x"]);
    refused.assert_error(125, "which is there already");
    let replaced = home
        .guest("demo")
        .with(["--write=/a=x", "--patch-replace", "--entrypoint=cat"]);
    assert_eq!(replaced.run(["/a"]).text(), "x");
    let refused = home
        .busybox()
        .with(["--root-ro", "--write=/x=1"])
        .shell("true");
    refused.assert_error(125, "private layer");
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn what_is_no_image_is_explained() {
    let home = Home::new();
    let refused = home
        .guest("nosuchimage")
        .with(["--pull=never"])
        .run(["true"]);
    refused.assert_error(125, "no image \"nosuchimage\" is here");
    load_demo(&home);
    home.guest("demo")
        .with(["--root-rw"])
        .run(["x"])
        .assert_error(125, "an image is shared");
    home.guest("demo")
        .with(["--fstype=ext4"])
        .run(["x"])
        .assert_error(125, "for disks");
}
