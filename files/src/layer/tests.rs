//! Directories as overlayfs leaves them, and the archives that they become.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chown, geteuid, mkfifo};
use protocol::MAX_DATA;
use tempfile::TempDir;

use super::{Layer, LayerSink};
use crate::FilesError;

/// The directories of an overlay.
struct Overlay {
    folder: TempDir,
}

impl Overlay {
    fn new() -> Overlay {
        let folder = tempfile::tempdir().unwrap();
        for name in ["upper", "below", "merged"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Overlay { folder }
    }

    fn upper(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join("upper").join(path)
    }

    fn below(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join("below").join(path)
    }

    fn open(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(File::open(self.folder.path().join(name))?.into())
    }

    fn archive(&self) -> Result<Vec<u8>, FilesError> {
        let mut parts = Parts::default();
        let [upper, below] = ["upper", "below"].map(|name| self.open(name).unwrap());
        let layer = Layer {
            upper: upper.as_fd(),
            below: below.as_fd(),
            merged: || self.open("merged"),
        };
        layer.read(&mut parts).map(|()| parts.0)
    }

    fn entries(&self) -> BTreeMap<String, Entry> {
        entries(&self.archive().unwrap())
    }

    fn names(&self) -> Vec<String> {
        self.entries().into_keys().collect()
    }
}

#[derive(Default)]
struct Parts(Vec<u8>);

impl LayerSink for Parts {
    type Error = FilesError;

    fn part(&mut self, part: &[u8]) -> Result<(), FilesError> {
        assert!((1..=MAX_DATA).contains(&part.len()));
        self.0.extend_from_slice(part);
        Ok(())
    }
}

/// An entry of an archive as another program reads it.
#[derive(Debug)]
struct Entry {
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    link: Option<Vec<u8>>,
    device: Option<(u32, u32)>,
    records: BTreeMap<String, Vec<u8>>,
    contents: Vec<u8>,
}

fn entries(archive: &[u8]) -> BTreeMap<String, Entry> {
    assert_eq!(archive.len() % 512, 0);
    let mut reader = tar::Archive::new(archive);
    let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut records = BTreeMap::new();
        for record in entry.pax_extensions().unwrap().into_iter().flatten() {
            let record = record.unwrap();
            let key = record.key().unwrap().to_owned();
            records.insert(key, record.value_bytes().to_vec());
        }
        let name = entry.path_bytes().escape_ascii().to_string();
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).unwrap();
        let header = entry.header();
        let device = header.device_major().unwrap();
        let described = Entry {
            kind: header.entry_type().as_byte(),
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            link: entry.link_name_bytes().map(|link| link.to_vec()),
            device: device.zip(header.device_minor().unwrap()),
            records,
            contents,
        };
        (name, described)
    };
    reader.entries().unwrap().map(read).collect()
}

fn delete(path: PathBuf) {
    mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = CString::new(name).unwrap();
    // SAFETY: path and name end with zero bytes, and the value has the length that is given.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[test]
fn nothing_makes_an_empty_archive() {
    let overlay = Overlay::new();
    assert_eq!(overlay.archive().unwrap(), [0; 1024]);
}

#[test]
fn nodes_are_told_as_they_are() {
    let overlay = Overlay::new();
    fs::create_dir(overlay.upper("dir")).unwrap();
    fs::set_permissions(overlay.upper("dir"), Permissions::from_mode(0o2751)).unwrap();
    fs::write(overlay.upper("dir/file"), "contents").unwrap();
    fs::set_permissions(overlay.upper("dir/file"), Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(overlay.upper("dir/file"), overlay.upper("dir/other")).unwrap();
    symlink("../to/\u{e9}", overlay.upper("link")).unwrap();
    mkfifo(&overlay.upper("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    let _socket = UnixListener::bind(overlay.upper("socket")).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
    let file = File::open(overlay.upper("dir/file")).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();

    let entries = overlay.entries();
    let names: Vec<_> = entries.keys().collect();
    assert_eq!(names, ["dir/", "dir/file", "dir/other", "fifo", "link"]);
    assert_eq!((entries["dir/"].kind, entries["dir/"].mode), (b'5', 0o2751));
    let (one, other) = (&entries["dir/file"], &entries["dir/other"]);
    // The order is that of the directory.
    let (file, name, link) = match one.kind {
        b'0' => (one, "dir/file", other),
        _ => (other, "dir/other", one),
    };
    assert_eq!((file.kind, file.mode), (b'0', 0o4711));
    assert_eq!(file.contents, b"contents");
    assert_eq!(file.records["mtime"], b"1234567890.987654321");
    assert_eq!(
        (link.kind, link.link.as_deref()),
        (b'1', Some(name.as_bytes()))
    );
    assert!(link.contents.is_empty());
    let link = &entries["link"];
    assert_eq!(
        (link.kind, link.link.as_deref()),
        (b'2', Some("../to/\u{e9}".as_bytes()))
    );
    assert_eq!(entries["fifo"].kind, b'6');
}

#[test]
fn deletions_are_files_with_a_mark() {
    let overlay = Overlay::new();
    fs::create_dir(overlay.upper("dir")).unwrap();
    delete(overlay.upper("gone"));
    delete(overlay.upper("dir/gone too"));
    let entries = overlay.entries();
    let names: Vec<_> = entries.keys().collect();
    assert_eq!(names, [".wh.gone", "dir/", "dir/.wh.gone too"]);
    let deletion = &entries[".wh.gone"];
    assert_eq!((deletion.kind, deletion.contents.len()), (b'0', 0));

    fs::write(overlay.upper("dir/.wh.file"), "").unwrap();
    let error = overlay.archive().unwrap_err();
    assert!(
        matches!(&error, FilesError::ReservedName { path } if path == Path::new("dir/.wh.file")),
        "{error:?}"
    );
}

#[test]
fn what_only_root_can_make_is_told() {
    if !geteuid().is_root() {
        return;
    }
    let overlay = Overlay::new();
    let (opaque, null) = (overlay.upper("opaque"), overlay.upper("null"));
    fs::create_dir(&opaque).unwrap();
    fs::write(opaque.join("new"), "").unwrap();
    set_attribute(&opaque, "trusted.overlay.opaque", b"y");
    set_attribute(&opaque, "trusted.overlay.origin", b"\0\xfb");
    set_attribute(&opaque, "trusted.other", b"x");
    mknod(&null, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
    mknod(
        &overlay.upper("disk"),
        SFlag::S_IFBLK,
        Mode::S_IRUSR,
        makedev(259, 70_000),
    )
    .unwrap();
    let owned = overlay.upper("owned");
    fs::write(&owned, "").unwrap();
    chown(&owned, Some(4_000_000.into()), Some(65_534.into())).unwrap();
    // cap_net_raw+ep, as setcap(8) writes it.
    let mut capability = [0; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
    set_attribute(&owned, "security.capability", &capability);
    set_attribute(&owned, "user.text", b"a=b\0c");

    let entries = overlay.entries();
    let names: Vec<_> = entries.keys().collect();
    let expected = [
        "disk",
        "null",
        "opaque/",
        "opaque/.wh..wh..opq",
        "opaque/new",
        "owned",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        (entries["null"].kind, entries["null"].device),
        (b'3', Some((1, 3)))
    );
    let disk = &entries["disk"];
    assert_eq!((disk.kind, disk.device), (b'4', Some((259, 70_000))));
    assert!(entries["opaque/"].records.keys().all(|key| key == "mtime"));
    let owned = &entries["owned"];
    assert_eq!(owned.records["uid"], b"4000000");
    assert_eq!(owned.owner.1, 65_534);
    assert_eq!(
        owned.records["SCHILY.xattr.security.capability"],
        capability
    );
    assert_eq!(owned.records["SCHILY.xattr.user.text"], b"a=b\0c");

    set_attribute(&overlay.upper("owned"), "trusted.overlay.metacopy", b"");
    let error = overlay.archive().unwrap_err();
    assert!(matches!(error, FilesError::NotInLayer { .. }), "{error:?}");
}

#[test]
fn a_renamed_directory_is_told_as_the_overlay_shows_it() {
    if !geteuid().is_root() {
        return;
    }
    let overlay = Overlay::new();
    fs::create_dir_all(overlay.upper("at/renamed")).unwrap();
    set_attribute(
        &overlay.upper("at/renamed"),
        "trusted.overlay.redirect",
        b"/old",
    );
    fs::write(
        overlay.upper("at/renamed/changed"),
        "only this is in the layer",
    )
    .unwrap();
    let shown = overlay.folder.path().join("merged/at/renamed");
    fs::create_dir_all(shown.join("inner")).unwrap();
    for name in ["changed", "beneath", "inner/file"] {
        fs::write(shown.join(name), name).unwrap();
    }
    let entries = overlay.entries();
    let names: Vec<_> = entries.keys().collect();
    let expected = [
        "at/",
        "at/renamed/",
        "at/renamed/.wh..wh..opq",
        "at/renamed/beneath",
        "at/renamed/changed",
        "at/renamed/inner/",
        "at/renamed/inner/file",
    ];
    assert_eq!(names, expected);
    assert_eq!(entries["at/renamed/changed"].contents, b"changed");
}

#[test]
fn names_of_all_kinds_are_told() {
    let overlay = Overlay::new();
    let long = "n".repeat(251);
    let deep = overlay.upper(&long).join(&long);
    fs::create_dir_all(&deep).unwrap();
    symlink("t".repeat(300), deep.join(OsStr::from_bytes(b"\xff\xfe"))).unwrap();
    // As long as a name can be without the mark of a deletion.
    delete(overlay.upper("g".repeat(251)));
    let entries = overlay.entries();
    let path = format!("{long}/{long}/\\xff\\xfe");
    assert_eq!(entries[&path].link, Some(vec![b't'; 300]));
    assert!(entries.contains_key(&format!("{long}/{long}/")));
    assert!(entries.contains_key(&format!(".wh.{}", "g".repeat(251))));
    assert_eq!(entries.len(), 4);
}

#[test]
fn holes_are_not_stored() {
    let overlay = Overlay::new();
    let mut file = File::create(overlay.upper("sparse")).unwrap();
    file.seek(SeekFrom::Start(1 << 30)).unwrap();
    file.write_all(b"in the middle").unwrap();
    file.set_len(1 << 40).unwrap();
    let entries = overlay.entries();
    let (name, entry) = entries.iter().next().unwrap();
    assert_eq!((entries.len(), &**name), (1, "sparse"));
    assert_eq!(entry.records["GNU.sparse.major"], b"1");
    assert_eq!(entry.records["GNU.sparse.minor"], b"0");
    assert_eq!(entry.records["GNU.sparse.name"], b"sparse");
    assert_eq!(entry.records["GNU.sparse.realsize"], b"1099511627776");
    let (map, data) = entry.contents.split_at(512);
    let expected = "2\n1073741824\n4096\n1099511627776\n0\n";
    assert!(
        map.starts_with(expected.as_bytes()) && map[expected.len()..].iter().all(|byte| *byte == 0)
    );
    assert!(data.len() == 4096 && data.starts_with(b"in the middle\0"));
}

#[test]
fn what_a_sandbox_makes_for_itself_is_left_out() {
    // What the agent makes is root's.
    if !geteuid().is_root() {
        return;
    }
    let overlay = Overlay::new();
    for path in ["etc", "proc", "sys", "dev", "run", ".msb", "srv"] {
        fs::create_dir(overlay.upper(path)).unwrap();
        fs::set_permissions(overlay.upper(path), Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(overlay.below("etc")).unwrap();
    fs::set_permissions(overlay.below("etc"), Permissions::from_mode(0o755)).unwrap();
    fs::write(overlay.upper("etc/hosts"), "").unwrap();
    fs::write(overlay.upper("etc/hostname"), "").unwrap();
    delete(overlay.upper("etc/resolv.conf"));
    assert_eq!(overlay.names(), ["srv/"]);
    // A directory comes with what is in it, or if it was changed itself.
    fs::write(overlay.upper("etc/passwd"), "").unwrap();
    assert_eq!(overlay.names(), ["etc/", "etc/passwd", "srv/"]);
    fs::remove_file(overlay.upper("etc/passwd")).unwrap();
    delete(overlay.upper("etc/group"));
    assert_eq!(overlay.names(), ["etc/", "etc/.wh.group", "srv/"]);
    fs::remove_file(overlay.upper("etc/group")).unwrap();
    fs::set_permissions(overlay.upper("etc"), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(overlay.names(), ["etc/", "srv/"]);
}
