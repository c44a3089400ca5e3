//! Whether nodes that a guest sends make a tree, where no file system says so.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use files::{FilesError, check_node_path};
use protocol::{NodeKind, TreeNode};

use super::error::{in_guest, odd};
use crate::error::MicrosandboxError;
use crate::file_replies::path as shown;

/// How many directories and links are remembered at a time.
const MAX_REMEMBERED: usize = 1 << 20;

/// The directories in which the next node of a tree can be.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    is_begun: bool,
    /// Those on the way to the node before, from the beginning of the tree.
    open: Vec<Open>,
    hashes: RandomState,
    remembered: usize,
}

/// A directory into which nodes come.
#[derive(Debug)]
struct Open {
    path: Vec<u8>,
    /// Hashes of the paths of directories and links in it.
    once: HashSet<u64>,
}

impl Nesting {
    /// Looks at the next node: it lies in a directory that came before and has come to no end, names nothing outside the tree,
    /// and has not the path of a directory or a link that came before. Who unpacks an archive may write through such a link. A
    /// file may come again: one that is replaced while its directory is read does, and the later one counts, as with tar(1).
    ///
    /// # Errors
    /// [`MicrosandboxError::Fs`].
    pub(super) fn take(&mut self, node: &TreeNode) -> Result<(), MicrosandboxError> {
        let path = &node.path.0;
        check_node_path(path).map_err(in_guest)?;
        if let NodeKind::HardLink { to } = &node.kind {
            check_node_path(&to.0).map_err(in_guest)?;
        }
        let is_placed = match path.is_empty() {
            true => !self.is_begun,
            false => self.leave_for(parent(path)),
        };
        if !is_placed {
            let path = shown(path);
            return Err(in_guest(FilesError::PathEscape { path }));
        }
        self.is_begun = true;
        self.remember(node)?;
        if node.kind == NodeKind::Directory {
            self.open.push(Open {
                path: path.clone(),
                once: HashSet::new(),
            });
        }
        Ok(())
    }

    /// Leaves all directories beneath `directory`; returns whether that is one to be in.
    fn leave_for(&mut self, directory: &[u8]) -> bool {
        while let Some(left) = self.open.pop_if(|open| open.path != directory) {
            self.remembered = self.remembered.saturating_sub(left.once.len());
        }
        !self.open.is_empty()
    }

    /// Remembers what may come only once, in the directory in which it lies.
    fn remember(&mut self, node: &TreeNode) -> Result<(), MicrosandboxError> {
        // The beginning lies in none.
        let Some(directory) = self.open.last_mut() else {
            return Ok(());
        };
        let path = &node.path.0;
        let hash = self.hashes.hash_one(path);
        if directory.once.contains(&hash) {
            let path = shown(path);
            let message = format!(
                "{} comes again after it was a directory or a link",
                path.display()
            );
            return Err(odd(path, message));
        }
        if is_once(&node.kind) {
            if self.remembered == MAX_REMEMBERED {
                let message =
                    format!("More than {MAX_REMEMBERED} directories and links lie side by side");
                return Err(odd(shown(path), message));
            }
            directory.once.insert(hash);
            self.remembered = self.remembered.saturating_add(1);
        }
        Ok(())
    }
}

/// Whether nothing else may have its name.
fn is_once(kind: &NodeKind) -> bool {
    matches!(
        kind,
        NodeKind::Directory | NodeKind::Symlink { .. } | NodeKind::HardLink { .. }
    )
}

/// The directory that `path` is in.
fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|&byte| byte == b'/');
    slash
        .and_then(|slash| path.get(..slash))
        .unwrap_or_default()
}
