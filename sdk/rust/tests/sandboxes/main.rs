//! Sandboxes as their creators, other programs and the next reader see them, with this program itself in the place of
//! `msb vm`.
//!
//! Without libtest, because the program takes roles.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod crashes;
mod lifecycle;
#[path = "../roles/little_room.rs"]
mod little_room;
mod machine;
mod ownership;
mod races;
#[path = "../roles/ready.rs"]
mod ready;
#[path = "../roles/run_tests.rs"]
mod run_tests;
mod starting;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use microsandbox::Microsandbox;
use microsandbox::home::Home;
use microsandbox::sandbox::SandboxBuilder;
use run_tests::run_tests;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, vm, option, number] if vm == "vm" && option == "--launch-fd" => {
            return machine::run(number.parse().unwrap());
        }
        [_, version, ..] if version == "version" => {
            return println!("{{\"version\":\"{}\"}}", microsandbox::sdk_version());
        }
        [_, role, home] if role == "attached" || role == "detached" => {
            return ownership::creator(Home::at(home), role == "detached");
        }
        [_, role, home] if role == "starter" => return ownership::starter(Home::at(home)),
        [_, role, home] if role == "churn" => return crashes::churn(Home::at(home)),
        [_, role, home] if role == "layered" => return starting::layered(Home::at(home)),
        _ => {}
    }
    let tests: Vec<_> = [
        lifecycle::TESTS,
        ownership::TESTS,
        starting::TESTS,
        races::TESTS,
        crashes::TESTS,
    ]
    .concat();
    run_tests(&tests);
}

/// A test by its name.
type Test = (&'static str, fn());

/// A home with a machine of its own in the place of `msb`.
struct Fixture {
    _root: tempfile::TempDir,
    microsandbox: Microsandbox,
}

impl Fixture {
    fn new() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        for directory in [home.bin(), home.kernel(), home.path().join("root")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::set_permissions(
            home.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        symlink(std::env::current_exe().unwrap(), home.bin().join("msb")).unwrap();
        for file in ["vmlinux", "initramfs.cpio"] {
            fs::write(home.kernel().join(file), "").unwrap();
        }
        Fixture {
            _root: root,
            microsandbox: Microsandbox::at(home),
        }
    }

    fn home(&self) -> &Home {
        self.microsandbox.home()
    }

    /// A sandbox whose layer is not worth the time to make one.
    fn builder(&self, name: &str) -> SandboxBuilder {
        builder(&self.microsandbox, name)
    }

    /// The directories of sandboxes, and of machines that run.
    fn directories(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        (entries(self.home().sandboxes()), entries(self.home().run()))
    }

    fn spawn(&self, role: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .arg(role)
            .arg(self.home().path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

fn builder(microsandbox: &Microsandbox, name: &str) -> SandboxBuilder {
    let image = microsandbox.home().path().join("root");
    let layer = microsandbox::sandbox::RootAccessConfig::Tmpfs { mib: None };
    microsandbox.builder(name).image(image).root_access(layer)
}

fn entries(directory: PathBuf) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_dir()).collect()
}

/// Runs a test to its end.
fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(test)
}
