//! A guest exchanges directories for links that lead out, as fast as it can, while the host works beneath it.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use proptest::prelude::*;

use std::path::PathBuf;

use super::*;

/// How often each operation is tried.
const ROUNDS: usize = 400;

const SECRET: &str = "what is outside";

/// Everything outside, with contents.
fn snapshot(outside: &Path) -> Vec<(PathBuf, Option<Vec<u8>>, u32)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut pending = vec![outside.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let contents = metadata.is_file().then(|| fs::read(&path).unwrap());
        if metadata.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        found.push((path, contents, metadata.mode()));
    }
    found.sort();
    found
}

#[test]
fn nothing_outside_is_read_or_changed_whatever_a_guest_exchanges() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/few/levels/data");
    fs::create_dir_all(&path).unwrap();
    let fs = Files::open(&path).unwrap();
    let outside = root.path().join("outside");
    for directory in [
        outside.join("sub"),
        path.join("a/b/sub"),
        path.join("source"),
    ] {
        fs::create_dir_all(directory).unwrap();
    }
    for file in ["file", "sub/file"] {
        fs::write(outside.join(file), SECRET).unwrap();
    }
    let before = snapshot(&outside);
    // `a/b` is a directory and a link in turn, and at no time nothing.
    symlink("../../../../../outside", path.join("a/link")).unwrap();
    let (directory, link) = (path.join("a/b"), path.join("a/link"));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                // It fails while one of them is removed or made anew.
                let _ = renameat2(AT_FDCWD, &directory, AT_FDCWD, &link, flags);
            }
        });
        let mut tally = [Tally::default(); OPERATIONS];
        // On a busy machine the other thread does not run for many rounds.
        let all_succeeded = |tally: &[Tally]| tally.iter().all(|tally| tally.succeeded > 0);
        for round in 0..5 * ROUNDS {
            work(&fs, round, &mut tally);
            let raced = tally.iter().any(|tally| tally.escapes > 0);
            if round >= ROUNDS && raced && all_succeeded(&tally) {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
        let succeeded = all_succeeded(&tally);
        assert!(succeeded, "some never did what they should: {tally:?}");
        let escapes: usize = tally.iter().map(|tally| tally.escapes).sum();
        assert!(escapes > 0, "no race took place");
    });
    assert_eq!(snapshot(&outside), before);
}

/// How many there are in [`work`].
const OPERATIONS: usize = 18;

/// What became of one operation.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    succeeded: usize,
    escapes: usize,
}

/// Does one of everything.
fn work(fs: &Files, round: usize, tally: &mut [Tally; OPERATIONS]) {
    let mut tally = tally.iter_mut();
    let mut note = |result: Result<(), FilesError>| {
        let tally = tally.next().expect("there are as many");
        match result {
            Ok(()) => tally.succeeded += 1,
            Err(FilesError::PathEscape { .. }) => tally.escapes += 1,
            Err(_) => {}
        }
    };
    let (moved, copy) = (format!("source/{round}"), format!("copy {round}"));
    let inside = |contents: Vec<u8>| assert_ne!(contents, SECRET.as_bytes());
    note(fs.mkdir("a/b/sub/deep"));
    note(fs.write("a/b/file", "inside"));
    note(fs.write("a/b/sub/file", "inside"));
    note(fs.write("a/b/new", "inside"));
    note(fs.read("a/b/file").map(inside));
    note(fs.read("a/b/sub/file").map(inside));
    note(fs.read("a/b/../b/file").map(inside));
    note(fs.list("a/b").map(drop));
    note(fs.stat("a/b/file").map(drop));
    note(fs.rename("a/b/new", &moved));
    note(fs.rename(&moved, "a/b/file"));
    note(fs.copy("a", &copy));
    note(fs.read(Path::new(&copy).join("b/file")).map(inside));
    note(fs.copy("a/b/file", "a/b/copied"));
    note(fs.remove_file("a/b/file"));
    note(fs.remove("a/b/copied"));
    note(fs.remove_all("a/b/sub"));
    note(fs.remove_all(&copy));
    if round.is_multiple_of(8) {
        // One of them is the link, and is made anew.
        let _ = fs.remove_all("a/b");
        let _ = fs.remove_all("a/link");
        let _ = fs.mkdir("a/b/sub");
        let _ = fs.symlink("../../../../../outside", "a/link");
    }
}

/// What a path may consist of.
fn component() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a", "b", "..", ".", "", "up", "out", "new", "file", "dangling",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_sequence_of_operations_leads_out(
        script in prop::collection::vec((0..9_u8, prop::collection::vec(component(), 1..6)), 1..20)
    ) {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("a/few/levels/data");
        fs::create_dir_all(&data).unwrap();
        let fs = Files::open(&data).unwrap();
        let outside = root.path().join("outside");
        fs::create_dir_all(outside.join("a/b")).unwrap();
        fs::write(outside.join("file"), SECRET).unwrap();
        fs::create_dir_all(data.join("a/b")).unwrap();
        symlink("../..", data.join("a/up")).unwrap();
        symlink("../../../../outside", data.join("out")).unwrap();
        symlink(outside.join("new"), data.join("dangling")).unwrap();
        let before = snapshot(&outside);
        for (operation, components) in script {
            let path = components.join("/");
            // Most paths are nonsense.
            let _ = match operation {
                0 => fs.read(&path).map(|contents| assert_ne!(contents, SECRET.as_bytes())),
                1 => fs.write(&path, "inside"),
                2 => fs.mkdir(&path),
                3 => fs.remove(&path),
                4 => fs.remove_all(&path),
                5 => fs.rename(&path, "a/b/renamed"),
                6 => fs.rename("a/b/renamed", &path),
                7 => fs.copy(&path, "a/copied"),
                _ => fs.copy("a/copied", &path),
            };
        }
        prop_assert_eq!(snapshot(&outside), before);
        let beside: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
        prop_assert_eq!(beside.len(), 2);
        let beside_data: Vec<_> = fs::read_dir(root.path().join("a/few/levels")).unwrap().collect();
        prop_assert_eq!(beside_data.len(), 1);
    }
}
