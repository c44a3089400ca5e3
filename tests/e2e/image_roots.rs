//! Images as root file systems.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use msb_tests::archives::DockerImage;
use msb_tests::{Home, product};
use nix::unistd::Pid;
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
        "Labels": { "tier": "demo", "sandbox.tier": "demo" },
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
fn directories_of_an_image_may_be_behind_links_that_lead_nowhere() {
    let home = Home::new();
    let config = json!({ "WorkingDir": "/work/app", "Volumes": { "/data": {} } });
    let image = DockerImage::new("linked", config).layer(|layer| {
        layer
            .folder(&product::busybox())
            .link("work", "/far/away")
            .link("data", "../../var/data")
    });
    load(&home, image);
    let shown = home.guest("linked").run([
        "/bin/sh",
        "-c",
        "pwd -P; ls -d /far/away/app /var/data; readlink /work",
    ]);
    let expected = "/far/away/app\n/far/away/app\n/var/data\n/far/away\n";
    assert_eq!(shown.text(), expected, "{}", shown.errors());
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
fn an_init_that_an_image_has_as_its_entry_point_is_the_first_process() {
    let home = Home::new();
    // By this name it is the init of busybox; the one that would be found is gone.
    let config = json!({ "Entrypoint": ["/init"], "Env": ["PATH=/bin:/sbin"] });
    let image = DockerImage::new("booted", config)
        .layer(|layer| {
            let layer = layer.folder(&product::busybox());
            layer.link("init", "/bin/busybox")
        })
        .layer(|layer| layer.file("bin/.wh.init", ""));
    load(&home, image);
    let look = "cat /proc/1/comm";
    let finished = home
        .guest("booted")
        .with(["--init=auto"])
        .run(["sh", "-c", look]);
    assert_eq!(finished.lines(), ["init"], "{}", finished.errors());
    let created = ["create", "--name=booted", "-m128M", "--init=auto", "booted"];
    assert_eq!(home.msb(created).lines(), ["booted"]);
    let found = home.exec_shell("booted", look);
    assert_eq!(found.lines(), ["init"], "{found}");
    assert_eq!(home.msb(["rm", "-f", "booted"]).code(), 0);
}

#[test]
fn a_read_only_root_has_the_files_of_containers_and_nothing_is_written_to_it() {
    let home = Home::new();
    load_demo(&home);
    let options = ["--root-ro", "--hostname=box", "--user=root"];
    // Nor by who makes it writable, as far as the mount goes.
    let script =
        "cat /etc/hostname; ls -d /data; cat /a; echo; grep -o ' / overlay ro' /proc/mounts
        for attempt in 1 2; do
            (echo changed >/etc/hostname) 2>&-; (echo new >/new) 2>&-; rm /a 2>&-
            mount -o remount,rw / 2>&-
        done
        cat /etc/hostname /a; echo; ls -d /new 2>&-; mount | grep ' /private '; echo end";
    let expected = ["box", "/data", "2", " / overlay ro", "box", "2", "end"];
    let unnamed = home
        .guest("demo")
        .with(options)
        .with(["--entrypoint=/bin/sh"]);
    let finished = unnamed.run(["-c", script]);
    assert_eq!(finished.lines(), expected, "{}", finished.errors());
    let created = ["create", "--name=fixed", "-m128M"].into_iter();
    let created = home.msb(created.chain(options).chain(["demo"]));
    assert_eq!(created.code(), 0, "{}", created.errors());
    for _ in 0..2 {
        let finished = home.exec_shell("fixed", script);
        assert_eq!(finished.lines(), expected, "{}", finished.errors());
        for command in ["stop", "start"] {
            assert_eq!(home.msb([command, "fixed"]).code(), 0);
        }
    }
    assert_eq!(home.msb(["rm", "-f", "fixed"]).code(), 0);
}

#[test]
fn changes_have_as_much_room_as_was_asked_for_also_if_nothing_of_them_stays() {
    let home = Home::new();
    load_demo(&home);
    for (option, mib) in [
        ("--root-upper=64M", 64),
        ("--root-upper=1G", 1024),
        ("--pull=never", 4096),
    ] {
        let created = home.msb(["create", "--rm", "--name=room", "-m128M", option, "demo"]);
        assert_eq!(created.code(), 0, "{}", created.errors());
        let room = home.exec_shell("room", "df -m / | tail -n1 | awk '{ print $2 }'");
        let room: u64 = room.text().trim().parse().unwrap();
        // A file system takes some for itself.
        assert!((mib * 8 / 10..mib).contains(&room), "{room} of {mib} MiB");
        assert_eq!(home.msb(["stop", "room"]).code(), 0);
    }
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
    let labelled = home.msb(["ls", "-q", "--label=tier=demo"]);
    assert_eq!(labelled.lines().len(), 2, "{}", labelled.text());
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
fn a_patch_says_of_itself_whether_it_replaces_and_with_which_mode() {
    let home = Home::new();
    load_demo(&home);
    let file = home.path().join("file");
    std::fs::write(&file, "of the host\n").unwrap();
    let copy = format!("--copy={}:/bin/copied:mode=0750", file.display());
    let options = [
        "--user=root",
        "--entrypoint=/bin/sh",
        "--write=/a:mode=0600,replace=x",
        "--write=/old:replace=a file\n",
        "--mkdir=/closed:mode=0700",
        "--symlink=/c:replace=/a",
        &copy,
    ];
    let script = "cat /c /old /bin/copied; stat -c '%a %u:%g' /a /old /closed /bin/copied";
    let finished = home.guest("demo").with(options).run(["-c", script]);
    let expected = [
        "xa file",
        "of the host",
        "600 0:0",
        "644 0:0",
        "700 0:0",
        "750 0:0",
    ];
    assert_eq!(finished.lines(), expected, "{}", finished.errors());
    let others = ["--write=/a:replace=x", "--write=/c=x"];
    let refused = home.guest("demo").with(others).run(["x"]);
    refused.assert_error(125, "\"/c\", which is there already");
}

/// Each argument of a program has at most 128 KiB (execve(2)); together they are more than a message takes.
#[test]
fn texts_of_patches_may_be_large() {
    let home = Home::new();
    load_demo(&home);
    let text = |character: &str| character.repeat(120_000);
    let options: Vec<_> = (0..4)
        .map(|number| format!("--write=/written-{number}:mode=0640={}", text("w")))
        .chain((0..6).map(|_| format!("--append=/a={}", text("a"))))
        .chain(["--user=root", "--entrypoint=/bin/sh"].map(str::to_owned))
        .collect();
    let script = "cat /written-* | tr -d w | wc -c; wc -c </a; tr -d a </a; echo
        stat -c '%a %u:%g %s' /written-*";
    let finished = home.guest("demo").with(&options).run(["-c", script]);
    let mut expected = vec!["0", "720001", "2"];
    expected.extend(["640 0:0 120000"; 4]);
    assert_eq!(finished.lines(), expected, "{}", finished.errors());
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn patches_are_made_once() {
    let home = Home::new();
    load_demo(&home);
    let file = home.path().join("file");
    std::fs::write(&file, "of the host\n").unwrap();
    let copy = format!("--copy={}:/copied", file.display());
    let created = home.msb([
        "create",
        "--name=kept",
        "--user=root",
        "-m128M",
        "--write=/written=patched\n",
        "--append=/a=+\n",
        "--mkdir=/made",
        &copy,
        "demo",
    ]);
    assert_eq!(created.code(), 0, "{}", created.errors());
    let look = "cat /written /a /copied; [ ! -d /made ] || echo made";
    let first = home.exec_shell("kept", look);
    assert_eq!(first.lines(), ["patched", "2+", "of the host", "made"]);
    home.exec_shell("kept", "echo changed >/written; echo 3 >/a; rmdir /made");
    // What was copied need not be there any more.
    std::fs::remove_file(&file).unwrap();
    for command in ["stop", "start"] {
        let finished = home.msb([command, "kept"]);
        assert_eq!(finished.code(), 0, "{}", finished.errors());
    }
    let again = home.exec_shell("kept", look);
    assert_eq!(again.lines(), ["changed", "3", "of the host"]);
    assert_eq!(home.msb(["rm", "-f", "kept"]).code(), 0);
}

#[test]
fn layouts_and_archives_are_roots_as_they_are() {
    let home = Home::new();
    load_demo(&home);
    let (archive, layout) = (home.path().join("demo.tar"), home.path().join("layout"));
    let saved = home.path().join("oci.tar");
    let save = ["image", "save", "--format=oci", "-o"].map(Path::new);
    let finished = home.msb(save.into_iter().chain([&*saved, Path::new("demo")]));
    assert_eq!(finished.code(), 0, "{}", finished.errors());
    tar::Archive::new(File::open(&saved).unwrap())
        .unpack(&layout)
        .unwrap();
    // Nothing is known of it by name from here on.
    assert_eq!(home.msb(["image", "rm", "demo"]).code(), 0);
    let named = home.guest(format!("oci:{}:demo", layout.display()));
    let finished = named.run(["layout"]);
    assert_eq!(finished.text(), "entry layout\n", "{finished}");
    let missing = format!("oci:{}:other", layout.display());
    home.guest(missing).run(["x"]).assert_error(125, "other");

    // A sandbox that stays is of the image, not of the archive.
    let root = format!("docker-archive:{}", archive.display());
    let created = home.msb(["create", "--name=kept", "-m128M", &root]);
    assert_eq!(created.code(), 0, "{}", created.errors());
    assert_eq!(home.msb(["stop", "kept"]).code(), 0);
    std::fs::remove_file(&archive).unwrap();
    assert_eq!(home.msb(["image", "prune", "--all", "--force"]).code(), 0);
    assert_eq!(home.msb(["start", "kept"]).code(), 0);
    assert_eq!(home.exec_shell("kept", "cat /a").text(), "2");
    assert_eq!(home.msb(["rm", "-f", "kept"]).code(), 0);
}

/// The file systems of layers that a machine has open: their inodes. Each is read through the host's page cache.
fn open_layers(home: &Home, machine: Pid) -> BTreeSet<(u64, u64)> {
    let layers = home.msb_home().join("images/layers");
    let process = PathBuf::from(format!("/proc/{machine}"));
    let descriptors = std::fs::read_dir(process.join("fd")).unwrap();
    let mut found = BTreeSet::new();
    for descriptor in descriptors {
        let path = descriptor.unwrap().path();
        let Ok(target) = std::fs::read_link(&path) else {
            continue;
        };
        if !target.starts_with(&layers) || target.extension() != Some("erofs".as_ref()) {
            continue;
        }
        let info = process.join("fdinfo").join(path.file_name().unwrap());
        let info = std::fs::read_to_string(info).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        assert_eq!(flags & libc::O_DIRECT, 0, "the page cache is not used");
        assert_eq!(flags & libc::O_ACCMODE, libc::O_RDONLY);
        let metadata = std::fs::metadata(&path).unwrap();
        found.insert((metadata.dev(), metadata.ino()));
    }
    found
}

#[test]
fn sandboxes_of_an_image_share_its_files_and_so_the_page_cache() {
    let home = Home::new();
    load_demo(&home);
    let mut seen = Vec::new();
    for name in ["one", "two"] {
        let before = home.machines();
        let created = home.msb(["create", "--name", name, "-m128M", "demo"]);
        assert_eq!(created.code(), 0, "{}", created.errors());
        let new = home.machines();
        let new = new.into_iter().find(|machine| !before.contains(machine));
        seen.push(open_layers(&home, new.unwrap()));
    }
    // Three layers, and what joins them.
    assert_eq!(seen[0].len(), 4, "{seen:?}");
    assert_eq!(seen[0], seen[1]);
    assert_eq!(home.msb(["rm", "-f", "one", "two"]).code(), 0);
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
