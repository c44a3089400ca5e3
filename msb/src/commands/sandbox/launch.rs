//! A sandbox that is not recorded: its machine, and nothing that remains.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use microsandbox::home::Home;
use microsandbox::launch::{
    BOOT_TIMEOUT_MS, INITRAMFS, KERNEL, LaunchConfig, Lifetime, Patch, Root, RootAccess, RootSource,
};
use microsandbox::names::Name;
use microsandbox::protocol::{Bytes, Init};
use microsandbox::sandbox::{RootAccessConfig, check_patchable, image_patches, launch_patches};

use super::{Mounts, NamedMount, ResolvedRoot, SandboxPlan, milliseconds};
use crate::boot_files;
use crate::failure::with_hint;

/// A kernel, and the initramfs with the agent.
pub(in crate::commands) struct BootFiles {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl SandboxPlan {
    /// What the machine boots.
    ///
    /// # Errors
    /// When it is not there.
    pub(in crate::commands) fn boot_files(&self, home: &Home) -> anyhow::Result<BootFiles> {
        let find = |file, given: &Option<PathBuf>| boot_files::find(file, given.as_deref(), home);
        Ok(BootFiles {
            kernel: find(&KERNEL, &self.machine.kernel)?,
            initramfs: find(&INITRAMFS, &self.machine.initramfs)?,
        })
    }

    /// The machine; and the named volumes that it has besides its mounts.
    ///
    /// # Errors
    /// When a patch cannot be made.
    pub(in crate::commands) fn launch(
        self,
        name: &Name,
        boot_files: BootFiles,
    ) -> anyhow::Result<(LaunchConfig, Vec<NamedMount>)> {
        let hostname = self.guest.hostname.clone();
        let hostname = hostname.unwrap_or_else(|| name.to_hostname());
        let patches = self.root_patches(&hostname)?;
        let is_image = self.image().is_some();
        let init = match self.entrypoint_init() {
            Some((program, arguments)) => Some(Init::Program {
                path: bytes(program),
                args: arguments.into_iter().map(bytes).collect(),
                env: Vec::new(),
            }),
            None => self.guest.init,
        };
        let root = root(self.root);
        if !self.patches.is_empty() {
            let hint = "folders and images are patched, in a private layer (--root-upper); \
                        into a disk image files can be mounted with -v";
            check_patchable(&root, is_image).map_err(|error| with_hint(error, hint))?;
        }
        let Mounts {
            mounts,
            named,
            allowed,
        } = self.mounts;
        let machine = self.machine;
        let log_level = machine.log_level().name().to_owned();
        let config = LaunchConfig {
            name: name.to_string(),
            vcpus: machine.cpus,
            memory: u64::from(machine.memory) << 20,
            kernel: boot_files.kernel,
            initramfs: boot_files.initramfs,
            extra_command_line: machine.cmdline.unwrap_or_default(),
            root,
            mounts,
            allowed,
            hostname,
            boot_timeout_ms: BOOT_TIMEOUT_MS,
            log_level,
            scripts: self.guest.scripts,
            patches,
            restricted: self.guest.restricted,
            init,
            lifetime: Lifetime {
                detached: false,
                max_duration_ms: self.max_duration.map(milliseconds),
                idle_timeout_ms: self.idle_timeout.map(milliseconds),
            },
            main: None,
            state: None,
            log: None,
        };
        Ok((config, named))
    }

    /// What an image's root is given by itself, and what was asked for.
    fn root_patches(&self, hostname: &str) -> anyhow::Result<Vec<Patch>> {
        let workdir = self.workdir();
        let workdir = workdir
            .as_ref()
            .and_then(|path| std::str::from_utf8(&path.0).ok());
        let mut patches = self
            .image()
            .map_or(Vec::new(), |image| image_patches(image, hostname, workdir));
        patches.extend(launch_patches(&self.patches)?);
        Ok(patches)
    }
}

fn bytes(word: OsString) -> Bytes {
    Bytes(word.into_vec())
}

/// The root, of which nothing remains unless it is written itself.
fn root(root: ResolvedRoot) -> Root {
    let in_memory = |mib: Option<u32>| RootAccess::Layer {
        size: mib.map(|mib| u64::from(mib) << 20),
    };
    let access = match root.access {
        Some(RootAccessConfig::Writable) => RootAccess::Writable,
        Some(RootAccessConfig::ReadOnly) => RootAccess::ReadOnly,
        Some(RootAccessConfig::Tmpfs { mib }) => in_memory(mib),
        // A disk of its own has a sandbox that is recorded.
        Some(RootAccessConfig::Upper { .. }) => in_memory(None),
        None if root.image.is_none() && matches!(root.source, RootSource::Disk(_)) => {
            RootAccess::Writable
        }
        None => in_memory(None),
    };
    Root {
        source: root.source,
        access,
    }
}
