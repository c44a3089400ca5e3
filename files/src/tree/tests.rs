//! Trees as they are, and as nobody should send them.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use proptest::prelude::*;
use protocol::{Bytes, ClockTime, ExtendedAttribute, NodeKind, TreeNode};

use super::*;
use crate::extended_attributes::{Allowed, give, list, own, path_of};
use crate::{Files, FilesError};

const ALL: TreePolicy = TreePolicy {
    owners: true,
    special: true,
};

const PLAIN: TreePolicy = TreePolicy {
    owners: false,
    special: false,
};

fn copy(from: &Path, to: &Path, policy: TreePolicy) -> Result<TreeReport, FilesError> {
    let parent = |path: &Path| Files::open(path.parent().unwrap()).unwrap();
    let (source, target) = (parent(from), parent(to));
    let mut writer = TreeWriter::new(&target, to.file_name().unwrap(), policy)?;
    source.read_tree(from.file_name().unwrap(), &mut writer)?;
    writer.finish()
}

/// What a user sees of a tree: a line for each name.
fn seen(path: &Path, lines: &mut Vec<String>, top: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    let link = fs::read_link(path).unwrap_or_default();
    let name = path.strip_prefix(top).unwrap();
    let size = if meta.is_dir() { 0 } else { meta.size() };
    lines.push(format!(
        "{name:?} {:o} {}:{} {} {}.{} {link:?} {}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        size,
        meta.mtime(),
        meta.mtime_nsec(),
        if meta.is_dir() { 0 } else { meta.nlink() },
    ));
    if meta.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        for name in names {
            seen(&name, lines, top);
        }
    }
}

fn tree(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    seen(path, &mut lines, path);
    lines
}

fn node(path: &str, kind: NodeKind) -> TreeNode {
    TreeNode {
        path: Bytes(path.into()),
        mode: 0o6755,
        uid: 0,
        gid: 0,
        modified: ClockTime {
            seconds: 5,
            nanoseconds: 7,
        },
        kind,
        xattrs: Vec::new(),
    }
}

#[test]
fn a_copy_is_what_the_tree_was() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/file"), "contents").unwrap();
    fs::hard_link(from.join("a/file"), from.join("a/b/again")).unwrap();
    fs::write(from.join("empty"), "").unwrap();
    symlink("/nowhere/at/all", from.join("a/link")).unwrap();
    mkfifo(&from.join("fifo"), Mode::S_IRUSR).unwrap();
    let sparse = fs::File::create(from.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 40 << 20).unwrap();
    sparse.set_len(100 << 20).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for (name, mode) in [
        ("a/file", 0o4711),
        ("a/b", 0o500),
        ("a", 0o1777),
        ("", 0o750),
    ] {
        let path = from.join(name);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
    if geteuid().is_root() {
        std::os::unix::fs::chown(from.join("empty"), Some(1234), Some(5678)).unwrap();
        std::os::unix::fs::lchown(from.join("a/link"), Some(1234), Some(5678)).unwrap();
    }
    let report = copy(&from, &to, ALL).unwrap();
    assert_eq!(tree(&from), tree(&to));
    assert_eq!((report.nodes, report.left_out), (9, 0));
    let copied = fs::metadata(to.join("sparse")).unwrap();
    assert!(copied.blocks() * 512 < 1 << 20, "{copied:?}");
    let mut middle = [0; 6];
    let file = fs::File::open(to.join("sparse")).unwrap();
    file.read_exact_at(&mut middle, 40 << 20).unwrap();
    assert_eq!(&middle, b"middle");
    let (one, two) = (to.join("a/file"), to.join("a/b/again"));
    assert_eq!(
        fs::metadata(one).unwrap().ino(),
        fs::metadata(two).unwrap().ino()
    );
}

fn attribute(name: &str, value: &[u8]) -> ExtendedAttribute {
    ExtendedAttribute {
        name: Bytes(name.into()),
        value: Bytes(value.into()),
    }
}

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

/// `user::rwx user:1234:r group::r mask::r other::`, as the kernel has it (`posix_acl_xattr.h`).
const ACCESS_LIST: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\xd2\x04\0\0\
                             \x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

/// CAP_NET_RAW, effective (`struct vfs_cap_data`, version 2).
const NET_RAW: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn extended_attributes_come_with_a_tree_as_far_as_they_may() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("program"), "").unwrap();
    let note = attribute("user.note", b"a\0b");
    let access = attribute("system.posix_acl_access", ACCESS_LIST);
    let capability = attribute("security.capability", NET_RAW);
    let all = Allowed {
        lists: true,
        capabilities: true,
    };
    let given = [capability, access, note.clone()];
    give(open(&from), &given[1..], all).unwrap();
    give(open(&from.join("program")), &given, all).unwrap();
    let of = |path: &str| own(&open(&to.join(path))).unwrap();
    if own(&open(&from.join("program"))).unwrap() == given && geteuid().is_root() {
        copy(&from, &to, ALL).unwrap();
        assert_eq!(of("program"), given);
        assert_eq!(of(""), given[1..]);
        assert_eq!(
            fs::metadata(to.join("program")).unwrap().mode(),
            fs::metadata(from.join("program")).unwrap().mode()
        );
        fs::remove_dir_all(&to).unwrap();
    }
    copy(&from, &to, PLAIN).unwrap();
    assert_eq!(of("program"), std::slice::from_ref(&note));
    assert_eq!(of(""), [note]);
}

#[test]
fn nobody_sends_attributes_that_a_file_system_believes() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::open(root.path()).unwrap();
    let make = |name: &str, xattrs| {
        let mut writer = TreeWriter::new(&files, name, ALL).unwrap();
        let directory = TreeNode {
            xattrs,
            ..node("", NodeKind::Directory)
        };
        writer.node(directory).unwrap();
        writer.finish()
    };
    make(
        "to",
        vec![
            attribute("trusted.overlay.opaque", b"y"),
            attribute("security.selinux", b"system_u:object_r:shadow_t:s0"),
            attribute("user.fine", b""),
        ],
    )
    .unwrap();
    let made = open(&root.path().join("to"));
    let names = list(&path_of(&made).unwrap()).unwrap();
    assert_eq!(names, b"user.fine\0");
    make("again", vec![attribute("user.a\0b", b"")]).unwrap_err();
}

#[test]
fn what_is_there_is_replaced_but_no_directory() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    for directory in [&from, &to] {
        fs::create_dir_all(directory.join("both")).unwrap();
    }
    fs::write(root.path().join("precious"), "precious").unwrap();
    fs::write(from.join("link"), "file").unwrap();
    symlink("../precious", to.join("link")).unwrap();
    fs::write(from.join("both/file"), "new").unwrap();
    fs::write(to.join("both/kept"), "old").unwrap();
    fs::set_permissions(to.join("both"), Permissions::from_mode(0o711)).unwrap();
    copy(&from, &to, PLAIN).unwrap();
    assert_eq!(fs::read(to.join("link")).unwrap(), b"file");
    assert_eq!(fs::read(to.join("both/kept")).unwrap(), b"old");
    assert_eq!(fs::read(to.join("both/file")).unwrap(), b"new");
    assert_eq!(fs::metadata(to.join("both")).unwrap().mode() & 0o777, 0o711);
    fs::create_dir(from.join("x")).unwrap();
    fs::write(to.join("x"), "file").unwrap();
    assert!(copy(&from, &to, PLAIN).is_err());
    fs::remove_dir(from.join("x")).unwrap();
    fs::write(from.join("x"), "file").unwrap();
    fs::remove_file(to.join("x")).unwrap();
    fs::create_dir(to.join("x")).unwrap();
    assert!(copy(&from, &to, PLAIN).is_err());
    let precious = fs::read(root.path().join("precious")).unwrap();
    assert_eq!(precious, b"precious");
}

#[test]
fn what_was_not_asked_for_is_left_out_and_told() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::open(root.path()).unwrap();
    let mut writer = TreeWriter::new(&files, "", PLAIN).unwrap();
    let null = NodeKind::CharacterDevice { major: 1, minor: 3 };
    for (name, kind) in [
        ("fifo", NodeKind::Fifo),
        ("null", null),
        ("s", NodeKind::Socket),
    ] {
        writer.node(node(name, kind)).unwrap();
    }
    writer
        .node(node("file", NodeKind::File { size: 2 }))
        .unwrap();
    writer.data(b"hi").unwrap();
    let report = writer.finish().unwrap();
    assert_eq!((report.left_out, report.bytes), (3, 2));
    assert_eq!(report.skipped[1].path, Path::new("null"));
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
    assert_eq!(names.len(), 1);
    let meta = fs::metadata(root.path().join("file")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o755, 5));
    assert_eq!(meta.uid(), geteuid().as_raw());
}

#[test]
fn contents_have_the_size_that_was_said() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::open(root.path()).unwrap();
    let writer = || TreeWriter::new(&files, "", PLAIN).unwrap();
    let file = || node("file", NodeKind::File { size: 2 });
    assert!(writer().data(b"x").is_err());
    let mut more = writer();
    more.node(file()).unwrap();
    more.hole(1).unwrap();
    assert!(more.data(b"xx").is_err());
    let mut fewer = writer();
    fewer.node(file()).unwrap();
    assert!(fewer.node(node("other", NodeKind::Directory)).is_err());
    let mut huge = writer();
    huge.node(node("huge", NodeKind::File { size: u64::MAX }))
        .unwrap();
    assert!(huge.hole(u64::MAX).is_err());
}

#[test]
fn no_tree_is_deeper_than_the_limit() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::open(root.path()).unwrap();
    let mut writer = TreeWriter::new(&files, "", PLAIN).unwrap();
    let mut path = String::from("d");
    let error = loop {
        if let Err(error) = writer.node(node(&path, NodeKind::Directory)) {
            break error;
        }
        path.push_str("/d");
    };
    assert!(matches!(error, FilesError::TooDeep { .. }), "{error:?}");
    drop(writer);
    fs::create_dir(root.path().join("to")).unwrap();
    let error = copy(&root.path().join("d"), &root.path().join("to"), PLAIN).unwrap_err();
    assert!(matches!(error, FilesError::TooDeep { .. }), "{error:?}");
}

#[test]
fn as_root_links_lead_to_the_root_again() {
    let root = tempfile::tempdir().unwrap();
    let guest = root.path().join("guest");
    fs::create_dir_all(guest.join("usr/bin")).unwrap();
    symlink("/usr/bin", guest.join("bin")).unwrap();
    symlink("/../../usr/bin/tool", guest.join("tool")).unwrap();
    let files = Files::open_as_root(&guest).unwrap();
    let mut writer = TreeWriter::new(&files, "", PLAIN).unwrap();
    writer.node(node("", NodeKind::Directory)).unwrap();
    writer.node(node("bin", NodeKind::Directory)).unwrap();
    writer
        .node(node("bin/tool", NodeKind::File { size: 1 }))
        .unwrap();
    writer.data(b"x").unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::read(guest.join("usr/bin/tool")).unwrap(), b"x");
    assert!(
        fs::symlink_metadata(guest.join("bin"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(files.read("tool").unwrap(), b"x");
    files.set_mode("tool", 0o600).unwrap();
    let attributes = files.attributes("bin/tool", true).unwrap();
    assert_eq!(attributes.mode, 0o100_600);
    let link = files.attributes("tool", false).unwrap();
    assert_eq!(link.mode & 0o170_000, 0o120_000);
    assert_eq!(files.read_link("bin").unwrap(), "/usr/bin");
    assert!(files.read_link("usr").is_err());
    // Beneath it, they lead out.
    let beneath = Files::open(&guest).unwrap();
    assert!(matches!(
        beneath.read("tool"),
        Err(FilesError::PathEscape { .. })
    ));
}

/// Nodes that try to get out.
fn hostile_node() -> impl Strategy<Value = TreeNode> {
    let name = || {
        prop_oneof![
            Just("a"),
            Just("b"),
            Just("a/b"),
            Just("a/secret"),
            Just("b/a/c"),
            Just("link"),
            Just("link/secret"),
            Just(""),
            Just("../outside/secret"),
            Just("a/.."),
        ]
    };
    let target = prop_oneof![
        Just("../outside"),
        Just("../outside/secret"),
        Just("../../outside/secret"),
        Just("/proc/self/cwd"),
        Just("a"),
        Just("."),
        Just("b"),
    ];
    let kind = prop_oneof![
        Just(NodeKind::Directory),
        Just(NodeKind::File { size: 1 }),
        target.prop_map(|target| NodeKind::Symlink {
            target: Bytes(target.into())
        }),
        name().prop_map(|to| NodeKind::HardLink {
            to: Bytes(to.into())
        }),
        Just(NodeKind::Fifo),
    ];
    (name(), kind).prop_map(|(name, kind)| node(name, kind))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_stream_leads_out(nodes in proptest::collection::vec(hostile_node(), 0..12)) {
        let root = tempfile::tempdir().unwrap();
        let (target, outside) = (root.path().join("target"), root.path().join("outside"));
        fs::create_dir(&target).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        fs::set_permissions(outside.join("secret"), Permissions::from_mode(0o640)).unwrap();
        symlink("../outside", target.join("link")).unwrap();
        let before = tree(&outside);
        let files = Files::open(&target).unwrap();
        let mut writer = TreeWriter::new(&files, "", ALL).unwrap();
        for node in nodes {
            let is_file = matches!(node.kind, NodeKind::File { .. });
            // Whatever fails, somebody hostile goes on.
            if writer.node(node).is_ok() && is_file {
                writer.data(b"x").unwrap();
            }
        }
        let _ = writer.finish();
        prop_assert_eq!(tree(&outside), before);
        let link = fs::symlink_metadata(target.join("link")).unwrap();
        prop_assert!(!link.file_type().is_char_device());
    }
}
