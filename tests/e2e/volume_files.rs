//! The files of a volume that is a disk, as a program on the host reaches them: `VolumeFs` of the library.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use microsandbox::volumes::{
    FsEntryKind, VolumeConfig, VolumeFs, VolumeFsError, VolumeKind, Volumes,
};
use msb_tests::Home;
use msb_tests::disk_images::assert_clean;
use msb_tests::sandboxes::install;

/// Makes a disk of 64 MiB named `data`; returns its files and its image.
fn disk(home: &Home) -> (VolumeFs, PathBuf) {
    install(home);
    let volumes = Volumes::open(&microsandbox::home::Home::at(home.msb_home())).unwrap();
    let config = VolumeConfig {
        kind: VolumeKind::Disk,
        size_mib: Some(64),
        ..VolumeConfig::default()
    };
    let volume = volumes.create(&"data".parse().unwrap(), &config).unwrap();
    let image = volume.disk_image().unwrap();
    (volume.fs(), image)
}

fn names(fs: &VolumeFs, path: &str) -> Vec<String> {
    let entries = fs.list(path).unwrap().into_iter();
    entries
        .map(|entry| entry.name.into_string().unwrap())
        .collect()
}

#[test]
fn what_the_host_does_with_a_disk_a_sandbox_sees_and_the_other_way_round() {
    let home = Home::new();
    let (fs, image) = disk(&home);
    fs.mkdir("a/b").unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    fs.write("a/b/large", &large).unwrap();
    assert!(fs.read("a/b/large").unwrap() == large);
    fs.copy("a", "c").unwrap();
    fs.rename("c/b/large", "c/moved").unwrap();
    fs.remove("c/b").unwrap();
    assert_eq!(names(&fs, "c"), ["moved"]);
    let entry = fs.stat("c/moved").unwrap();
    assert_eq!(
        (entry.kind, entry.size, entry.mode),
        (FsEntryKind::File, 3_000_000, 0o644)
    );
    fs.remove_all("a").unwrap();
    assert!(!fs.exists("a").unwrap());
    let error = fs.read("a").unwrap_err();
    assert!(matches!(error, VolumeFsError::NotFound { .. }), "{error}");
    // Nothing but what a new ext4 has.
    assert_eq!(names(&fs, ""), ["c", "lost+found"]);
    assert_clean(&image);

    let script =
        "sha256sum </data/c/moved; echo guest >/data/c/text; ln -s ../../etc/passwd /data/c/out";
    let guest = home.busybox().with(["--volume=data:/data"]);
    let sum = guest.shell(script);
    let local = home.path().join("large");
    fs::write(&local, &large).unwrap();
    let expected = msb_tests::disk_images::sum(&local);
    assert_eq!(sum.lines(), [format!("{expected}  -")]);
    assert_eq!(fs.read_string("c/text").unwrap(), "guest\n");
    for path in ["c/out", "../x", "/etc/passwd"] {
        let error = fs.read(path).unwrap_err();
        assert!(matches!(error, VolumeFsError::PathEscape { .. }), "{error}");
        let error = fs.write(path, "x").unwrap_err();
        assert!(matches!(error, VolumeFsError::PathEscape { .. }), "{error}");
    }
    assert_clean(&image);
    assert_eq!(home.left_over(), [""; 0]);
}

#[test]
fn a_disk_belongs_to_the_sandbox_that_has_it() {
    let home = Home::new();
    let (fs, image) = disk(&home);
    fs.write("file", "host").unwrap();
    let guest = home.busybox().with(["--volume=data:/data"]);
    let mut running = guest.start("cat /data/file; echo; read line; echo guest >/data/file");
    running.stdout.wait_for("host\n");
    for error in [
        fs.read("file").unwrap_err(),
        fs.write("file", "x").unwrap_err(),
    ] {
        assert!(
            matches!(error, VolumeFsError::Unsupported { .. }),
            "{error}"
        );
    }
    running.send("\n");
    assert_eq!(running.finish().lines(), ["host"]);
    assert_eq!(fs.read_string("file").unwrap(), "guest\n");
    assert_clean(&image);
}
