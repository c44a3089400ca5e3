//! What directories of a layer say to whoever stacks or merges layers, as extended attributes.

use super::tree::{Directory, InodeId, Tree};
use super::xattr::Xattr;

/// overlayfs (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// Ours: the layer's archive has no entry for this directory.
const IMPLIED: &[u8] = b"trusted.msb.implied";

/// Extended attributes that no archive may bring along: what they say is decided here.
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"trusted.msb.")
}

/// The markers as attributes.
pub(super) struct Markers {
    opaque: Option<Xattr>,
    implied: Option<Xattr>,
}

impl Markers {
    pub(super) fn new() -> Self {
        Self {
            opaque: Xattr::new(OPAQUE, b"y"),
            implied: Xattr::new(IMPLIED, b"y"),
        }
    }

    /// Those that an inode needs.
    pub(super) fn of(&self, tree: &Tree, id: InodeId) -> impl Iterator<Item = &Xattr> {
        let directory = tree.directory(id);
        let opaque = directory.is_some_and(|directory| directory.opaque);
        let implied = directory.is_some_and(|directory| directory.implied);
        let opaque = self.opaque.as_ref().filter(|_| opaque);
        opaque
            .into_iter()
            .chain(self.implied.as_ref().filter(|_| implied))
    }
}

/// Whether an attribute that was read is a marker; it is entered into the directory then.
pub(super) fn enter(xattr: &Xattr, directory: &mut Directory) -> bool {
    let name = xattr.name();
    directory.opaque |= name == OPAQUE;
    directory.implied |= name == IMPLIED;
    name == OPAQUE || name == IMPLIED
}
