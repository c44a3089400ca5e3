//! Archives as the programs write them that are in use: GNU tar, bsdtar, Python's tarfile.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use image::erofs::Kind;
use tempfile::TempDir;

use crate::archives::{Archive, Fields, output};
use crate::images::{Image, image};

/// A directory with everything that an ordinary user can make and that strains archives.
fn tree() -> TempDir {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let long = "long-".repeat(30);
    let deep = root.join(&long).join("d".repeat(255)).join(&long);
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f".repeat(255)), "deep").unwrap();
    symlink("t".repeat(300), root.join("link")).unwrap();
    fs::hard_link(deep.join("f".repeat(255)), root.join("hard")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"not \xff UTF-8 \x01\n\"=,");
    fs::write(root.join(odd), "odd").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("large"), vec![7; 300_001]).unwrap();
    sparse(&root.join("sparse"));
    directory
}

/// A file of 5 MiB and a bit with data at three places, and holes between them and at its end.
fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len((5 << 20) + 100).unwrap();
    for place in [0, 1 << 20, 3 << 20] {
        file.write_all_at(&[9; 5000], place).unwrap();
    }
}

/// A file with so many stretches that a header has no room for them.
fn scattered(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(200 << 16).unwrap();
    for index in 0..200 {
        file.write_all_at(&[index as u8 + 1; 4096], index << 16)
            .unwrap();
    }
}

/// Asserts that an image has what is in a directory.
#[track_caller]
fn assert_has(image: &Image, root: &Path) {
    let paths = output(root, "find", &[".", "-mindepth", "1", "-print0"]);
    let mut count = 1;
    for path in paths
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
    {
        let at = root.join(std::ffi::OsStr::from_bytes(path));
        let id = path.split(|byte| *byte == b'/').skip(1).fold(
            image::erofs::InodeId::ROOT,
            |id, name| {
                image
                    .tree
                    .child(id, name)
                    .unwrap_or_else(|| panic!("{}", path.escape_ascii()))
            },
        );
        let metadata = fs::symlink_metadata(&at).unwrap();
        match &image.tree.inode(id).kind {
            Kind::Directory(_) => assert!(metadata.is_dir()),
            Kind::Symlink(target) => {
                assert_eq!(
                    **target,
                    *fs::read_link(&at).unwrap().as_os_str().as_bytes()
                );
            }
            Kind::File(extent) => {
                let content = crate::images::content(image.file.as_file(), *extent);
                assert!(content == fs::read(&at).unwrap(), "{}", path.escape_ascii());
            }
            other => panic!("{other:?}"),
        }
        count += 1;
    }
    assert_eq!(image.listing().len(), count);
    assert_eq!(image.find("hard"), image.find(&deep_file()));
    assert_eq!(image.tree.inode(image.find("hard")).links(), 2);
}

fn deep_file() -> String {
    let long = "long-".repeat(30);
    format!("{long}/{}/{long}/{}", "d".repeat(255), "f".repeat(255))
}

#[test]
fn gnu_tar_in_all_its_formats() {
    let tree = tree();
    scattered(&tree.path().join("scattered"));
    for format in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--format=posix"],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &[
            "--format=posix",
            "--pax-option=globexthdr.name=global,comment=of all",
        ],
    ] {
        let arguments = [format, &["-c", "."]].concat();
        let archive = output(tree.path(), "tar", &arguments);
        let image = image(&archive);
        assert_has(&image, tree.path());
        if format.contains(&"--sparse") {
            // Holes were not stored.
            assert!(archive.len() < 3 << 20, "{format:?}: {}", archive.len());
        }
    }
}

#[test]
fn gnu_tar_in_the_formats_before() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("d")).unwrap();
    fs::write(directory.path().join("d/file"), "content").unwrap();
    // The prefix of ustar.
    let long = format!("{}/{}", "p".repeat(150), "n".repeat(100));
    fs::create_dir(directory.path().join("p".repeat(150))).unwrap();
    fs::write(directory.path().join(&long), "prefixed").unwrap();
    let ustar = image(&output(
        directory.path(),
        "tar",
        &["--format=ustar", "-c", "d", &long],
    ));
    assert_eq!(ustar.content(&long), b"prefixed");
    let v7 = image(&output(
        directory.path(),
        "tar",
        &["--format=v7", "-c", "d"],
    ));
    assert_eq!(v7.content("d/file"), b"content");
    assert!(v7.line("/d").starts_with("dir 0755"));
}

#[test]
fn bsdtar_and_its_formats() {
    let tree = tree();
    for format in ["pax", "gnutar"] {
        let option = format!("--format={format}");
        let image = image(&output(tree.path(), "bsdtar", &[&option, "-c", "."]));
        assert_has(&image, tree.path());
    }
}

#[test]
fn python_tarfile_and_its_formats() {
    let tree = tree();
    for format in ["PAX_FORMAT", "GNU_FORMAT"] {
        let script = format!(
            "import sys, tarfile; out = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', \
             format=tarfile.{format}, errors='surrogateescape'); out.add('.'); out.close()"
        );
        let image = image(&output(tree.path(), "python3", &["-c", &script]));
        assert_has(&image, tree.path());
    }
}

#[test]
fn owners_times_and_attributes_of_extended_headers() {
    let archive = Archive::new()
        .pax(&[
            ("mtime", b"1700000000.123456789123"),
            ("uid", b"4000000000"),
            ("gid", b"3000000"),
            (
                "SCHILY.xattr.security.capability",
                b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
            ("SCHILY.xattr.user.with=equals", b"a\nb\0c"),
            ("SCHILY.xattr.trusted.x", b""),
        ])
        .file("file", "x")
        .pax(&[("mtime", b"-1.25")])
        .file("old", "y")
        .pax(&[("mtime", b"12"), ("path", b"named/by/header")])
        .file("ignored", "z")
        .finish();
    let image = image(&archive);
    assert_eq!(
        image.line("/file"),
        "file 0644 4000000000:3000000 1700000000.123456789 1 x \
         security.capability=\\x01\\x00\\x00\\x02\\x00\\x04\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00 \
         system.posix_acl_access=\\x02\\x00\\x00\\x00 trusted.x= user.with=equals=a\\nb\\x00c"
    );
    assert_eq!(image.line("/old"), "file 0644 0:0 -2.750000000 1 y");
    assert_eq!(
        image.line("/named/by/header"),
        "file 0644 0:0 12.000000000 1 z"
    );
}

#[test]
fn what_a_global_header_says_holds_for_all_that_follow() {
    let archive = Archive::new()
        .file("before", "")
        .raw("global", b'g', b"9 uid=12\n9 gid=34\n")
        .file("first", "")
        .pax(&[("uid", b"56"), ("gid", b"")])
        .file("second", "")
        .finish();
    let image = image(&archive);
    for (path, owner) in [
        ("/before", " 0:0 "),
        ("/first", " 12:34 "),
        ("/second", " 56:0 "),
    ] {
        assert!(image.line(path).contains(owner), "{}", image.line(path));
    }
}

#[test]
fn numbers_in_binary() {
    let mut archive = Archive::new();
    let mut header = [0; 512];
    header[..4].copy_from_slice(b"file");
    header[100..107].copy_from_slice(b"0000600");
    header[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xee, 0x6b, 0x28, 0x00]);
    header[116..124].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0]);
    header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    header[136..148].copy_from_slice(&[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    ]);
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar  \0");
    archive.record(header);
    archive.content(b"abc");
    let image = image(&archive.finish());
    assert_eq!(
        image.line("/file"),
        "file 0600 4000000000:3000000 -2.000000000 1 abc"
    );
}

#[test]
fn names_of_every_byte_and_length() {
    let mut archive = Archive::new();
    for byte in (1..=255_u8).filter(|byte| *byte != b'/' && *byte != b'.') {
        archive = archive.file([byte], [byte]);
    }
    for length in 2..=255 {
        archive = archive.file("n".repeat(length), length.to_string());
    }
    let longest = [b'\xfe'; 255];
    archive = archive.file(longest, "longest");
    let image = image(&archive.finish());
    assert_eq!(image.listing().len(), 1 + 253 + 254 + 1);
    assert!(
        image
            .line(&format!("/{}", "\\xfe".repeat(255)))
            .starts_with("file")
    );
    assert_eq!(image.content(&"n".repeat(255)), b"255");
    assert_eq!(
        image.line("/\\xff"),
        "file 0644 0:0 1600000000.000000000 1 \\xff"
    );
}

#[test]
fn a_hundred_thousand_entries() {
    let mut archive = Archive::new();
    for index in 0..100_000 {
        let path = format!("d{}/file-{index:06}", index % 7);
        archive = archive.file(path, if index % 1000 == 0 { "x" } else { "" });
    }
    let image = image(&archive.finish());
    assert_eq!(image.converted.entries, 100_000);
    assert_eq!(image.listing().len(), 100_000 + 7 + 1);
    assert_eq!(image.content("d1/file-097000"), b"x");
}

/// Nearly all of it is a hole, in the archive, too: what is tested is places and sizes of more than 32 bits, without
/// 4 GiB on the disk.
#[test]
fn a_file_of_more_than_4_gib() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("huge");
    let size = (4_u64 << 30) + 12_345;
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    let archive = output(
        directory.path(),
        "tar",
        &["--format=posix", "--sparse", "-c", "huge"],
    );
    let (file, converted) = crate::images::converted(&archive, &Default::default()).unwrap();
    let image = crate::images::opened(file, converted);
    let Kind::File(extent) = image.tree.inode(image.find("huge")).kind else {
        panic!("it is no file");
    };
    assert_eq!(extent.size, size);
    let mut end = [0; 4];
    let place = u64::from(extent.block) * image::erofs::BLOCK + size - 4;
    image.file.as_file().read_exact_at(&mut end, place).unwrap();
    assert_eq!(&end, b"\0end");
    // The holes are ones of the image's file.
    let metadata = image.file.as_file().metadata().unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) < 2048);
    // Not extracted: fsck.erofs 1.5 reads a file at once, and counts in 32 bits.
    crate::images::judge_merged(image.file.path(), &[]);
}

#[test]
fn attributes_that_many_files_have_are_stored_once() {
    let label = vec![b'l'; 3000];
    let records = [
        ("SCHILY.xattr.security.label", &label[..]),
        ("SCHILY.xattr.user.own", b"1"),
    ];
    let mut archive = Archive::new();
    for index in 0..500 {
        archive = archive
            .pax(&records)
            .entry(format!("{index}"), &Fields::default());
    }
    let image = image(&archive.finish());
    assert!(
        image.converted.image_bytes < 200 << 10,
        "{}",
        image.converted.image_bytes
    );
    assert!(image.line("/499").ends_with(" user.own=1"));
    assert!(image.line("/499").contains(&"l".repeat(3000)));
}
