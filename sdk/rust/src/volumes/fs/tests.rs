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
