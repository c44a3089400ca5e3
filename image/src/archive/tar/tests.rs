//! Archives that nobody means well with.

use std::io::Write;

use proptest::prelude::*;

use super::*;

/// An entry with whatever in its header.
fn entry(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, name, "", content.as_bytes())
}

/// What says something about the entry behind it.
fn record(text: &str) -> Vec<u8> {
    // Each length here has two digits.
    let record = format!("{} {text}\n", text.len() + 4);
    entry(EntryType::XHeader, "pax", "", record.as_bytes())
}

fn read(parts: &[Vec<u8>]) -> Result<TarIndex, ArchiveError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&parts.concat()).unwrap();
    TarIndex::read(file)
}

fn content(index: &TarIndex, name: &str) -> Option<String> {
    let bytes = index.get(name)?.read("bytes", 1 << 20).unwrap();
    Some(String::from_utf8(bytes).unwrap())
}

fn damage(parts: &[Vec<u8>]) -> &'static str {
    match read(parts) {
        Err(ArchiveError::Tar { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_archive_is_told_from_a_damaged_one() {
    for text in [&b""[..], b"short", &[b'x'; 600]] {
        let result = read(&[text.to_vec()]);
        assert!(
            matches!(result, Err(ArchiveError::NotAnArchive)),
            "{result:?}"
        );
    }
    let mut second = file("b", "content");
    second[3] ^= 1;
    assert_eq!(damage(&[file("a", "a"), second]), "a header is damaged");
    let whole = file("a", &"a".repeat(1000));
    assert_eq!(damage(&[whole[..1000].to_vec()]), "it ends early");
    let cut = file("b", "b")[..100].to_vec();
    assert_eq!(damage(&[file("a", "a"), cut]), "it ends early");
}

#[test]
fn an_archive_without_an_end_is_read_and_nothing_behind_an_end_is() {
    assert!(read(&[file("a", "1")]).unwrap().get("a").is_some());
    let ended = [file("a", "1"), vec![0; 1024], file("b", "2")];
    assert!(read(&ended).unwrap().get("b").is_none());
}

#[test]
fn names_lead_nowhere_but_into_the_archive() {
    let index = read(&[
        file("./blobs//x", "inside"),
        file("/etc/passwd", "absolute"),
        file("../up", "above"),
        file("a/../../up", "above"),
        file("a/../b", "beside"),
    ])
    .unwrap();
    assert_eq!(content(&index, "blobs/x").unwrap(), "inside");
    assert_eq!(content(&index, "b").unwrap(), "beside");
    for name in ["/etc/passwd", "etc/passwd", "../up", "up", "a/../../up"] {
        assert_eq!(content(&index, name), None, "{name}");
    }
    assert_eq!(index.entries.len(), 2);
}

#[test]
fn links_are_names_of_files_of_the_archive() {
    let index = read(&[
        file("dir/file", "content"),
        entry(EntryType::Link, "hard", "dir/file", b""),
        entry(EntryType::Symlink, "dir/soft", "./file", b""),
        entry(EntryType::Symlink, "other/soft", "../dir/soft", b""),
        entry(EntryType::Symlink, "out", "../../etc/passwd", b""),
        entry(EntryType::Symlink, "absolute", "/etc/passwd", b""),
        entry(EntryType::Symlink, "ring", "ring", b""),
        entry(EntryType::Symlink, "dangling", "nothing", b""),
    ])
    .unwrap();
    for name in ["hard", "dir/soft", "other/soft"] {
        assert_eq!(content(&index, name).as_deref(), Some("content"), "{name}");
    }
    for name in ["out", "absolute", "ring", "dangling"] {
        assert_eq!(content(&index, name), None, "{name}");
    }
}

#[test]
fn headers_of_their_own_say_more_than_the_entry() {
    let index = read(&[
        record("path=long"),
        record("size=3"),
        file("short", "abc"),
        entry(EntryType::GNULongName, "././@LongLink", "", b"gnu\0rest"),
        file("short", "def"),
        file("after", "ghi"),
    ])
    .unwrap();
    for (name, expected) in [("long", "abc"), ("gnu", "def"), ("after", "ghi")] {
        assert_eq!(content(&index, name).as_deref(), Some(expected));
    }
    assert!(index.get("short").is_none());
}

#[test]
fn headers_of_their_own_may_be_damaged() {
    for text in ["9 a=b\n", "x a=b\n", "99999 a=b\n", "5 a=b", "6 ab\n\n\n"] {
        let header = entry(EntryType::XHeader, "pax", "", text.as_bytes());
        let reason = damage(&[header, file("a", "a")]);
        assert_eq!(reason, "an extended header is damaged", "{text:?}");
    }
    let endless = entry(EntryType::GNULongName, "n", "", &[b'a'; (64 << 10) + 1]);
    assert_eq!(damage(&[endless, file("a", "a")]), "a name is too long");
    let vast = record(&format!("size={}", u64::MAX));
    assert_eq!(damage(&[vast, file("a", "a")]), "a size is too large");
    let negative = record("size=-1");
    assert_eq!(
        damage(&[negative, file("a", "a")]),
        "an extended header is damaged"
    );
    for sparse in [
        vec![record("GNU.sparse.major=1"), file("a", "a")],
        vec![entry(EntryType::GNUSparse, "a", "", b"a")],
    ] {
        assert_eq!(damage(&sparse), "it has sparse files");
    }
}

#[test]
fn what_has_no_content_takes_no_room() {
    let mut folder = entry(EntryType::Directory, "dir/", "", b"");
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(&folder);
    header.set_size(u64::MAX >> 1);
    header.set_cksum();
    folder.copy_from_slice(header.as_bytes());
    let index = read(&[folder, file("a", "a")]).unwrap();
    assert_eq!(content(&index, "a").as_deref(), Some("a"));
}

#[test]
fn the_number_of_entries_is_bounded() {
    let parts: Vec<_> = (0..=MAX_ENTRIES)
        .map(|number| file(&number.to_string(), ""))
        .collect();
    let result = read(&parts);
    assert!(
        matches!(
            result,
            Err(ArchiveError::TooLarge {
                what: "entries",
                ..
            })
        ),
        "{result:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Some bytes of a sound archive, changed, with a sum that is right again: nothing panics and what is found lies in the file.
    #[test]
    fn whatever_a_header_says_stays_in_the_archive(
        changes in proptest::collection::vec((0_usize..512 * 8, any::<u8>()), 1..24),
    ) {
        let mut archive = [
            record("path=named"),
            file("a", "content"),
            entry(EntryType::Symlink, "b", "a", b""),
            file("c", "more"),
            vec![0; 1024],
        ]
        .concat();
        for (at, byte) in changes {
            if let Some(changed) = archive.get_mut(at) {
                *changed = byte;
            }
        }
        for block in [0, 1024, 2048, 2560] {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&archive[block..block + 512]);
            header.set_cksum();
            archive[block..block + 512].copy_from_slice(header.as_bytes());
        }
        if let Ok(index) = read(&[archive]) {
            for name in index.entries.keys() {
                if let Some(section) = std::str::from_utf8(name).ok().and_then(|name| index.get(name)) {
                    prop_assert!(section.read("bytes", 1 << 20).is_ok());
                }
            }
        }
    }
}
