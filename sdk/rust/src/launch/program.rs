//! The program whose hidden `vm` command is a machine.

use std::env;
use std::path::{Path, PathBuf};

use crate::home::Home;

/// Its name.
const NAME: &str = "msb";

/// The program that is running, even if another release has taken its place meanwhile.
const RUNNING: &str = "/proc/self/exe";

/// `msb`, or a program with the same hidden `vm` command.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// The directory where it is installed, if that can be told.
    directory: Option<PathBuf>,
}

/// There is no `msb`.
#[derive(Debug, thiserror::Error)]
#[error("The program {NAME} is neither in {bin} nor in a directory of PATH", bin = bin.display())]
pub struct NoProgram {
    /// Where it belongs.
    bin: PathBuf,
}

impl Program {
    /// The running program, which has that command.
    pub fn running() -> Program {
        let program = env::current_exe().ok();
        Program {
            path: PathBuf::from(RUNNING),
            directory: program
                .as_deref()
                .and_then(Path::parent)
                .map(Path::to_owned),
        }
    }

    /// The running program if it is `msb`, else `$MSB_HOME/bin/msb`, else the first in `PATH`.
    ///
    /// # Errors
    /// [`NoProgram`].
    pub fn find(home: &Home) -> Result<Program, NoProgram> {
        let running = env::current_exe().ok();
        if running.is_some_and(|program| program.file_name() == Some(NAME.as_ref())) {
            return Ok(Program::running());
        }
        let path = env::var_os("PATH").unwrap_or_default();
        find_in(home, env::split_paths(&path))
    }

    /// What is to be executed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is installed, if that can be told.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

fn find_in(home: &Home, path: impl Iterator<Item = PathBuf>) -> Result<Program, NoProgram> {
    let bin = home.bin();
    // An empty entry means the current directory, where a program of anybody may lie.
    let named = path.filter(|directory| directory.is_absolute());
    let found = std::iter::once(bin.clone())
        .chain(named)
        .map(|directory| directory.join(NAME))
        // What is installed beside it is beside the file that a link leads to.
        .find_map(|program| program.canonicalize().ok().filter(|path| path.is_file()));
    let Some(path) = found else {
        return Err(NoProgram { bin });
    };
    Ok(Program {
        directory: path.parent().map(Path::to_owned),
        path,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn it_is_found_at_home_and_else_in_path_where_links_lead() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let home = Home::at(root.join("home"));
        let path = || [PathBuf::new(), root.join("none"), root.join("bin")].into_iter();
        let error = find_in(&home, path()).unwrap_err();
        assert!(error.to_string().contains("home/bin"), "{error}");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(home.bin()).unwrap();
        fs::write(root.join("bin/msb"), "").unwrap();
        assert_eq!(find_in(&home, path()).unwrap().path(), root.join("bin/msb"));
        fs::write(root.join("release"), "").unwrap();
        symlink("../../release", home.bin().join("msb")).unwrap();
        let program = find_in(&home, path()).unwrap();
        assert_eq!(program.path(), root.join("release"));
        assert_eq!(program.directory(), Some(&*root));
    }
}
