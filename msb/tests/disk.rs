//! `msb disk`, with qemu-img as the second opinion.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(program: &str, folder: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program is installed (make setup)")
}

/// `msb disk`; what it prints, and its exit status.
fn disk(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let arguments = [&["disk"], arguments].concat();
    let output = run(env!("CARGO_BIN_EXE_msb"), folder, &arguments);
    let [text, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), text, errors)
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let (status, text, errors) = disk(folder, arguments);
    assert_eq!((status, errors.as_str()), (0, ""), "{arguments:?}: {text}");
    text
}

#[track_caller]
fn fails(folder: &Path, arguments: &[&str], named: &str) {
    let (status, text, errors) = disk(folder, arguments);
    assert_eq!((status, text.as_str()), (1, ""), "{arguments:?}: {errors}");
    assert!(errors.starts_with("error: "), "{errors}");
    assert!(errors.contains(named), "{arguments:?}: {errors}");
    assert!(errors.contains("hint: "), "{arguments:?}: {errors}");
}

#[track_caller]
fn qemu_img(folder: &Path, arguments: &[&str]) -> String {
    let output = run("qemu-img", folder, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn images_are_made_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (options, file, virtual_size) in [
        (&[][..], "a.qcow2", 20_u64 << 30),
        (&["-o", "cluster_size=4k"], "b.qcow2", 1 << 20),
        (&["-f", "raw"], "c", 1 << 20),
        (&["-o", "preallocation=full"], "d.raw", 1 << 20),
        (&[], "e.vmdk", 20 << 30),
        (&["-o", "subformat=monolithicFlat"], "f.vmdk", 1 << 20),
    ] {
        let size = virtual_size.to_string();
        let created = [&["create"], options, &[file, &size]].concat();
        assert_eq!(succeeds(at, &created), "");
        let mut format = file.rsplit('.').next().unwrap();
        if format == "c" {
            format = "raw";
        }
        let json = qemu_img(at, &["info", "--output=json", "-f", format, file]);
        assert!(
            json.contains(&format!("\"virtual-size\": {virtual_size}")),
            "{json}"
        );
        let info = succeeds(at, &["info", "-f", format, "--format", "json", file]);
        assert!(
            info.contains(&format!("\"virtual-size\": {virtual_size}")),
            "{info}"
        );
        assert!(
            info.contains(&format!("\"format\": \"{format}\"")),
            "{info}"
        );
    }
    assert!(qemu_img(at, &["info", "b.qcow2"]).contains("cluster_size: 4096"));
    let table = succeeds(at, &["info", "f.vmdk"]);
    assert!(
        table.contains("monolithicFlat") && table.contains("1 MiB (1048576 bytes)"),
        "{table}"
    );
    fails(at, &["create", "a.qcow2", "1G"], "a.qcow2");
    fails(at, &["create", "no-extension", "1G"], "format");
    fails(at, &["create", "g.qcow2"], "size");
    fails(
        at,
        &["create", "-o", "cluster_size=64k", "g.raw", "1G"],
        "cluster_size",
    );
    let (status, _, errors) = disk(at, &["create", "g.qcow2", "big"]);
    assert_eq!(status, 2, "{errors}");
}

#[test]
fn backing_files_need_no_size_and_stay_where_they_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("images")).unwrap();
    succeeds(at, &["create", "base.qcow2", "8M"]);
    succeeds(at, &["create", "images/base.qcow2", "16M"]);
    let overlay = [
        "create",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "images/overlay.qcow2",
    ];
    succeeds(at, &overlay);
    let info = succeeds(at, &["info", "images/overlay.qcow2"]);
    assert!(
        info.contains("16 MiB") && info.contains("backing file  base.qcow2"),
        "{info}"
    );
    qemu_img(at, &["check", "images/overlay.qcow2"]);
    qemu_img(
        at,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "../base.qcow2",
            "-F",
            "qcow2",
            "images/out.qcow2",
        ],
    );
    let convert = ["convert", "images/out.qcow2", "copy.raw"];
    fails(at, &convert, "not allowed");
    // The backing file is only named.
    succeeds(at, &["info", "images/out.qcow2"]);
    succeeds(at, &[&convert[..], &["--allow", "."]].concat());
}

/// What one of the two `info` commands says in JSON.
fn parsed(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_backing_file_is_named_as_qemu_img_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (backing, format) in [("base.qcow2", "qcow2"), ("base.raw", "raw")] {
        succeeds(at, &["create", backing, "8M"]);
        let write = ["-f", format, "-c", "write -P 7 1M 100k", backing];
        assert!(run("qemu-io", at, &write).status.success());
        let options = ["-f", "qcow2", "-b", backing, "-F", format];
        for size in [&[][..], &["16M"]] {
            let ours = [&["create"][..], &options, &["ours.qcow2"], size].concat();
            let theirs = [&["create", "-q"][..], &options, &["theirs.qcow2"], size].concat();
            succeeds(at, &ours);
            qemu_img(at, &theirs);
            let [ours, theirs] = ["ours.qcow2", "theirs.qcow2"].map(|file| {
                let info = parsed(&qemu_img(at, &["info", "--output=json", file]));
                [
                    "virtual-size",
                    "backing-filename",
                    "backing-filename-format",
                    "cluster-size",
                ]
                .map(|name| info[name].clone())
            });
            assert_eq!(ours, theirs);
            qemu_img(at, &["check", "-q", "ours.qcow2"]);
            qemu_img(at, &["compare", "ours.qcow2", "theirs.qcow2"]);
            for file in ["ours.qcow2", "theirs.qcow2"] {
                fs::remove_file(at.join(file)).unwrap();
            }
        }
    }
    for (arguments, status) in [
        (&["create", "-b", "base.raw", "o.qcow2"][..], 2),
        (&["create", "-F", "raw", "o.qcow2"], 2),
        (&["create", "-b", "missing.raw", "-F", "raw", "o.qcow2"], 1),
        (&["create", "-b", "base.raw", "-F", "qcow2", "o.qcow2"], 1),
        (&["create", "-b", "base.raw", "-F", "raw", "o.raw"], 1),
    ] {
        assert_eq!(disk(at, arguments).0, status, "{arguments:?}");
    }
    assert!(!at.join("o.qcow2").exists() && !at.join("o.raw").exists());
}

#[test]
fn info_says_in_json_what_qemu_img_says() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    qemu_img(at, &["create", "-q", "-f", "raw", "a.raw", "1M"]);
    qemu_img(at, &["create", "-q", "-f", "vmdk", "a.vmdk", "1M"]);
    let options = "backing_file=a.raw,backing_fmt=raw,cluster_size=4k";
    qemu_img(
        at,
        &["create", "-q", "-f", "qcow2", "-o", options, "a.qcow2"],
    );
    qemu_img(at, &["snapshot", "-c", "one", "a.qcow2"]);
    for (file, format) in [("a.raw", "raw"), ("a.vmdk", "vmdk"), ("a.qcow2", "qcow2")] {
        let ours = parsed(&succeeds(at, &["info", "--format", "json", file]));
        let theirs = parsed(&qemu_img(
            at,
            &["info", "--output=json", "-f", format, file],
        ));
        for name in [
            "filename",
            "format",
            "virtual-size",
            "actual-size",
            "cluster-size",
            "backing-filename",
            "dirty-flag",
        ] {
            assert_eq!(ours[name], theirs[name], "{file}: {name}");
        }
        let snapshots = theirs["snapshots"].as_array().map_or(0, Vec::len);
        assert_eq!(ours["snapshots"], snapshots, "{file}");
    }
    let table = succeeds(at, &["info", "a.qcow2"]);
    assert!(table.contains("snapshots     1\n"), "{table}");
}

#[test]
fn what_cannot_be_resized_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for file in ["a.raw", "a.qcow2", "a.vmdk"] {
        succeeds(at, &["create", file, "1M"]);
        let before = fs::read(at.join(file)).unwrap();
        for (size, status) in [
            ("-1M", 1),
            ("-2M", 1),
            // More bytes than a file can have.
            ("+9223372036854775296", 1),
            ("+", 2),
            ("0", 2),
            ("--1M", 2),
        ] {
            let (found, _, errors) = disk(at, &["resize", "--shrink", file, size]);
            assert_eq!(found, status, "{file} {size}: {errors}");
        }
        let said = if file == "a.vmdk" {
            "keeps its size"
        } else {
            "--shrink"
        };
        for size in ["512K", "-512K"] {
            fails(at, &["resize", file, size], said);
        }
        assert!(fs::read(at.join(file)).unwrap() == before, "{file}");
    }
    assert_eq!(disk(at, &["resize", "missing.raw", "2M"]).0, 1);
}

#[test]
fn images_are_resized() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for file in ["a.qcow2", "a.raw"] {
        succeeds(at, &["create", file, "1M"]);
        succeeds(at, &["resize", file, "+1M"]);
        succeeds(at, &["resize", file, "4M"]);
        let info = succeeds(at, &["info", "--format=json", file]);
        assert!(info.contains("\"virtual-size\": 4194304"), "{info}");
    }
    for file in ["a.qcow2", "a.raw"] {
        fails(at, &["resize", file, "-1M"], "--shrink");
        succeeds(at, &["resize", "--shrink", file, "-1M"]);
        let info = succeeds(at, &["info", "--format=json", file]);
        assert!(info.contains("\"virtual-size\": 3145728"), "{info}");
    }
    assert_eq!(fs::metadata(at.join("a.raw")).unwrap().len(), 3 << 20);
    succeeds(at, &["create", "a.vmdk", "1M"]);
    fails(at, &["resize", "a.vmdk", "2M"], "keeps its size");
}

#[test]
fn images_are_converted() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let file = fs::File::create(at.join("a.raw")).unwrap();
    file.set_len(30 << 20).unwrap();
    file.write_all_at(&[7; 100_000], 1000).unwrap();
    file.write_all_at(&[8; 1000], (30 << 20) - 1000).unwrap();
    for (from, to) in [
        ("a.raw", "b.qcow2"),
        ("b.qcow2", "c.vmdk"),
        ("c.vmdk", "d.raw"),
    ] {
        assert_eq!(succeeds(at, &["convert", from, to]), "");
        let format = to.rsplit('.').next().unwrap();
        qemu_img(at, &["compare", "-f", "raw", "-F", format, "a.raw", to]);
    }
    qemu_img(
        at,
        &[
            "convert",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
            "a.raw",
            "e.vmdk",
        ],
    );
    succeeds(at, &["convert", "-f", "vmdk", "-O", "raw", "e.vmdk", "e"]);
    assert!(fs::read(at.join("e")).unwrap() == fs::read(at.join("a.raw")).unwrap());
    fails(at, &["convert", "a.raw", "b.qcow2"], "b.qcow2");
    fails(at, &["convert", "a.raw", "f"], "-O");
    fails(at, &["convert", "-f", "qcow2", "a.raw", "f.raw"], "-f");
}

#[test]
fn damage_has_its_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeeds(at, &["create", "a.vmdk", "1M"]);
    succeeds(at, &["create", "a.qcow2", "1M"]);
    for file in ["a.vmdk", "a.qcow2"] {
        assert_eq!(succeeds(at, &["check", file]), "the image is sound\n");
    }
    // A leak: storage at the end that no table knows.
    for file in ["a.vmdk", "a.qcow2"] {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(at.join(file))
            .unwrap();
        let end = file.metadata().unwrap().len().next_multiple_of(1 << 16);
        file.write_all_at(&[1; 1 << 16], end).unwrap();
    }
    assert_eq!(disk(at, &["check", "a.vmdk"]).0, 3);
    assert_eq!(disk(at, &["check", "-r", "leaks", "a.vmdk"]).0, 0);
    assert_eq!(disk(at, &["check", "a.vmdk"]).0, 0);
    // Damage: the first entry of the first table leads behind the end of the file.
    let path = at.join("a.vmdk");
    let mut bytes = fs::read(&path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let table = number(number(56) * 512) * 512;
    bytes[table..table + 4].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let (status, text, _) = disk(at, &["check", "--format", "json", "a.vmdk"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("\"corruptions\": 2"), "{text}");
    assert_eq!(disk(at, &["check", "-r", "all", "a.vmdk"]).0, 0);
    assert_eq!(disk(at, &["check", "a.vmdk"]).0, 0);
    assert_eq!(disk(at, &["check", "missing.qcow2"]).0, 1);
    assert_eq!(disk(at, &["check", "-f", "raw", "a.vmdk"]).0, 1);
}

#[test]
fn damage_of_a_qcow2_has_its_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeeds(at, &["create", "a.qcow2", "1M"]);
    let path = at.join("a.qcow2");
    let whole = fs::read(&path).unwrap();
    let word = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let count = |cluster: usize| word(word(48)) + cluster * 2;
    let damage = |at: usize, bytes: &[u8]| {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, damaged).unwrap();
    };
    // A leak: the cluster of the header is counted twice.
    damage(count(0), &[0, 2]);
    let (status, text, _) = disk(at, &["check", "a.qcow2"]);
    assert_eq!(status, 3, "{text}");
    let leak = "the cluster at 0x0 has the reference count 2, and is referred to 1 times\n";
    assert_eq!(text, format!("{leak}1 leaks\n"));
    assert_eq!(
        succeeds(at, &["check", "-r", "leaks", "a.qcow2"]),
        format!("{leak}1 leaks were given back\nthe image is sound\n")
    );
    assert_eq!(succeeds(at, &["check", "a.qcow2"]), "the image is sound\n");
    // The L1 table counts as free: the next write would go over it.
    damage(count(word(40) >> 16), &[0, 0]);
    let (status, text, _) = disk(at, &["check", "--format", "json", "a.qcow2"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("\"corruptions\": 1"), "{text}");
    let l1 = format!("\"the cluster at {:#x} has the reference count 0", word(40));
    assert!(text.contains(&l1), "{text}");
    let (status, text, _) = disk(at, &["check", "-r", "leaks", "a.qcow2"]);
    assert_eq!(status, 2, "{text}");
    assert_eq!(disk(at, &["check", "-r", "all", "a.qcow2"]).0, 0);
    assert_eq!(succeeds(at, &["check", "a.qcow2"]), "the image is sound\n");
    // An entry that leads out of the file.
    damage(word(40), &(1_u64 << 63 | 1 << 40).to_be_bytes());
    let (status, text, _) = disk(at, &["check", "a.qcow2"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("entry 0 of the L1 table"), "{text}");
    // What is no image at all cannot be checked.
    damage(0, b"none");
    assert_eq!(disk(at, &["check", "a.qcow2"]).0, 1);
}

#[test]
fn what_is_interrupted_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeeds(at, &["create", "a.qcow2", "1G"]);
    for arguments in [
        &["convert", "a.qcow2", "b.vmdk"][..],
        &["create", "-o", "preallocation=full", "b.raw", "1G"],
    ] {
        let output = interrupted(at, arguments);
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        let names: Vec<_> = fs::read_dir(at)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["a.qcow2"]);
    }
}

/// Runs `msb disk` with a signal on its way to it.
fn interrupted(folder: &Path, arguments: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;

    use nix::sys::signal::{SigSet, Signal, raise};
    let mut command = Command::new(env!("CARGO_BIN_EXE_msb"));
    command.arg("disk").args(arguments).current_dir(folder);
    // A signal that is pending while it is blocked stays so across execve(2): it arrives when `msb` asks for the first one.
    // SAFETY: both calls may be made between fork and exec (signal-safety(7)).
    unsafe {
        command.pre_exec(|| {
            SigSet::from(Signal::SIGINT).thread_block()?;
            Ok(raise(Signal::SIGINT)?)
        })
    };
    command.output().unwrap()
}
