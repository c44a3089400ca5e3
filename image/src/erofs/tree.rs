//! A tree of files in memory, without the content of the files.

use std::collections::BTreeMap;

use super::xattr::{Xattr, XattrId, XattrTable};

/// Number of an inode in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    /// The root directory of every tree.
    pub const ROOT: Self = Self(0);

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A time since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Whole seconds, before 1970 if negative.
    pub seconds: i64,
    /// Nanoseconds that are added, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What every inode has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permissions, with set-user-ID, set-group-ID and sticky: 12 bits.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Time,
}

/// Major and minor number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    /// What overlayfs takes a character device for that hides a name of the layers below.
    pub const WHITEOUT: Self = Self { major: 0, minor: 0 };

    /// A device number, or `None` if Linux has none such: it has 12 bits for the major and 20 for the minor.
    pub fn new(major: u32, minor: u32) -> Option<Self> {
        (major < 1 << 12 && minor < 1 << 20).then_some(Self { major, minor })
    }

    /// As the kernel's new_encode_dev() has it.
    pub(super) fn encode(self) -> u32 {
        self.minor & 0xff | self.major << 8 | (self.minor & !0xff) << 12
    }

    pub(super) fn decode(encoded: u32) -> Self {
        Self {
            major: encoded >> 8 & 0xfff,
            minor: encoded & 0xff | encoded >> 12 & 0xfff00,
        }
    }

    /// Major number.
    pub fn major(self) -> u32 {
        self.major
    }

    /// Minor number.
    pub fn minor(self) -> u32 {
        self.minor
    }
}

/// Where the content of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The first block.
    pub block: u32,
    /// Bytes.
    pub size: u64,
}

/// A directory.
#[derive(Debug, Default)]
pub struct Directory {
    pub(super) children: BTreeMap<Box<[u8]>, InodeId>,
    pub(super) parent: Option<InodeId>,
    /// Hides what the layers below have in a directory of the same path.
    pub opaque: bool,
    /// Nobody said anything of it; it is there because something beneath it is. Where layers are merged it is
    /// the directory of the layers below, if there is one.
    pub implied: bool,
}

impl Directory {
    /// An empty directory of a layer.
    pub fn new(opaque: bool, implied: bool) -> Self {
        Self {
            opaque,
            implied,
            ..Self::default()
        }
    }
}

/// What an inode is.
#[derive(Debug)]
pub enum Kind {
    /// A regular file.
    File(Extent),
    /// A directory.
    Directory(Directory),
    /// A symbolic link with its target, 1 to 4095 bytes.
    Symlink(Box<[u8]>),
    /// A character device.
    Character(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// Whether it hides a name of the layers below.
    pub fn is_whiteout(&self) -> bool {
        matches!(self, Self::Character(Device::WHITEOUT))
    }
}

/// An inode.
#[derive(Debug)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// What every inode has.
    pub attributes: Attributes,
    pub(super) xattrs: Vec<XattrId>,
    pub(super) links: u32,
}

impl Inode {
    /// Names of it in its tree.
    pub fn links(&self) -> u32 {
        self.links
    }
}

/// A tree of files.
#[derive(Debug)]
pub struct Tree {
    /// Those without links are left-overs. An [`InodeId`] is an index of this and never of another tree.
    inodes: Vec<Inode>,
    pub(super) xattrs: XattrTable,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A tree with nothing but a root, which is implied, of mode 0755 and of user 0.
    pub fn new() -> Self {
        let root = Inode {
            kind: Kind::Directory(Directory::new(false, true)),
            attributes: Attributes {
                permissions: 0o755,
                ..Attributes::default()
            },
            xattrs: Vec::new(),
            links: 1,
        };
        Self {
            inodes: vec![root],
            xattrs: XattrTable::default(),
        }
    }

    /// An inode of this tree.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// An inode of this tree, to be changed.
    pub fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// Adds an inode that has no name yet. There may be 2^32 - 1 of them.
    pub fn add(&mut self, kind: Kind, attributes: Attributes) -> InodeId {
        // Whoever adds limits the number, far below what would not fit.
        let id = InodeId(self.inodes.len() as u32);
        self.inodes.push(Inode {
            kind,
            attributes,
            xattrs: Vec::new(),
            links: 0,
        });
        id
    }

    /// How many inodes were added, the root included.
    pub(super) fn capacity(&self) -> usize {
        self.inodes.len()
    }

    /// Gives an inode these extended attributes in the place of those that it has; one of each name.
    pub fn set_xattrs(&mut self, id: InodeId, xattrs: impl IntoIterator<Item = Xattr>) {
        let mut ids: Vec<_> = xattrs
            .into_iter()
            .map(|xattr| self.xattrs.intern(xattr))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        self.inode_mut(id).xattrs = ids;
    }

    /// The extended attributes of an inode.
    pub fn xattrs(&self, id: InodeId) -> impl Iterator<Item = &Xattr> {
        let ids = self.inode(id).xattrs.iter();
        ids.map(|xattr| self.xattrs.get(*xattr))
    }

    /// The directory with this number, if it is one.
    pub fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inode(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// The directory with this number, to be changed, if it is one.
    pub fn directory_mut(&mut self, id: InodeId) -> Option<&mut Directory> {
        match &mut self.inode_mut(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// What a directory has under a name.
    pub fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        self.directory(directory)?.children.get(name).copied()
    }

    /// The names of a directory and what they stand for, sorted by bytes.
    pub fn children(&self, directory: InodeId) -> impl Iterator<Item = (&[u8], InodeId)> {
        let children = self.directory(directory).map(|found| &found.children);
        children
            .into_iter()
            .flatten()
            .map(|(name, id)| (&**name, *id))
    }

    /// Where `..` of a directory leads; from the root to itself.
    pub fn parent(&self, directory: InodeId) -> InodeId {
        self.directory(directory)
            .and_then(|found| found.parent)
            .unwrap_or(InodeId::ROOT)
    }

    /// Gives an inode a name of a directory, in the place of whatever has it. A directory may have only one name.
    pub fn link(&mut self, directory: InodeId, name: &[u8], id: InodeId) {
        let inode = self.inode_mut(id);
        inode.links = inode.links.saturating_add(1);
        if let Kind::Directory(linked) = &mut inode.kind {
            linked.parent = Some(directory);
        }
        let Some(parent) = self.directory_mut(directory) else {
            return;
        };
        if let Some(replaced) = parent.children.insert(name.into(), id) {
            self.release(replaced);
        }
    }

    /// Takes a name away, with everything beneath it.
    pub fn unlink(&mut self, directory: InodeId, name: &[u8]) {
        let removed = self
            .directory_mut(directory)
            .and_then(|parent| parent.children.remove(name));
        if let Some(removed) = removed {
            self.release(removed);
        }
    }

    /// Takes a link from an inode, and gives back the memory of it and of what is beneath it if it was the last.
    fn release(&mut self, id: InodeId) {
        let mut released = vec![id];
        while let Some(id) = released.pop() {
            let inode = self.inode_mut(id);
            inode.links = inode.links.saturating_sub(1);
            if inode.links == 0 {
                inode.xattrs = Vec::new();
                if let Kind::Directory(gone) = std::mem::replace(&mut inode.kind, Kind::Fifo) {
                    released.extend(gone.children.into_values());
                }
            }
        }
    }
}
