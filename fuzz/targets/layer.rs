//! Layers, as bytes or as entries with hostile names, become images: whatever is accepted is in order, alone and merged, for our own
//! reader and for fsck.erofs, which knows nothing of it.
#![no_main]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use image::erofs::{BLOCK, InodeId, Kind, Reader, Tree, merge};
use image::layer::{Compression, Limits, convert};

/// Components that paths and links are made of; those that mean something among them.
const COMPONENTS: [&[u8]; 16] = [
    b"a",
    b"b",
    b"c",
    b"..",
    b".",
    b"",
    b".wh.a",
    b".wh.b",
    b".wh..wh..opq",
    b".wh..wh.plnk",
    b".wh.",
    b"\xff",
    b"a\0",
    b".wh..",
    b"d",
    b"link",
];

const KINDS: [u8; 12] = *b"0001122534Sx";

/// Of so many images that are accepted, fsck.erofs sees one: its start takes as long as many inputs.
const JUDGED: u32 = 64;

static ACCEPTED: AtomicU32 = AtomicU32::new(0);

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    let archive = match choice & 1 {
        0 => with_checksums(rest),
        _ => script(rest),
    };
    let compression = match choice & 6 {
        0 => Compression::Gzip,
        2 => Compression::Zstd,
        _ => Compression::None,
    };
    let limits = Limits {
        tar_bytes: 1 << 20,
        file_bytes: 8 << 20,
        entries: 200,
        metadata_bytes: 1 << 20,
        depth: 20,
        ..Limits::default()
    };
    let image = file();
    let Ok(converted) = convert(&archive[..], compression, &image, &limits) else {
        return;
    };
    assert_eq!(
        image.metadata().expect("a file").len(),
        converted.image_bytes
    );
    check(&image, converted.image_bytes, false);
    if ACCEPTED.fetch_add(1, Ordering::Relaxed) % JUDGED == 0 {
        judge(&image);
    }

    let merged = file();
    let bytes = merge(&[&image, &image], &merged).expect("what was written can be read");
    check(&merged, bytes + 2 * converted.image_bytes, true);
});

fn file() -> File {
    tempfile::tempfile().expect("there is a place for temporary files")
}

fn judge(image: &File) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    let output = Command::new("fsck.erofs")
        .args(["--extract", &path])
        .output()
        .expect("erofs-utils is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An image can be read, and its files lie in it and not in each other's place by accident.
fn check(image: &File, bytes: u64, merged: bool) {
    let tree = Reader::open(image)
        .and_then(|mut reader| reader.tree())
        .expect("what was written can be read");
    let mut directories = vec![InodeId::ROOT];
    while let Some(directory) = directories.pop() {
        for (name, child) in tree.children(directory) {
            assert!(!name.contains(&b'/') && !name.contains(&0) && !name.starts_with(b".wh."));
            check_inode(&tree, child, bytes, merged);
            if tree.directory(child).is_some() {
                directories.push(child);
            }
        }
    }
}

fn check_inode(tree: &Tree, id: InodeId, bytes: u64, merged: bool) {
    let inode = tree.inode(id);
    match &inode.kind {
        Kind::File(extent) => {
            let end = u64::from(extent.block) * BLOCK + extent.size;
            assert!(end <= bytes, "{extent:?} of {bytes}");
        }
        Kind::Symlink(target) => assert!((1..=4095).contains(&target.len())),
        Kind::Directory(directory) => assert!(!merged || !(directory.opaque || directory.implied)),
        kind => assert!(!merged || !kind.is_whiteout()),
    }
    for xattr in tree.xattrs(id) {
        assert!(!xattr.name().starts_with(b"trusted.overlay."));
    }
}

/// The bytes as they are, but every record that looks like a header has the right checksum.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    for record in archive.chunks_exact_mut(512) {
        if record[257..262] == *b"ustar" {
            seal(record);
        }
    }
    archive
}

fn seal(record: &mut [u8]) {
    record[148..156].fill(b' ');
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    record[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Entries, four bytes of the input for each and some more for its content.
fn script(mut bytes: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    while let Some((&[kind, path, link, size], rest)) = bytes.split_first_chunk() {
        let content = &rest[..rest.len().min(usize::from(size) % 80)];
        bytes = &rest[content.len()..];
        let mut record = [0; 512];
        let part = |index: u8| COMPONENTS[usize::from(index % 16)];
        for (start, choice) in [(0, path), (157, link)] {
            let path = [
                part(choice),
                b"/",
                part(choice >> 4),
                b"/",
                part(choice.wrapping_mul(37)),
            ];
            let path = path[..usize::from(kind >> 4) % 6].concat();
            record[start..start + path.len()].copy_from_slice(&path);
        }
        record[100..107].copy_from_slice(b"0000644");
        record[108..115].copy_from_slice(b"0000001");
        record[116..123].copy_from_slice(b"0000001");
        record[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        record[136..147].copy_from_slice(b"00000000017");
        record[156] = KINDS[usize::from(kind & 15) % KINDS.len()];
        record[257..263].copy_from_slice(b"ustar\0");
        seal(&mut record);
        archive.extend(record);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive
}
