//! Where the guest's kernel and its initramfs are found.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Program;
use crate::home::Home;

/// A file that every machine needs, and where it may be.
#[derive(Debug, Clone, Copy)]
pub struct BootFile {
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
pub const KERNEL: BootFile = BootFile {
    what: "kernel",
    option: "--kernel",
    variable: "MSB_KERNEL",
    file_name: "vmlinux",
};

/// The initramfs whose `/init` is agentd.
pub const INITRAMFS: BootFile = BootFile {
    what: "initramfs",
    option: "--initramfs",
    variable: "MSB_INITRAMFS",
    file_name: "initramfs.cpio",
};

/// A file that every machine needs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootFileError {
    /// It is in none of the usual places.
    #[error("There is no guest {what}: it is neither of {}", list(places))]
    Missing {
        /// What it is.
        what: &'static str,
        /// Where it was looked for.
        places: Vec<PathBuf>,
        /// What names one.
        option: &'static str,
        /// What names one, too.
        variable: &'static str,
    },
    /// What was named cannot be used.
    #[error("Failed to use {path} as the guest's {what}")]
    Unusable {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The option or the environment variable that named it.
        named_by: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl BootFile {
    /// Finds the file: what the option says, else the environment variable, else beside `program`, else
    /// in `../share/msb` from there, else in `$MSB_HOME/kernel`. A file that was named must exist; nothing else is tried then.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(
        &self,
        option: Option<&Path>,
        program: &Program,
        home: &Home,
    ) -> Result<PathBuf, BootFileError> {
        if let Some(path) = option {
            return self.named(path, self.option);
        }
        if let Some(path) = env::var_os(self.variable).filter(|path| !path.is_empty()) {
            return self.named(Path::new(&path), self.variable);
        }
        let places = self.usual_places(program, home);
        match places.iter().find(|path| path.is_file()) {
            Some(path) => Ok(path.clone()),
            None => Err(BootFileError::Missing {
                what: self.what,
                places,
                option: self.option,
                variable: self.variable,
            }),
        }
    }

    fn named(&self, path: &Path, by: &'static str) -> Result<PathBuf, BootFileError> {
        let look = || {
            if fs::metadata(path)?.is_dir() {
                let kind = io::ErrorKind::IsADirectory;
                return Err(io::Error::new(kind, "it is a directory"));
            }
            std::path::absolute(path)
        };
        look().map_err(|source| BootFileError::Unusable {
            what: self.what,
            path: path.to_owned(),
            named_by: by,
            source,
        })
    }

    fn usual_places(&self, program: &Program, home: &Home) -> Vec<PathBuf> {
        let beside = program.directory();
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

fn list(places: &[PathBuf]) -> String {
    let places: Vec<_> = places
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn what_is_named_must_exist() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        fs::create_dir(home.kernel()).unwrap();
        fs::write(home.kernel().join("vmlinux"), "").unwrap();
        let other = root.path().join("other");
        let error = KERNEL
            .find(Some(&other), &Program::running(), &home)
            .unwrap_err();
        assert!(error.to_string().contains("other"), "{error}");
        let error = KERNEL
            .find(Some(root.path()), &Program::running(), &home)
            .unwrap_err();
        assert!(
            error.source().unwrap().to_string().contains("directory"),
            "{error}"
        );
    }

    #[test]
    fn the_home_directory_is_a_place() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        let error = KERNEL.find(None, &Program::running(), &home).unwrap_err();
        assert!(error.to_string().contains("vmlinux"), "{error}");
        fs::create_dir(home.kernel()).unwrap();
        let path = home.kernel().join("vmlinux");
        fs::write(&path, "").unwrap();
        assert_eq!(KERNEL.find(None, &Program::running(), &home).unwrap(), path);
    }
}
