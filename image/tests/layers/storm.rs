//! Entries with hostile names in any order: they are refused, or become an image that is in order, for our own reader and
//! for fsck.erofs, which knows nothing of it.

use std::fs::File;

use proptest::prelude::*;

use image::erofs::{BLOCK, InodeId, Kind, Reader, merge};
use image::layer::Limits;
use tempfile::NamedTempFile;

use crate::archives::{Archive, Fields};
use crate::images::{converted, judge, judge_merged};

/// Components that paths and links are made of; those that mean something among them.
const COMPONENTS: [&[u8]; 14] = [
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
    b"a",
    b"b",
];

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&COMPONENTS[..]), 1..4)
        .prop_map(|components| components.join(&b'/'))
}

fn entry() -> impl Strategy<Value = (u8, Vec<u8>, Vec<u8>, usize)> {
    let kinds = prop::sample::select(b"000111222555346".to_vec());
    (kinds, path(), path(), 0..9000_usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_is_accepted_is_in_order(entries in prop::collection::vec(entry(), 0..24)) {
        let limits = Limits { depth: 20, ..Limits::default() };
        // An entry that is refused would take the whole archive with it.
        let mut archive = Archive::new();
        let mut accepted = converted(&[], &limits).unwrap();
        for (kind, path, link, size) in entries {
            let content = if kind == b'0' { vec![kind; size] } else { Vec::new() };
            let fields = Fields { kind, link, content, ..Fields::default() };
            let longer = archive.clone().entry(path, &fields);
            if let Ok(image) = converted(longer.bytes(), &limits) {
                (archive, accepted) = (longer, image);
            }
        }
        let (file, of) = accepted;
        check(file.as_file(), of.image_bytes, false);
        judge(file.path());
        let merged = NamedTempFile::new().unwrap();
        let bytes = merge(&[file.as_file(), file.as_file()], merged.as_file()).unwrap();
        check(merged.as_file(), bytes + 2 * of.image_bytes, true);
        judge_merged(merged.path(), &[file.path(), file.path()]);
    }
}

/// An image can be read, its files lie in it, and no whiteout shows under its own name, or at all when it is merged.
fn check(image: &File, bytes: u64, merged: bool) {
    let tree = Reader::open(image).unwrap().tree().unwrap();
    let mut directories = vec![InodeId::ROOT];
    while let Some(directory) = directories.pop() {
        for (name, child) in tree.children(directory) {
            assert!(
                !name.contains(&b'/') && !name.starts_with(b".wh."),
                "{name:?}"
            );
            match &tree.inode(child).kind {
                Kind::File(extent) => {
                    assert!(
                        u64::from(extent.block) * BLOCK + extent.size <= bytes,
                        "{extent:?}"
                    );
                }
                Kind::Directory(directory) => {
                    assert!(!merged || !(directory.opaque || directory.implied));
                    directories.push(child);
                }
                kind => assert!(!merged || !kind.is_whiteout()),
            }
        }
    }
}
