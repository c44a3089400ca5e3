//! Files of a running sandbox, with the library.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::env;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use microsandbox::sandbox::{CopyOptions, FsEntryKind, MountConfig, SandboxFs};
use microsandbox::{MicrosandboxError, Sandbox};
use msb_tests::sandboxes::{run, run_within, sandbox, stop};
use msb_tests::{Home, LIMIT, Running, product};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

/// What find(1) tells of each name of a tree.
const FORMAT: &str = "%P %y %m %U:%G %n %s %T@ %l\\n";

async fn debian(home: &Home) -> Sandbox {
    let builder = sandbox(home, "box").image(product::debian());
    builder.create().await.unwrap()
}

#[test]
fn files_are_what_their_calls_make_them() {
    let home = Home::new();
    run(async {
        let sandbox = debian(&home).await;
        let fs = sandbox.fs();
        fs.mkdir("/srv/a/b").await.unwrap();
        fs.write("/srv/a/file", "one").await.unwrap();
        fs.write("srv/a/file", "two").await.unwrap();
        assert_eq!(fs.read_to_string("/srv/a/file").await.unwrap(), "two");
        fs.chmod("/srv/a/file", 0o4750).await.unwrap();
        fs.chown("/srv/a/file", Some(12), Some(34)).await.unwrap();
        fs.chmod("/srv/a/file", 0o640).await.unwrap();
        // An absolute link is followed as in the guest.
        fs.symlink("/srv/a/file", "/srv/link").await.unwrap();
        assert_eq!(fs.read("/srv/link").await.unwrap(), b"two");
        assert_eq!(
            fs.read_link("/srv/link").await.unwrap(),
            Path::new("/srv/a/file")
        );
        let found = fs.stat("/srv/link").await.unwrap();
        assert_eq!(
            (found.kind, found.mode, found.uid, found.gid, found.size),
            (FsEntryKind::File, 0o640, 12, 34, 3)
        );
        assert_eq!(
            fs.lstat("/srv/link").await.unwrap().kind,
            FsEntryKind::Symlink
        );
        fs.copy("/srv/a", "/srv/c").await.unwrap();
        fs.rename("/srv/c/file", "/srv/moved").await.unwrap();
        let names: Vec<_> = fs.list("/srv").await.unwrap();
        let names: Vec<_> = names
            .iter()
            .map(|entry| entry.name.to_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "c", "link", "moved"]);
        fs.remove("/srv/c/b").await.unwrap();
        fs.remove_all("/srv/a").await.unwrap();
        assert!(!fs.exists("/srv/a").await.unwrap() && !fs.exists("/srv/link").await.unwrap());
        let error = fs.read("/srv/a/file").await.unwrap_err();
        assert!(matches!(
            error,
            MicrosandboxError::PathNotFound { path } if path == Path::new("/srv/a/file")
        ));
        let mut file = fs.write_stream("/srv/program", Some(0o755)).await.unwrap();
        file.write_all(b"#!/bin/sh\necho hello\n").await.unwrap();
        file.finish().await.unwrap();
        assert_eq!(
            sandbox.exec("/srv/program", [""; 0]).await.unwrap().stdout,
            b"hello\n"
        );
        let output = sandbox
            .shell("stat -c '%a %u %g' /srv/moved")
            .await
            .unwrap();
        assert_eq!(output.stdout_text(), "640 12 34\n");
        stop(sandbox).await;
    });
    assert_eq!(home.left_over(), [""; 0]);
}

/// Peak of the memory of this process, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// A mebibyte of a large file.
fn part() -> Vec<u8> {
    (0..1 << 20).map(|n: u32| (n / 3) as u8).collect()
}

/// Begins to count the peak anew.
fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Most memory that a program may use for files of any size, in bytes.
const LITTLE: u64 = 32 << 20;

/// Size of a large file, in MiB. In an emulated host, a gibibyte takes minutes.
fn large() -> usize {
    env::var("MSB_TEST_LARGE_MIB").map_or(128, |value| value.parse().unwrap())
}

/// How long it may take to copy one a few times.
fn enough_time() -> Duration {
    let times = large().div_ceil(128).try_into().unwrap();
    LIMIT.saturating_mul(times)
}

#[test]
fn files_larger_than_the_guests_memory_go_either_way_in_bounded_memory() {
    let home = Home::new();
    let folder = home.folder("data");
    let part = part();
    forget_peak();
    let before = peak();
    run_within(enough_time(), async {
        let builder = sandbox(&home, "box").image(product::busybox()).memory(96);
        let builder = builder.volume("/data", MountConfig::bind(&folder));
        let sandbox = builder.create().await.unwrap();
        let fs = sandbox.fs();
        let mut there = fs.write_stream("/data/there", None).await.unwrap();
        for _ in 0..large() {
            there.write_all(&part).await.unwrap();
        }
        there.finish().await.unwrap();
        let mut back = fs.read_stream("/data/there").await.unwrap();
        let mut count = 0;
        while let Some(data) = back.recv().await.unwrap() {
            let mut rest = &data[..];
            while !rest.is_empty() {
                let expected = &part[count % part.len()..];
                let length = rest.len().min(expected.len());
                assert!(rest[..length] == expected[..length], "at {count}");
                rest = &rest[length..];
                count += length;
            }
        }
        assert_eq!(count, large() << 20);
        stop(sandbox).await;
    });
    let used = peak().saturating_sub(before);
    assert!(used < LITTLE, "{used} bytes of memory were used");
}

#[test]
fn trees_and_archives_larger_than_the_memory_go_either_way() {
    let home = Home::new();
    let (data, tree) = (home.folder("data"), home.folder("tree"));
    // More than the memory that may be used.
    let (part, parts) = (part(), large() * 3 / 8);
    let mut file = File::create(tree.join("large")).unwrap();
    for _ in 0..parts {
        file.write_all(&part).unwrap();
    }
    let is_there = |folder: PathBuf| {
        let mut copy = File::open(folder.join("large")).unwrap();
        let mut read = vec![0; part.len()];
        for number in 0..parts {
            copy.read_exact(&mut read).unwrap();
            assert!(read == part, "MiB {number}");
        }
        assert_eq!(copy.read(&mut read).unwrap(), 0);
    };
    forget_peak();
    let before = peak();
    run_within(enough_time(), async {
        let builder = sandbox(&home, "box").image(product::busybox()).memory(96);
        let builder = builder.volume("/data", MountConfig::bind(&data));
        let sandbox = builder.create().await.unwrap();
        let guest = sandbox.fs();
        guest.copy_from_host(&tree, "/data/tree").await.unwrap();
        is_there(data.join("tree"));
        let back = home.path().join("back");
        guest.copy_to_host("/data/tree", &back).await.unwrap();
        is_there(back);
        let archive = home.path().join("archive");
        copy(&home, ["box:/data/tree", "-"], |cp| {
            cp.stdout(File::create(&archive).unwrap())
        });
        guest.mkdir("/data/unpacked").await.unwrap();
        copy(&home, ["-", "box:/data/unpacked"], |cp| {
            cp.stdin(File::open(&archive).unwrap())
        });
        is_there(data.join("unpacked/tree"));
        stop(sandbox).await;
    });
    let used = peak().saturating_sub(before);
    assert!(used < LITTLE, "{used} bytes of memory were used");
}

/// Runs `msb cp`, which can have little memory.
#[track_caller]
fn copy(home: &Home, ends: [&str; 2], join: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = home.command(["cp", ends[0], ends[1]]);
    join(&mut command);
    let lower = || Ok(setrlimit(Resource::RLIMIT_DATA, LITTLE, LITTLE)?);
    // SAFETY: setrlimit(2) is a system call that neither allocates nor locks.
    unsafe { command.pre_exec(lower) };
    let finished = Running::start(&mut command).finish();
    assert_eq!(finished.code(), 0, "{finished}");
}

/// Makes a tree with everything in it that a tree can have.
fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("a/b/c")).unwrap();
    fs::write(top.join("a/file"), "contents").unwrap();
    fs::hard_link(top.join("a/file"), top.join("a/b/again")).unwrap();
    fs::write(top.join("empty"), "").unwrap();
    fs::write(top.join("a/sp ace\n\u{fc}"), "odd").unwrap();
    symlink("/nowhere", top.join("a/link")).unwrap();
    mkfifo(&top.join("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 100 << 20).unwrap();
    sparse.set_len(300 << 20).unwrap();
    for number in 0..500 {
        fs::write(top.join(format!("a/b/c/{number}")), vec![7; number * 11]).unwrap();
    }
    if geteuid().is_root() {
        std::os::unix::fs::chown(top.join("empty"), Some(1234), Some(5678)).unwrap();
    }
    for (name, mode) in [
        ("a/file", 0o4711),
        ("a/b", 0o500),
        ("a", 0o1777),
        ("", 0o750),
    ] {
        fs::set_permissions(top.join(name), Permissions::from_mode(mode)).unwrap();
    }
}

/// What find(1) on the host tells of a tree.
fn seen(top: &Path) -> Vec<String> {
    let output = Command::new("find")
        .arg(top)
        .args(["-printf", FORMAT])
        .output()
        .unwrap();
    sorted(output.stdout)
}

fn sorted(text: Vec<u8>) -> Vec<String> {
    let text = String::from_utf8(text).unwrap();
    // Directories have sizes of their file system.
    let lines = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let mut fields: Vec<_> = line.split(' ').collect();
        if fields.contains(&"d") && fields.len() > 5 {
            let size = fields.len() - 3;
            fields[size] = "-";
            fields[size - 1] = "-";
        }
        fields.join(" ")
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

async fn copy_back(fs: &SandboxFs, to: &Path) {
    let options = CopyOptions {
        owners: true,
        special: true,
    };
    let report = fs
        .copy_to_host_with("/srv/tree", to, options)
        .await
        .unwrap();
    assert_eq!((report.left_out, report.nodes), (0, 511));
}

#[test]
fn a_tree_goes_there_and_back_as_it_is() {
    let home = Home::new();
    let (from, to): (PathBuf, PathBuf) = (home.path().join("from"), home.path().join("to"));
    make_tree(&from);
    let note = |path: &Path, script: &str| {
        let script = format!("import os, sys; {script}");
        let python = Command::new("python3")
            .args(["-c", &script])
            .arg(path)
            .output();
        String::from_utf8(python.unwrap().stdout).unwrap()
    };
    note(
        &from.join("a/file"),
        "os.setxattr(sys.argv[1], 'user.note', b'x')",
    );
    run(async {
        let sandbox = debian(&home).await;
        let fs = sandbox.fs();
        fs.copy_from_host(&from, "/srv/tree").await.unwrap();
        let output = sandbox
            .exec("find", ["/srv/tree", "-printf", FORMAT])
            .await
            .unwrap();
        assert_eq!(sorted(output.stdout), seen(&from));
        let output = sandbox
            .shell("du -k /srv/tree/sparse | cut -f1")
            .await
            .unwrap();
        let kib: u64 = output.stdout_text().trim().parse().unwrap();
        assert!(kib < 1024, "{kib}");
        copy_back(&fs, &to).await;
        let error = fs
            .copy_to_host("/srv/none", home.path().join("x"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, MicrosandboxError::PathNotFound { .. }),
            "{error}"
        );
        let archive = home.path().join("tree.tar");
        let file = File::create(&archive).unwrap();
        fs.read_archive("/srv/tree/a", file).await.unwrap();
        fs.mkdir("/srv/unpacked").await.unwrap();
        fs.write_archive(File::open(&archive).unwrap(), "/srv/unpacked")
            .await
            .unwrap();
        let script = "cd /srv && diff -r --no-dereference tree/a unpacked/a && stat -c %h:%a unpacked/a/file";
        let output = sandbox.shell(script).await.unwrap();
        assert_eq!(output.stdout_text(), "2:4711\n", "{}", output.stderr_text());
        stop(sandbox).await;
        let listed = Command::new("tar")
            .arg("-tf")
            .arg(&archive)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(listed.stdout).unwrap().lines().count(),
            507
        );
    });
    assert_eq!(seen(&to), seen(&from));
    let read = "print(os.getxattr(sys.argv[1], 'user.note').decode())";
    assert_eq!(note(&to.join("a/file"), read), "x\n");
    let sparse = fs::metadata(to.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20);
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn what_a_guest_links_out_stays_a_link() {
    let home = Home::new();
    let to = home.folder("to");
    let precious = home.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    run(async {
        let sandbox = debian(&home).await;
        let script = format!(
            "mkdir /srv/t && cd /srv/t && ln -s {0} link && ln -s {1} out && mknod null c 1 3 \
             && cp /bin/true suid && chmod 6755 suid",
            precious.display(),
            home.path().display()
        );
        assert!(sandbox.shell(&script).await.unwrap().success());
        let report = sandbox.fs().copy_to_host("/srv/t", &to).await.unwrap();
        assert_eq!(report.skipped[0].path, Path::new("null"));
        // The same again, where `out` is a link now: a directory does not follow it.
        let script = "cd /srv/t && rm out link && mkdir out && echo evil >out/precious \
                      && echo evil >link";
        assert!(sandbox.shell(script).await.unwrap().success());
        let outcome = sandbox.fs().copy_to_host("/srv/t", &to).await;
        assert!(
            matches!(outcome, Err(MicrosandboxError::Fs { .. })),
            "{outcome:?}"
        );
        stop(sandbox).await;
    });
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    let suid = fs::metadata(to.join("suid")).unwrap();
    assert_eq!(suid.mode() & 0o7777, 0o755);
}
