use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::SystemTime;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use std::path::PathBuf;

use super::*;

/// A directory beside another that has to stay as it is.
struct Fixture {
    root: tempfile::TempDir,
    path: PathBuf,
    fs: Files,
}

impl Fixture {
    /// A path on the host.
    fn host(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    #[track_caller]
    fn assert_outside_is_untouched(&self) {
        let outside = self.root.path().join("outside");
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
    }
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/few/levels/data");
    fs::create_dir_all(&path).unwrap();
    fs::create_dir(root.path().join("outside")).unwrap();
    fs::write(root.path().join("outside/secret"), "secret").unwrap();
    let fs = Files::open(&path).unwrap();
    Fixture { root, path, fs }
}

/// The error code of a system call.
#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T, FilesError>) -> i32 {
    match result {
        Err(FilesError::Io { source, .. }) => source.raw_os_error().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn is_missing<T>(result: Result<T, FilesError>) -> bool {
    matches!(result, Err(FilesError::NotFound { .. }))
}

fn escapes<T>(result: Result<T, FilesError>) -> bool {
    matches!(result, Err(FilesError::PathEscape { .. }))
}

#[test]
fn what_is_written_is_read() {
    let fixture = fixture();
    let fs = &fixture.fs;
    fs.write("file", b"\xff\x00").unwrap();
    assert_eq!(fs.read("file").unwrap(), b"\xff\x00");
    fs.write("file", "shorter").unwrap();
    fs.write("file", "text").unwrap();
    assert_eq!(fs.read("./file").unwrap(), b"text");
    let entry = fs.stat("file").unwrap();
    assert_eq!(
        (entry.name.to_str(), entry.kind),
        (Some("file"), EntryKind::File)
    );
    assert_eq!((entry.size, entry.mode), (4, 0o644));
    assert!(entry.modified.elapsed().unwrap_or_default().as_secs() < 60);
    // What exists keeps its permissions.
    fs::set_permissions(fixture.host("file"), Permissions::from_mode(0o600)).unwrap();
    fs.write("file", "").unwrap();
    assert_eq!(fs.stat("file").unwrap().mode, 0o600);
    assert!(is_missing(fs.read("none")) && is_missing(fs.write("none/file", "")));
    assert_eq!(code(fs.read("")), libc::EISDIR);
}

#[test]
fn directories_are_made_with_their_parents_and_listed() {
    let fixture = fixture();
    let fs = &fixture.fs;
    fs.mkdir("a/b/c").unwrap();
    fs.mkdir("a/b//c/").unwrap();
    fs.mkdir("").unwrap();
    assert_eq!(fs.stat("a/b").unwrap().mode, 0o755);
    fs.write("a/z", "zz").unwrap();
    symlink("/nowhere", fixture.host("a/link")).unwrap();
    mkfifo(&fixture.host("a/fifo"), Mode::S_IRWXU).unwrap();
    let kinds = |path| -> Vec<_> {
        let entries = fs.list(path).unwrap().into_iter();
        entries
            .map(|entry| (entry.name.into_string().unwrap(), entry.kind))
            .collect()
    };
    let expected = [
        ("b", EntryKind::Directory),
        ("fifo", EntryKind::Other),
        ("link", EntryKind::Symlink),
        ("z", EntryKind::File),
    ];
    assert_eq!(
        kinds("a"),
        expected.map(|(name, kind)| (name.to_owned(), kind))
    );
    assert_eq!(kinds("").len(), 1);
    assert_eq!(fs.list("a").unwrap()[3].size, 2);
    assert!(is_missing(fs.list("none")));
    assert_eq!(code(fs.list("a/z")), libc::ENOTDIR);
    assert_eq!(code(fs.mkdir("a/z/x")), libc::ENOTDIR);
}

#[test]
fn what_is_removed_is_gone() {
    let fixture = fixture();
    let fs = &fixture.fs;
    fs.mkdir("a/b").unwrap();
    fs.write("a/b/file", "").unwrap();
    assert_eq!(code(fs.remove("a/b")), libc::ENOTEMPTY);
    assert_eq!(code(fs.remove_file("a/b")), libc::EISDIR);
    fs.remove_file("a/b/file").unwrap();
    fs.remove("a/b/").unwrap();
    assert!(is_missing(fs.remove("a/b")) && is_missing(fs.remove_file("a/b")));
    fs.mkdir("a/b/c").unwrap();
    symlink("..", fixture.host("a/b/c/up")).unwrap();
    fs.remove_all("a").unwrap();
    fs.remove_all("a").unwrap();
    fs.remove_all("a/b/c").unwrap();
    assert!(fs.list("").unwrap().is_empty());
    for path in ["", ".", "a/..", "a/."] {
        fs.mkdir("a").unwrap();
        let refused = |result| matches!(result, Err(FilesError::NotAnEntry { .. }));
        assert!(
            refused(fs.remove(path)) && refused(fs.remove_all(path)),
            "{path}"
        );
        assert!(
            refused(fs.rename(path, "b")) && refused(fs.copy("a", path)),
            "{path}"
        );
    }
}

#[test]
fn a_rename_replaces() {
    let fixture = fixture();
    let fs = &fixture.fs;
    fs.mkdir("a").unwrap();
    fs.write("a/new", "new").unwrap();
    fs.write("old", "old").unwrap();
    fs.rename("a/new", "old").unwrap();
    assert_eq!(fs.read("old").unwrap(), b"new");
    assert!(is_missing(fs.rename("a/new", "old")) && is_missing(fs.rename("old", "none/x")));
}

#[test]
fn a_copy_is_like_its_source() {
    let fixture = fixture();
    let fs = &fixture.fs;
    fs.mkdir("a/b").unwrap();
    fs.write("a/b/file", "text").unwrap();
    let sparse = fs::File::create(fixture.host("a/sparse")).unwrap();
    sparse.write_at(b"middle", 8 << 20).unwrap();
    sparse.set_len(64 << 20).unwrap();
    symlink("/nowhere", fixture.host("a/link")).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5);
    let file = fs::File::open(fixture.host("a/b/file")).unwrap();
    file.set_modified(long_ago).unwrap();
    file.set_permissions(Permissions::from_mode(0o4750))
        .unwrap();
    fs::set_permissions(fixture.host("a/b"), Permissions::from_mode(0o500)).unwrap();

    fs.copy("a", "c").unwrap();
    assert_eq!(fs.read("c/b/file").unwrap(), b"text");
    let copied = fs.stat("c/b/file").unwrap();
    assert_eq!((copied.mode, copied.modified), (0o4750, long_ago));
    assert_eq!(fs.stat("c/b").unwrap().mode, 0o500);
    assert_eq!(
        fs::read_link(fixture.host("c/link")).unwrap(),
        Path::new("/nowhere")
    );
    let (source, target) = (fixture.host("a/sparse"), fixture.host("c/sparse"));
    assert_eq!(fs::read(&source).unwrap(), fs::read(&target).unwrap());
    assert!(fs::metadata(target).unwrap().blocks() <= 256);

    assert_eq!(code(fs.copy("a", "c")), libc::EEXIST);
    fs.write("other", "other, and longer").unwrap();
    fs.copy("c/b/file", "other").unwrap();
    assert_eq!(fs.read("other").unwrap(), b"text");
    fs.copy("other", "other").unwrap();
    assert_eq!(fs.read("other").unwrap(), b"text");
    let error = fs.copy("a", "a/b/c").unwrap_err();
    assert!(matches!(error, FilesError::IntoItself { .. }), "{error}");
}

#[test]
fn what_could_block_or_act_is_not_opened() {
    let fixture = fixture();
    let fs = &fixture.fs;
    mkfifo(&fixture.host("fifo"), Mode::S_IRWXU).unwrap();
    symlink("fifo", fixture.host("link")).unwrap();
    let refused = |error| matches!(error, FilesError::NotRegular { .. });
    for path in ["fifo", "link"] {
        assert!(refused(fs.read(path).unwrap_err()));
        assert!(refused(fs.write(path, "x").unwrap_err()));
    }
    assert!(refused(fs.copy("fifo", "copy").unwrap_err()));
    fs.write("file", "").unwrap();
    // Nobody reads from it: open(2) says so instead of waiting.
    assert_eq!(code(fs.copy("file", "fifo")), libc::ENXIO);
    fs.rename("fifo", "other").unwrap();
    fs.remove("other").unwrap();
}

#[test]
fn no_path_leads_out() {
    let fixture = fixture();
    let fs = &fixture.fs;
    let outside = fixture.root.path().join("outside");
    fs.mkdir("a").unwrap();
    fs.write("inside", "inside").unwrap();
    symlink(&outside, fixture.host("absolute")).unwrap();
    symlink("../../../../outside", fixture.host("relative")).unwrap();
    symlink("relative", fixture.host("chain")).unwrap();
    symlink("..", fixture.host("a/up")).unwrap();
    symlink(outside.join("secret"), fixture.host("file")).unwrap();
    symlink(outside.join("new"), fixture.host("dangling")).unwrap();
    symlink("../../../../outside/new", fixture.host("a/dangling")).unwrap();
    for path in [
        "/",
        "/etc/passwd",
        outside.to_str().unwrap(),
        "..",
        "../..",
        "../data/inside",
        "a/../../x",
        "a/up/../x",
        "absolute/secret",
        "relative/secret",
        "chain/secret",
        "chain/../outside/secret",
        "absolute/new/deep",
    ] {
        assert!(escapes(fs.read(path)), "{path}");
        assert!(escapes(fs.write(path, "x")), "{path}");
        assert!(escapes(fs.list(path)), "{path}");
        assert!(escapes(fs.mkdir(path)), "{path}");
        assert!(escapes(fs.remove(path)), "{path}");
        assert!(escapes(fs.remove_file(path)), "{path}");
        assert!(escapes(fs.remove_all(path)), "{path}");
        assert!(escapes(fs.stat(path)), "{path}");
        assert!(escapes(fs.copy(path, "copy")), "{path}");
        assert!(escapes(fs.copy("inside", path)), "{path}");
        assert!(escapes(fs.rename(path, "moved")), "{path}");
        assert!(escapes(fs.rename("inside", path)), "{path}");
    }
    for path in ["file", "dangling", "a/dangling"] {
        assert!(
            escapes(fs.read(path)) && escapes(fs.write(path, "x")),
            "{path}"
        );
        assert!(escapes(fs.stat(path)) && escapes(fs.mkdir(path)), "{path}");
    }
    // Links themselves can be copied, renamed and removed.
    fs.copy("file", "second").unwrap();
    fs.rename("second", "third").unwrap();
    for path in ["third", "file", "dangling", "absolute", "relative", "chain"] {
        fs.remove_all(path).unwrap();
    }
    fixture.assert_outside_is_untouched();
    assert_eq!(fs.list("").unwrap().len(), 2);
}

#[test]
fn missing_components_are_missing_and_nothing_is_cut_out_of_a_path() {
    let fixture = fixture();
    let fs = &fixture.fs;
    assert!(is_missing(fs.write("nope/../file", "")));
    // What leads out by its text alone does so whatever is missing, and nothing is made on the way.
    assert!(escapes(fs.read("nope/../../x")));
    assert!(escapes(fs.write("nope/../../x", "")));
    assert!(escapes(fs.remove_file("nope/../../x")));
    assert!(escapes(fs.mkdir("nope/../../x")));
    assert!(!fixture.host("nope").exists());
    assert!(!fixture.root.path().join("a/few/levels/x").exists());
    // What `..` means is decided by where a link leads.
    fs.mkdir("real/deep").unwrap();
    symlink("real/deep", fixture.host("link")).unwrap();
    fs.write("link/../file", "in real").unwrap();
    assert_eq!(fs.read("real/file").unwrap(), b"in real");
    fs.mkdir("link/../made").unwrap();
    fs.stat("real/made").unwrap();
    // A link to nothing that stays inside is followed, as open(2) does.
    symlink("real/target", fixture.host("dangling")).unwrap();
    fs.write("dangling", "x").unwrap();
    assert_eq!(fs.read("real/target").unwrap(), b"x");
    symlink("loop", fixture.host("loop")).unwrap();
    assert_eq!(code(fs.read("loop")), libc::ELOOP);
    let long = format!("{}file", "./".repeat(3000));
    assert_eq!(code(fs.read(long)), libc::ENAMETOOLONG);
    fs.write("a\0b", "").unwrap_err();
}

#[test]
fn a_file_that_seems_huge_is_not_read() {
    let fixture = fixture();
    let file = fs::File::create(fixture.host("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = fixture.fs.read("huge").unwrap_err();
    assert!(matches!(error, FilesError::FileTooLarge { .. }), "{error}");
}
