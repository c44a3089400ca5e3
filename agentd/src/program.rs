//! Finding and executing a program, with an answer that tells what was wrong.

use std::ffi::{CStr, CString};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use protocol::{Failure, Stage};

use crate::failure::{failure, shown};

/// Replaces the calling process by the program that `args` begins with, looked for in `path`.
/// Returns only when that is not possible.
pub(crate) fn execute(args: &[CString], env: &[CString], path: &[u8]) -> Failure {
    let name = args.first().map_or(c"", CString::as_c_str);
    // As execvp(3): a directory of the path that one may not search is not the end of the search,
    // but if nothing else is found it is what the user has to hear.
    let mut denied = None;
    for candidate in candidates(name, path) {
        let Err(error) = execve(&candidate, args, env);
        match error {
            Errno::ENOENT | Errno::ENOTDIR if !exists(&candidate) => {}
            Errno::EACCES => denied = denied.or(Some(candidate)),
            error => return explain(&candidate, error),
        }
    }
    match denied {
        Some(candidate) => explain(&candidate, Errno::EACCES),
        None if name.is_empty() => failure(
            Stage::ProgramNotFound,
            Errno::ENOENT,
            "The program's name is empty",
        ),
        None if name.to_bytes().contains(&b'/') => failure(
            Stage::ProgramNotFound,
            Errno::ENOENT,
            format!("{} does not exist", shown(name.to_bytes())),
        ),
        None => failure(
            Stage::ProgramNotFound,
            Errno::ENOENT,
            format!("{} is in no directory of PATH", shown(name.to_bytes())),
        ),
    }
}

/// The files that `name` may mean: itself if it has a slash, else one in each directory of `path`.
/// An empty directory is the working directory.
fn candidates(name: &CStr, path: &[u8]) -> Vec<CString> {
    let name = name.to_bytes();
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    if name.is_empty() {
        return Vec::new();
    }
    let in_directory = |directory: &[u8]| match directory {
        b"" => CString::new([b"./", name].concat()).ok(),
        _ => CString::new([directory, b"/", name].concat()).ok(),
    };
    path.split(|&byte| byte == b':')
        .filter_map(in_directory)
        .collect()
}

fn exists(file: &CStr) -> bool {
    access(file, AccessFlags::F_OK).is_ok()
}

/// What `error` of execve(2) means for a program that is there, or may be.
fn explain(file: &CStr, error: Errno) -> Failure {
    let file = shown(file.to_bytes());
    let (stage, message) = match error {
        Errno::ENOENT | Errno::ENOTDIR => (
            Stage::ProgramNotExecutable,
            format!("The interpreter or the loader that {file} names does not exist"),
        ),
        Errno::ENOEXEC => (
            Stage::ProgramNotExecutable,
            format!("{file} is neither a program of this machine nor a script that begins with #!"),
        ),
        Errno::EACCES | Errno::EPERM if std::path::Path::new(&file).is_dir() => (
            Stage::ProgramNotExecutable,
            format!("{file} is a directory"),
        ),
        Errno::ENAMETOOLONG => (
            Stage::ProgramNotFound,
            "The program's name is too long".into(),
        ),
        Errno::E2BIG => (
            Stage::Spawn,
            "The arguments and the environment are too long".into(),
        ),
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => (
            Stage::Spawn,
            format!("There are not the resources to execute {file}"),
        ),
        _ => (
            Stage::ProgramNotExecutable,
            format!("{file} cannot be executed"),
        ),
    };
    failure(stage, error, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_in_every_directory_of_the_path_in_order() {
        let expected: Vec<CString> = [c"/a/ls", c"./ls", c"b/ls"]
            .into_iter()
            .map(CString::from)
            .collect();
        assert_eq!(candidates(c"ls", b"/a::b"), expected);
    }

    #[test]
    fn a_slash_means_this_very_file() {
        assert_eq!(candidates(c"./ls", b"/bin"), [CString::from(c"./ls")]);
        assert_eq!(candidates(c"bin/", b"/bin"), [CString::from(c"bin/")]);
    }

    #[test]
    fn no_name_is_no_program() {
        assert!(candidates(c"", b"/bin").is_empty());
    }

    // Execution itself is tested through sessions, where a process may be lost to it.
}
