//! Where the product under test and the systems that it runs are.

use std::env;
use std::path::PathBuf;

/// The `msb` program.
pub fn msb() -> PathBuf {
    beside_msb("msb")
}

/// The guest's kernel.
pub fn kernel() -> PathBuf {
    beside_msb("vmlinux")
}

/// The initramfs with agentd.
pub fn initramfs() -> PathBuf {
    beside_msb("initramfs.cpio")
}

/// A root file system with one static program, which boots fastest.
pub fn busybox() -> PathBuf {
    from_environment("MSB_TEST_BUSYBOX")
}

/// A root file system as mmdebstrap makes it.
pub fn debian() -> PathBuf {
    from_environment("MSB_TEST_DEBIAN")
}

/// A Debian whose init is systemd.
pub fn systemd() -> PathBuf {
    from_environment("MSB_TEST_SYSTEMD")
}

/// The folder with the file system conformance suites.
pub fn conformance() -> PathBuf {
    from_environment("MSB_TEST_CONFORMANCE")
}

/// The guest's kernel in the format of boot loaders.
pub fn bz_image() -> PathBuf {
    from_environment("MSB_TEST_BZIMAGE")
}

/// The guest whose virtio driver breaks every rule, a kernel.
pub fn hostile_driver() -> PathBuf {
    from_environment("MSB_TEST_HOSTILE_DRIVER")
}

/// A file of the release build; this program is `target/debug/deps/NAME-HASH`.
fn beside_msb(file_name: &str) -> PathBuf {
    let program = env::current_exe().expect("/proc is mounted");
    let target = program
        .ancestors()
        .nth(3)
        .expect("cargo puts tests below its target directory");
    let path = target.join("release").join(file_name);
    assert!(
        path.exists(),
        "{} is missing: run the tests with `make e2e`",
        path.display()
    );
    path
}

fn from_environment(variable: &str) -> PathBuf {
    let path = env::var_os(variable);
    path.unwrap_or_else(|| panic!("{variable} is not set: run the tests with `make e2e`"))
        .into()
}
