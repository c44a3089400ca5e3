//! What to do about errors of snapshots.

use microsandbox::snapshots::SnapshotError;

use crate::commands::image::advice as image_advice;
use crate::commands::volume::advice::database;
use crate::failure::with_hint;
use crate::operand::operand;

/// Adds to an error what to do about it.
pub(in crate::commands) fn advise(error: SnapshotError) -> anyhow::Error {
    let hint = match error {
        SnapshotError::Image(error) => return image_advice::advise(error),
        SnapshotError::InvalidName(_) => {
            "a name has 1 to 128 bytes, begins with neither . nor ~ and contains neither / nor control characters".to_owned()
        }
        SnapshotError::SnapshotNotFound { .. } => {
            "`msb snapshot ls` lists those that have names; a path contains / or begins with .".to_owned()
        }
        SnapshotError::SnapshotAlreadyExists { ref name } => format!(
            "choose another name, replace it with -f, or remove it with `msb snapshot rm {}`",
            operand(name)
        ),
        SnapshotError::PathExists { .. } => {
            "choose another path; -f replaces a snapshot, and nothing else".to_owned()
        }
        SnapshotError::NoLayer { .. } => {
            "only a layer on disk can be copied: make the sandbox with --root-upper SIZE, such as 4G, and without --rm; a disk image that is written itself is copied with `msb disk convert`".to_owned()
        }
        SnapshotError::ImageMissing { ref reference, ref digest, .. } => get(reference, digest),
        SnapshotError::Damaged { .. } => {
            "its data was changed since it was made: load it again, or make another".to_owned()
        }
        SnapshotError::Newer { .. } => "use the later version of msb".to_owned(),
        SnapshotError::NotPortable { .. } => {
            "`msb snapshot create --dest-dir` makes a directory to be copied to where the same root is".to_owned()
        }
        SnapshotError::Invalid { .. } | SnapshotError::Archive { .. } => {
            "`msb snapshot create` makes snapshots, `msb snapshot save` archives of them for `msb snapshot load`".to_owned()
        }
        SnapshotError::Directory(_) => {
            "make it a directory of yours that nobody else can write".to_owned()
        }
        SnapshotError::Database(ref error) => database(error),
        SnapshotError::Io { .. } => "look at the permissions and the free room there".to_owned(),
        _ => return error.into(),
    };
    with_hint(error, hint)
}

/// How an image can be had that is not here.
fn get(reference: &str, digest: &impl std::fmt::Display) -> String {
    if reference.starts_with("oci:") || reference.starts_with("docker-archive:") {
        return "load it with `msb image load`; `msb snapshot save --with-image` puts it into the archive".to_owned();
    }
    // A digest says more than a tag, which a name can have as well.
    let last = reference.rfind('/').map_or(0, |slash| slash + 1);
    let end = reference
        .get(last..)
        .and_then(|name| name.find([':', '@']))
        .map_or(reference.len(), |at| last + at);
    let name = reference.get(..end).unwrap_or(reference);
    format!("pull it with `msb pull {name}@{digest}`, or load it with `msb image load`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_takes_the_place_of_the_tag() {
        for (reference, name) in [
            ("debian", "debian"),
            ("debian:12", "debian"),
            ("localhost:5000/x", "localhost:5000/x"),
            ("localhost:5000/x:1", "localhost:5000/x"),
            ("ghcr.io/a/b@sha256:0", "ghcr.io/a/b"),
        ] {
            let hint = get(reference, &"sha256:1");
            assert!(
                hint.contains(&format!("`msb pull {name}@sha256:1`")),
                "{hint}"
            );
        }
    }
}
