//! Whole trees of files as streams: of nodes and contents, see [`protocol::TreeNode`].

pub(crate) mod first_names;
mod node_path;
pub(crate) mod reading;
pub(crate) mod stretches;
mod target;
#[cfg(test)]
mod tests;
mod writing;

pub use node_path::check_node_path;
pub use reading::TreeSink;
pub use writing::{Skipped, TreePolicy, TreeReport, TreeWriter};

/// How many directories lie within each other in a tree; each takes a descriptor.
pub(crate) const MAX_DEPTH: usize = 256;

/// Longest path of a node in bytes: `PATH_MAX` without its zero.
pub(crate) const MAX_PATH: usize = 4095;
