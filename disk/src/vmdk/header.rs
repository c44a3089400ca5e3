//! The first sector of a sparse extent ("Virtual Disk Format 5.0", section "Hosted Sparse Extent Header").

use super::refusal::Refusal;

/// `KDMV` as a little-endian number.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";

/// Entries of a grain table: the format has this one value.
pub(super) const TABLE_ENTRIES: u64 = 512;

/// Bytes of a grain table.
pub(super) const TABLE_BYTES: u64 = 2048;

/// Sectors of a grain table.
pub(super) const TABLE_SECTORS: u64 = 4;

/// Where the byte lies that says whether the extent was closed, in bytes.
pub(super) const UNCLEAN_AT: u64 = 72;

/// Smallest grain of the format, and the largest that is accepted, in sectors: a compressed grain is unpacked in memory.
const GRAIN: std::ops::RangeInclusive<u64> = 8..=2048;

/// Most grain tables of one extent: their directory is kept in memory. With the usual grains of 64 KiB it is 32 TiB.
const MAX_TABLES: u64 = 1 << 20;

const FLAG_LINE_ENDS: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;

/// These characters are damaged by transfers as text, which is how such a transfer is noticed.
const LINE_ENDS: [u8; 4] = *b"\n \r\n";

/// `compressAlgorithm` of RFC 1950 data.
const DEFLATE: u16 = 1;

/// The value of the directory's place that says: the true header is at the end of the file.
const AT_END: u64 = u64::MAX;

/// The header, checked on its own. Places and sizes are in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// 1, 2 or 3.
    pub(super) version: u32,
    /// Size of the extent.
    pub(super) capacity: u64,
    /// Size of a grain: a power of two.
    pub(super) grain: u64,
    /// Where the embedded descriptor begins; 0 if there is none.
    pub(super) descriptor_at: u64,
    /// Size of the embedded descriptor.
    pub(super) descriptor_size: u64,
    /// Where the grain directory lies.
    pub(super) directory_at: DirectoryAt,
    /// Where the redundant directory lies, if there is one.
    pub(super) redundant_at: Option<u64>,
    /// Where grains may begin.
    pub(super) overhead: u64,
    /// Grain table entries of 1 are grains of zeros.
    pub(super) zeroed_grains: bool,
    /// Grains are compressed, with a marker before each.
    pub(super) compressed: bool,
    /// The extent was not closed by who wrote it last.
    pub(super) unclean: bool,
}

/// Where the grain directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectoryAt {
    /// At this sector.
    Sector(u64),
    /// Where a copy of the header says that stands at the end of the file.
    Footer,
}

impl Header {
    /// Reads a header.
    pub(super) fn decode(bytes: &[u8; 512]) -> Result<Header, Refusal> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Refusal::invalid("the magic number is missing"));
        }
        let version = u32_at(bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(Refusal::unsupported(format!(
                "version {version} is unknown"
            )));
        }
        let flags = u32_at(bytes, 8);
        let line_ends = bytes.get(73..77).unwrap_or_default();
        if flags & FLAG_LINE_ENDS != 0 && line_ends != LINE_ENDS {
            return Err(Refusal::invalid(
                "it was damaged by a transfer that changed line ends",
            ));
        }
        let compressed = flags & FLAG_COMPRESSED != 0;
        if compressed && (flags & FLAG_MARKERS == 0 || u16_at(bytes, 77) != DEFLATE) {
            return Err(Refusal::unsupported(
                "its grains are compressed in an unknown way",
            ));
        }
        let entries = u64::from(u32_at(bytes, 44));
        if entries != TABLE_ENTRIES {
            return Err(Refusal::unsupported(format!(
                "grain tables have {entries} entries instead of {TABLE_ENTRIES}"
            )));
        }
        let redundant_at = u64_at(bytes, 48);
        let header = Header {
            version,
            capacity: u64_at(bytes, 12),
            grain: u64_at(bytes, 20),
            descriptor_at: u64_at(bytes, 28),
            descriptor_size: u64_at(bytes, 36),
            directory_at: match u64_at(bytes, 56) {
                AT_END => DirectoryAt::Footer,
                sector => DirectoryAt::Sector(sector),
            },
            redundant_at: (flags & FLAG_REDUNDANT != 0 && redundant_at != 0)
                .then_some(redundant_at),
            overhead: u64_at(bytes, 64),
            zeroed_grains: flags & FLAG_ZEROED_GRAINS != 0,
            compressed,
            unclean: bytes.get(UNCLEAN_AT as usize) != Some(&0),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Refusal> {
        if !self.grain.is_power_of_two() || !GRAIN.contains(&self.grain) {
            return Err(Refusal::invalid(format!(
                "grains of {} sectors are not a power of two from {} to {}",
                self.grain,
                GRAIN.start(),
                GRAIN.end()
            )));
        }
        if self.capacity == 0 {
            return Err(Refusal::invalid("it has no sectors"));
        }
        if self.tables() > MAX_TABLES {
            return Err(Refusal::unsupported(format!(
                "{} sectors are more than {MAX_TABLES} grain tables describe",
                self.capacity
            )));
        }
        Ok(())
    }

    /// Grain tables that the extent has.
    pub(super) fn tables(&self) -> u64 {
        self.capacity
            .div_ceil(self.grain.saturating_mul(TABLE_ENTRIES).max(1))
    }

    /// The header as it stands in the file.
    pub(super) fn encode(&self) -> [u8; 512] {
        let mut flags = FLAG_LINE_ENDS;
        if self.redundant_at.is_some() {
            flags |= FLAG_REDUNDANT;
        }
        if self.zeroed_grains {
            flags |= FLAG_ZEROED_GRAINS;
        }
        if self.compressed {
            flags |= FLAG_COMPRESSED | FLAG_MARKERS;
        }
        let directory_at = match self.directory_at {
            DirectoryAt::Sector(sector) => sector,
            DirectoryAt::Footer => AT_END,
        };
        let mut bytes = Vec::with_capacity(512);
        bytes.extend(MAGIC);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(self.capacity.to_le_bytes());
        bytes.extend(self.grain.to_le_bytes());
        bytes.extend(self.descriptor_at.to_le_bytes());
        bytes.extend(self.descriptor_size.to_le_bytes());
        bytes.extend((TABLE_ENTRIES as u32).to_le_bytes());
        bytes.extend(self.redundant_at.unwrap_or(0).to_le_bytes());
        bytes.extend(directory_at.to_le_bytes());
        bytes.extend(self.overhead.to_le_bytes());
        bytes.push(self.unclean.into());
        bytes.extend(LINE_ENDS);
        bytes.extend(if self.compressed { DEFLATE } else { 0 }.to_le_bytes());
        let mut sector = [0; 512];
        for (to, from) in sector.iter_mut().zip(bytes) {
            *to = from;
        }
        sector
    }
}

/// A number of the file; 0 behind the end of `bytes`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    field(bytes, at).map_or(0, u64::from_le_bytes)
}

/// A number of the file; 0 behind the end of `bytes`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    field(bytes, at).map_or(0, u32::from_le_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    field(bytes, at).map_or(0, u16::from_le_bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            version: 1,
            capacity: 10240,
            grain: 128,
            descriptor_at: 1,
            descriptor_size: 20,
            directory_at: DirectoryAt::Sector(26),
            redundant_at: Some(21),
            overhead: 128,
            zeroed_grains: false,
            compressed: false,
            unclean: true,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for header in [
            header(),
            Header {
                version: 3,
                compressed: true,
                zeroed_grains: true,
                redundant_at: None,
                directory_at: DirectoryAt::Footer,
                unclean: false,
                ..header()
            },
        ] {
            assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn fields_without_sense_are_refused() {
        for broken in [
            Header {
                version: 4,
                ..header()
            },
            Header {
                grain: 0,
                ..header()
            },
            Header {
                grain: 4,
                ..header()
            },
            Header {
                grain: 100,
                ..header()
            },
            Header {
                grain: 4096,
                ..header()
            },
            Header {
                capacity: 0,
                ..header()
            },
            Header {
                capacity: u64::MAX,
                ..header()
            },
        ] {
            assert!(Header::decode(&broken.encode()).is_err(), "{broken:?}");
        }
        let mut text = header().encode();
        text[75] = b'\n';
        assert!(Header::decode(&text).is_err());
        let mut entries = header().encode();
        entries[44] = 1;
        assert!(Header::decode(&entries).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_make_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 512)) {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
            bytes[44..48].copy_from_slice(&512_u32.to_le_bytes());
            if let Ok(header) = Header::decode(bytes.first_chunk().unwrap()) {
                prop_assert!(header.tables() <= MAX_TABLES);
            }
        }
    }
}
