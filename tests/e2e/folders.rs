//! Folders of the host in the guest: the root file system and `--volume`.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use msb_tests::running::piped;
use msb_tests::tree::snapshot;
use msb_tests::{Finished, Guest, Home, Running, product};
use nix::unistd::geteuid;

/// `--volume` with this value.
fn volume(source: &Path, target: &str) -> OsString {
    let mut option = OsString::from("--volume=");
    option.push(source);
    option.push(":");
    option.push(target);
    option
}

/// Copies a folder with all that it holds, as it is.
fn copy(source: &Path, target: &Path) {
    let mut copy = Command::new("cp");
    let copied = Running::start(piped(copy.arg("-a").arg(source).arg(target))).finish();
    assert_eq!(copied.lines(), [""; 0]);
}

/// A copy of the small root file system.
fn root(home: &Home) -> PathBuf {
    let root = home.path().join("root");
    copy(&product::busybox(), &root);
    root
}

#[track_caller]
fn assert_all_ok(checks: &Finished) {
    let lines = checks.lines();
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| !line.starts_with("ok "))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(lines.len() >= 20, "{lines:#?}");
}

/// Runs the checks of `guest/folder.pl` in the guest.
fn check_folder(guest: Guest<'_>, folder: &str) -> Finished {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/guest");
    guest
        .with([volume(&scripts, "/checks:ro")])
        .run(["perl", "/checks/folder.pl", folder])
}

#[test]
fn a_folder_is_what_programs_expect() {
    let home = Home::new();
    let share = home.folder("share");
    // First the checks themselves, on the file system that is shared.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/guest/folder.pl");
    let mut here = Command::new("perl");
    assert_all_ok(&Running::start(piped(here.arg(script).arg(&share))).finish());
    assert_all_ok(&check_folder(
        home.debian().with([volume(&share, "/data")]),
        "/data",
    ));
    assert_eq!(fs::read_dir(&share).unwrap().count(), 0);
}

#[test]
fn the_private_layer_is_what_programs_expect() {
    let home = Home::new();
    assert_all_ok(&check_folder(home.debian(), "/var/tmp"));
}

#[test]
fn a_folder_of_an_ordinary_user_is_what_programs_expect() {
    let home = Home::of_ordinary_user();
    let root = root(&home);
    let share = home.folder("share");
    if geteuid().is_root() {
        std::os::unix::fs::chown(&share, Some(1000), Some(1000)).unwrap();
    }
    let script = "
        cd /data && mkdir d && echo text >d/f && ln d/f d/g && ln -s f d/s && mv d e
        cat e/g e/s; stat -c '%h %u:%g' e/f; touch -d @1234567890 e/f && stat -c %Y e/f
        chmod 640 e/f && stat -c %a e/f; mkfifo e/p; cp /bin/busybox e/echo && ./e/echo run
        head -c 3000000 /dev/urandom >big; cp big copy && cmp big copy && echo same
        mkdir t; tar c e | tar x -C t && ls t/e | tr '\\n' ' '; echo; rm -r big copy; find . | wc -l";
    let finished = home
        .guest(root)
        .with([volume(&share, "/data")])
        .shell(script);
    let expected = [
        "text",
        "text",
        "2 0:0",
        "1234567890",
        "640",
        "run",
        "same",
        "echo f g p s ",
        "14",
    ];
    assert_eq!(finished.lines(), expected);
}

#[test]
fn ownership_as_an_ordinary_user_sees_it() {
    if !geteuid().is_root() {
        // Files of three owners are needed, which only root can make.
        return;
    }
    let home = Home::of_ordinary_user();
    let share = home.folder("share");
    for (name, owner) in [("mine", 1000), ("roots", 0), ("others", 2000)] {
        fs::write(share.join(name), name).unwrap();
        std::os::unix::fs::chown(share.join(name), Some(owner), Some(owner)).unwrap();
    }
    fs::set_permissions(share.join("roots"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&share, Some(1000), Some(1000)).unwrap();
    let script = "
        cd /data; stat -c '%u:%g %n' mine roots others
        cat roots 2>/dev/null || echo not readable
        (echo more >>others) 2>/dev/null || echo not writable
        chown 0:0 mine && echo owner as shown
        chown 7:7 mine 2>/dev/null || echo no other owner
        chown 0:0 others 2>/dev/null || echo not mine to give
        echo new >new; stat -c %u:%g new";
    let root = root(&home);
    let finished = home
        .guest(root)
        .with([volume(&share, "/data")])
        .shell(script);
    let expected = [
        "0:0 mine",
        "65534:65534 roots",
        "65534:65534 others",
        "not readable",
        "not writable",
        "owner as shown",
        "no other owner",
        "not mine to give",
        "0:0",
    ];
    assert_eq!(finished.lines(), expected);
    assert_eq!(fs::metadata(share.join("new")).unwrap().uid(), 1000);
    assert_eq!(fs::metadata(share.join("mine")).unwrap().uid(), 1000);
}

#[test]
fn ownership_as_root_sees_it() {
    if !geteuid().is_root() {
        return;
    }
    let home = Home::new();
    let share = home.folder("share");
    fs::set_permissions(&share, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(share.join("given"), "").unwrap();
    std::os::unix::fs::chown(share.join("given"), Some(2000), Some(3000)).unwrap();
    let script = "
        cd /data; stat -c %u:%g given; chown 1000:50 given
        echo x >by-root; su user -c 'echo x >by-user; stat -c %u:%g by-user; echo x >>by-root || echo refused' 2>/dev/null";
    let finished = home.busybox().with([volume(&share, "/data")]).shell(script);
    assert_eq!(finished.lines(), ["2000:3000", "1000:1000", "refused"]);
    let owner = |name| {
        let metadata = fs::metadata(share.join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(
        (owner("given"), owner("by-root"), owner("by-user")),
        ((1000, 50), (0, 0), (1000, 1000))
    );
}

#[test]
fn host_and_guest_see_each_others_changes() {
    let home = Home::new();
    let share = home.folder("share");
    fs::write(share.join("f"), "from the host").unwrap();
    // What the guest knows of a file holds for a second; it looks again until it sees the change.
    let script = "
        cd /data; cat f; echo
        echo from the guest >g; mv f h; mkdir d; echo x >d/x; echo changed
        read wait; until grep -q again h; do sleep 1; done; cat h; echo
        until [ -e new ]; do sleep 1; done; cat new; echo
        until [ ! -e g ]; do sleep 1; done; echo g is gone";
    let mut guest = home.busybox().with([volume(&share, "/data")]).start(script);
    guest.stdout.wait_for("changed\n");
    assert_eq!(
        fs::read_to_string(share.join("g")).unwrap(),
        "from the guest\n"
    );
    assert_eq!(fs::read_to_string(share.join("d/x")).unwrap(), "x\n");
    assert!(!share.join("f").exists());
    fs::write(share.join("h"), "from the host again").unwrap();
    fs::write(share.join("new"), "a new file").unwrap();
    fs::remove_file(share.join("g")).unwrap();
    guest.send("\n");
    let expected = [
        "from the host",
        "changed",
        "from the host again",
        "a new file",
        "g is gone",
    ];
    assert_eq!(guest.finish().lines(), expected);
}

#[test]
fn a_read_only_folder_cannot_be_changed() {
    let home = Home::new();
    let share = home.folder("share");
    fs::write(share.join("f"), "text").unwrap();
    fs::create_dir(share.join("d")).unwrap();
    let before = snapshot(&share);
    let script = "
        cd /data; cat f; echo
        try() { \"$@\" 2>/dev/null && echo \"worked: $*\"; }
        all() {
            try touch f; try touch new; try rm f; try rmdir d; try mkdir e; try mv f g; try ln f g; try ln -s f s
            try chmod 777 f; try chown 1:1 f; try truncate -s 0 f; try mkfifo p; try sh -c 'echo x >>f'
        }
        all
        # The guest's own idea of the mount is not what protects it.
        mount -o remount,rw /data && echo remounted; all
        mkdir /other && mount -t virtiofs \"$(awk '$2 == \"/data\" { print $1 }' /proc/mounts)\" /other && echo mounted
        cd /other/0; all; cat f; echo";
    let finished = home
        .busybox()
        .with([volume(&share, "/data:ro")])
        .shell(script);
    let lines = finished.text().lines().collect::<Vec<_>>();
    assert!(
        !lines.iter().any(|line| line.starts_with("worked")),
        "{finished}"
    );
    assert_eq!(
        lines,
        ["text", "remounted", "mounted", "text"],
        "{finished}"
    );
    assert_eq!(snapshot(&share), before);
}

#[test]
fn a_folder_cannot_be_left() {
    let home = Home::new();
    let share = home.folder("share");
    let secret = home.path().join("secret");
    fs::write(&secret, "the host's secret").unwrap();
    fs::create_dir(home.path().join("outside")).unwrap();
    fs::write(home.path().join("outside/file"), "the host's secret").unwrap();
    let link = |target: &Path, name: &str| symlink(target, share.join(name)).unwrap();
    link(&secret, "absolute");
    link(Path::new("../secret"), "relative");
    link(Path::new("../outside"), "directory");
    link(Path::new("/proc/self/root/etc"), "magic");
    link(Path::new("/etc/hostname"), "etc");
    let before = snapshot(&home.path().join("outside"));
    let script = "
        cd /data; echo of the guest >/etc/hostname
        cat absolute relative directory/file ../secret ../../secret magic/../../../secret 2>/dev/null
        cat etc
        echo x >directory/file; echo x >relative; rm -r directory/ ; rm directory/file; mkdir directory/d
        mkdir d; mv d ../d; ln absolute hard; cat hard
        echo over" ;
    let guest = home.busybox().with([volume(&share, "/data")]);
    let finished = guest.shell(&format!("({script}) 2>/dev/null"));
    assert!(!finished.text().contains("secret"), "{finished}");
    assert!(finished.text().starts_with("of the guest\n"), "{finished}");
    assert!(finished.text().ends_with("over\n"), "{finished}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's secret");
    assert_eq!(snapshot(&home.path().join("outside")), before);
    assert!(!home.path().join("d").exists());
}

#[test]
fn device_nodes_are_refused() {
    let home = Home::new();
    let share = home.folder("share");
    let script = "cd /data; mknod c c 1 5; mknod b b 8 0; mknod p p && [ -p p ] && echo fifo; ls";
    let finished = home.busybox().with([volume(&share, "/data")]).shell(script);
    assert_eq!(finished.text(), "fifo\np\n", "{finished}");
}

/// Changes of every kind in a root file system.
const CHANGES: &str = "
    echo new >/new; echo changed >>/etc/passwd; rm /bin/zcat; mv /bin/yes /bin/no
    rm -r /var; mkdir /var; mv /home /house; chmod 700 /etc; touch /tmp; ln /etc/group /etc/hard
    chown 7 /etc/group; rmdir /run";

#[test]
fn the_root_stays_as_it_is() {
    let home = Home::new();
    let root = root(&home);
    let before = snapshot(&root);
    let script = format!(
        "
        {CHANGES}
        cat /new; tail -1 /etc/passwd; [ -e /bin/zcat ] || echo gone; [ -e /bin/no ] && echo moved
        ls -a /var | wc -l; ls /house; stat -c %a /etc; cat /etc/hard | head -1"
    );
    let finished = home.guest(&root).shell(&script);
    let expected = [
        "new",
        "changed",
        "gone",
        "moved",
        "2",
        "user",
        "700",
        "root:x:0:",
    ];
    assert_eq!(finished.lines(), expected);
    assert_eq!(snapshot(&root), before);
}

#[test]
fn the_root_changes_if_that_is_wanted() {
    let home = Home::new();
    let root = root(&home);
    let finished = home.guest(&root).with(["--root-rw"]).shell(CHANGES);
    // /run is a fresh tmpfs in this case.
    assert_eq!(finished.code(), 1, "{finished}");
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "new\n");
    assert!(
        fs::read_to_string(root.join("etc/passwd"))
            .unwrap()
            .ends_with("changed\n")
    );
    assert!(!root.join("bin/zcat").exists() && fs::symlink_metadata(root.join("bin/no")).is_ok());
    assert!(root.join("house/user").is_dir() && !root.join("home").exists());
    assert_eq!(
        fs::metadata(root.join("etc")).unwrap().mode() & 0o7777,
        0o700
    );
    assert_eq!(fs::metadata(root.join("etc/hard")).unwrap().nlink(), 2);
    // What the guest mounts for itself is not to be found in the root.
    for directory in ["proc", "sys", "dev", "run"] {
        let entries = fs::read_dir(root.join(directory)).unwrap().count();
        assert_eq!(entries, 0, "{directory}");
    }
}

#[test]
fn an_empty_root_may_have_a_program_and_nothing_else() {
    let home = Home::new();
    let root = home.folder("root");
    fs::copy(product::busybox().join("bin/busybox"), root.join("busybox")).unwrap();
    let finished = home.guest(&root).run(["/busybox", "ls", "/"]);
    assert_eq!(finished.lines(), ["busybox", "dev", "proc", "sys"]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

#[test]
fn folders_may_be_many_and_lie_in_each_other() {
    let home = Home::new();
    let [outer, inner, both] = ["outer", "inner", "a folder: with\n odd name"].map(|name| {
        let folder = home.folder(name);
        fs::write(folder.join("file"), name).unwrap();
        folder
    });
    fs::create_dir(outer.join("inner")).unwrap();
    let odd = home
        .path()
        .join(OsString::from_vec(b"not text \xff".to_vec()));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("file"), "odd").unwrap();
    // Not in the order in which they have to be mounted.
    let guest = home.busybox().with([
        volume(&inner, "/a/b/inner"),
        OsString::from("--tmpfs=/a/b/inner/tmp"),
        volume(&outer, "/a/b"),
        volume(&both, "/rw"),
        volume(&both, "/ro:ro"),
        volume(&odd, "/odd:rw"),
    ]);
    fs::create_dir(inner.join("tmp")).unwrap();
    let script = "
        for f in /a/b/file /a/b/inner/file /ro/file /odd/file; do cat $f; echo; done
        echo x >/rw/by-guest && [ -e /ro/by-guest ] && echo the same
        (echo x >/ro/x) 2>/dev/null || echo read-only
        echo x >/a/b/inner/tmp/x && cat /a/b/inner/tmp/x";
    let finished = guest.shell(script);
    let expected = [
        "outer",
        "inner",
        "a folder: with",
        " odd name",
        "odd",
        "the same",
        "read-only",
        "x",
    ];
    assert_eq!(finished.lines(), expected);
    assert_eq!(fs::read_dir(inner.join("tmp")).unwrap().count(), 0);
    assert!(both.join("by-guest").exists());
}

#[test]
fn a_relative_source_is_relative_to_where_msb_runs() {
    let home = Home::new();
    fs::write(home.folder("share").join("file"), "found").unwrap();
    let mut command = home
        .busybox()
        .with(["--volume=./share:/data"])
        .shell_command("cat /data/file");
    let finished = Running::start(command.current_dir(home.path())).finish();
    assert_eq!(finished.text(), "found", "{finished}");
}

#[test]
fn many_files_and_large_ones_arrive() {
    let home = Home::new();
    let [input, output] = ["input", "output"].map(|name| home.folder(name));
    for directory in 0..20 {
        let directory = input.join(format!("directory {directory}"));
        fs::create_dir(&directory).unwrap();
        for file in 0..100 {
            fs::write(
                directory.join(format!("file {file}")),
                format!("{file}\n").repeat(file),
            )
            .unwrap();
        }
    }
    let large: Vec<u8> = (0..16 << 20_u32)
        .map(|byte: u32| (byte.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(input.join("large"), &large).unwrap();
    let guest = home
        .busybox()
        .with([volume(&input, "/in:ro"), volume(&output, "/out")]);
    let script = "cd /in && find . -type f | wc -l && tar c . | tar x -C /out && sha256sum <large";
    let finished = guest.shell(script);
    let sum = Running::start(piped(Command::new("sha256sum").arg(input.join("large")))).finish();
    let sum = sum.text().split(' ').next().unwrap().to_owned();
    assert_eq!(finished.lines(), ["2001", &format!("{sum}  -")]);
    let mut diff = Command::new("diff");
    let same = Running::start(piped(diff.arg("-r").arg(&input).arg(&output))).finish();
    assert_eq!(same.lines(), [""; 0]);
    // And away with them.
    let finished = home
        .busybox()
        .with([volume(&output, "/out")])
        .shell("rm -r /out/*; ls -A /out | wc -l");
    assert_eq!(finished.lines(), ["0"]);
    assert_eq!(fs::read_dir(&output).unwrap().count(), 0);
}

#[test]
fn a_directory_of_thousands_of_files_is_emptied_while_it_is_listed() {
    let home = Home::new();
    let share = home.folder("share");
    fs::create_dir(share.join("d")).unwrap();
    for file in 0..5000 {
        fs::write(share.join(format!("d/file {file}")), "").unwrap();
    }
    let script = "
        while [ -e /data/d ]; do find /data/d; sleep 0.2; done >/dev/null 2>&1 &
        rm -r /data/d && ls -A /data | wc -l; wait";
    let finished = home.busybox().with([volume(&share, "/data")]).shell(script);
    assert_eq!(finished.lines(), ["0"]);
    assert_eq!(fs::read_dir(&share).unwrap().count(), 0);
}

#[test]
fn what_the_guest_wrote_is_there_when_msb_has_ended() {
    let home = Home::new();
    let share = home.folder("share");
    // Without sync(1), and with a process that is killed while it has the file open.
    let script = "exec 3>/data/open; echo in the open file >&3; head -c 4194304 /dev/zero >/data/zeros; sleep 1000 & kill -9 $$";
    let finished = home.busybox().with([volume(&share, "/data")]).shell(script);
    assert_eq!(finished.code(), 137, "{finished}");
    assert_eq!(
        fs::read_to_string(share.join("open")).unwrap(),
        "in the open file\n"
    );
    assert_eq!(fs::metadata(share.join("zeros")).unwrap().len(), 4 << 20);
}

#[test]
fn a_folder_keeps_what_the_hosts_programs_set() {
    let home = Home::new();
    let share = home.folder("share");
    let file = share.join("file");
    fs::write(&file, "x").unwrap();
    set_attribute(&file, "user.host", b"from the host");
    let script = r#"
        use strict; my ($f, $n, $m, $v, $b) = ("/data/file", "user.host", "user.guest", "from the guest", " " x 100);
        my $length = syscall(191, $f, $n, $b, 100); print substr($b, 0, $length), "\n";
        syscall(188, $f, $m, $v, length $v, 0) == 0 or die $!;"#;
    let finished = home
        .debian()
        .with([volume(&share, "/data")])
        .run(["perl", "-e", script]);
    assert_eq!(finished.lines(), ["from the host"]);
    assert_eq!(attribute(&file, "user.guest"), b"from the guest");
}

fn set_attribute(file: &Path, name: &str, value: &[u8]) {
    let (file, name) = (c_string(file.as_os_str()), c_string(name.as_ref()));
    // SAFETY: both strings end with zero, and the value is as long as said.
    let result = unsafe {
        libc::setxattr(
            file.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn attribute(file: &Path, name: &str) -> Vec<u8> {
    let (file, name) = (c_string(file.as_os_str()), c_string(name.as_ref()));
    let mut value = vec![0; 1024];
    // SAFETY: both strings end with zero, and there is as much room for the value as said.
    let length = unsafe {
        libc::getxattr(
            file.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    value.truncate(usize::try_from(length).expect("the attribute is there"));
    value
}

fn c_string(text: &OsStr) -> std::ffi::CString {
    std::ffi::CString::new(text.as_encoded_bytes()).unwrap()
}
