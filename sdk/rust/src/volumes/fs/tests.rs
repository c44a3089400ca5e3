use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::home::Home;
use crate::volumes::{NamedVolume, VolumeConfig, VolumeKind, VolumeMode, Volumes};

/// A home with one volume.
struct Fixture {
    _root: tempfile::TempDir,
    volumes: Volumes,
    fs: VolumeFs,
}

impl Fixture {
    fn new(config: &VolumeConfig) -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(&Home::at(root.path().join("home"))).unwrap();
        let fs = volumes
            .create(&"data".parse().unwrap(), config)
            .unwrap()
            .fs();
        Fixture {
            _root: root,
            volumes,
            fs,
        }
    }

    /// A path on the host.
    fn host(&self, path: &str) -> PathBuf {
        self.fs.root().join(path)
    }
}

fn fixture() -> Fixture {
    Fixture::new(&VolumeConfig::default())
}

#[test]
fn files_of_a_directory_are_here() {
    let fixture = fixture();
    let fs = &fixture.fs;
    fs.mkdir("a").unwrap();
    fs.write("a/file", b"\xff").unwrap();
    assert_eq!(fs::read(fixture.host("a/file")).unwrap(), b"\xff");
    let error = fs.read_string("a/file").unwrap_err();
    assert!(matches!(error, VolumeFsError::NotText { .. }), "{error}");
    fs.copy("a", "b").unwrap();
    fs.rename("b/file", "b/text").unwrap();
    fs.write("b/text", "text").unwrap();
    assert_eq!(fs.read_string("b/text").unwrap(), "text");
    assert_eq!(fs.stat("b/text").unwrap().size, 4);
    fs.remove_file("b/text").unwrap();
    fs.remove("b").unwrap();
    fs.remove_all("a").unwrap();
    assert_eq!(fs.list("").unwrap(), []);
    let error = fs.write("../file", "").unwrap_err();
    assert!(matches!(error, VolumeFsError::PathEscape { .. }), "{error}");
}

#[test]
fn what_exists_is_told() {
    let fixture = fixture();
    let fs = &fixture.fs;
    fs.write("file", "").unwrap();
    symlink("file", fixture.host("link")).unwrap();
    symlink("none", fixture.host("dangling")).unwrap();
    for (path, exists) in [
        ("file", true),
        ("", true),
        (".", true),
        ("link", true),
        ("dangling", false),
        ("none", false),
        ("none/file", false),
        ("file/none", false),
    ] {
        assert_eq!(fs.exists(path).unwrap(), exists, "{path}");
    }
}

#[test]
fn the_quota_holds() {
    let fixture = Fixture::new(&VolumeConfig {
        quota_mib: Some(1),
        ..VolumeConfig::default()
    });
    let fs = &fixture.fs;
    let exceeded = |result| matches!(result, Err(VolumeFsError::QuotaExceeded { .. }));
    assert!(exceeded(fs.write("file", vec![1; 1 << 20])));
    fs.write("file", vec![1; 700 << 10]).unwrap();
    assert!(exceeded(fs.copy("file", "copy")));
    assert!(exceeded(fs.write("second", vec![1; 400 << 10])));
    // What is overwritten gives its room back.
    fs.write("file", vec![2; 900 << 10]).unwrap();
    fs.remove("file").unwrap();
    fs.write("second", vec![1; 700 << 10]).unwrap();
}

#[test]
fn many_writers_keep_within_the_quota() {
    let fixture = Fixture::new(&VolumeConfig {
        quota_mib: Some(1),
        ..VolumeConfig::default()
    });
    let barrier = std::sync::Barrier::new(4);
    for round in 0..20 {
        let written = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|number| {
                    let (fs, barrier) = (&fixture.fs, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        fs.write(number.to_string(), vec![1; 400 << 10]).is_ok()
                    })
                })
                .collect();
            let written = writers.into_iter().map(|writer| writer.join().unwrap());
            written.filter(|&written| written).count()
        });
        assert_eq!(written, 2, "{round}");
        for number in 0..4 {
            fixture.fs.remove_all(number.to_string()).unwrap();
        }
    }
}

/// Locks a byte of an account, as a machine does.
fn lock(account: &fs::File, kind: i32, byte: i64) {
    let lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(account, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
}

#[test]
fn a_machine_that_changes_the_files_is_waited_for() {
    let fixture = Fixture::new(&VolumeConfig {
        quota_mib: Some(1),
        ..VolumeConfig::default()
    });
    fixture.fs.write("file", vec![1; 100 << 10]).unwrap();
    let path = fixture.fs.volume.usage_ledger().unwrap();
    let machine = fs::File::options().write(true).open(path).unwrap();
    lock(&machine, libc::F_WRLCK, 1);
    type Growing = fn(&VolumeFs) -> Result<(), VolumeFsError>;
    let operations: [Growing; 3] = [
        |fs| fs.write("other", vec![1; 100 << 10]),
        |fs| fs.mkdir("directory"),
        |fs| fs.copy("file", "copy"),
    ];
    std::thread::scope(|scope| {
        let (done, results) = std::sync::mpsc::channel();
        for operation in operations {
            let (done, fs) = (done.clone(), fixture.fs.clone());
            scope.spawn(move || done.send(operation(&fs)));
        }
        let early = results.recv_timeout(std::time::Duration::from_millis(100));
        assert!(early.is_err(), "{early:?}");
        // Now nothing fits any more.
        fs::write(fixture.host("guest"), vec![1; 1 << 20]).unwrap();
        lock(&machine, libc::F_UNLCK, 1);
        for result in results.iter().take(operations.len()) {
            let exceeded = matches!(result, Err(VolumeFsError::QuotaExceeded { .. }));
            assert!(exceeded, "{result:?}");
        }
    });
}

#[test]
fn files_without_a_name_count_while_their_machine_lives() {
    let fixture = Fixture::new(&VolumeConfig {
        quota_mib: Some(1),
        ..VolumeConfig::default()
    });
    let path = fixture.fs.volume.usage_ledger().unwrap();
    let mut account = [0; 512];
    account[..8].copy_from_slice(b"msbquota");
    // 400 KiB that are orphaned, 400 KiB of the first machine.
    for number in [32, 40] {
        account[number..number + 8].copy_from_slice(&(400_u64 << 10).to_ne_bytes());
    }
    fs::write(&path, account).unwrap();
    let fits = |kib: usize| match fixture.fs.write("file", vec![1; kib << 10]) {
        Ok(()) => true,
        Err(VolumeFsError::QuotaExceeded { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    assert!(fits(900), "there is no machine");
    let machine = fs::File::options().write(true).open(&path).unwrap();
    let lock = |kind, byte| lock(&machine, kind, byte);
    lock(libc::F_WRLCK, 0);
    assert!(!fits(700));
    assert!(fits(500));
    lock(libc::F_WRLCK, 2);
    assert!(!fits(500));
    assert!(fits(150));
}

/// Every operation, with one of its paths from outside.
type Operation = fn(&VolumeFs, &str) -> Result<(), VolumeFsError>;

const OPERATIONS: [(&str, Operation); 14] = [
    ("read", |fs, path| fs.read(path).map(drop)),
    ("read_string", |fs, path| fs.read_string(path).map(drop)),
    ("write", |fs, path| fs.write(path, "x")),
    ("list", |fs, path| fs.list(path).map(drop)),
    ("mkdir", |fs, path| fs.mkdir(path)),
    ("remove", |fs, path| fs.remove(path)),
    ("remove_file", |fs, path| fs.remove_file(path)),
    ("remove_all", |fs, path| fs.remove_all(path)),
    ("exists", |fs, path| fs.exists(path).map(drop)),
    ("stat", |fs, path| fs.stat(path).map(drop)),
    ("copy from", |fs, path| fs.copy(path, "new")),
    ("copy to", |fs, path| fs.copy("file", path)),
    ("rename from", |fs, path| fs.rename(path, "new")),
    ("rename to", |fs, path| fs.rename("file", path)),
];

#[test]
fn no_operation_leaves_the_volume() {
    let limited = VolumeConfig {
        quota_mib: Some(4),
        ..VolumeConfig::default()
    };
    for config in [VolumeConfig::default(), limited] {
        let fixture = Fixture::new(&config);
        let fs = &fixture.fs;
        let outside = fixture._root.path().join("outside");
        std::fs::create_dir_all(outside.join("sub")).unwrap();
        std::fs::write(outside.join("precious"), "kept").unwrap();
        fs.write("file", "of the volume").unwrap();
        fs.mkdir("a/b").unwrap();
        symlink(&outside, fixture.host("out")).unwrap();
        symlink("../../../../outside", fixture.host("a/up")).unwrap();
        symlink("/no/such/place", fixture.host("dangling")).unwrap();
        let precious = outside.join("precious");
        for path in [
            precious.to_str().unwrap(),
            "/",
            "..",
            "../x",
            "../../../outside/precious",
            "a/../../x",
            "./a/b/../../../x",
            "nope/../../x",
            "file/../../x",
            "out/precious",
            "out/sub/new",
            "a/up/precious",
            "out/../data",
            "dangling/x",
        ] {
            for (name, operation) in OPERATIONS {
                let error = operation(fs, path).expect_err(&format!("{name} {path}"));
                let escapes = matches!(&error, VolumeFsError::PathEscape { path: given } if given == Path::new(path));
                assert!(escapes, "{name} {path}: {error:?}");
            }
        }
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "kept");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 2);
        let mut names = fs.list("").unwrap();
        names.retain(|entry| {
            !["a", "dangling", "file", "out"].contains(&entry.name.to_str().unwrap())
        });
        assert_eq!(names, [], "something was made");
    }
}

#[test]
fn names_count_as_well_as_contents() {
    let fixture = Fixture::new(&VolumeConfig {
        quota_mib: Some(1),
        ..VolumeConfig::default()
    });
    let fs = &fixture.fs;
    let exceeded = |result| matches!(result, Err(VolumeFsError::QuotaExceeded { .. }));
    let volume = fixture.volumes.get(&"data".parse().unwrap()).unwrap();
    let left = || (1 << 20) - volume.used_bytes().unwrap();
    fs.mkdir("old").unwrap();
    fs.write("small", "").unwrap();
    // A block is left: enough for the name of a file, and not for a directory, which has a block of its own besides.
    let size = left() - 2 * 4096;
    fs.write("file", vec![1; usize::try_from(size).unwrap()])
        .unwrap();
    std::fs::write(fixture.host("rest"), vec![1; 4096]).unwrap();
    assert_eq!(left(), 4096);
    for path in ["new", "old/new", "new/with/more", "./new"] {
        assert!(exceeded(fs.mkdir(path)), "{path}");
    }
    assert_eq!(std::fs::read_dir(fixture.host("old")).unwrap().count(), 0);
    fs.mkdir("old").unwrap();
    assert!(exceeded(fs.copy("old", "new")));
    fs.write("empty", "").unwrap();
    fs.write("empty", vec![1; 4096]).unwrap();
    // Nothing is left, and what needs nothing goes on.
    assert!(exceeded(fs.write("other", "")));
    assert!(exceeded(fs.copy("small", "other")));
    assert!(!fs.exists("other").unwrap());
    fs.copy("small", "empty").unwrap();
    fs.write("file", "").unwrap();
    fs.mkdir("new").unwrap();
    // A copy makes two files of one with two names.
    fs.write("old/file", vec![1; 300 << 10]).unwrap();
    for name in ["old/second", "old/third"] {
        std::fs::hard_link(fixture.host("old/file"), fixture.host(name)).unwrap();
    }
    assert!(exceeded(fs.copy("old", "copy")));
    assert!(!fs.exists("copy").unwrap());
}

#[test]
fn a_disk_in_use_is_left_alone() {
    let fixture = Fixture::new(&VolumeConfig::default());
    let config = VolumeConfig {
        kind: VolumeKind::Disk,
        size_mib: Some(16),
        ..VolumeConfig::default()
    };
    let disk = fixture
        .volumes
        .create(&"disk".parse().unwrap(), &config)
        .unwrap();
    let fs = disk.fs();
    let in_use = |error| matches!(error, VolumeFsError::Unsupported { name } if name == "disk");
    // As a machine opens it.
    let image = fs::File::options()
        .read(true)
        .write(true)
        .open(disk.disk_image().unwrap())
        .unwrap();
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&image, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    assert!(in_use(fs.write("file", "").unwrap_err()));
    assert!(in_use(fs.list("").unwrap_err()));
    assert!(in_use(fs.remove_all("x").unwrap_err()));
    drop(image);
    // A machine that this process pretends to start.
    let wanted = NamedVolume {
        name: "disk".parse().unwrap(),
        mode: VolumeMode::Existing,
        read_only: true,
    };
    let volume_use = fixture
        .volumes
        .acquire(&wanted, &"web".parse().unwrap())
        .unwrap();
    assert!(in_use(fs.read("file").unwrap_err()));
    drop(volume_use);
}

#[test]
fn without_a_program_a_disk_cannot_be_reached_and_stays_free() {
    let fixture = Fixture::new(&VolumeConfig::default());
    let config = VolumeConfig {
        kind: VolumeKind::Disk,
        size_mib: Some(16),
        ..VolumeConfig::default()
    };
    let name = "disk".parse().unwrap();
    let disk = fixture.volumes.create(&name, &config).unwrap();
    // What is not even a program cannot be executed.
    let bin = disk.home().bin();
    fs::create_dir(&bin).unwrap();
    fs::create_dir(disk.home().kernel()).unwrap();
    for file in [
        bin.join("msb"),
        disk.home().kernel().join("vmlinux"),
        disk.home().kernel().join("initramfs.cpio"),
    ] {
        fs::write(file, "").unwrap();
    }
    let error = disk.fs().read("file").unwrap_err();
    assert!(matches!(error, VolumeFsError::Machine { .. }), "{error:?}");
    assert_eq!(fs::read_dir(disk.home().run()).unwrap().count(), 1);
    fixture.volumes.remove(&name).unwrap();
}
