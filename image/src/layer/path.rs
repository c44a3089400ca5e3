//! Where the entries of a layer belong in its tree.
//!
//! Names are cleaned as Docker does before it looks at any file: `.` and empty parts are left out, a leading `/` means
//! the layer's root, `..` takes away the part before it, and a name that leads out of the layer is refused. A directory
//! on the way that is a symbolic link of the same layer is followed within the layer's root, as containerd does; what is
//! not there is made.

use std::collections::VecDeque;

use super::LayerError;
use super::build::Builder;
use super::error::shown;
use crate::erofs::{InodeId, Kind, NAME_MAX};

/// Symbolic links that are followed on the way to one entry, as Linux does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// What the name of a whiteout begins with (image specification, "Whiteouts").
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// The name of the entry that hides everything that the layers below have in its directory.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What else the program AUFS left in layers begins with; it means nothing to others.
const AUFS: &[u8] = b".wh..wh.";

/// An entry's error.
pub(super) fn refused(path: &[u8], reason: impl Into<String>) -> LayerError {
    LayerError::Entry {
        path: shown(path),
        reason: reason.into(),
    }
}

/// The parts of a name, cleaned. None are left for the root.
pub(super) fn parts<'path>(
    whole: &'path [u8],
    entry: &[u8],
) -> Result<Vec<&'path [u8]>, LayerError> {
    let absolute = whole.first() == Some(&b'/');
    let mut parts = Vec::new();
    for part in whole.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() && !absolute {
                    return Err(refused(entry, "leads out of the layer"));
                }
            }
            _ => {
                check_name(part, entry)?;
                parts.push(part);
            }
        }
    }
    Ok(parts)
}

/// Refuses what cannot be a name on the way to an entry, whether the entry says it or a link that leads there.
fn check_name(name: &[u8], entry: &[u8]) -> Result<(), LayerError> {
    if name.contains(&0) {
        return Err(refused(entry, "has a NUL in its name"));
    }
    if name.len() > NAME_MAX {
        return Err(LayerError::Limit {
            what: "longer names",
            limit: NAME_MAX as u64,
        });
    }
    Ok(())
}

/// Whether AUFS alone knows what an entry is for.
pub(super) fn is_of_aufs(parts: &[&[u8]]) -> bool {
    let (last, above) = match parts.split_last() {
        Some(split) => split,
        None => return false,
    };
    let of_aufs = |part: &&[u8]| part.starts_with(AUFS);
    above.iter().any(of_aufs) || of_aufs(last) && *last != OPAQUE
}

/// What happens to directories on the way that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Refuse,
}

impl Builder<'_> {
    /// The directory that these parts lead to.
    pub(super) fn directory(
        &mut self,
        parts: &[&[u8]],
        missing: Missing,
        entry: &[u8],
    ) -> Result<InodeId, LayerError> {
        let mut rest: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let (mut at, mut depth, mut links) = (InodeId::ROOT, 0_usize, 0);
        while let Some(part) = rest.pop_front() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    at = self.tree.parent(at);
                    depth = depth.saturating_sub(1);
                    continue;
                }
                _ => {}
            }
            let child = self.tree.child(at, &part);
            match child.map(|child| (child, &self.tree.inode(child).kind)) {
                Some((child, Kind::Directory(_))) => at = child,
                Some((_, Kind::Symlink(target))) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refused(entry, "lies beneath too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        (at, depth) = (InodeId::ROOT, 0);
                    }
                    let target: Vec<_> = target.split(|byte| *byte == b'/').collect();
                    for part in target.into_iter().rev() {
                        rest.push_front(part.to_vec());
                    }
                    continue;
                }
                Some((_, kind)) if !kind.is_whiteout() => {
                    return Err(refused(
                        entry,
                        "lies beneath something that is no directory",
                    ));
                }
                _ if missing == Missing::Refuse => {
                    return Err(refused(
                        entry,
                        "is a link to something that the layer does not have",
                    ));
                }
                // A link may lead there that no entry could name.
                _ if part.starts_with(WHITEOUT) => {
                    return Err(refused(entry, "lies beneath a whiteout"));
                }
                whiteout => {
                    check_name(&part, entry)?;
                    let opaque = whiteout.is_some();
                    at = self.imply(at, &part, opaque)?;
                }
            }
            depth += 1;
            if depth > self.limits.depth {
                return Err(LayerError::Limit {
                    what: "deeper directories",
                    limit: self.limits.depth as u64,
                });
            }
        }
        Ok(at)
    }
}
