//! Changes to the root file system that are made once, before anything runs in it.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::MicrosandboxError;
use crate::launch::{HostPath, Patch, Root, RootAccess, RootSource};

/// Most bytes that all paths, and targets of links, have together: they reach the guest in one message, which has other things to
/// say, too.
const MAX_PATHS: usize = 256 << 10;

/// Most bytes that all texts have together: they are recorded with the sandbox in a value of the database, which has at most
/// 1,000,000,000 (`SQLITE_MAX_LENGTH`), and a byte can take six there (`\u0001`).
const MAX_TEXTS: usize = 128 << 20;

/// Permission bits that chmod(2) sets.
const PERMISSIONS: u32 = 0o7777;

/// A change to the root file system. It goes into the sandbox's private layer when the sandbox is created (with a layer in
/// memory, at each start); the image stays as it is. Parents that are missing are made.
///
/// Creating the sandbox fails if something is at the path already, unless `replace` is set; `mkdir`, `append` and `remove` want
/// it to be as they leave it.
///
/// As data, `mkdir` may have `replace`, and `symlink` and `copy_dir` may have `mode`, which mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    remote = "Self",
    tag = "kind",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum PatchConfig {
    /// Writes a text file.
    Text {
        /// Absolute path in the guest.
        path: String,
        /// What the file holds.
        content: String,
        /// Permission bits; `None` is 0644.
        #[serde(default)]
        mode: Option<u32>,
        /// Whether what is there is replaced, a directory with all that is in it.
        #[serde(default)]
        replace: bool,
    },
    /// Appends to a file that is there.
    Append {
        /// Absolute path in the guest.
        path: String,
        /// What is appended.
        content: String,
    },
    /// Makes a directory, unless it is there.
    Mkdir {
        /// Absolute path in the guest.
        path: String,
        /// Permission bits, also of one that is there; `None` is 0755 for a new one.
        #[serde(default)]
        mode: Option<u32>,
    },
    /// Removes what is there, with everything in it.
    Remove {
        /// Absolute path in the guest.
        path: String,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Where it leads.
        target: String,
        /// Absolute path of the link in the guest.
        link: String,
        /// Whether what is there is replaced, a directory with all that is in it.
        #[serde(default)]
        replace: bool,
    },
    /// Copies a file of the host.
    CopyFile {
        /// The file.
        src: PathBuf,
        /// Absolute path in the guest.
        dst: String,
        /// Permission bits; `None` is those of the original.
        #[serde(default)]
        mode: Option<u32>,
        /// Whether what is there is replaced, a directory with all that is in it.
        #[serde(default)]
        replace: bool,
    },
    /// Copies a folder of the host, with everything in it.
    CopyDir {
        /// The folder.
        src: PathBuf,
        /// Absolute path in the guest.
        dst: String,
        /// Whether it may be there: then files in it are replaced one by one, and others stay.
        #[serde(default)]
        replace: bool,
    },
}

impl Serialize for PatchConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        PatchConfig::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PatchConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PatchConfig, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let meaningless = match fields.get("kind").and_then(Value::as_str) {
            Some("mkdir") => "replace",
            Some("symlink" | "copy_dir") => "mode",
            _ => "",
        };
        fields.remove(meaningless);
        PatchConfig::deserialize(Value::Object(fields)).map_err(D::Error::custom)
    }
}

impl PatchConfig {
    /// What it changes.
    fn path(&self) -> &str {
        match self {
            PatchConfig::Text { path, .. }
            | PatchConfig::Append { path, .. }
            | PatchConfig::Mkdir { path, .. }
            | PatchConfig::Remove { path } => path,
            PatchConfig::Symlink { link, .. } => link,
            PatchConfig::CopyFile { dst, .. } | PatchConfig::CopyDir { dst, .. } => dst,
        }
    }

    fn mode(&self) -> Option<u32> {
        match self {
            PatchConfig::Text { mode, .. }
            | PatchConfig::Mkdir { mode, .. }
            | PatchConfig::CopyFile { mode, .. } => *mode,
            _ => None,
        }
    }

    fn text(&self) -> &str {
        match self {
            PatchConfig::Text { content, .. } | PatchConfig::Append { content, .. } => content,
            _ => "",
        }
    }

    /// Where a link leads.
    fn target(&self) -> &str {
        match self {
            PatchConfig::Symlink { target, .. } => target,
            _ => "",
        }
    }

    /// The path on the host, which is made absolute when the sandbox is created.
    pub(super) fn source_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            PatchConfig::CopyFile { src, .. } | PatchConfig::CopyDir { src, .. } => Some(src),
            _ => None,
        }
    }
}

/// Refuses what the guest would refuse later, and what does not fit.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`].
pub(super) fn check(patches: &[PatchConfig]) -> Result<(), MicrosandboxError> {
    let (mut paths, mut texts) = (0_usize, 0_usize);
    for patch in patches {
        let path = patch.path();
        let invalid = |reason| {
            Err(MicrosandboxError::invalid(
                "patches",
                format!("{path:?} {reason}"),
            ))
        };
        if !path.starts_with('/') {
            return invalid("is no absolute path in the guest");
        }
        if path.contains('\0') || patch.target().contains('\0') {
            return invalid("has a NUL in it");
        }
        if path.split('/').any(|component| component == "..") {
            return invalid("leads upwards");
        }
        if path
            .split('/')
            .all(|component| matches!(component, "" | "."))
        {
            return invalid("is the root itself");
        }
        if patch.mode().is_some_and(|mode| mode > PERMISSIONS) {
            return invalid("is to have a mode above 0o7777");
        }
        paths = paths
            .saturating_add(path.len())
            .saturating_add(patch.target().len());
        texts = texts.saturating_add(patch.text().len());
    }
    for (what, size, most) in [("paths", paths, MAX_PATHS), ("texts", texts, MAX_TEXTS)] {
        if size > most {
            let reason = format!(
                "their {what} have {size} bytes, of which there can be {most}; copy files instead"
            );
            return Err(MicrosandboxError::invalid("patches", reason));
        }
    }
    Ok(())
}

/// Checks that a root can be patched. `is_image` says whether it is that of an image, and no disk image of a path.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`] for a disk image, and for a root without a private layer.
pub fn check_patchable(root: &Root, is_image: bool) -> Result<(), MicrosandboxError> {
    let reason = match (&root.source, &root.access) {
        (RootSource::Disk(_), _) if !is_image => "a disk image is not patched",
        (_, RootAccess::Writable | RootAccess::ReadOnly) => {
            "the root has no private layer that could take them"
        }
        (_, RootAccess::Layer { .. } | RootAccess::DiskLayer(_)) => return Ok(()),
    };
    Err(MicrosandboxError::invalid("patches", reason))
}

/// What the machine's process is told of `patches`.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`] if one cannot be, or a source is not there.
pub fn launch_patches(patches: &[PatchConfig]) -> Result<Vec<Patch>, MicrosandboxError> {
    check(patches)?;
    patches.iter().map(launched).collect()
}

fn launched(patch: &PatchConfig) -> Result<Patch, MicrosandboxError> {
    let bytes = |text: &str| Bytes(text.as_bytes().to_vec());
    let path = bytes(patch.path());
    let mode = patch.mode();
    Ok(Patch::Inline(match patch {
        PatchConfig::Text {
            content, replace, ..
        } => protocol::Patch::Write {
            path,
            contents: bytes(content),
            mode,
            replace: *replace,
        },
        PatchConfig::Append { content, .. } => protocol::Patch::Append {
            path,
            contents: bytes(content),
        },
        PatchConfig::Mkdir { .. } => protocol::Patch::MakeDirectory { path, mode },
        PatchConfig::Remove { .. } => protocol::Patch::Remove { path },
        PatchConfig::Symlink {
            target, replace, ..
        } => protocol::Patch::Symlink {
            path,
            target: bytes(target),
            replace: *replace,
        },
        PatchConfig::CopyFile { src, replace, .. } => {
            return copy(src, false, path, mode, *replace);
        }
        PatchConfig::CopyDir { src, replace, .. } => {
            return copy(src, true, path, mode, *replace);
        }
    }))
}

fn copy(
    source: &Path,
    is_folder: bool,
    path: Bytes,
    mode: Option<u32>,
    replace: bool,
) -> Result<Patch, MicrosandboxError> {
    let invalid = |reason: String| {
        MicrosandboxError::invalid("patches", format!("{}: {reason}", source.display()))
    };
    let found = fs::metadata(source).map_err(|error| invalid(error.to_string()))?;
    match is_folder {
        true if !found.is_dir() => return Err(invalid("it is no folder".to_owned())),
        false if !found.is_file() => return Err(invalid("it is no file".to_owned())),
        _ => {}
    }
    Ok(Patch::Copy {
        source: HostPath(source.to_owned()),
        path,
        mode,
        replace,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_root_can_have_is_refused() {
        for path in ["", "a", "/", "/.", "/a/../b", "/a\0b"] {
            let patch = PatchConfig::Remove { path: path.into() };
            assert!(check(&[patch]).is_err(), "{path:?}");
        }
        let text = |length, mode| PatchConfig::Text {
            path: "/a".into(),
            content: "x".repeat(length),
            mode,
            replace: false,
        };
        assert!(check(&[text(0, Some(0o7777)), text(MAX_TEXTS, None)]).is_ok());
        assert!(check(&[text(1, None), text(MAX_TEXTS, None)]).is_err());
        assert!(check(&[text(0, Some(0o10000))]).is_err());
        let link = |length| PatchConfig::Symlink {
            target: "x".repeat(length),
            link: "/l".into(),
            replace: false,
        };
        assert!(check(&[link(MAX_PATHS - 2)]).is_ok());
        assert!(check(&[link(MAX_PATHS - 3), link(0)]).is_err());
    }

    #[test]
    fn a_source_is_what_it_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let launch = |src: &Path, is_folder| {
            let (src, dst) = (src.to_owned(), "/x".to_owned());
            let replace = false;
            let patch = match is_folder {
                true => PatchConfig::CopyDir { src, dst, replace },
                false => PatchConfig::CopyFile {
                    src,
                    dst,
                    mode: None,
                    replace,
                },
            };
            launch_patches(&[patch]).is_ok()
        };
        assert!(launch(&file, false) && launch(folder.path(), true));
        assert!(!launch(&file, true) && !launch(folder.path(), false));
        assert!(!launch(&folder.path().join("none"), false));
    }

    #[test]
    fn they_are_plain_data() {
        let all = json!([
            {"kind": "text", "path": "/a", "content": "x", "mode": 0o600, "replace": true},
            {"kind": "append", "path": "/a", "content": "x"},
            {"kind": "mkdir", "path": "/a", "mode": 0o755},
            {"kind": "remove", "path": "/a"},
            {"kind": "symlink", "target": "x", "link": "/a", "replace": true},
            {"kind": "copy_file", "src": "x", "dst": "/a", "mode": 0o600, "replace": true},
            {"kind": "copy_dir", "src": "x", "dst": "/a", "replace": true},
        ]);
        let patches: Vec<PatchConfig> = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(&patches).unwrap(), all);
        assert!(patches.iter().all(|patch| patch.path() == "/a"));
        let parse = |text: &str| serde_json::from_str::<PatchConfig>(text);
        let plain = PatchConfig::CopyFile {
            src: "x".into(),
            dst: "/a".into(),
            mode: None,
            replace: false,
        };
        assert_eq!(
            parse(r#"{"dst": "/a", "src": "x", "kind": "copy_file"}"#).unwrap(),
            plain
        );
        for text in [r#"{"kind": "chmod", "path": "/a"}"#, r#"{"path": "/a"}"#] {
            parse(text).unwrap_err();
        }
    }

    #[test]
    fn an_option_that_means_nothing_is_ignored_and_others_are_refused() {
        let (nothing, refused) = (Some(true), Some(false));
        // `mode`, and `replace`; `None` are those that count.
        for (patch, mode, replace) in [
            (
                json!({"kind": "text", "path": "/a", "content": ""}),
                None,
                None,
            ),
            (
                json!({"kind": "append", "path": "/a", "content": ""}),
                refused,
                refused,
            ),
            (json!({"kind": "mkdir", "path": "/a"}), None, nothing),
            (json!({"kind": "remove", "path": "/a"}), refused, refused),
            (
                json!({"kind": "symlink", "target": "x", "link": "/a"}),
                nothing,
                None,
            ),
            (
                json!({"kind": "copy_file", "src": "x", "dst": "/a"}),
                None,
                None,
            ),
            (
                json!({"kind": "copy_dir", "src": "x", "dst": "/a"}),
                nothing,
                None,
            ),
        ] {
            let parse = |value: &Value| serde_json::from_value::<PatchConfig>(value.clone()).ok();
            let plain = parse(&patch).unwrap();
            for (key, value, meaning) in [
                ("mode", json!(0o700), mode),
                ("replace", json!(true), replace),
                ("size", json!(1), refused),
            ] {
                let mut with = patch.clone();
                with[key] = value;
                match meaning {
                    None => assert!(parse(&with).unwrap() != plain, "{with}"),
                    Some(true) => assert_eq!(parse(&with), Some(plain.clone()), "{with}"),
                    Some(false) => assert_eq!(parse(&with), None, "{with}"),
                }
            }
        }
    }
}
