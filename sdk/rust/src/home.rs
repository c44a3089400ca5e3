//! Where everything of this user is kept.

use std::env;
use std::path::{Path, PathBuf};

/// Environment variable that names the home directory of microsandbox.
pub const HOME_VARIABLE: &str = "MSB_HOME";

/// The directory with everything that microsandbox keeps for this user.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
}

/// The home directory cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("Neither {HOME_VARIABLE} nor HOME names a directory to keep files in")]
pub struct NoHome;

impl Home {
    /// `$MSB_HOME`, else `~/.microsandbox`. Nothing is created.
    ///
    /// # Errors
    /// When neither variable is set.
    pub fn from_environment() -> Result<Home, NoHome> {
        let set = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let path = set(HOME_VARIABLE)
            .or_else(|| set("HOME").map(|home| home.join(".microsandbox")))
            .ok_or(NoHome)?;
        // A relative path would mean another directory after a chdir.
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Home { path })
    }

    /// A home of the caller's choice.
    pub fn at(path: impl Into<PathBuf>) -> Home {
        Home { path: path.into() }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Directory of the programs.
    pub fn bin(&self) -> PathBuf {
        self.path.join("bin")
    }

    /// Directory of the running sandboxes.
    pub fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.path.join("db").join("msb.db")
    }

    /// Directory of what sandboxes keep, each in a directory of its own.
    pub fn sandboxes(&self) -> PathBuf {
        self.path.join("sandboxes")
    }

    /// Directory of what can be made anew at any time.
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// Directory of the named volumes.
    pub fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// Directory of the snapshots that have names.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// Directory of the images.
    pub fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// What the user says about registries: mirrors and the like.
    pub fn registries(&self) -> PathBuf {
        self.path.join("registries.json")
    }

    /// Directory of the guest kernel and its initramfs.
    pub fn kernel(&self) -> PathBuf {
        self.path.join("kernel")
    }
}
