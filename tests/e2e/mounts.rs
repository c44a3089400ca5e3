//! Mounts of every kind, with every option: `--volume`, `--mount-...`, `--tmpfs`. Folders have tests of their own.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use msb_tests::disk_images::{
    PARTITION_SIZE, assert_clean, blank, ext4, ext4_at, partition_offset, partitioned, program,
    read, sum,
};
use msb_tests::tree::snapshot;
use msb_tests::{Finished, Home, Running, product};

/// An ext4 with a file called `file` that holds its name.
fn disk(home: &Home, name: &str) -> PathBuf {
    let image = home.path().join(name);
    ext4(
        &image,
        4 << 20,
        &folder_with_file(home, &format!("{name} files")),
    );
    image
}

/// A folder with a file called `file` that holds its name.
fn folder_with_file(home: &Home, name: &str) -> PathBuf {
    let folder = home.folder(name);
    fs::write(folder.join("file"), format!("{name}\n")).unwrap();
    folder
}

fn option(name: &str, source: &Path, rest: &str) -> String {
    format!("--{name}={}:{rest}", source.display())
}

#[test]
fn a_single_file_is_the_file_itself() {
    let home = Home::new();
    // On two file systems of the host.
    let file = home.path().join("file");
    let elsewhere = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    for path in [&file, elsewhere.path()] {
        fs::write(path, "from the host\n").unwrap();
    }
    fs::write(home.path().join("beside"), "not shared").unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let script = "
        cat /etc/motd /new/place/file /etc/group; echo from the guest >/etc/motd
        echo more >>/new/place/file; stat -c %F /new/place/file; ls /new/place
        (echo x >>/etc/group) 2>/dev/null || echo read-only
        mount -o remount,rw /etc/group && (echo x >>/etc/group) 2>/dev/null || echo still read-only
        rm /etc/motd 2>/dev/null || echo not to be removed; read x; cat /etc/motd";
    let mut guest = home
        .busybox()
        .with([
            option("mount-file", &file, "/etc/motd:cache=none"),
            option("volume", elsewhere.path(), "/new/place/file"),
            option("mount-file", &file, "/etc/group:ro"),
        ])
        .start(script);
    guest.stdout.wait_for("not to be removed\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "from the guest\n");
    assert_eq!(
        fs::read_to_string(elsewhere.path()).unwrap(),
        "from the host\nmore\n"
    );
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    fs::write(&file, "the host again\n").unwrap();
    guest.send("\n");
    let expected = [
        "from the host",
        "from the host",
        "from the host",
        "regular file",
        "file",
        "read-only",
        "still read-only",
        "not to be removed",
        "the host again",
    ];
    assert_eq!(guest.finish().lines(), expected);
}

#[test]
fn a_folder_with_a_quota_is_a_small_disk() {
    let home = Home::new();
    let folder = home.folder("limited");
    let script = "
        left() { df -k /limited | awk 'END { print $2, $4 }'; }
        left | cut -d' ' -f1; cd /limited
        dd if=/dev/zero of=full bs=64k 2>/dev/null && echo endless; left
        [ $(du -sk . | cut -f1) -le 8192 ] && echo within; mkdir d 2>/dev/null || echo full
        rm full; dd if=/dev/zero of=again bs=1M count=7 2>/dev/null && echo freed";
    let guest = home
        .busybox()
        .with([option("volume", &folder, "/limited:quota=8M")])
        .start(script);
    let expected = ["8192", "8192 0", "within", "full", "freed"];
    assert_eq!(guest.finish().lines(), expected);
    let written = fs::metadata(folder.join("again")).unwrap();
    assert_eq!(written.len(), 7 << 20);
}

#[test]
fn what_the_monitor_holds_stays_held_after_a_remount() {
    let home = Home::new();
    let folder = folder_with_file(&home, "folder");
    fs::copy(product::debian().join("usr/bin/id"), folder.join("id")).unwrap();
    let set_id = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(folder.join("id"), set_id).unwrap();
    fs::write(folder.join("map"), "before").unwrap();
    let (one, two) = (home.folder("one"), home.folder("two"));
    fs::write(one.join("file"), "").unwrap();
    let script = "
        mount -o remount,bind,exec /noexec && { /noexec/id -u 2>/dev/null || echo no programs; }
        mount -o remount,bind,suid /nosuid && setpriv --reuid=1000 --clear-groups /nosuid/id -u
        ln /one/file /two/file 2>/dev/null || echo apart
        for place in one two; do df -k /$place | awk 'END { print $2 }'; done
        /uncached/id -u
        tcc -run - <<'END'
        #include <fcntl.h>
        #include <string.h>
        #include <sys/mman.h>
        int main() {
            int file = open(\"/uncached/map\", O_RDWR);
            char *map = mmap(0, 6, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            memcpy(map, \"mapped\", 6);
            return msync(map, 6, MS_SYNC);
        }
END
        cat /uncached/map";
    let finished = home
        .debian()
        .with([
            option("volume", &folder, "/noexec:noexec"),
            option("volume", &folder, "/nosuid:nosuid"),
            option("volume", &one, "/one:quota=4M"),
            option("volume", &two, "/two:quota=8M"),
            option("volume", &folder, "/uncached:cache=none"),
        ])
        .shell(script);
    let expected = [
        "no programs",
        "1000",
        "apart",
        "4096",
        "8192",
        "0",
        "mapped",
    ];
    assert_eq!(finished.lines(), expected);
    let set_id = fs::metadata(folder.join("id")).unwrap().permissions();
    assert_eq!(set_id.mode() & 0o7777, 0o4755, "the host's bits stay");
}

/// What a guest sees of files that the host changes, by the cache that its mount has.
#[test]
fn what_the_host_changes_shows_as_soon_as_the_cache_permits() {
    let home = Home::new();
    let folder = home.folder("folder");
    let script = "
        see() { for place in none auto short always; do printf '%s ' $(cat /$place/file); done; echo; }
        see; read line; see; sleep 3; see";
    let mount = |target: &str, rest: &str| option("volume", &folder, &format!("/{target}:{rest}"));
    fs::write(folder.join("file"), "one").unwrap();
    let mut guest = home
        .busybox()
        .with([
            mount("none", "cache=none"),
            mount("auto", "cache=auto"),
            mount("short", "cache=always,timeout=1s"),
            mount("always", "cache=always,timeout=1h"),
        ])
        .start(script);
    guest.stdout.wait_for("one one one one");
    fs::write(folder.join("file"), "two").unwrap();
    guest.send("\n");
    let finished = guest.finish();
    let seen = finished.lines();
    assert_eq!(seen.len(), 3, "{finished}");
    let [before, at_once, later] =
        [0, 1, 2].map(|line| seen[line].split_whitespace().collect::<Vec<_>>());
    assert_eq!(before, ["one"; 4]);
    // One that is asked each time shows it at once, one that may be old for an hour does not at all.
    assert_eq!((at_once[0], at_once[3]), ("two", "one"), "{finished}");
    assert_eq!(later, ["two", "two", "two", "one"], "{finished}");
}

/// A change in the tick of the one before cannot be told by the directory's time.
#[test]
fn a_listing_is_the_hosts_whatever_the_time_of_the_directory_says() {
    const ROUNDS: usize = 50;
    let home = Home::new();
    let folder = home.folder("folder");
    let time = fs::metadata(&folder).unwrap().modified().unwrap();
    let script = "
        while read round; do
            for place in none auto always; do cd /$place; echo $place *; done
            echo listed $round
        done";
    let mount = |cache: &str| option("volume", &folder, &format!("/{cache}:cache={cache}"));
    let mut guest = home
        .busybox()
        .with(["none", "auto", "always"].map(mount))
        .start(script);
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        fs::write(folder.join(format!("file-{round}")), "").unwrap();
        if let Some(last) = round.checked_sub(1) {
            fs::remove_file(folder.join(format!("file-{last}"))).unwrap();
        }
        let directory = fs::File::open(&folder).unwrap();
        directory.set_modified(time).unwrap();
        guest.send(format!("{round}\n"));
        guest.stdout.wait_for(&format!("listed {round}\n"));
        expected.push(format!("none file-{round}"));
        expected.push(format!("auto file-{round}"));
        // Nobody but the guest changes that one, as it was told: it keeps what it has.
        expected.push("always file-0".to_owned());
        expected.push(format!("listed {round}"));
    }
    assert_eq!(guest.finish().lines(), expected);
}

#[test]
fn two_sandboxes_share_the_quota_of_a_volume() {
    let home = Home::new();
    let created = home.msb(["volume", "create", "--quota=8M", "shared"]);
    assert_eq!(created.code(), 0, "{created}");
    let mount = ["--volume=shared:/data"];
    let first = home.busybox().with(mount).start(
        "head -c 5000000 /dev/zero >/data/first; echo written; read wait; rm /data/first; echo freed; read wait",
    );
    first.stdout.wait_for("written");
    let fill =
        "dd if=/dev/zero of=/data/second bs=64k 2>/dev/null; wc -c </data/second; rm /data/second";
    let left = |finished: &Finished| finished.lines()[0].parse::<u64>().unwrap();
    let little = left(&home.busybox().with(mount).shell(fill));
    assert!((2 << 20..4 << 20).contains(&little), "{little}");
    let mut first = first;
    first.send("\n");
    first.stdout.wait_for("freed");
    let much = left(&home.busybox().with(mount).shell(fill));
    assert!((7 << 20..=8 << 20).contains(&much), "{much}");
    assert_eq!(first.finish().code(), 1);
}

#[test]
fn options_forbid_what_they_say() {
    let home = Home::new();
    let folder = folder_with_file(&home, "folder");
    // Not that of busybox, which gives its rights away.
    fs::copy(product::debian().join("usr/bin/id"), folder.join("id")).unwrap();
    let set_id = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(folder.join("id"), set_id).unwrap();
    let before = snapshot(&folder);
    let image = home.path().join("disk.img");
    ext4(&image, 8 << 20, &folder);
    let image_before = sum(&image);
    let script = "
        for place in folder disk memory; do
            [ -e /$place/id ] || cp /usr/bin/id /$place/id; chmod 4755 /$place/id 2>/dev/null
            /$place/id -u 2>/dev/null || echo $place: no programs
        done
        for place in plain restricted; do
            setpriv --reuid=1000 --clear-groups /$place/id -u; grep \" /$place \" /proc/mounts | cut -d' ' -f4
        done
        mknod /plain/null c 1 3 2>/dev/null || mknod /disk2/null c 1 3
        cat /disk2/null 2>/dev/null || echo no devices
        try() { \"$@\" 2>/dev/null && echo \"worked: $*\"; }
        for place in folder disk; do
            try touch /$place/new; mount -o remount,rw /$place 2>/dev/null; try touch /$place/new; try rm /$place/file
        done
        device=$(grep ' /disk ' /proc/mounts | cut -d' ' -f1)
        try dd if=/dev/zero of=$device bs=4096 count=1 conv=fsync; echo over";
    let writable = disk(&home, "writable.img");
    let finished = home
        .debian()
        .with([
            option("volume", &folder, "/folder:ro,noexec"),
            option("mount-disk", &image, "/disk:ro,noexec"),
            "--tmpfs=/memory:8M:noexec".to_owned(),
            option("mount-dir", &folder, "/plain:ro"),
            option("mount-dir", &folder, "/restricted:ro,nosuid,nodev"),
            option("mount-disk", &writable, "/disk2:nodev"),
        ])
        .shell(script);
    let expected = [
        "folder: no programs",
        "disk: no programs",
        "memory: no programs",
        "0",
        "ro,relatime",
        "1000",
        "ro,nosuid,nodev,relatime",
        "no devices",
        "over",
    ];
    assert_eq!(
        finished.text().lines().collect::<Vec<_>>(),
        expected,
        "{finished}"
    );
    assert_eq!(snapshot(&folder), before);
    assert_eq!(sum(&image), image_before);
}

#[test]
fn a_disk_is_mounted_and_left_clean() {
    let home = Home::new();
    let plain = disk(&home, "plain.img");
    let table = home.path().join("table.img");
    partitioned(&table, 2);
    for index in 0..2 {
        let files = folder_with_file(&home, &format!("partition {index}"));
        ext4_at(&table, partition_offset(index), PARTITION_SIZE, &files);
    }
    let xfs = home.path().join("disk.xfs");
    blank(&xfs, 320 << 20);
    program("mkfs.xfs", ["-q".as_ref(), xfs.as_os_str()]);
    let script = "
        cat /plain/file /table/file; echo new >/plain/new; echo xfs >/deep/er/xfs/f; cat /deep/er/xfs/f
        for place in plain table deep/er/xfs; do grep \" /$place \" /proc/mounts | cut -d' ' -f3; done
        ls / | grep -c staged; umount /plain && mount | grep -c plain; sync";
    let finished = home
        .busybox()
        .with([
            option("mount-disk", &plain, "/plain"),
            option(
                "mount-disk",
                &table,
                "/table:partition=2,cache=writethrough",
            ),
            option("mount-disk", &xfs, "/deep/er/xfs:fstype=xfs"),
        ])
        .shell(script);
    let expected = [
        "plain.img files",
        "partition 1",
        "xfs",
        "ext4",
        "ext4",
        "xfs",
        "0",
        "0",
    ];
    assert_eq!(
        finished.text().lines().collect::<Vec<_>>(),
        expected,
        "{finished}"
    );
    assert_clean(&plain);
    assert_eq!(read(&plain, "/new"), "new\n");
    program("xfs_repair", ["-n".as_ref(), xfs.as_os_str()]);
    let run = |rest: &str| {
        let option = option("mount-disk", &table, rest);
        home.busybox().with([option]).run(["true"])
    };
    let several = run("/table");
    several.assert_error(125, "cannot be mounted on /table");
    several.assert_error(125, "1 (ext4), 2 (ext4)");
    several.assert_error(125, "partition=");
    run("/etc/passwd:partition=1").assert_error(125, "cannot be shown at /etc/passwd");
}

#[test]
fn a_disk_belongs_to_one_sandbox() {
    let home = Home::new();
    let image = disk(&home, "disk.img");
    let mount = |rest: &str| {
        let guest = home.busybox();
        guest.with([option("mount-disk", &image, rest)])
    };
    let mut first = mount("/data").start("echo up; read x");
    first.stdout.wait_for("up\n");
    mount("/data:ro")
        .run(["true"])
        .assert_error(125, "is in use");
    first.send("\n");
    assert_eq!(first.finish().lines(), ["up"]);
    // Nor is it for two places of one.
    let twice = [
        option("mount-disk", &image, "/a"),
        option("mount-disk", &image, "/b"),
    ];
    let refused = home.busybox().with(twice).run(["true"]);
    refused.assert_error(125, "is in use");
}

#[test]
fn memory_is_as_large_and_as_open_as_it_is_asked_for() {
    let home = Home::new();
    let script = "
        for place in /tmp /x /y; do stat -c %a $place; done
        df -m /x | tail -1 | awk '{ print $2 }'; df -m /y | tail -1 | awk '{ print $2 }'
        touch /z/f 2>/dev/null || echo read-only
        head -c 5000000 /dev/zero >/x/f 2>/dev/null || echo full";
    let options = [
        "--tmpfs=/tmp",
        "--tmpfs=/x:4M",
        "--tmpfs=/y:size=2M,mode=2700",
        "--tmpfs=/z:1M:ro",
    ];
    let finished = home.busybox().with(options).shell(script);
    let expected = ["1777", "755", "2700", "4", "2", "read-only", "full"];
    assert_eq!(finished.lines(), expected);
}

#[test]
fn a_named_volume_outlives_its_sandboxes() {
    let home = Home::new();
    let run = |options: &[&str], script: &str| home.busybox().with(options).shell(script);
    let first = run(&["-v", "data:/data"], "echo kept >/data/file; ls -A /data");
    assert_eq!(first.lines(), ["file"]);
    let read_only = ["-v", "data:/data:ro"];
    let second = run(
        &read_only,
        "cat /data/file; touch /data/x 2>/dev/null || echo read-only",
    );
    assert_eq!(second.lines(), ["kept", "read-only"]);
    let disk = ["--mount-named=disk:/d:kind=disk,size=16M"];
    assert_eq!(
        run(&disk, "echo on the disk >/d/f; cat /d/f").lines(),
        ["on the disk"]
    );
    // As it is, whatever it is.
    let again = run(
        &["-v", "disk:/d", "-v", "data:/data"],
        "cat /d/f /data/file",
    );
    assert_eq!(again.lines(), ["on the disk", "kept"]);
    let refused = |option: &str, why: &str| run(&[option], "true").assert_error(125, why);
    refused(
        "--mount-named=none:/x:mode=existing",
        "no volume named \"none\" exists",
    );
    refused(
        "--mount-named=data:/x:mode=create",
        "a volume named \"data\" exists",
    );
    refused(
        "--mount-named=data:/x:kind=disk,size=16M",
        "has the kind dir, not disk",
    );
    refused("--mount-named=new:/x:kind=disk", "needs a size");
    // In use until its machine has ended.
    let mut user = home.busybox().with(disk).start("echo up; read x");
    user.stdout.wait_for("up\n");
    let taken = home.busybox().with(disk).run(["true"]);
    taken.assert_error(125, "is used by the sandbox");
    user.send("\n");
    assert_eq!(user.finish().lines(), ["up"]);
}

#[test]
fn a_name_that_is_a_folder_here_is_no_volume_yet() {
    let home = Home::new();
    folder_with_file(&home, "share");
    let guest = home.busybox().with(["-v", "share:/data"]);
    let mut command = guest.shell_command("cat /data/file");
    let refused = Running::start(command.current_dir(home.path())).finish();
    refused.assert_error(125, "write ./share");
    assert!(!home.msb_home().join("volumes/share").exists());
}

#[test]
fn there_may_be_64_mounts_of_all_kinds() {
    let home = Home::new();
    let folder = folder_with_file(&home, "folder");
    let first = disk(&home, "disk-0.img");
    let mut options = Vec::new();
    let mut script = String::new();
    for index in 0..28 {
        // Deep and shallow ones, children before their parents.
        let target = format!("/m{}/sub/{index}", index % 3);
        fs::create_dir_all(folder.join("sub")).unwrap();
        options.push(option("volume", &folder, &target));
        script.push_str(&format!("cat {target}/file\n"));
    }
    for index in 0..16 {
        let file = home.path().join(format!("file {index}"));
        fs::write(&file, format!("file {index}\n")).unwrap();
        options.push(option("volume", &file, &format!("/etc/files/{index}:ro")));
        script.push_str(&format!("cat /etc/files/{index}\n"));
    }
    for index in 0..9 {
        options.push(format!("--tmpfs=/etc/files/memory/{index}:64K"));
        script.push_str(&format!(
            "echo t{index} >/etc/files/memory/{index}/f; cat /etc/files/memory/{index}/f\n"
        ));
    }
    for index in 0..8 {
        let image = home.path().join(format!("disk-{index}.img"));
        if index > 0 {
            fs::copy(&first, &image).unwrap();
        }
        options.push(option("mount-disk", &image, &format!("/disks/{index}")));
        script.push_str(&format!("cat /disks/{index}/file\n"));
    }
    for name in ["m0", "m1", "m2"] {
        options.push(format!("--tmpfs=/{name}"));
    }
    assert_eq!(options.len(), 64);
    script.push_str("grep -c -e ' /m[0-2]' -e /etc/files -e /disks /proc/mounts\n");
    let finished = home.busybox().with(options).shell(&script);
    let mut expected = vec!["folder".to_owned(); 28];
    expected.extend((0..16).map(|index| format!("file {index}")));
    expected.extend((0..9).map(|index| format!("t{index}")));
    expected.extend(vec!["disk-0.img files".to_owned(); 8]);
    expected.push("64".to_owned());
    assert_eq!(finished.lines(), expected);
    assert_clean(&first);
}

/// So many devices are named behind the initramfs, because the kernel's command line has no room for them.
#[test]
fn all_of_64_mounts_may_be_disks() {
    let home = Home::new();
    let first = disk(&home, "disk-0.img");
    let mut options = Vec::new();
    for index in 0..64 {
        let image = home.path().join(format!("disk-{index}.img"));
        if index > 0 {
            fs::copy(&first, &image).unwrap();
        }
        options.push(option("mount-disk", &image, &format!("/disks/{index}")));
    }
    let script = "
        for disk in /disks/*; do cat $disk/file; echo $disk >$disk/own; done
        cat /disks/*/own; grep -c ' /disks/' /proc/mounts";
    let finished = home.busybox().with(&options).shell(script);
    let mut expected = vec!["disk-0.img files".to_owned(); 64];
    let mut own: Vec<_> = (0..64).map(|index| format!("/disks/{index}")).collect();
    own.sort_unstable();
    expected.extend(own);
    expected.push("64".to_owned());
    assert_eq!(finished.lines(), expected, "{finished}");
    // The same of one that stays, which has a disk for its layer besides.
    home.create(
        &options.iter().map(String::as_str).collect::<Vec<_>>(),
        "many",
    );
    let script = "cat /disks/*/own | wc -l; grep -c ' /disks/' /proc/mounts";
    assert_eq!(home.exec_shell("many", script).lines(), ["64", "64"]);
    for command in ["stop", "rm"] {
        assert_eq!(home.msb([command, "many"]).code(), 0);
    }
    assert_clean(&home.path().join("disk-63.img"));
}
