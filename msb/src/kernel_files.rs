//! Where the guest's kernel and its initramfs are found.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use microsandbox::home::Home;

use crate::failure::{Hint, with_hint};

/// A file that every machine needs, and where it may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootFile {
    /// What it is, for messages.
    what: &'static str,
    /// Option that names it.
    option: &'static str,
    /// Environment variable that names it.
    variable: &'static str,
    /// Its name in the usual places.
    file_name: &'static str,
}

/// The guest's kernel.
pub(crate) const KERNEL: BootFile = BootFile {
    what: "kernel",
    option: "--kernel",
    variable: "MSB_KERNEL",
    file_name: "vmlinux",
};

/// The initramfs whose `/init` is agentd.
pub(crate) const INITRAMFS: BootFile = BootFile {
    what: "initramfs",
    option: "--initramfs",
    variable: "MSB_INITRAMFS",
    file_name: "initramfs.cpio",
};

impl BootFile {
    /// Finds the file: what the option says, else the environment variable, else beside `msb`, else
    /// in `../share/msb` from there, else in `$MSB_HOME/kernel`. A file that was named must exist; nothing else is tried then.
    ///
    /// # Errors
    /// When there is none, with what to do about it.
    pub(crate) fn find(&self, option: Option<&Path>, home: &Home) -> anyhow::Result<PathBuf> {
        if let Some(path) = option {
            return self.named(path, self.option);
        }
        if let Some(path) = env::var_os(self.variable).filter(|path| !path.is_empty()) {
            return self.named(Path::new(&path), self.variable);
        }
        let places = self.usual_places(home);
        match places.iter().find(|path| path.is_file()) {
            Some(path) => Ok(path.clone()),
            None => {
                let places: Vec<_> = places
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                let error = anyhow!("it is neither of {}", places.join(", "))
                    .context(format!("there is no guest {}", self.what));
                let (option, variable) = (self.option, self.variable);
                let hint = format!(
                    "build it with `make kernel` and `make initramfs`, or name it with {option} or \
                     {variable}"
                );
                Err(with_hint(error, hint))
            }
        }
    }

    fn named(&self, path: &Path, by: &str) -> anyhow::Result<PathBuf> {
        let look = || {
            if fs::metadata(path)?.is_dir() {
                bail!("it is a directory");
            }
            Ok(std::path::absolute(path)?)
        };
        look()
            .with_context(|| format!("cannot use {} as the guest's {}", path.display(), self.what))
            .hint(format!("{by} names a file"))
    }

    fn usual_places(&self, home: &Home) -> Vec<PathBuf> {
        let program = env::current_exe().ok();
        let beside = program.as_deref().and_then(Path::parent);
        // Where `make install` puts it.
        let shared = beside
            .and_then(Path::parent)
            .map(|prefix| prefix.join("share/msb"));
        beside
            .map(Path::to_owned)
            .into_iter()
            .chain(shared)
            .chain([home.kernel()])
            .map(|directory| directory.join(self.file_name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_must_exist() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        fs::create_dir(home.kernel()).unwrap();
        fs::write(home.kernel().join("vmlinux"), "").unwrap();
        let other = root.path().join("other");
        let error = KERNEL.find(Some(&other), &home).unwrap_err();
        assert!(format!("{error:#}").contains("other"), "{error:#}");
        let error = KERNEL.find(Some(root.path()), &home).unwrap_err();
        assert!(format!("{error:#}").contains("directory"), "{error:#}");
    }

    #[test]
    fn the_home_directory_is_a_place() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        let error = KERNEL.find(None, &home).unwrap_err();
        assert!(format!("{error:#}").contains("vmlinux"), "{error:#}");
        fs::create_dir(home.kernel()).unwrap();
        let path = home.kernel().join("vmlinux");
        fs::write(&path, "").unwrap();
        assert_eq!(KERNEL.find(None, &home).unwrap(), path);
    }
}
