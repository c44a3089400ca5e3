//! Extended attributes: their names as the format has them, and each of them only once in memory.

use std::collections::HashMap;

use super::format::XATTR_ENTRY;

/// The name spaces that have a number: prefix, number.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The greatest length of a name, prefix included (xattr(7)).
pub const XATTR_NAME_MAX: usize = 255;

/// The greatest length of a value that the format can hold.
pub const XATTR_VALUE_MAX: usize = 65_535;

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xattr {
    /// Number of the name space.
    namespace: u8,
    /// The name without the prefix of its name space.
    suffix: Box<[u8]>,
    value: Box<[u8]>,
}

impl Xattr {
    /// An attribute with this name and value, or `None` if no file on Linux has such a one: if its name space is
    /// unknown, its name is incomplete or has a NUL, or one of both is too long.
    pub fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        if name.len() > XATTR_NAME_MAX || value.len() > XATTR_VALUE_MAX || name.contains(&0) {
            return None;
        }
        let (namespace, suffix) = NAMESPACES.iter().find_map(|(prefix, namespace)| {
            let suffix = name.strip_prefix(*prefix)?;
            (prefix.ends_with(b".") != suffix.is_empty()).then_some((*namespace, suffix))
        })?;
        Some(Self {
            namespace,
            suffix: suffix.into(),
            value: value.into(),
        })
    }

    /// The whole name.
    pub fn name(&self) -> Vec<u8> {
        let prefix = NAMESPACES
            .iter()
            .find(|(_, namespace)| *namespace == self.namespace)
            .map_or(&b""[..], |(prefix, _)| prefix);
        [prefix, &self.suffix].concat()
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The bytes of its entry.
    pub(super) fn encoded_len(&self) -> usize {
        (XATTR_ENTRY + self.suffix.len() + self.value.len()).next_multiple_of(XATTR_ENTRY)
    }

    /// Adds its entry.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.encoded_len();
        // Both lengths were checked by `new`.
        out.push(self.suffix.len() as u8);
        out.push(self.namespace);
        out.extend((self.value.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.suffix);
        out.extend_from_slice(&self.value);
        out.resize(end, 0);
    }

    /// Reads the entry at the start of these bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [name_len, namespace, low, high] = *bytes.first_chunk()?;
        let prefix = NAMESPACES.iter().find(|(_, known)| *known == namespace)?.0;
        let rest = bytes.get(XATTR_ENTRY..)?;
        let (suffix, rest) = rest.split_at_checked(usize::from(name_len))?;
        let value = rest.get(..usize::from(u16::from_le_bytes([low, high])))?;
        Self::new(&[prefix, suffix].concat(), value)
    }
}

/// Number of an attribute in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct XattrId(u32);

/// Every attribute once, however many inodes have it.
#[derive(Debug, Default)]
pub(super) struct XattrTable {
    all: Vec<Xattr>,
    ids: HashMap<Xattr, XattrId>,
}

impl XattrTable {
    /// The number of this attribute, new or not.
    pub(super) fn intern(&mut self, xattr: Xattr) -> XattrId {
        if let Some(id) = self.ids.get(&xattr) {
            return *id;
        }
        // As many as there are entries in an archive at most, whose number is limited.
        let id = XattrId(self.all.len() as u32);
        self.all.push(xattr.clone());
        self.ids.insert(xattr, id);
        id
    }

    /// The attribute with this number, which is one of this table.
    pub(super) fn get(&self, id: XattrId) -> &Xattr {
        &self.all[id.0 as usize]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

impl XattrId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}
