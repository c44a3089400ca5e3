//! What several tests of the machine's process begin with.

use microsandbox::launch::{HostPath, LaunchConfig, Lifetime, Root, RootAccess, RootSource};
use microsandbox::protocol::{Bytes, Exec};

/// A machine that nobody boots, with a minute until it must be ready.
pub(super) fn config() -> LaunchConfig {
    LaunchConfig {
        name: "web".to_owned(),
        vcpus: 1,
        memory: 64 << 20,
        kernel: "/vmlinux".into(),
        initramfs: "/initramfs".into(),
        extra_command_line: String::new(),
        root: Root {
            source: RootSource::Folder(HostPath("/".into())),
            access: RootAccess::Layer { size: None },
        },
        mounts: Vec::new(),
        allowed: Vec::new(),
        hostname: "box".to_owned(),
        boot_timeout_ms: 60_000,
        log_level: "warn".to_owned(),
        scripts: Vec::new(),
        patches: Vec::new(),
        restricted: false,
        init: None,
        lifetime: Lifetime::default(),
        main: None,
        state: None,
        log: None,
    }
}

/// A process that nobody runs.
pub(super) fn exec() -> Exec {
    Exec {
        args: vec![Bytes(b"true".to_vec())],
        env: Vec::new(),
        cwd: None,
        user: None,
        rlimits: Vec::new(),
        terminal: None,
        stdin: true,
        timeout_ms: None,
        stop_signal: None,
    }
}
