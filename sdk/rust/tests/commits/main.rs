//! Commits that are killed at random moments and that find their disk full, with this program itself in the place of `msb vm`.
//!
//! Without libtest, because the program takes roles.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../roles/image.rs"]
mod image;
mod machine;
#[path = "../roles/ready.rs"]
mod ready;
#[path = "../roles/run_tests.rs"]
mod run_tests;

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use microsandbox::Microsandbox;
use microsandbox::home::Home;
use microsandbox::images::Images;
use microsandbox::images::image::store::Pruned;
use microsandbox::images::image::{Digest, Reference};
use microsandbox::sandbox::{CommitOptions, SandboxConfig};
use run_tests::run_tests;

/// How often processes are killed.
const ROUNDS: u64 = 40;

/// Bytes of the file in the layer.
const SIZE: usize = 3_000_000;

/// The sandbox that is committed.
const ID: &str = "00000000000000aa";

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, vm, option, number] if vm == "vm" && option == "--launch-fd" => {
            return machine::run(number.parse().unwrap());
        }
        [_, role, home, name] if role == "commit" => {
            return commit(Path::new(home), name);
        }
        _ => {}
    }
    let tests: [(&str, fn()); 3] = [
        ("a_killed_commit_leaves_nothing_to_the_next", killed),
        ("a_full_disk_leaves_nothing", full_disk),
        ("a_layer_larger_than_the_memory_is_committed", memory),
    ];
    run_tests(&tests);
}

/// Commits the sandbox of a home under a name, and prints the digest; or why it cannot.
fn commit(home: &Path, name: &str) {
    let microsandbox = Microsandbox::at(Home::at(home));
    let reference: Reference = name.parse().unwrap();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let committed = runtime.block_on(async {
        let sandbox = microsandbox.get("box").await?;
        sandbox.commit(&reference, CommitOptions::default()).await
    });
    match committed {
        Ok(image) => println!("{}", image.digest()),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            eprintln!("{text}");
            std::process::exit(1);
        }
    }
}

/// A home with a stopped sandbox of an image, whose layer has a file of so many bytes.
struct Fixture {
    root: tempfile::TempDir,
    base: Digest,
}

impl Fixture {
    fn new(size: usize) -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        for directory in [home.bin(), home.kernel(), home.sandboxes().join(ID)] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        symlink(std::env::current_exe().unwrap(), home.bin().join("msb")).unwrap();
        for file in ["vmlinux", "initramfs.cpio"] {
            fs::write(home.kernel().join(file), "").unwrap();
        }
        let base = image::load(&home, root.path(), &image::layer(Vec::new(), "old", 5));
        record(&home, &base);
        let upper = home.sandboxes().join(ID).join("upper.img");
        image::layer(File::create_new(upper).unwrap(), "new", size);
        Fixture { root, base }
    }

    fn home(&self) -> Home {
        Home::at(self.root.path().join("home"))
    }

    fn images(&self) -> Images {
        Images::open(&self.home()).unwrap()
    }

    fn start(&self, role: &str, name: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args([role.as_ref(), self.home().path().as_os_str(), name.as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn finish(&self, role: &str, name: &str) -> String {
        let Output { status, stdout, .. } = self.start(role, name).wait_with_output().unwrap();
        assert!(status.success());
        String::from_utf8(stdout).unwrap()
    }

    /// The names of all files of the store that have some beside them only when something was added.
    fn stored(&self) -> Vec<PathBuf> {
        stored(&self.home().images())
    }
}

fn stored(images: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in ["blobs/sha256", "layers/v1", "partial", "staging"] {
        let Ok(entries) = fs::read_dir(images.join(directory)) else {
            continue;
        };
        files.extend(entries.map(|entry| Path::new(directory).join(entry.unwrap().file_name())));
    }
    files.sort();
    files
}

/// Records a stopped sandbox of an image.
fn record(home: &Home, base: &Digest) {
    let mut config = SandboxConfig::new("box", "base:1");
    config.image_digest = Some(base.to_string());
    let config = serde_json::to_string(&config).unwrap();
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database
        .execute(
            "INSERT INTO sandboxes (id, name, config, ephemeral, created_at, updated_at, ever_ready, run, active)
             VALUES (?1, 'box', ?2, 0, 0, 0, 1, 1, 0)",
            [ID, &config],
        )
        .unwrap();
    let used = "INSERT INTO sandbox_images (sandbox_id, manifest_digest) VALUES (?1, ?2)";
    database.execute(used, [ID, &base.to_string()]).unwrap();
}

/// Whatever was going on when a process was killed, the next commit succeeds, and only what belongs to an image is there.
fn killed() {
    let fixture = Fixture::new(SIZE);
    let before = fixture.stored();
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        let mut child = fixture.start("commit", &format!("killed:{round}"));
        // The moment of the kill is the point: no event of the process tells it.
        std::thread::sleep(Duration::from_micros(5000 + (round * 7919 * 7) % 400_000));
        child.kill().unwrap();
        let is_killed = child.wait().unwrap().code().is_none();
        unfinished += usize::from(is_killed && fixture.stored() != before);
        let made = fixture.finish("commit", "made");
        let images = fixture.images();
        let handle = images.get("made").unwrap();
        assert_eq!(format!("{}\n", handle.digest()), made);
        let details = images.inspect("made").unwrap();
        assert_eq!(details.config.diff_ids.len(), 2);
        // All that is there belongs to the base and to it, or to the other if that was completed.
        let removed = images.prune(false).unwrap();
        assert_eq!(removed.images, []);
        assert_eq!(removed.pruned, Pruned::default());
        check_names(&fixture.home().images());
        for image in images.list().unwrap() {
            if image.digest() != &fixture.base {
                images.remove(&image.digest().to_string()).unwrap();
            }
        }
        assert_eq!(fixture.stored(), before);
    }
    assert!(unfinished > 0, "no process was killed while it worked");
}

/// Every blob that has a name is what its name says, and every layer can be mounted.
fn check_names(images: &Path) {
    for file in stored(images) {
        let path = images.join(&file);
        let name = file.file_name().unwrap().to_str().unwrap();
        if file.starts_with("blobs") {
            assert_eq!(name, Digest::of(&fs::read(&path).unwrap()).hex());
        } else if name.ends_with(".erofs") && !name.starts_with("merged") {
            let checked = Command::new("fsck.erofs").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
        }
    }
}

/// The disk of the home is full at each stage: in the layer, in its file system, and, looked at more closely, in the small
/// files and the database that come last.
fn full_disk() {
    let fixture = Fixture::new(SIZE);
    let before = fixture.stored();
    let kept = fixture.root.path().join("kept");
    fs::rename(fixture.home().path(), &kept).unwrap();
    fs::create_dir(fixture.home().path()).unwrap();
    let used = Command::new("du").arg("-sk").arg(&kept).output().unwrap();
    let used = String::from_utf8(used.stdout).unwrap();
    let used: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
    let fails = |kilobytes: &u64| !commit_on(&fixture, &before, *kilobytes);
    let coarse = (0..40).map(|step| used + 64 + step * 256);
    let failures = coarse.take_while(fails).count();
    assert!((5..40).contains(&failures), "{failures} failures");
    let enough = used + 64 + failures as u64 * 256;
    let fine = (1..64).map(|step| enough - 256 + step * 4);
    let failures = fine.take_while(fails).count();
    assert!(failures > 4, "the disk was never full at the end");
}

/// Whether a commit succeeds on a disk of this size that has the home. If it does not, it says why, and nothing is left of it.
fn commit_on(fixture: &Fixture, before: &[PathBuf], kilobytes: u64) -> bool {
    let root = fixture.root.path().display();
    let script = format!(
        "cd '{root}'; mount -t tmpfs -o mode=700,size={kilobytes}k none home; cp -a kept/. home
        status=0; \"$1\" commit '{root}/home' made || status=$?
        cp -a home left
        exit $status"
    );
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let left = fixture.root.path().join("left");
    let home = Home::at(&left);
    let images = Images::open(&home).unwrap();
    let success = output.status.success();
    if success {
        images.get("made").unwrap();
        check_names(&home.images());
    } else {
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("No space left on device") || error.contains("disk is full"),
            "{kilobytes}: {error}"
        );
        assert_eq!(images.list().unwrap().len(), 1, "{kilobytes}: {error}");
        assert_eq!(stored(&home.images()), before, "{kilobytes}: {error}");
        let running = fs::read_dir(home.run()).unwrap().count();
        assert_eq!(running, 1, "{kilobytes}: {error}");
    }
    fs::remove_dir_all(&left).unwrap();
    success
}

/// A layer is larger than all memory that its commit may have.
fn memory() {
    let fixture = Fixture::new(64 << 20);
    let output = Command::new("prlimit")
        .arg(format!("--data={}", 32 << 20))
        .arg(std::env::current_exe().unwrap())
        .args([
            "commit".as_ref(),
            fixture.home().path().as_os_str(),
            "made".as_ref(),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    check_names(&fixture.home().images());
}
