//! How much of anything a layer may have.

/// Limits of a layer, so that a small archive cannot take all memory or all of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive when it is decompressed.
    pub tar_bytes: u64,
    /// Bytes of all files together, holes included.
    pub file_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of all names, links' targets and extended attributes together: what is kept in memory.
    pub metadata_bytes: u64,
    /// Bytes of a path.
    pub path_bytes: usize,
    /// Directories above a file.
    pub depth: usize,
    /// Bytes of the extended attributes of one file, names included.
    pub xattr_bytes: usize,
    /// Bytes of an extended header of the archive, or of a map of a sparse file.
    pub header_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tar_bytes: 64 << 30,
            file_bytes: 4 << 40,
            entries: 1_000_000,
            metadata_bytes: 512 << 20,
            // PATH_MAX: what no system call would accept.
            path_bytes: 4096,
            depth: 1000,
            // What Linux takes as one value (XATTR_SIZE_MAX), and some names.
            xattr_bytes: 68 << 10,
            header_bytes: 1 << 20,
        }
    }
}
