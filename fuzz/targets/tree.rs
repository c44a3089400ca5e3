//! Trees that a guest sends, written to the host: nothing outside of their place is touched.
#![no_main]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use files::{Files, TreePolicy, TreeSink, TreeWriter};
use protocol::{Bytes, ClockTime, ExtendedAttribute, FileReply, FrameDecoder, NodeKind, TreeNode};

/// Components that paths and links are made of; the hostile ones among them.
const COMPONENTS: [&[u8]; 12] = [
    b"a", b"b", b"c", b"..", b".", b"", b"outside", b"secret", b"link", b"target", b"\xff", b"a\0",
];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let root = tempfile::tempdir().expect("a directory");
    let (target, outside) = (root.path().join("target"), root.path().join("outside"));
    fs::create_dir(&target).expect("a directory");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("secret"), "secret").expect("a file");
    symlink("../outside", target.join("link")).expect("a link");
    let before = seen(root.path());

    let files = Files::open(&target).expect("the target");
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    let policy = TreePolicy {
        owners: choice & 1 != 0,
        // Devices are harmless here, but would be made by root.
        special: choice & 2 != 0 && !nix::unistd::geteuid().is_root(),
    };
    let mut writer = TreeWriter::new(&files, "", policy).expect("a writer");
    match choice & 4 {
        0 => write_frames(&mut writer, rest),
        _ => write_script(&mut writer, rest),
    }
    let _ = writer.finish();
    assert_eq!(seen(root.path()), before);
});

/// What lies beside the target: names, contents and permissions.
fn seen(root: &Path) -> Vec<(std::path::PathBuf, u32, Vec<u8>)> {
    let outside = root.join("outside");
    let mut seen = Vec::new();
    for directory in [root, outside.as_path()] {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let mode = fs::symlink_metadata(&path)
                .expect("a file")
                .permissions()
                .mode();
            seen.push((path.clone(), mode, fs::read(path).unwrap_or_default()));
        }
    }
    seen.sort();
    seen
}

/// Takes `input` as what comes from a guest.
fn write_frames(writer: &mut TreeWriter<'_>, mut input: &[u8]) {
    let mut decoder = FrameDecoder::new();
    while decoder.read_from(&mut input).is_ok_and(|count| count > 0) {
        while let Ok(Some(reply)) = decoder.next_frame() {
            let _ = match reply {
                FileReply::Node(node) => writer.node(node),
                FileReply::Data(data) => writer.data(data),
                FileReply::Hole(length) => writer.hole(length),
                _ => return,
            };
        }
    }
}

/// Takes `input` as choices among nodes that try to get out.
fn write_script(writer: &mut TreeWriter<'_>, input: &[u8]) {
    for step in input.chunks_exact(6).take(64) {
        let path = Bytes(path(&step[1..4]));
        let kind = match step[0] % 7 {
            0 => NodeKind::Directory,
            1 => NodeKind::File { size: 3 },
            2 => NodeKind::Symlink {
                target: Bytes(self::path(&step[3..6])),
            },
            3 => NodeKind::HardLink {
                to: Bytes(self::path(&step[3..6])),
            },
            4 => NodeKind::Fifo,
            5 => NodeKind::Socket,
            _ => {
                let _ = writer.data(b"abc");
                continue;
            }
        };
        let _ = writer.node(TreeNode {
            path,
            mode: u32::from(step[5]) << 4,
            uid: 0,
            gid: 0,
            modified: ClockTime {
                seconds: i64::from(step[5]),
                nanoseconds: 0,
            },
            kind,
            xattrs: vec![ExtendedAttribute {
                name: Bytes(XATTRS[usize::from(step[5]) % XATTRS.len()].to_vec()),
                value: Bytes(step.to_vec()),
            }],
        });
    }
}

/// Names of extended attributes, those among them that nobody may give.
const XATTRS: [&[u8]; 7] = [
    b"user.a",
    b"user.",
    b"user.a\0b",
    b"security.capability",
    b"system.posix_acl_access",
    b"trusted.overlay.opaque",
    b"",
];

fn path(choices: &[u8]) -> Vec<u8> {
    let components = choices.iter().filter(|&&choice| choice < 0xf0);
    let names: Vec<_> = components
        .map(|&choice| COMPONENTS[usize::from(choice) % COMPONENTS.len()])
        .collect();
    names.join(&b'/')
}
