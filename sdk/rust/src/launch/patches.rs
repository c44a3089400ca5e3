//! Changes to the root file system.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use protocol::Bytes;
use serde::{Deserialize, Serialize};

use super::HostPath;

/// A change to the root file system, before anything runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patch {
    /// One that takes nothing from the host.
    Inline(protocol::Patch),
    /// A file or a folder of the host is copied.
    Copy {
        /// The file or folder.
        source: HostPath,
        /// Absolute path in the guest.
        path: Bytes,
        /// Permission bits of a file; `None` is those of the original.
        mode: Option<u32>,
        /// Whether what is there is replaced.
        replace: bool,
    },
    /// A file of the host is appended to one of the guest.
    Append {
        /// The file.
        source: HostPath,
        /// Absolute path in the guest.
        path: Bytes,
    },
}

/// Most bytes of text that the messages to the machine's process and to the guest's agent carry for all patches. A message has
/// 1 MiB, and other things to say.
const MAX_INLINE: usize = 128 << 10;

/// Permission bits of a file whose maker names none.
const FILE_MODE: u32 = 0o644;

/// Makes files in the run directory `run`, with which they go, of the texts that are too large for messages.
///
/// # Errors
/// When one cannot be written.
pub(super) fn move_texts_out(patches: &mut [Patch], run: &Path) -> io::Result<()> {
    let mut room = MAX_INLINE;
    for (index, patch) in patches.iter_mut().enumerate() {
        let Patch::Inline(inline) = patch else {
            continue;
        };
        let source = run.join(format!("patch-{index}"));
        let (contents, moved) = match inline {
            protocol::Patch::Write {
                path,
                contents,
                mode,
                replace,
            } => {
                let moved = Patch::Copy {
                    source: HostPath(source.clone()),
                    path: path.clone(),
                    mode: Some(mode.unwrap_or(FILE_MODE)),
                    replace: *replace,
                };
                (contents, moved)
            }
            protocol::Patch::Append { path, contents } => {
                let moved = Patch::Append {
                    source: HostPath(source.clone()),
                    path: path.clone(),
                };
                (contents, moved)
            }
            _ => continue,
        };
        if let Some(rest) = room.checked_sub(contents.0.len()) {
            room = rest;
            continue;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&source)?
            .write_all(&contents.0)?;
        *patch = moved;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn texts_of_any_size_fit_the_messages() {
        let run = tempfile::tempdir().unwrap();
        let write = |path: &str, length: usize, mode| {
            Patch::Inline(protocol::Patch::Write {
                path: bytes(path),
                contents: Bytes(vec![b'x'; length]),
                mode,
                replace: true,
            })
        };
        let append = Patch::Inline(protocol::Patch::Append {
            path: bytes("/c"),
            contents: Bytes(vec![b'y'; 2]),
        });
        let remove = Patch::Inline(protocol::Patch::Remove { path: bytes("/d") });
        let given = [
            write("/a", MAX_INLINE - 1, None),
            write("/large", 64 << 20, None),
            append,
            write("/b", 1, None),
            remove,
            write("/mode", 1, Some(0o600)),
        ];
        let mut patches = given.to_vec();
        move_texts_out(&mut patches, run.path()).unwrap();
        let file = |number| HostPath(run.path().join(format!("patch-{number}")));
        let copy = |number, path: &str, mode| Patch::Copy {
            source: file(number),
            path: bytes(path),
            mode: Some(mode),
            replace: true,
        };
        let appended = Patch::Append {
            source: file(2),
            path: bytes("/c"),
        };
        let expected = [
            given[0].clone(),
            copy(1, "/large", 0o644),
            appended,
            given[3].clone(),
            given[4].clone(),
            copy(5, "/mode", 0o600),
        ];
        assert!(patches == expected);
        assert_eq!(fs::metadata(file(1).0).unwrap().len(), 64 << 20);
        assert_eq!(fs::read(file(2).0).unwrap(), b"yy");
        let mut message = Vec::new();
        protocol::encode(&patches, &mut message).unwrap();
    }
}
