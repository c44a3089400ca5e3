//! Whether nodes that a guest sends make a tree, where no file system says so.

use files::{FilesError, check_node_path};
use protocol::{NodeKind, TreeNode};

/// The directories in which the next node of a tree can be.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    is_begun: bool,
    /// Those on the way to the node before, from the beginning of the tree.
    open: Vec<Vec<u8>>,
}

impl Nesting {
    /// Looks at the next node: it lies in a directory that came before and has come to no end, and names nothing outside the
    /// tree.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`].
    pub(super) fn take(&mut self, node: &TreeNode) -> Result<(), FilesError> {
        let path = &node.path.0;
        check_node_path(path)?;
        if let NodeKind::HardLink { to } = &node.kind {
            check_node_path(&to.0)?;
        }
        let is_placed = match path.is_empty() {
            true => !self.is_begun,
            false => self.leave_for(parent(path)),
        };
        if !is_placed {
            return Err(FilesError::PathEscape {
                path: crate::file_replies::path(path),
            });
        }
        self.is_begun = true;
        if node.kind == NodeKind::Directory {
            self.open.push(path.clone());
        }
        Ok(())
    }

    /// Leaves all directories beneath `directory`; returns whether that is one to be in.
    fn leave_for(&mut self, directory: &[u8]) -> bool {
        while self.open.last().is_some_and(|open| open != directory) {
            self.open.pop();
        }
        !self.open.is_empty()
    }
}

/// The directory that `path` is in.
fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|&byte| byte == b'/');
    slash
        .and_then(|slash| path.get(..slash))
        .unwrap_or_default()
}
