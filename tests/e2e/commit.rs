//! `msb commit`: what was changed in a sandbox becomes a layer of an image.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use microsandbox::images::image::Digest;
use msb_tests::archives::DockerImage;
use msb_tests::disk_images::program;
use msb_tests::namespace::in_namespace;
use msb_tests::running::piped;
use msb_tests::{Finished, Home, Running, Terminal, product};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// `cap_net_raw+ep`, as setcap(8) writes it.
const CAPABILITY: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Loads the image `base`.
fn load_base(home: &Home) {
    let config = json!({
        "Env": ["COLOUR=red", "PATH=/bin:/sbin"],
        "Cmd": ["/bin/cat", "/new"],
        "Labels": { "kept": "1" },
        "StopSignal": "SIGINT",
    });
    let image = DockerImage::new("base", config)
        .layer(|layer| layer.folder(&product::busybox()))
        .layer(|layer| {
            layer
                .file("changed", "old")
                .file("deleted", "old")
                .file("mode", "old")
                .file("replaced/old", "old")
                .file("emptied/old", "old")
                .file("moved/one", "old")
                .file("moved/deep/two", "old")
                .file("same/file", "old")
                .attribute("security.capability", &CAPABILITY)
                .file("capable", "old")
        });
    let archive = image.write(home.path());
    ok(&home.msb(["image".as_ref(), "load".as_ref(), archive.as_os_str()]));
}

#[track_caller]
fn ok(finished: &Finished) {
    assert_eq!(finished.code(), 0, "{finished}");
}

/// Creates a sandbox of an image, runs a script in it, and stops it.
#[track_caller]
fn changed(home: &Home, name: &str, image: &str, script: &str) {
    ok(&home.msb(["create", "-m128M", "--name", name, image]));
    ok(&home.exec_shell(name, script));
    ok(&home.msb(["stop", name]));
}

fn inspect(home: &Home, image: &str) -> Value {
    let shown = home.msb(["image", "inspect", "--format=json", image]);
    let mut shown: Value = serde_json::from_str(shown.text()).unwrap();
    shown[0].take()
}

/// The blob of the topmost layer.
fn top_layer(home: &Home, image: &str) -> PathBuf {
    let shown = inspect(home, image);
    let layer = shown["layers"].as_array().unwrap().last().unwrap().clone();
    let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
    home.msb_home()
        .join("images/blobs/sha256")
        .join(digest.hex())
}

/// What another program finds in a layer.
fn names(layer: &Path) -> Vec<String> {
    let listed = program("tar", ["-tzf".as_ref(), layer.as_os_str()]);
    let mut names: Vec<_> = listed.lines().into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

const CHANGES: &str = "
    echo -n new >/new; echo -n new >/changed; rm /deleted; chmod 4711 /mode; chown 1000:50 /mode
    rm -r /replaced; mkdir /replaced; echo -n new >/replaced/new; rm /emptied/old
    mv /moved /renamed; echo -n new >/renamed/three; rm /renamed/one
    mkdir -p /links; echo -n linked >/links/a; ln /links/a /links/b; ln -s ../new /links/c
    mknod /null c 1 3; mkfifo /fifo; touch -d '2001-02-03 04:05:06' /new; chmod 750 /capable
    dd if=/dev/zero of=/sparse bs=1 count=1 seek=1073741823 2>&-; mkdir /empty; sync";

const LOOK: &str = "
    for f in /new /changed /mode /replaced/new /renamed/three /renamed/deep/two /links/a /same/file; do
        stat -c '%n %a %u:%g %h' $f; cat $f; echo; done
    ls -d /deleted /replaced/old /emptied/old /renamed/one /moved 2>&-
    ls /emptied /empty; readlink /links/c; stat -c '%n %F %t,%T' /null /fifo
    stat -c '%n %Y' /new; stat -c '%n %s' /sparse; stat -c '%n %a' /capable; cat /etc/hostname";

#[test]
fn an_image_is_the_base_and_what_was_changed() {
    let home = Home::new();
    load_base(&home);
    let base = inspect(&home, "base");
    let options = [
        "--hostname=box",
        "-e",
        "SIZE=9",
        "--user=root",
        "-w/links",
        "--stop-signal=QUIT",
    ];
    let create = ["create", "-m128M", "--name=box"];
    ok(&home.msb(create.into_iter().chain(options).chain(["base"])));
    ok(&home.exec_shell("box", CHANGES));
    let before = home.exec_shell("box", LOOK);
    ok(&home.msb(["stop", "box"]));
    let printed = home.msb(["commit", "-m", "why", "-a", "who", "box", "made:1"]);
    ok(&printed);
    let made = inspect(&home, "made:1");
    let digest = made["digest"].as_str().unwrap();
    assert_eq!(printed.lines(), [format!("made:1 {digest}")]);

    // The image has that, and no more.
    let look = ["--hostname=box", "--entrypoint=/bin/sh"];
    let after = home.guest("made:1").with(look).run(["-c", LOOK]);
    assert_eq!(after.text(), before.text(), "{}", after.errors());
    let expected = [
        ".wh.deleted",
        ".wh.moved",
        "capable",
        "changed",
        "emptied/",
        "emptied/.wh.old",
        "empty/",
        "empty/.wh..wh..opq",
        "fifo",
        "links/",
        "links/.wh..wh..opq",
        "links/a",
        "links/b",
        "links/c",
        "mode",
        "new",
        "null",
        "renamed/",
        "renamed/.wh..wh..opq",
        "renamed/deep/",
        "renamed/deep/two",
        "renamed/three",
        "replaced/",
        "replaced/.wh..wh..opq",
        "replaced/new",
        "sparse",
    ];
    let layer = top_layer(&home, "made:1");
    assert_eq!(names(&layer), expected);
    let options = ["--xattrs", "--xattrs-include=*", "-tvvzf"];
    let listed = program(
        "tar",
        options.iter().map(AsRef::as_ref).chain([layer.as_os_str()]),
    );
    assert!(listed.text().contains("security.capability"), "{listed}");
    assert!(layer.metadata().unwrap().len() < 64 << 10);

    // It is run as the sandbox was.
    let config = &made["config"];
    assert_eq!(
        config["Env"],
        json!(["COLOUR=red", "PATH=/bin:/sbin", "SIZE=9"])
    );
    assert_eq!(config["Cmd"], json!(["/bin/cat", "/new"]));
    assert_eq!(config["WorkingDir"], "/links");
    assert_eq!(config["Labels"], json!({"kept": "1"}));
    assert_eq!(config["StopSignal"], "SIGQUIT");
    let none: [&str; 0] = [];
    assert_eq!(home.guest("made:1").run(none).text(), "new");
    let history = home.msb(["image", "history", "--format=json", "made:1"]);
    let history: Value = serde_json::from_str(history.text()).unwrap();
    assert_eq!(history[0]["created_by"], "msb commit box");
    assert_eq!(history[0]["comment"], "why");

    // What it was made of is as it was.
    assert_eq!(inspect(&home, "base")["digest"], base["digest"]);
    ok(&home.msb(["start", "box"]));
    assert_eq!(home.exec_shell("box", LOOK).text(), before.text());
    ok(&home.msb(["rm", "-f", "box"]));
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn other_programs_read_it() {
    let home = Home::new();
    load_base(&home);
    changed(&home, "box", "base", CHANGES);
    let quiet = home.msb(["commit", "-q", "box", "made"]);
    assert!(quiet.text().starts_with("sha256:"), "{quiet}");
    let saved = home.path().join("made.tar");
    let save = ["image", "save", "made", "-o"];
    ok(&home.msb(save.iter().map(AsRef::as_ref).chain([saved.as_os_str()])));
    let source = format!("docker-archive:{}", saved.display());
    let layout = format!("oci:{}:made", home.path().join("layout").display());
    program(
        "skopeo",
        ["--insecure-policy", "copy", "-q", &source, &layout],
    );
    let image = layout.trim_start_matches("oci:");
    let bundle = home.path().join("bundle");
    program(
        "umoci",
        [
            "unpack".as_ref(),
            "--image".as_ref(),
            image.as_ref(),
            bundle.as_os_str(),
        ],
    );
    let root = bundle.join("rootfs");
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    for path in ["new", "changed", "replaced/new", "renamed/three"] {
        assert_eq!(read(path).as_deref(), Some("new"), "{path}");
    }
    for path in ["same/file", "renamed/deep/two"] {
        assert_eq!(read(path).as_deref(), Some("old"), "{path}");
    }
    for path in [
        "deleted",
        "replaced/old",
        "emptied/old",
        "renamed/one",
        "moved",
    ] {
        assert!(!root.join(path).exists(), "{path}");
    }
    assert_eq!(fs::metadata(root.join("sparse")).unwrap().len(), 1 << 30);
}

#[test]
fn commits_stack_and_nothing_is_a_layer_too() {
    let home = Home::new();
    load_base(&home);
    changed(&home, "one", "base", "echo 1 >/one; rm /deleted");
    ok(&home.msb(["commit", "one", "first"]));
    changed(
        &home,
        "two",
        "first",
        "echo 2 >/two; echo back >/deleted; rm /one",
    );
    let printed = home.msb(["commit", "--format=json", "two", "second"]);
    let printed: Value = serde_json::from_str(printed.text()).unwrap();
    assert_eq!(printed["references"], json!(["second:latest"]));
    let shell = ["--entrypoint=/bin/sh"];
    let look = ["-c", "ls /one /two 2>&-; cat /deleted 2>&-; cat /changed"];
    let run = |image: &str| home.guest(image).with(shell).run(look).text().to_owned();
    assert_eq!(run("base"), "oldold");
    assert_eq!(run("first"), "/one\nold");
    assert_eq!(run("second"), "/two\nback\nold");

    changed(&home, "three", "second", "cat /two /etc/hosts");
    ok(&home.msb(["commit", "three", "third"]));
    assert_eq!(names(&top_layer(&home, "third")), [""; 0]);
    assert_eq!(run("third"), run("second"));
    // Of a sandbox whose image lost its name.
    ok(&home.msb(["commit", "one", "base"]));
    ok(&home.msb(["commit", "one", "again"]));
    assert_eq!(run("again"), "/one\nold");
}

#[test]
fn what_was_synced_before_a_crash_is_there() {
    let home = Home::new();
    load_base(&home);
    ok(&home.msb(["create", "-m128M", "--name=box", "base"]));
    ok(&home.exec_shell("box", "echo -n kept >/new; sync; echo >/lost"));
    ok(&home.msb(["kill", "box"]));
    ok(&home.msb(["commit", "box", "made"]));
    let look = ["--entrypoint=/bin/sh"];
    let found = home.guest("made").with(look).run(["-c", "cat /new"]);
    assert_eq!(found.text(), "kept");
    // The sandbox goes on as it would have.
    ok(&home.msb(["start", "box"]));
    assert_eq!(home.exec_shell("box", "cat /new").text(), "kept");
    ok(&home.msb(["rm", "-f", "box"]));
}

#[test]
fn what_cannot_be_an_image_is_explained() {
    let home = Home::new();
    load_base(&home);
    let refused = |sandbox: &str, image: &str, why: &str| {
        home.msb(["commit", sandbox, image]).assert_error(1, why);
    };
    refused("box", "made", "no sandbox named");
    ok(&home.msb(["create", "-m128M", "--name=box", "base"]));
    refused("box", "made", "is running");
    ok(&home.exec_shell("box", "mkdir /dir; echo >/dir/.wh.x"));
    ok(&home.msb(["stop", "box"]));
    refused(
        "box",
        "made",
        "\"/dir/.wh.x\" has a name that means a deletion",
    );
    let digest = Digest::of(b"");
    refused("box", &format!("made@{digest}"), "it has a digest");
    home.create(&[], "folder");
    ok(&home.msb(["stop", "folder"]));
    refused("folder", "made", "its root is no image");
    for (option, why) in [
        ("--root-upper=tmpfs", "in its memory"),
        ("--root-ro", "no private layer"),
    ] {
        ok(&home.msb(["create", "-m128M", "--name=other", option, "base"]));
        ok(&home.msb(["stop", "other"]));
        refused("other", "made", why);
        ok(&home.msb(["rm", "other"]));
    }
    let images = home.msb(["image", "ls", "-q"]);
    assert_eq!(images.lines(), ["base:latest"]);
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn who_interrupts_it_finds_nothing() {
    let home = Home::new();
    load_base(&home);
    changed(
        &home,
        "box",
        "base",
        "dd if=/dev/urandom of=/new bs=1M count=32 2>&-",
    );
    let stored = || {
        let places = ["blobs/sha256", "layers/v1", "partial", "staging"];
        let count = |place| fs::read_dir(home.msb_home().join("images").join(place));
        places.map(|place| count(place).unwrap().count())
    };
    let before = stored();
    let mut command = home.command(["commit", "box", "made"]);
    command.env("TERM", "xterm");
    let committing = Terminal::start(command);
    committing.screen.wait_for("changes are read");
    committing.signal(Signal::SIGINT);
    assert_eq!(committing.finish().code, 130);
    assert_eq!(home.left_over(), [""; 0]);
    assert_eq!(stored(), before);
    // Nothing keeps it from being made now.
    ok(&home.msb(["commit", "box", "made"]));
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let home = Home::new();
    load_base(&home);
    let fill = "dd if=/dev/urandom of=/new bs=1M count=8 2>&-";
    changed(&home, "box", "base", fill);
    let list = "find blobs layers partial staging -type f | sort";
    let mut listing = Command::new("sh");
    listing.args(["-c", list]);
    listing.current_dir(home.msb_home().join("images"));
    let before = Running::start(piped(&mut listing)).finish();
    // There is no room for the layer, then none for its file system.
    for room in [2048, 12 << 10] {
        let script = format!(
            "cp -a \"$MSB_HOME/images\" \"$MSB_HOME/kept\"; cd \"$MSB_HOME/kept\"
            used=$(du -sk . | cut -f1)
            mount -t tmpfs -o mode=700,size=$((used + {room}))k none \"$MSB_HOME/images\"
            cp -a . \"$MSB_HOME/images\"; cd \"$MSB_HOME/images\"
            status=0; \"$@\" || status=$?
            rm -r \"$MSB_HOME/kept\"; {list}
            exit $status"
        );
        let command = home.command(["commit", "box", "made"]);
        let finished = Running::start(&mut in_namespace(&command, &script)).finish();
        finished.assert_error(1, "no space left on device");
        assert_eq!(finished.text(), before.text(), "{room}");
        assert_eq!(home.left_over(), [""; 0]);
    }
    ok(&home.msb(["commit", "box", "made"]));
}
