//! Random trees: what goes into an archive comes out of the image.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::archives::{Archive, Fields, gzip, zstd};
use crate::images::image;

/// An entry of a random tree.
#[derive(Debug, Clone)]
struct Node {
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    nanoseconds: u32,
    size: usize,
    attributes: Vec<(u8, Vec<u8>)>,
}

fn node() -> impl Strategy<Value = Node> {
    (
        prop::sample::select(vec![b'0', b'0', b'0', b'2', b'3', b'4', b'6']),
        0..0o10000_u32,
        (0..3_000_000_000_u64, 0..70_000_u64),
        0..1_000_000_000_u32,
        prop_oneof![0..200_usize, 4000..4200_usize, 0..200_000_usize],
        prop::collection::vec((0..4_u8, prop::collection::vec(any::<u8>(), 0..300)), 0..4),
    )
        .prop_map(|(kind, mode, owner, nanoseconds, size, attributes)| Node {
            kind,
            mode,
            owner,
            nanoseconds,
            size,
            attributes,
        })
}

/// Names without those that mean something.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        any::<u8>().prop_filter("", |byte| *byte != 0 && *byte != b'/'),
        1..=255,
    )
    .prop_filter("", |name| {
        !matches!(&name[..], b"." | b"..") && !name.starts_with(b".wh.")
    })
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index / 3) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn trees_survive(nodes in prop::collection::btree_map((0..12_usize, name()), node(), 0..150)) {
        let mut archive = Archive::new();
        let mut expected = BTreeMap::new();
        for ((directory, name), node) in &nodes {
            let path = [format!("directory-{directory}/").as_bytes(), name].concat();
            let fields = Fields {
                kind: node.kind,
                mode: node.mode,
                link: if node.kind == b'2' { content(node.size % 4000 + 1) } else { Vec::new() },
                device: if matches!(node.kind, b'3' | b'4') { (7, node.size as u32) } else { (0, 0) },
                content: if node.kind == b'0' { content(node.size) } else { Vec::new() },
                ..Fields::default()
            };
            let fields = Fields { link: fields.link.iter().map(|byte| (*byte).max(1)).collect(), ..fields };
            let attributes: BTreeMap<String, &[u8]> = node
                .attributes
                .iter()
                .map(|(name, value)| (format!("security.name-{name}"), &value[..]))
                .collect();
            let mtime = format!("17.{:09}", node.nanoseconds);
            let (uid, gid) = (node.owner.0.to_string(), node.owner.1.to_string());
            let mut records = vec![
                ("mtime".to_owned(), mtime.as_bytes()),
                ("uid".to_owned(), uid.as_bytes()),
                ("gid".to_owned(), gid.as_bytes()),
            ];
            let records_of_attributes = attributes
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value));
            records.extend(records_of_attributes);
            let records: Vec<(&str, &[u8])> = records.iter().map(|(name, value)| (&name[..], *value)).collect();
            archive = archive.pax(&records).entry(&path, &fields);
            let (kind, detail) = match node.kind {
                b'0' if node.size <= 40 => ("file", fields.content.escape_ascii().to_string()),
                b'0' => ("file", image::Digest::of(&fields.content).hex()),
                b'2' => ("link", fields.link.escape_ascii().to_string()),
                b'3' => ("char", format!("7:{}", node.size)),
                b'4' => ("block", format!("7:{}", node.size)),
                _ => ("fifo", String::new()),
            };
            let attributes: Vec<String> = attributes
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| format!(" {name}={}", value.escape_ascii()))
                .collect();
            let line = format!("{kind} {:04o} {uid}:{gid} {mtime} 1 {detail}{}", node.mode, attributes.concat());
            let shown = format!("/directory-{directory}/{}", name.escape_ascii());
            expected.insert(shown, line.trim_end().to_owned());
        }
        let archive = archive.finish();
        let image = image(&match nodes.len() % 3 {
            0 => gzip(&archive),
            1 => zstd(&archive),
            _ => archive,
        });
        let mut found = image.listing();
        found.retain(|_, line| !line.starts_with("dir"));
        prop_assert_eq!(found, expected);
    }
}
