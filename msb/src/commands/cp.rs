//! `msb cp`

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use microsandbox::MicrosandboxError;
use microsandbox::Sandbox;
use microsandbox::names::{Name, NameError};
use microsandbox::sandbox::{FsEntryKind, SandboxFs};

use super::advice::advise;
use super::runtime::block_on;
use crate::failure::{Hint, with_hint};
use crate::options::os_value;

/// Copies files and folders between this machine and a sandbox that runs
///
/// Into a folder that exists, the source goes beneath it; else it becomes the destination. A source that ends with /. stands for
/// what is in the folder. Paths in a sandbox begin at its root. With - a tar archive comes from standard input, or goes to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when everything is copied, 1 otherwise

Examples:
  msb cp ./src web:/srv
  msb cp web:/var/log/app.log .
  msb cp web:/out/. ./artifacts
  msb cp web:/srv - | tar t
  tar c . | msb cp - web:/work")]
pub(super) struct Arguments {
    /// NAME:PATH in a sandbox, a path of this machine, or -
    #[arg(value_name = "SOURCE", value_parser = os_value(End::parse))]
    source: End,

    /// NAME:PATH in a sandbox, a path of this machine, or -
    #[arg(value_name = "DESTINATION", value_parser = os_value(End::parse))]
    destination: End,
}

/// Where files come from or go to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// A path of this machine.
    Host(PathBuf),
    /// A path in a sandbox.
    Guest(Name, PathBuf),
    /// Standard input or output.
    Stream,
}

impl End {
    /// As docker(1) tells them apart: a path of this machine begins with / or ./ if it has a colon, and one in a sandbox begins at
    /// its root even if it does not say so.
    fn parse(text: &OsStr) -> Result<End, NameError> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(End::Stream);
        }
        let colon = bytes.iter().position(|&byte| byte == b':');
        let Some(colon) = colon.filter(|_| !bytes.starts_with(b"/") && !bytes.starts_with(b"."))
        else {
            return Ok(End::Host(PathBuf::from(text)));
        };
        let (name, path) = (&bytes[..colon], &bytes[colon + 1..]);
        let name = String::from_utf8_lossy(name).parse()?;
        Ok(End::Guest(
            name,
            Path::new("/").join(OsStr::from_bytes(path)),
        ))
    }
}

/// Copies.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    match (arguments.source, arguments.destination) {
        (End::Host(source), End::Guest(name, destination)) => block_on(async {
            into_guest(&files_of(&name).await?, &source, &destination)
                .await
                .with_context(|| {
                    format!("cannot copy {} into {:?}", source.display(), name.as_str())
                })
        }),
        (End::Guest(name, source), End::Host(destination)) => block_on(async {
            out_of_guest(&files_of(&name).await?, &source, &destination)
                .await
                .with_context(|| {
                    format!(
                        "cannot copy {} out of {:?}",
                        source.display(),
                        name.as_str()
                    )
                })
        }),
        (End::Stream, End::Guest(name, path)) => block_on(async {
            let files = files_of(&name).await?;
            done(files.write_archive(io::stdin(), &path).await).await
        }),
        (End::Guest(name, path), End::Stream) => block_on(async {
            let files = files_of(&name).await?;
            done(files.read_archive(&path, io::stdout()).await).await
        }),
        _ => Err(with_hint(
            anyhow!("one end must be in a sandbox, and the other one not"),
            "a path in a sandbox is written NAME:PATH, such as web:/srv",
        )),
    }
}

/// The files of a sandbox that runs.
async fn files_of(name: &Name) -> anyhow::Result<SandboxFs> {
    let connect = async { Sandbox::get(name.as_str()).await?.connect().await };
    match connect.await {
        Ok(sandbox) => Ok(sandbox.fs()),
        Err(error) => Err(advise(error).await),
    }
}

async fn into_guest(files: &SandboxFs, source: &Path, destination: &Path) -> anyhow::Result<u8> {
    let kind = std::fs::symlink_metadata(source)
        .hint("SOURCE is a file or a folder that exists")?
        .file_type();
    let target = match kind_of(files, destination).await {
        Ok(Some(FsEntryKind::Directory)) if !is_contents(source) => {
            destination.join(base_name(source)?)
        }
        Ok(_) if is_folder(destination) && !kind.is_dir() => return Err(no_folder(destination)),
        Ok(_) => destination.to_owned(),
        Err(error) => return Err(advise(error).await),
    };
    done(files.copy_from_host(plain(source), &target).await).await
}

async fn out_of_guest(files: &SandboxFs, source: &Path, destination: &Path) -> anyhow::Result<u8> {
    let target = if destination.is_dir() && !is_contents(source) {
        destination.join(base_name(source)?)
    } else if is_folder(destination) && !destination.is_dir() {
        match kind_of(files, source).await {
            Ok(Some(FsEntryKind::Directory) | None) => destination.to_owned(),
            Ok(_) => return Err(no_folder(destination)),
            Err(error) => return Err(advise(error).await),
        }
    } else {
        destination.to_owned()
    };
    done(files.copy_to_host(plain(source), &target).await).await
}

/// What is at a path of the guest, if anything is.
async fn kind_of(files: &SandboxFs, path: &Path) -> Result<Option<FsEntryKind>, MicrosandboxError> {
    match files.stat(path).await {
        Ok(found) => Ok(Some(found.kind)),
        Err(MicrosandboxError::PathNotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether what is in a folder is meant, and not the folder.
fn is_contents(source: &Path) -> bool {
    let bytes = source.as_os_str().as_bytes();
    bytes == b"." || bytes.ends_with(b"/.")
}

/// Whether nothing but a folder is meant.
fn is_folder(destination: &Path) -> bool {
    destination.as_os_str().as_bytes().ends_with(b"/")
}

fn no_folder(destination: &Path) -> anyhow::Error {
    with_hint(
        anyhow!("there is no folder {}", destination.display()),
        "make it first, or leave the / at its end out for a file of that name",
    )
}

fn base_name(source: &Path) -> anyhow::Result<&OsStr> {
    source
        .file_name()
        .ok_or_else(|| anyhow!("{} has no name of its own", source.display()))
        .hint("end it with /. to copy what is in it")
}

/// A path without the /. at its end.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

async fn done<T>(result: Result<T, MicrosandboxError>) -> anyhow::Result<u8> {
    match result {
        Ok(_) => Ok(0),
        Err(error) => Err(advise(error).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_as_docker_users_write_them() {
        let end = |text: &str| End::parse(OsStr::new(text));
        let guest = |name: &str, path: &str| Ok(End::Guest(name.parse().unwrap(), path.into()));
        assert_eq!(end("-"), Ok(End::Stream));
        assert_eq!(end("web:/srv"), guest("web", "/srv"));
        assert_eq!(end("my box:/a:b"), guest("my box", "/a:b"));
        for path in ["file", "./a:b", "../a:/b", "/a:b", "a/b"] {
            assert_eq!(end(path), Ok(End::Host(path.into())), "{path}");
        }
        assert_eq!(end("web:srv/"), guest("web", "/srv/"));
        assert_eq!(end("web:"), guest("web", "/"));
        assert!(end(":/srv").is_err());
        assert!(end("a/b:/srv").is_err());
    }

    #[test]
    fn folders_and_what_is_in_them_as_docker_users_write_them() {
        let are =
            |test: fn(&Path) -> bool, paths: [&str; 3]| paths.map(|path| test(Path::new(path)));
        assert_eq!(are(is_contents, [".", "a/.", "./."]), [true; 3]);
        assert_eq!(are(is_contents, ["a", "a.", ".."]), [false; 3]);
        assert_eq!(are(is_folder, ["a/", "/", "./"]), [true; 3]);
        assert_eq!(are(is_folder, ["a", ".", "a/."]), [false; 3]);
    }
}
