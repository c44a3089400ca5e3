//! Extended attributes: which become part of a layer, and what those of overlayfs mean.

use std::io;
use std::os::fd::OwnedFd;

use protocol::{Bytes, ExtendedAttribute};

use crate::extended_attributes::{get, is_own, list, path_of};

/// What overlayfs keeps about files is in attributes whose names begin so.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// What the extended attributes of a file say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Those that become part of the layer, by name and in the order of names.
    pub(super) kept: Vec<ExtendedAttribute>,
    /// It is a directory that hides what the layers beneath have there.
    pub(super) opaque: bool,
    /// It is a directory that has another name beneath.
    pub(super) redirected: bool,
    /// A part of it is beneath, or it is a deletion that is no device.
    pub(super) elsewhere: bool,
}

impl Attributes {
    /// Those of what `found` (`O_PATH`) refers to.
    ///
    /// # Errors
    /// As listxattr(2).
    pub(super) fn read(found: &OwnedFd) -> io::Result<Attributes> {
        let entry = path_of(found)?;
        let mut attributes = Attributes::default();
        for name in list(&entry)?.split(|&byte| byte == 0) {
            if !name.is_empty() {
                attributes.add(name, || get(&entry, name))?;
            }
        }
        attributes.kept.sort();
        Ok(attributes)
    }

    fn add(&mut self, name: &[u8], value: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<()> {
        match name.strip_prefix(OVERLAY) {
            Some(b"opaque") => self.opaque = value()? == b"y",
            Some(b"redirect") => self.redirected = true,
            Some(b"metacopy" | b"whiteout") => self.elsewhere = true,
            Some(_) => {}
            // A record of an archive ends its name with the first `=`.
            None if is_own(name) && !name.contains(&b'=') => {
                self.kept.push(ExtendedAttribute {
                    name: Bytes(name.to_vec()),
                    value: Bytes(value()?),
                });
            }
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[(&str, &str)]) -> Attributes {
        let mut attributes = Attributes::default();
        for (name, value) in all {
            let value = || Ok(value.as_bytes().to_vec());
            attributes.add(name.as_bytes(), value).unwrap();
        }
        attributes
    }

    #[test]
    fn what_is_the_files_own_is_kept() {
        let attributes = of(&[
            ("user.colour", "red"),
            ("security.capability", "x"),
            ("system.posix_acl_access", "y"),
            ("trusted.overlay.origin", "z"),
            ("trusted.overlay.impure", "y"),
            ("trusted.overlay.overlay.opaque", "y"),
            ("trusted.msb.implied", "y"),
            ("security.selinux", "s"),
            ("user.a=b", "c"),
        ]);
        let names: Vec<_> = attributes
            .kept
            .iter()
            .map(|kept| &kept.name.0[..])
            .collect();
        let expected: [&[u8]; 3] = [
            b"user.colour",
            b"security.capability",
            b"system.posix_acl_access",
        ];
        assert_eq!(names, expected);
        assert!(!attributes.opaque && !attributes.redirected && !attributes.elsewhere);
    }

    #[test]
    fn those_of_overlayfs_mean_something() {
        assert!(of(&[("trusted.overlay.opaque", "y")]).opaque);
        assert!(!of(&[("trusted.overlay.opaque", "x")]).opaque);
        assert!(of(&[("trusted.overlay.redirect", "/a")]).redirected);
        assert!(of(&[("trusted.overlay.metacopy", "")]).elsewhere);
        assert!(of(&[("trusted.overlay.whiteout", "y")]).elsewhere);
    }
}
