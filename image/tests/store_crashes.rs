//! Processes that load images and remove them are killed at random moments, run at the same time, and run out of disk,
//! with this program itself in their place.
//!
//! Without libtest, because the program takes roles.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::archive::{self, Input};
use image::progress::Silent;
use image::{Digest, Store};
use serde_json::json;

/// Roles in which the program loads an archive: as a file, as a compressed one, and through a pipe.
const LOADS: [&str; 3] = ["load", "load-compressed", "load-piped"];
/// How often processes are killed.
const ROUNDS: u64 = 40;
/// Layers of the image.
const LAYERS: usize = 3;
/// Blobs of the image: its layers, its configuration, its manifest.
const BLOBS: usize = LAYERS + 2;
/// An ordinary user for tests that root runs: root may write to every file.
const ORDINARY_USER: u32 = 1000;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, role, folder] if LOADS.contains(&&**role) => return load(role, Path::new(folder)),
        [_, role, folder] if role == "prune" => return prune(Path::new(folder)),
        _ => {}
    }
    let tests: [(&str, fn()); 4] = [
        ("a_killed_load_is_completed_by_the_next", killed),
        ("what_was_left_read_only_is_completed", left_read_only),
        ("loads_and_prunes_at_once_leave_whole_images", at_once),
        ("a_full_disk_leaves_nothing_that_is_broken", full_disk),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed", tests.len());
}

/// Loads the archive of a folder into its store.
fn load(role: &str, folder: &Path) {
    let store = Store::open(folder.join("images")).unwrap();
    let shared = store.share().unwrap();
    let archive = folder.join("archive.tar");
    let compressed = folder.join("archive.tar.gz");
    let input = match role {
        "load-compressed" => Input::Path(&compressed),
        "load-piped" => Input::Open(piped(&archive)),
        _ => Input::Path(&archive),
    };
    let loaded = match archive::load(&shared, input, None, &Silent) {
        Ok(loaded) => loaded,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            eprintln!("{text}");
            std::process::exit(1);
        }
    };
    check_image(&shared, &loaded[0].manifest);
}

/// A file as a pipe.
fn piped(path: &Path) -> File {
    let mut file = File::open(path).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Whoever reads may not want all of it.
    std::thread::spawn(move || std::io::copy(&mut file, &mut writer));
    File::from(OwnedFd::from(reader))
}

/// All of an image is there while the store is shared.
fn check_image(shared: &image::store::Shared, digest: &Digest) {
    let manifest = shared.manifest(digest).unwrap();
    let config = shared.config(&manifest).unwrap();
    assert_eq!(config.diff_ids.len(), LAYERS);
    for (layer, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
        shared.open_blob(&layer.descriptor.digest).unwrap();
        assert!(shared.layer_size(diff_id).unwrap() > 1 << 20);
    }
}

/// Removes everything, again and again.
fn prune(folder: &Path) {
    let store = Store::open(folder.join("images")).unwrap();
    for _ in 0..20 {
        store.exclude().unwrap().prune(&[], true).unwrap();
    }
}

/// A folder with an archive of `docker save` with some layers.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(File::create(folder.path().join("archive.tar")).unwrap());
    let mut names = Vec::new();
    let mut diff_ids = Vec::new();
    for number in 0..LAYERS {
        let layer = layer(number);
        let name = format!("{number}/layer.tar");
        diff_ids.push(Digest::of(&layer).to_string());
        append(&mut archive, &name, &layer);
        names.push(name);
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    append(&mut archive, "config.json", config.to_string().as_bytes());
    let list = json!([{"Config": "config.json", "RepoTags": ["x:1"], "Layers": names}]);
    append(&mut archive, "manifest.json", list.to_string().as_bytes());
    archive.finish().unwrap();
    let mut archive = File::open(folder.path().join("archive.tar")).unwrap();
    let compressed = File::create(folder.path().join("archive.tar.gz")).unwrap();
    let mut encoder = GzEncoder::new(compressed, Compression::fast());
    std::io::copy(&mut archive, &mut encoder).unwrap();
    encoder.finish().unwrap();
    folder
}

fn layer(number: usize) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..2_000_000)
        .map(|at| (at * (number + 3) % 251) as u8)
        .collect();
    append(&mut layer, "etc/file", &content);
    layer.into_inner().unwrap()
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).unwrap();
}

fn start(role: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg(role)
        .arg(folder)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// A folder of an ordinary user, and a copy of this program that such a user can run.
fn ordinary_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = folder();
    let program = folder.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    if fs::metadata(&program).unwrap().uid() == 0 {
        for path in [folder.path(), &program] {
            chown(path, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
        }
    }
    (folder, program)
}

/// Loads the archive of a folder as its owner.
fn load_as_owner(program: &Path, folder: &Path) -> Child {
    let owner = fs::metadata(folder).unwrap();
    Command::new(program)
        .arg("load")
        .arg(folder)
        .uid(owner.uid())
        .gid(owner.gid())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn files(folder: &Path, directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("images").join(directory));
    entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Every blob that has a name is what its name says, and every layer can be mounted.
fn check_names(folder: &Path) {
    for blob in files(folder, "blobs/sha256") {
        let digest = Digest::of(&fs::read(&blob).unwrap());
        assert_eq!(blob.file_name().unwrap().to_str(), Some(&*digest.hex()));
    }
    for layer in files(folder, "layers/v1") {
        let checked = Command::new("fsck.erofs").arg(&layer).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }
}

fn killed() {
    let (folder, program) = ordinary_folder();
    let folder = folder.path();
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        let mut child = load_as_owner(&program, folder);
        // The moment of the kill is the point: no event of the process tells it.
        std::thread::sleep(Duration::from_micros(500 + (round * 7919) % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        unfinished += files(folder, "partial").len() + files(folder, "staging").len();
        check_names(folder);
        if round % 8 == 7 {
            assert!(load_as_owner(&program, folder).wait().unwrap().success());
            // The next one took up, or replaced, all that was begun: there is nothing that no image needs.
            check_nothing_else(folder);
            let store = Store::open(folder.join("images")).unwrap();
            store.exclude().unwrap().prune(&[], true).unwrap();
        }
    }
    assert!(unfinished > 0, "no process was killed while it worked");
}

/// Nothing is there that the one image does not need.
fn check_nothing_else(folder: &Path) {
    let store = Store::open(folder.join("images")).unwrap();
    let manifest = manifest(folder);
    let pruned = store.exclude().unwrap().prune(&[manifest], true).unwrap();
    assert_eq!((pruned.blobs, pruned.layers), (0, 0));
}

/// All that is not complete is as releases left it that made files read-only before they had their names.
fn left_read_only() {
    let (folder, program) = ordinary_folder();
    let folder = folder.path();
    assert!(load_as_owner(&program, folder).wait().unwrap().success());
    for (directory, unfinished) in [("blobs/sha256", "partial"), ("layers/v1", "staging")] {
        for file in files(folder, directory) {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o444, "{file:?}");
            let left = folder.join("images").join(unfinished);
            let left = left.join(file.file_name().unwrap());
            fs::rename(&file, &left).unwrap();
        }
    }
    // A configuration is staged as a layer is.
    for blob in files(folder, "partial") {
        let staged = folder
            .join("images/staging")
            .join(blob.file_name().unwrap());
        let owner = fs::metadata(&blob).unwrap();
        fs::copy(&blob, &staged).unwrap();
        fs::set_permissions(&staged, Permissions::from_mode(0o444)).unwrap();
        chown(&staged, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    assert!(load_as_owner(&program, folder).wait().unwrap().success());
    check_names(folder);
    manifest(folder);
}

/// The one manifest of the store.
fn manifest(folder: &Path) -> Digest {
    let store = Store::open(folder.join("images")).unwrap();
    let shared = store.share().unwrap();
    let blobs = files(folder, "blobs/sha256");
    assert_eq!(blobs.len(), BLOBS);
    let digests = blobs.iter().map(|blob| {
        let name = blob.file_name().unwrap().to_str().unwrap();
        format!("sha256:{name}").parse().unwrap()
    });
    let mut manifests = digests.filter(|digest| shared.manifest(digest).is_ok());
    manifests.next().unwrap()
}

fn at_once() {
    let folder = folder();
    let folder = folder.path();
    for _ in 0..4 {
        let children = ["load", "load", "prune", "load"].map(|role| start(role, folder));
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        check_names(folder);
        assert_eq!(
            files(folder, "partial").len() + files(folder, "staging").len(),
            0
        );
    }
}

/// The disk is full at each stage: when the store is made, in a copy of the archive, in a blob, in a layer; until there is
/// room enough.
fn full_disk() {
    for role in LOADS {
        let folder = folder();
        let folder = folder.path();
        fs::create_dir(folder.join("images")).unwrap();
        let steps = (0..60).map(|step| 16 + step * 512);
        let failures = steps
            .take_while(|kilobytes| is_too_small(role, folder, *kilobytes))
            .count();
        assert!(failures > 4, "{role}: the disk was never full");
        assert!(failures < 60, "{role}: there was never room enough");
    }
}

/// Whether an archive cannot be loaded with so much room for the store, of which nothing broken is left then.
fn is_too_small(role: &str, folder: &Path, kilobytes: u32) -> bool {
    let script = format!(
        "mount -t tmpfs -o size={kilobytes}k none '{0}/images'
        status=0; \"$1\" {role} '{0}' || status=$?
        mkdir '{0}/left'; cp -r '{0}/images/.' '{0}/left/images'
        exit $status",
        folder.display(),
    );
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let left = folder.join("left");
    check_names(&left);
    assert_eq!(files(&left, "staging").len(), 0, "{role} {kilobytes}");
    fs::remove_dir_all(&left).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() || error.contains("No space left on device"),
        "{role} {kilobytes}: {error}"
    );
    !output.status.success()
}
