//! Sandboxes as a program has them, with the library.

use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::time::Duration;

use microsandbox::sandbox::SandboxBuilder;
use microsandbox::{Microsandbox, Sandbox};

use crate::{Home, LIMIT, product};

/// Begins to make a sandbox in `home` that ends with its value and leaves nothing.
///
/// # Panics
/// When there can be no link to the program.
pub fn sandbox(home: &Home, name: &str) -> SandboxBuilder {
    microsandbox(home).builder(name).ephemeral(true).memory(256)
}

/// The sandboxes of `home`.
///
/// # Panics
/// As [`install`].
pub fn microsandbox(home: &Home) -> Microsandbox {
    install(home);
    Microsandbox::at(microsandbox::home::Home::at(home.msb_home()))
}

/// Puts the program `msb` where the library looks for it in `home`.
///
/// # Panics
/// When there can be no link to the program.
pub fn install(home: &Home) {
    let bin = home.msb_home().join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        symlink(product::msb(), bin.join("msb")).unwrap();
    }
}

/// Runs what a program does with sandboxes, in a runtime of one thread.
///
/// # Panics
/// When it takes longer than [`LIMIT`].
pub fn run<T>(work: impl Future<Output = T>) -> T {
    run_within(LIMIT, work)
}

/// The same for what may take longer.
///
/// # Panics
/// When it takes longer than `limit`.
pub fn run_within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(limit, work).await.expect("it hangs") })
}

/// Stops a sandbox, of which nothing is left then.
///
/// # Panics
/// When it cannot be stopped.
pub async fn stop(sandbox: Sandbox) {
    sandbox.stop().await.unwrap();
}
