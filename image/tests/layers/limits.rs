//! Too much of anything is refused, with the limit in the message.

use image::layer::Limits;

use crate::archives::{Archive, Fields, gzip, zstd};
use crate::images::refusal_within;

fn limits() -> Limits {
    Limits::default()
}

#[test]
fn decompression_bombs_are_refused() {
    let limits = Limits {
        tar_bytes: 1 << 20,
        ..limits()
    };
    let bomb = Archive::new().file("zeros", vec![0; 64 << 20]).finish();
    for blob in [gzip(&bomb), zstd(&bomb), bomb] {
        assert_eq!(
            refusal_within(&blob, &limits),
            "the layer has more bytes when it is decompressed than the limit of 1048576"
        );
    }
    // What comes behind the end of the archive counts, too: it is hashed.
    let tail = [Archive::new().finish(), vec![1; 2 << 20]].concat();
    assert!(refusal_within(&gzip(&tail), &limits).contains("1048576"));
}

#[test]
fn holes_count_as_bytes_of_files() {
    let limits = Limits {
        file_bytes: 1 << 30,
        ..limits()
    };
    let size = (1_u64 << 40).to_string();
    let records = [
        ("GNU.sparse.major", &b"0"[..]),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.map", b"0,0"),
    ];
    assert_eq!(
        refusal_within(
            &Archive::new().pax(&records).file("holes", "").finish(),
            &limits
        ),
        "the layer has more bytes in its files, holes included than the limit of 1073741824"
    );
}

#[test]
fn entries_are_counted() {
    let archive = (0..5).fold(Archive::new(), |archive, index| {
        archive.file(format!("{index}"), "")
    });
    assert_eq!(
        refusal_within(
            &archive.finish(),
            &Limits {
                entries: 4,
                ..limits()
            }
        ),
        "the layer has more entries than the limit of 4"
    );
}

#[test]
fn names_links_and_attributes_are_counted() {
    let deep = "d/".repeat(500);
    let archive = (0..50).fold(Archive::new(), |archive, index| {
        archive.file(format!("{index}/{deep}x"), "")
    });
    assert_eq!(
        refusal_within(
            &archive.finish(),
            &Limits {
                metadata_bytes: 1 << 20,
                ..limits()
            }
        ),
        "the layer has more bytes of names, links and attributes than the limit of 1048576"
    );
}

#[test]
fn names_paths_and_depth_are_limited() {
    let long = Archive::new().file("n".repeat(256), "").finish();
    assert_eq!(
        refusal_within(&long, &limits()),
        "the layer has longer names than the limit of 255"
    );
    let long = Archive::new().file("n/".repeat(2049), "").finish();
    assert_eq!(
        refusal_within(&long, &limits()),
        "the layer has longer paths than the limit of 4096"
    );
    let deep = Archive::new()
        .file(format!("{}x", "d/".repeat(1001)), "")
        .finish();
    assert_eq!(
        refusal_within(&deep, &limits()),
        "the layer has deeper directories than the limit of 1000"
    );
}

#[test]
fn attributes_are_limited() {
    let value = vec![b'v'; 65_536];
    let large = |name, value: &[u8]| Archive::new().pax(&[(name, value)]).file("x", "").finish();
    assert!(
        refusal_within(&large("SCHILY.xattr.user.x", &value), &limits())
            .contains("longer than Linux allows")
    );
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(251));
    assert!(refusal_within(&large(&name, b""), &limits()).contains("longer than Linux allows"));
    let small = Limits {
        xattr_bytes: 1000,
        ..limits()
    };
    assert_eq!(
        refusal_within(&large("SCHILY.xattr.user.x", &value[..1000]), &small),
        "the layer has more bytes in the extended attributes of one file than the limit of 1000"
    );
}

#[test]
fn headers_are_limited() {
    let comment = vec![b'c'; 2 << 20];
    let archive = Archive::new()
        .pax(&[("comment", &comment)])
        .file("x", "")
        .finish();
    let expected = "the layer has longer headers of one entry than the limit of 1048576";
    assert_eq!(refusal_within(&archive, &limits()), expected);
    let name = vec![b'n'; 2 << 20];
    let archive = Archive::new()
        .raw("long", b'L', &name)
        .file("x", "")
        .finish();
    assert_eq!(refusal_within(&archive, &limits()), expected);
    // Headers for all entries that follow add up.
    let archive = (0..4).fold(Archive::new(), |archive, index| {
        let record = format!("500018 comment{index}={}\n", "c".repeat(500_001));
        assert_eq!(record.len(), 500_018);
        archive.raw("global", b'g', record.as_bytes())
    });
    assert_eq!(
        refusal_within(&archive.file("x", "").finish(), &limits()),
        expected
    );
}

#[test]
fn a_size_beyond_all_limits_is_refused_at_once() {
    let mut archive = Archive::new();
    archive.header(b"huge", &Fields::default(), (1 << 33) - 1);
    let limits = Limits {
        tar_bytes: 1 << 30,
        ..limits()
    };
    assert!(refusal_within(&archive.unfinished(), &limits).contains("1073741824"));
}
