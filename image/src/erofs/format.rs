//! The structures of the format as they lie on the disk, all little endian.
//!
//! After "Core on-disk format" and "Extended attributes" of the EROFS documentation, <https://erofs.docs.kernel.org>.

/// Bytes of a block: the size of a page, so that every block is one page of the guest's cache.
pub const BLOCK: u64 = 4096;

/// Bytes from one possible place of an inode to the next.
pub(super) const SLOT: u64 = 32;

/// Bytes of the extended form of an inode. The compact one has no time of its own, and only 16 bits for owners.
pub(super) const INODE: usize = 64;

/// Bytes of a directory entry without its name.
pub(super) const DIRENT: usize = 12;

/// Bytes in front of an inode's extended attributes.
pub(super) const XATTR_HEADER: usize = 12;

/// Bytes of an extended attribute without name and value; also what their places are aligned to.
pub(super) const XATTR_ENTRY: usize = 4;

/// Bytes of a slot of the device table; also what its place is counted in.
pub(super) const DEVICE_SLOT: usize = 128;

/// Where the superblock lies.
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_DEVICE_TABLE: u32 = 8;
/// 2^12 bytes a block.
const BLOCK_BITS: u8 = 12;

/// What the superblock says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Number of the root's inode.
    pub root: u16,
    /// How many inodes there are.
    pub inodes: u64,
    /// Blocks of this image, without those of other devices.
    pub blocks: u32,
    /// The block that inode numbers count from.
    pub meta_block: u32,
    /// The block that shared extended attributes are counted from.
    pub xattr_block: u32,
    pub uuid: [u8; 16],
    /// How many slots the device table has.
    pub devices: u16,
    /// Where the device table lies, in units of its slots.
    pub device_table: u16,
}

impl Superblock {
    /// The first block of an image, with its checksum.
    pub(super) fn encode(&self) -> [u8; BLOCK as usize] {
        let mut block = [0; BLOCK as usize];
        let incompatible = if self.devices > 0 {
            INCOMPAT_DEVICE_TABLE
        } else {
            0
        };
        block[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
        block[1032..1036].copy_from_slice(&(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        block[1036] = BLOCK_BITS;
        block[1038..1040].copy_from_slice(&self.root.to_le_bytes());
        block[1040..1048].copy_from_slice(&self.inodes.to_le_bytes());
        block[1060..1064].copy_from_slice(&self.blocks.to_le_bytes());
        block[1064..1068].copy_from_slice(&self.meta_block.to_le_bytes());
        block[1068..1072].copy_from_slice(&self.xattr_block.to_le_bytes());
        block[1072..1088].copy_from_slice(&self.uuid);
        block[1104..1108].copy_from_slice(&u32::to_le_bytes(incompatible));
        block[1110..1112].copy_from_slice(&self.devices.to_le_bytes());
        block[1112..1114].copy_from_slice(&self.device_table.to_le_bytes());
        let checksum = crc32c(&block[SUPERBLOCK_OFFSET..]);
        block[1028..1032].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the first block of an image; `None` if it is none that [`Superblock::encode`] could have made.
    pub(super) fn decode(block: &[u8; BLOCK as usize]) -> Option<Self> {
        let mut summed = *block;
        summed[1028..1032].fill(0);
        let incompatible = u32_at(block, 1104)?;
        let sound = u32_at(block, 1024)? == MAGIC
            && u32_at(block, 1028)? == crc32c(&summed[SUPERBLOCK_OFFSET..])
            && block[1036] == BLOCK_BITS
            && incompatible & !INCOMPAT_DEVICE_TABLE == 0;
        sound.then_some(Self {
            root: u16_at(block, 1038)?,
            inodes: u64_at(block, 1040)?,
            blocks: u32_at(block, 1060)?,
            meta_block: u32_at(block, 1064)?,
            xattr_block: u32_at(block, 1068)?,
            uuid: block[1072..1088].try_into().ok()?,
            devices: u16_at(block, 1110)?,
            device_table: u16_at(block, 1112)?,
        })
    }
}

/// A slot of the device table: which addresses of blocks are another device's.
pub(super) fn device_slot(uuid: &[u8; 16], blocks: u32, first: u32) -> [u8; DEVICE_SLOT] {
    let mut slot = [0; DEVICE_SLOT];
    // A tag of 64 bytes, for programs that look for the device by it.
    slot[..16].copy_from_slice(uuid);
    slot[64..68].copy_from_slice(&blocks.to_le_bytes());
    slot[68..72].copy_from_slice(&first.to_le_bytes());
    slot
}

/// How the content of an inode is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In blocks in a row.
    Plain,
    /// Behind the inode and its extended attributes, in the same block.
    Inline,
}

/// An inode of the extended form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawInode {
    pub layout: DataLayout,
    /// Size of the extended attributes, see [`xattr_count`].
    pub xattr_count: u16,
    /// Type and permissions.
    pub mode: u16,
    pub size: u64,
    /// The first block of the content, or the device number.
    pub place: u32,
    /// What stat(2) of 32 bits shows.
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub links: u32,
}

impl RawInode {
    pub(super) fn encode(&self) -> [u8; INODE] {
        let layout: u16 = match self.layout {
            DataLayout::Plain => 0,
            DataLayout::Inline => 2,
        };
        let mut raw = [0; INODE];
        raw[0..2].copy_from_slice(&(1 | layout << 1).to_le_bytes());
        raw[2..4].copy_from_slice(&self.xattr_count.to_le_bytes());
        raw[4..6].copy_from_slice(&self.mode.to_le_bytes());
        raw[8..16].copy_from_slice(&self.size.to_le_bytes());
        raw[16..20].copy_from_slice(&self.place.to_le_bytes());
        raw[20..24].copy_from_slice(&self.number.to_le_bytes());
        raw[24..28].copy_from_slice(&self.uid.to_le_bytes());
        raw[28..32].copy_from_slice(&self.gid.to_le_bytes());
        raw[32..40].copy_from_slice(&self.seconds.to_le_bytes());
        raw[40..44].copy_from_slice(&self.nanoseconds.to_le_bytes());
        raw[44..48].copy_from_slice(&self.links.to_le_bytes());
        raw
    }

    /// Reads an inode; `None` if it is none that [`RawInode::encode`] could have made.
    pub(super) fn decode(raw: &[u8; INODE]) -> Option<Self> {
        let layout = match u16_at(raw, 0)? {
            0b0001 => DataLayout::Plain,
            0b0101 => DataLayout::Inline,
            _ => return None,
        };
        Some(Self {
            layout,
            xattr_count: u16_at(raw, 2)?,
            mode: u16_at(raw, 4)?,
            size: u64_at(raw, 8)?,
            place: u32_at(raw, 16)?,
            number: u32_at(raw, 20)?,
            uid: u32_at(raw, 24)?,
            gid: u32_at(raw, 28)?,
            seconds: u64_at(raw, 32)?.cast_signed(),
            nanoseconds: u32_at(raw, 40)?,
            links: u32_at(raw, 44)?,
        })
    }
}

/// What an inode says of its extended attributes' size: units of 4 bytes behind the header, and 1 for the header.
pub(super) fn xattr_count(bytes: usize) -> Option<u16> {
    match bytes.checked_sub(XATTR_HEADER) {
        None => Some(0),
        Some(entries) => u16::try_from(entries / XATTR_ENTRY + 1).ok(),
    }
}

/// The bytes that an inode's extended attributes take, header included: the reverse of [`xattr_count`].
pub(super) fn xattr_bytes(count: u16) -> usize {
    match count.checked_sub(1) {
        None => 0,
        Some(entries) => XATTR_HEADER + usize::from(entries) * XATTR_ENTRY,
    }
}

/// CRC-32C without the final inversion, as the kernel's crc32c() computes it from -1. One block per image is summed.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}
