//! The header (docs/interop/qcow2.txt of QEMU, "Header" and "Header extensions").

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::geometry::Geometry;
use crate::SECTOR;

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Incompatible features: whoever does not know one must not touch the image.
pub(super) mod incompatible {
    /// Reference counts may be wrong.
    pub(in crate::qcow2) const DIRTY: u64 = 1;
    /// Somebody found the metadata damaged.
    pub(in crate::qcow2) const CORRUPT: u64 = 1 << 1;
    /// Clusters of the disk are in another file.
    pub(in crate::qcow2) const DATA_FILE: u64 = 1 << 2;
    /// The compression type is not 0.
    pub(in crate::qcow2) const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have two words.
    pub(in crate::qcow2) const EXTENDED_L2: u64 = 1 << 4;
    /// All that are known here.
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature: reference counts may be updated lazily.
pub(super) const LAZY_REFCOUNTS: u64 = 1;
/// Autoclear feature: the bitmaps are up to date.
pub(super) const BITMAPS: u64 = 1;
/// Autoclear feature: the external data file is the disk as a raw image.
pub(super) const RAW_DATA_FILE: u64 = 1 << 1;

/// Where fields of the header are, in bytes.
pub(super) mod field {
    pub(in crate::qcow2) const SIZE: u64 = 24;
    pub(in crate::qcow2) const L1_SIZE: u64 = 36;
    pub(in crate::qcow2) const REFCOUNT_TABLE_OFFSET: u64 = 48;
    pub(in crate::qcow2) const INCOMPATIBLE: u64 = 72;
    pub(in crate::qcow2) const AUTOCLEAR: u64 = 88;
}

/// Bytes of a version 3 header without optional fields, and of the largest that is written here.
pub(super) const V3_LENGTH: u32 = 104;
const V2_LENGTH: u32 = 72;

/// Bounds of tables that are held in memory, the same as QEMU's.
pub(super) const L1_BYTES_MAX: u64 = 32 << 20;
pub(super) const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
const SNAPSHOTS_MAX: u32 = 65536;
const NAME_BYTES_MAX: u32 = 1023;

/// Types of header extensions.
pub(super) mod extension {
    pub(in crate::qcow2) const END: u32 = 0;
    pub(in crate::qcow2) const BACKING_FORMAT: u32 = 0xE279_2ACA;
    pub(in crate::qcow2) const DATA_FILE: u32 = 0x4441_5441;
    pub(in crate::qcow2) const BITMAPS: u32 = 0x2385_2875;
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// Raw deflate data (RFC 1951).
    Deflate,
    /// A Zstandard frame (RFC 8878).
    Zstd,
}

/// What the header says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    pub(super) refcount_table_offset: u64,
    pub(super) refcount_table_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) autoclear: u64,
    pub(super) compression: Compression,
    pub(super) backing: Option<OsString>,
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<OsString>,
    /// Offset and length of the bitmap directory, and how many bitmaps it lists.
    pub(super) bitmaps: Option<(u64, u64, u32)>,
}

/// Why a header is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It breaks a rule of the format.
    Invalid(String),
    /// It asks for what is not provided.
    Unsupported(String),
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, HeaderError> {
    Err(HeaderError::Invalid(reason.into()))
}

fn unsupported<T>(reason: impl Into<String>) -> Result<T, HeaderError> {
    Err(HeaderError::Unsupported(reason.into()))
}

/// Big-endian numbers at byte offsets.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], HeaderError> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..));
        match rest.and_then(|rest| rest.first_chunk()) {
            Some(bytes) => Ok(*bytes),
            None => invalid("the header is cut short"),
        }
    }

    fn u32(&self, offset: u64) -> Result<u32, HeaderError> {
        self.array(offset).map(u32::from_be_bytes)
    }

    fn u64(&self, offset: u64) -> Result<u64, HeaderError> {
        self.array(offset).map(u64::from_be_bytes)
    }

    fn bytes(&self, offset: u64, length: u32) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(length as usize)?)
    }
}

impl Header {
    /// Bytes in a cluster, the part of the file that [`parse`](Self::parse) needs, as the first bytes say.
    pub(super) fn cluster_bits(beginning: &[u8]) -> Result<u32, HeaderError> {
        let fields = Fields(beginning);
        if fields.array(0) != Ok(MAGIC) {
            return invalid("it does not begin with the magic number of the format");
        }
        match fields.u32(4)? {
            2 | 3 => {}
            version => return unsupported(format!("version {version} is neither 2 nor 3")),
        }
        match fields.u32(20)? {
            bits @ 9..=21 => Ok(bits),
            bits => invalid(format!(
                "clusters of 2^{bits} bytes are not between 512 bytes and 2 MiB"
            )),
        }
    }

    /// Reads the header and its extensions from the first cluster, or as much of it as there is.
    pub(super) fn parse(cluster: &[u8]) -> Result<Header, HeaderError> {
        let cluster_bits = Header::cluster_bits(cluster)?;
        let fields = Fields(cluster);
        let version = fields.u32(4)?;
        if fields.u32(32)? != 0 {
            return unsupported("it is encrypted");
        }
        let mut header = Header {
            version,
            geometry: Geometry {
                cluster_bits,
                refcount_order: 4,
                extended_l2: false,
            },
            size: fields.u64(24)?,
            l1_size: fields.u32(36)?,
            l1_offset: fields.u64(40)?,
            refcount_table_offset: fields.u64(48)?,
            refcount_table_clusters: fields.u32(56)?,
            snapshots: fields.u32(60)?,
            snapshots_offset: fields.u64(64)?,
            incompatible: 0,
            autoclear: 0,
            compression: Compression::Deflate,
            backing: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
        };
        let mut length = V2_LENGTH;
        if version >= 3 {
            length = header.parse_version_3(&fields)?;
        }
        header.check()?;
        header.parse_names(&fields, length)?;
        Ok(header)
    }

    /// What version 3 adds. Returns the header's length.
    fn parse_version_3(&mut self, fields: &Fields<'_>) -> Result<u32, HeaderError> {
        self.incompatible = fields.u64(field::INCOMPATIBLE)?;
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            return unsupported(format!(
                "it needs features that are not known here (bits {unknown:#x})"
            ));
        }
        self.autoclear = fields.u64(field::AUTOCLEAR)?;
        let order = fields.u32(96)?;
        if order > 6 {
            return invalid(format!("reference counts of 2^{order} bits are too wide"));
        }
        self.geometry.refcount_order = order;
        self.geometry.extended_l2 = self.incompatible & incompatible::EXTENDED_L2 != 0;
        if self.geometry.extended_l2 && self.geometry.cluster_bits < 14 {
            return invalid("its clusters are too small to have subclusters");
        }
        let length = fields.u32(100)?;
        if length < V3_LENGTH || u64::from(length) > self.geometry.cluster_size() {
            return invalid(format!("its header cannot be {length} bytes long"));
        }
        let kind = if length > V3_LENGTH {
            let [kind] = fields.array(u64::from(V3_LENGTH))?;
            kind
        } else {
            0
        };
        self.compression = match kind {
            0 => Compression::Deflate,
            1 => Compression::Zstd,
            kind => return unsupported(format!("compression type {kind} is not known here")),
        };
        if (kind != 0) != (self.incompatible & incompatible::COMPRESSION != 0) {
            return invalid("the compression type contradicts the feature bits");
        }
        Ok(length)
    }

    /// What can be told about the numbers without looking at the file.
    fn check(&self) -> Result<(), HeaderError> {
        let geometry = self.geometry;
        if self.size == 0 || !self.size.is_multiple_of(SECTOR) || self.size > i64::MAX as u64 {
            return invalid(format!(
                "the disk's size is {} bytes, which is not a number of sectors of {SECTOR}",
                self.size
            ));
        }
        if self.l1_bytes() > L1_BYTES_MAX {
            return invalid(format!(
                "an L1 table of {} entries is too large",
                self.l1_size
            ));
        }
        if u64::from(self.l1_size) < geometry.l1_entries(self.size) {
            return invalid(format!(
                "an L1 table of {} entries is too small for a disk of {} bytes",
                self.l1_size, self.size
            ));
        }
        if self.refcount_table_clusters == 0
            || self.refcount_table_bytes() > REFCOUNT_TABLE_BYTES_MAX
        {
            return invalid(format!(
                "a refcount table of {} clusters is too small or too large",
                self.refcount_table_clusters
            ));
        }
        if self.snapshots > SNAPSHOTS_MAX {
            return invalid(format!("{} snapshots are too many", self.snapshots));
        }
        self.check_overlap()
    }

    fn check_overlap(&self) -> Result<(), HeaderError> {
        let mut tables = self.tables();
        tables.sort_by_key(|(_, start, _)| *start);
        let mut before = ("header", self.geometry.cluster_size());
        for (name, start, length) in tables {
            if !self.geometry.is_aligned(start) {
                return invalid(format!("the {name} does not begin with a cluster"));
            }
            if start < before.1 {
                return invalid(format!("the {name} and the {} overlap", before.0));
            }
            match start.checked_add(length) {
                Some(end) if end <= i64::MAX as u64 => before = (name, end),
                _ => return invalid(format!("the {name} lies beyond any file")),
            }
        }
        Ok(())
    }

    /// Name, offset and length of each table that the header points to. How long the snapshot table is, it says itself.
    pub(super) fn tables(&self) -> Vec<(&'static str, u64, u64)> {
        let mut tables = vec![
            ("L1 table", self.l1_offset, self.l1_bytes()),
            (
                "refcount table",
                self.refcount_table_offset,
                self.refcount_table_bytes(),
            ),
        ];
        if self.snapshots > 0 {
            let least = u64::from(self.snapshots).saturating_mul(40);
            tables.push(("snapshot table", self.snapshots_offset, least));
        }
        tables
    }

    pub(super) fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_size).saturating_mul(8)
    }

    pub(super) fn refcount_table_bytes(&self) -> u64 {
        self.geometry.offset(self.refcount_table_clusters.into())
    }

    /// The header extensions, and the name of the backing file, which follows them.
    fn parse_names(&mut self, fields: &Fields<'_>, length: u32) -> Result<(), HeaderError> {
        let backing_offset = fields.u64(8)?;
        let cluster_size = self.geometry.cluster_size();
        let mut end = cluster_size.min(fields.0.len() as u64);
        if backing_offset != 0 {
            let bytes = fields.u32(16)?;
            let last = backing_offset.saturating_add(bytes.into());
            if bytes > NAME_BYTES_MAX || last > cluster_size || backing_offset < length.into() {
                return invalid("the name of the backing file is not in the first cluster");
            }
            let Some(name) = fields.bytes(backing_offset, bytes) else {
                return invalid("the name of the backing file is cut short");
            };
            if bytes > 0 {
                self.backing = Some(OsString::from_vec(name.to_vec()));
            }
            end = backing_offset;
        }
        let mut at = u64::from(length);
        // Without room for one there are no extensions.
        while at.saturating_add(8) <= end {
            let (kind, bytes) = (fields.u32(at)?, fields.u32(at.saturating_add(4))?);
            if kind == extension::END {
                break;
            }
            at = at.saturating_add(8);
            let next = at.saturating_add(u64::from(bytes).next_multiple_of(8));
            let content = match fields.bytes(at, bytes) {
                Some(content) if at.saturating_add(bytes.into()) <= end => content,
                _ => return invalid("a header extension is cut short"),
            };
            self.take_extension(kind, content)?;
            at = next;
        }
        if self.data_file.is_none() && self.incompatible & incompatible::DATA_FILE != 0 {
            return invalid("the external data file has no name");
        }
        Ok(())
    }

    fn take_extension(&mut self, kind: u32, content: &[u8]) -> Result<(), HeaderError> {
        let fields = Fields(content);
        match kind {
            extension::BACKING_FORMAT => {
                self.backing_format = Some(String::from_utf8_lossy(content).into_owned());
            }
            extension::DATA_FILE if self.incompatible & incompatible::DATA_FILE != 0 => {
                self.data_file = Some(OsString::from_vec(content.to_vec()));
            }
            extension::BITMAPS if self.autoclear & BITMAPS != 0 => {
                let count = fields.u32(0)?;
                let (length, offset) = (fields.u64(8)?, fields.u64(16)?);
                self.bitmaps = Some((offset, length, count));
            }
            _ => {}
        }
        Ok(())
    }
}
