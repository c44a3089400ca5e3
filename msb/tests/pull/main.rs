//! `msb pull`, `msb login`, `msb logout` and `msb registry`, with Debian's docker-registry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broken_off;
mod library;
mod proxies;
mod registry;
mod terminal;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use microsandbox::home::Home;
use microsandbox::images::image::Digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use registry::{PASSWORD, Registry, USER};

/// `USER:PASSWORD` in base64.
const ENCODED: &str = "YWxpY2U6aHVudGVyMmh1bnRlcjI=";

/// An ordinary user for tests that root runs: root may write to every file.
const ORDINARY_USER: u32 = 1000;

/// The directories of a store of images: blobs, layers, and those of both that are not complete.
const STORE: [&str; 4] = ["blobs/sha256", "layers/v1", "partial", "staging"];

/// A user with a home of their own.
struct User {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl User {
    fn new() -> User {
        User {
            directory: tempfile::tempdir().unwrap(),
            program: env!("CARGO_BIN_EXE_msb").into(),
        }
    }

    /// One who is not root, with a copy of the program that such a user can run.
    fn ordinary() -> User {
        let mut user = User::new();
        let program = user.path().join("msb");
        fs::copy(&user.program, &program).unwrap();
        user.program = program;
        if geteuid().is_root() {
            chown(user.path(), Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
        }
        user
    }

    /// One who is logged in.
    fn logged_in(registry: &Registry) -> User {
        User::new().log_in(registry)
    }

    fn log_in(self, registry: &Registry) -> User {
        let output = self.login(registry, PASSWORD);
        assert!(output.status.success(), "{output:?}");
        self
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn home(&self) -> Home {
        Home::at(self.path().join("home"))
    }

    fn config(&self) -> PathBuf {
        self.path().join("docker/config.json")
    }

    fn msb(&self, arguments: &[&str]) -> Command {
        let owner = fs::metadata(self.path()).unwrap();
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .uid(owner.uid())
            .gid(owner.gid())
            .env("MSB_HOME", self.path().join("home"))
            .env("DOCKER_CONFIG", self.path().join("docker"))
            .stdin(Stdio::null());
        for variable in [
            "https_proxy",
            "HTTPS_PROXY",
            "http_proxy",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(variable);
        }
        command
    }

    fn login(&self, registry: &Registry, password: &str) -> Output {
        let ca = registry.ca();
        let mut login = self.msb(&["login", "-u", USER, "--password-stdin", "--ca-certs"]);
        let mut process = login
            .arg(ca)
            .arg(registry.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(process.stdin.take().unwrap(), "{password}").unwrap();
        process.wait_with_output().unwrap()
    }

    fn pull(&self, registry: &Registry, image: &str) -> Command {
        let ca = registry.ca();
        self.msb(&["pull", "-q", "--ca-certs", ca.to_str().unwrap(), image])
    }

    fn pulls(&self, registry: &Registry) {
        let output = self.pull(registry, &registry.image()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout), format!("{}\n", registry.digest()));
    }

    /// Whether the image is all here and nothing else, so that there is nothing to prune.
    fn has_only(&self, registry: &Registry) {
        let output = |arguments: &[&str]| {
            let output = self.msb(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            text(&output.stdout).to_owned()
        };
        let found = output(&["image", "inspect", "--format=json", &registry.image()]);
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found[0]["digest"], registry.digest().to_string());
        let layers = found[0]["layers"].as_array().unwrap().len();
        // Several layers are joined by two files.
        let joined = if layers > 1 { 2 } else { 0 };
        let expected = [layers + 2, layers + joined, 0, 0];
        for (of, count) in STORE.into_iter().zip(expected) {
            assert_eq!(self.stored(of).len(), count, "{of}");
        }
        assert_eq!(output(&["image", "prune", "--force"]), "freed: 0 bytes\n");
        for blob in self.stored("blobs/sha256") {
            let digest = Digest::of(&fs::read(&blob).unwrap());
            assert_eq!(blob.file_name().unwrap().to_str(), Some(&*digest.hex()));
        }
        let whole = |path: &PathBuf| !path.to_string_lossy().contains("merged");
        for layer in self.stored("layers/v1").into_iter().filter(whole) {
            let checked = Command::new("fsck.erofs").arg(&layer).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
        }
    }

    /// The files of a directory of the store.
    fn stored(&self, directory: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home().images().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Ends it when the test does.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_private_image_is_pulled_once_by_whoever_is_logged_in() {
    let registry = Registry::start();
    let user = User::new();
    let refused = user.pull(&registry, &registry.image()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let hint = format!("`msb login {}`", registry.name());
    assert!(text(&refused.stderr).contains(&hint), "{refused:?}");

    let refused = user.login(&registry, "wrong");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(!user.config().exists());
    let output = user.login(&registry, PASSWORD);
    assert!(output.status.success(), "{output:?}");
    let mode = fs::metadata(user.config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(fs::read_to_string(user.config()).unwrap().contains(ENCODED));

    user.pulls(&registry);
    user.has_only(&registry);
    let sent = registry.blobs_sent();
    assert_eq!(sent, 5);
    user.pulls(&registry);
    let by_digest = format!("{}/box@{}", registry.name(), registry.digest());
    for how in ["-q", "--format=json"] {
        let mut again = user.msb(&["image", "pull", how, "--ca-certs"]);
        let output = again.arg(registry.ca()).arg(&by_digest).output().unwrap();
        let told = match how {
            "-q" => text(&output.stdout).trim_end().to_owned(),
            _ => {
                let image: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                image["digest"].as_str().unwrap().to_owned()
            }
        };
        assert_eq!(told, registry.digest().to_string());
    }
    assert_eq!(
        registry.blobs_sent(),
        sent,
        "something was downloaded again"
    );

    let output = user.msb(&["logout", &registry.name()]).output().unwrap();
    assert!(output.status.success());
    assert!(!fs::read_to_string(user.config()).unwrap().contains(ENCODED));
    let refused = user.pull(&registry, &registry.image()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn a_forced_pull_gets_all_of_it_again_and_disturbs_nobody() {
    let registry = Registry::start();
    let user = User::logged_in(&registry);
    user.pulls(&registry);
    let sent = registry.blobs_sent();
    let store = user.path().join("home/images");
    let files = || {
        let directories = ["blobs/sha256", "layers/v1"].map(|directory| store.join(directory));
        let entries = directories
            .into_iter()
            .flat_map(|at| fs::read_dir(at).unwrap());
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    let contents = |files: &[PathBuf]| -> Vec<_> {
        let read = files.iter().map(|file| fs::read(file).unwrap());
        read.collect()
    };
    let before = files();
    let whole = contents(&before);
    // What sandboxes have open.
    let open: Vec<_> = before
        .iter()
        .map(|file| File::open(file).unwrap())
        .collect();
    let force = || {
        let mut pull = user.pull(&registry, &registry.image());
        pull.arg("--force").output().unwrap()
    };
    let output = force();
    assert_eq!(text(&output.stdout), format!("{}\n", registry.digest()));
    assert_eq!(registry.blobs_sent() - sent, sent);
    assert!(files() == before && contents(&before) == whole);
    for (mut file, expected) in open.iter().zip(&whole) {
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == *expected);
    }

    // The disk has changed all of it, in size, too.
    for file in &before {
        fs::remove_file(file).unwrap();
        fs::write(file, "damaged").unwrap();
    }
    let output = force();
    assert!(output.status.success(), "{output:?}");
    assert!(files() == before && contents(&before) == whole);
    user.has_only(&registry);

    // Whoever cannot get it again keeps what is here.
    let image = registry.image();
    drop(registry);
    let mut pull = user.msb(&["pull", "-f", "--insecure", &image]);
    assert_eq!(pull.output().unwrap().status.code(), Some(1));
    assert!(files() == before && contents(&before) == whole);
}

#[test]
fn who_is_logged_in_is_listed_without_what_is_secret() {
    let registry = Registry::start();
    let user = User::logged_in(&registry);
    let helper = user.path().join("docker-credential-msbtest");
    let script = "#!/bin/sh\ntest $1 = list && echo '{\"ghcr.io\":\"bob\",\"quay.io\":\"eve\"}'\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let content = fs::read(user.config()).unwrap();
    let mut content: serde_json::Value = serde_json::from_slice(&content).unwrap();
    content["credHelpers"] = serde_json::json!({"ghcr.io": "msbtest"});
    fs::write(user.config(), content.to_string()).unwrap();
    let path = format!(
        "{}:{}",
        user.path().display(),
        std::env::var("PATH").unwrap()
    );
    let list = |arguments: &[&str]| {
        let mut list = user.msb(&["registry", "ls"]);
        let output = list.args(arguments).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).to_owned()
    };
    let listed: serde_json::Value = serde_json::from_str(&list(&["--format=json"])).unwrap();
    let expected = serde_json::json!([
        {"registry": registry.name(), "username": USER, "kept_in": user.config()},
        {"registry": "ghcr.io", "username": "bob", "kept_in": "docker-credential-msbtest"},
    ]);
    assert_eq!(listed, expected);
    let table = list(&[]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(
        lines[1].starts_with(&registry.name()) && lines[1].contains(USER),
        "{table}"
    );
    assert!(
        !table.contains(PASSWORD) && !table.contains(ENCODED),
        "{table}"
    );

    let mut logout = user.msb(&["registry", "logout", &registry.name()]);
    assert!(logout.output().unwrap().status.success());
    let left = list(&[]);
    assert!(
        !left.contains(&registry.name()) && left.contains("ghcr.io"),
        "{left}"
    );
}

#[test]
fn what_is_here_under_the_name_of_an_image_is_told_of() {
    let user = User::new();
    fs::create_dir(user.path().join("debian")).unwrap();
    let mut run = user.msb(&["run", "--kernel=/dev/null", "debian", "true"]);
    let output = run.current_dir(user.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let errors = text(&output.stderr);
    for hint in ["./debian", "`msb pull debian`", "--pull always"] {
        assert!(errors.contains(hint), "{errors}");
    }
}

/// The kernel is none, so no machine starts: what is shown is what comes before.
#[test]
fn a_sandbox_pulls_what_is_missing_if_it_may() {
    let registry = Registry::start();
    let user = User::logged_in(&registry);
    fs::create_dir_all(user.path().join("home")).unwrap();
    let ca = registry.ca();
    let settings = format!(r#"{{"{}": {{"ca_certs": {ca:?}}}}}"#, registry.name());
    fs::write(user.path().join("home/registries.json"), settings).unwrap();
    let image = registry.image();
    let run = |policy: &str| {
        let policy = format!("--pull={policy}");
        let mut run = user.msb(&["run", &policy, "--kernel=/dev/null", &image, "true"]);
        let output = run.output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        text(&output.stderr).to_owned()
    };
    let refused = run("never");
    assert!(refused.contains("no image"), "{refused}");
    assert_eq!(registry.blobs_sent(), 0);
    let pulled = |policy: &str| {
        let errors = run(policy);
        assert!(!errors.contains("no image"), "{errors}");
        registry.blobs_sent()
    };
    let sent = pulled("if-missing");
    assert_eq!(sent, 5);
    for policy in ["never", "if-missing", "always"] {
        assert_eq!(pulled(policy), sent, "{policy}");
    }
    user.has_only(&registry);
}

#[test]
fn a_certificate_must_be_vouched_for() {
    let registry = Registry::start();
    let user = User::logged_in(&registry);
    // On this machine TLS is not tried by itself.
    let output = user.msb(&["pull", &registry.image()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let settings = format!(r#"{{"{}": {{"plain_http": false}}}}"#, registry.name());
    fs::create_dir_all(user.path().join("home")).unwrap();
    fs::write(user.path().join("home/registries.json"), settings).unwrap();
    let output = user.msb(&["pull", &registry.image()]).output().unwrap();
    assert!(text(&output.stderr).contains("certificate"), "{output:?}");
    let ca = registry.ca();
    let settings = format!(r#"{{"{}": {{"ca_certs": {ca:?}}}}}"#, registry.name());
    fs::write(user.path().join("home/registries.json"), settings).unwrap();
    let output = user
        .msb(&["pull", "-q", &registry.image()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn elsewhere_nobody_is_spoken_to_without_tls_unless_that_is_asked_for() {
    let registry = Registry::start_open();
    let user = User::new();
    let pull = |options: &[&str]| {
        let mut pull = user.msb(&["pull", "-q"]);
        pull.args(options).arg(registry.image_elsewhere());
        pull.output().unwrap()
    };
    let refused = pull(&[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(registry.blobs_sent(), 0);
    let pulled = pull(&["--insecure"]);
    assert!(pulled.status.success(), "{pulled:?}");
    assert_eq!(text(&pulled.stdout), format!("{}\n", registry.digest()));
    assert_eq!(registry.blobs_sent(), 5);
}

#[test]
fn no_password_is_shown_or_given_as_an_argument() {
    let registry = Registry::start();
    let user = User::new();
    // A helper that keeps what it is told, and writes down how it was called.
    let helper = user.path().join("docker-credential-msbtest");
    let at = user.path().display();
    let script = format!(
        "#!/bin/sh
echo \"$@\" >>{at}/arguments
tr '\\0' ' ' </proc/$PPID/cmdline >>{at}/arguments
case $1 in
store) cat >{at}/kept ;;
get) cat >/dev/null; cat {at}/kept 2>/dev/null ||
    {{ echo 'credentials not found in native keychain'; exit 1; }} ;;
erase) rm {at}/kept ;;
esac
"
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(user.path().join("docker")).unwrap();
    fs::write(user.config(), r#"{"credsStore": "msbtest"}"#).unwrap();
    let path = format!("{at}:{}", std::env::var("PATH").unwrap());
    let mut shown = String::new();
    let mut note = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        shown.push_str(text(&output.stdout));
        shown.push_str(text(&output.stderr));
    };
    let ca = registry.ca();
    let ca = ca.to_str().unwrap();
    let mut login = user.msb(&["login", "-u", USER, "--password-stdin", "--ca-certs", ca]);
    login
        .arg(registry.name())
        .env("PATH", &path)
        .env("RUST_LOG", "trace");
    login
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = login.spawn().unwrap();
    process
        .stdin
        .take()
        .unwrap()
        .write_all(PASSWORD.as_bytes())
        .unwrap();
    note(process.wait_with_output().unwrap());
    assert!(
        fs::read_to_string(user.path().join("kept"))
            .unwrap()
            .contains(PASSWORD)
    );

    let mut pull = user.pull(&registry, &registry.image());
    note(
        pull.env("PATH", &path)
            .env("RUST_LOG", "trace")
            .output()
            .unwrap(),
    );
    let mut logout = user.msb(&["logout", &registry.name()]);
    note(logout.env("PATH", &path).output().unwrap());
    assert!(!user.path().join("kept").exists());

    shown.push_str(&fs::read_to_string(user.path().join("arguments")).unwrap());
    shown.push_str(&fs::read_to_string(user.config()).unwrap());
    assert!(
        shown.contains("store") && shown.contains("erase"),
        "{shown}"
    );
    for secret in [PASSWORD, ENCODED] {
        assert!(!shown.contains(secret), "{shown}");
    }
    // Nor is it in anything that msb keeps.
    let kept = Command::new("grep")
        .args(["-rlF", PASSWORD])
        .arg(user.path().join("home"))
        .output();
    assert_eq!(text(&kept.unwrap().stdout), "");
}
