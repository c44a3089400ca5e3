//! Writing a tar archive: headers as of ustar, and what they have no room for in extended headers (POSIX.1-2001, pax).

use protocol::{ClockTime, MAX_DATA, NodeKind, TreeNode};

use super::LayerSink;
use super::sparse::SparseMap;

/// Bytes of a record, in which archives are counted.
const RECORD: usize = 512;

/// Records of zeros at the end.
const END: usize = 2 * RECORD;

/// Fields of a header: where they begin, and how long they are (pax, "ustar Interchange Format").
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE: (usize, usize) = (156, 1);
const LINK: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const MAJOR: (usize, usize) = (329, 8);
const MINOR: (usize, usize) = (337, 8);

/// An archive in the making.
pub(super) struct Archive<'s, S> {
    sink: &'s mut S,
    /// What the sink has not got yet; less than [`MAX_DATA`].
    part: Vec<u8>,
    /// Bytes of everything so far.
    written: u64,
}

impl<'s, S: LayerSink> Archive<'s, S> {
    pub(super) fn new(sink: &'s mut S) -> Archive<'s, S> {
        Archive {
            sink,
            part: Vec::with_capacity(MAX_DATA),
            written: 0,
        }
    }

    /// Adds an entry. What a file contains follows: as much as its size is, or as the map says.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn entry(
        &mut self,
        node: &TreeNode,
        map: Option<&SparseMap>,
    ) -> Result<(), S::Error> {
        let stored = stored(&node.kind, map);
        let mut records = Records::default();
        records.describe(node, stored, map);
        for xattr in &node.xattrs {
            let key = [b"SCHILY.xattr.", &xattr.name.0[..]].concat();
            records.add(&key, &xattr.value.0);
        }
        if !records.0.is_empty() {
            let mut header = Header::new(b'x');
            header.text(NAME, b"PaxHeaders/entry");
            header.number(MODE, 0o644);
            header.number(SIZE, records.0.len() as u64);
            self.put(&header.finish())?;
            self.put(&records.0)?;
            self.pad()?;
        }
        self.put(&header(node, stored).finish())
    }

    /// Adds an empty file, as markers are.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn marker(&mut self, path: Vec<u8>) -> Result<(), S::Error> {
        let node = TreeNode {
            path: protocol::Bytes(path),
            mode: 0,
            uid: 0,
            gid: 0,
            modified: ClockTime {
                seconds: 0,
                nanoseconds: 0,
            },
            kind: NodeKind::File { size: 0 },
            xattrs: Vec::new(),
        };
        self.entry(&node, None)
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let room = MAX_DATA.saturating_sub(self.part.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.part.extend_from_slice(now);
            self.written = self.written.saturating_add(now.len() as u64);
            if self.part.len() == MAX_DATA {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Adds so many zeros.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn zeros(&mut self, mut count: u64) -> Result<(), S::Error> {
        const ZEROS: [u8; RECORD] = [0; RECORD];
        while count > 0 {
            let now = usize::try_from(count).unwrap_or(RECORD).min(RECORD);
            self.put(ZEROS.get(..now).unwrap_or_default())?;
            count = count.saturating_sub(now as u64);
        }
        Ok(())
    }

    /// Fills the last record up.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn pad(&mut self) -> Result<(), S::Error> {
        let record = RECORD as u64;
        let missing = record.wrapping_sub(self.written % record) % record;
        self.zeros(missing)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) fn finish(mut self) -> Result<(), S::Error> {
        self.zeros(END as u64)?;
        self.flush()
    }

    fn flush(&mut self) -> Result<(), S::Error> {
        if !self.part.is_empty() {
            self.sink.part(&self.part)?;
            self.part.clear();
        }
        Ok(())
    }
}

/// Bytes of an entry's content in the archive, without what fills its last record.
fn stored(kind: &NodeKind, map: Option<&SparseMap>) -> u64 {
    match (kind, map) {
        (NodeKind::File { .. }, Some(map)) => {
            let text = map.text.next_multiple_of(RECORD as u64);
            text.saturating_add(map.data)
        }
        (NodeKind::File { size }, None) => *size,
        _ => 0,
    }
}

fn header(node: &TreeNode, stored: u64) -> Header {
    let mut header = Header::new(match &node.kind {
        NodeKind::File { .. } | NodeKind::Socket => b'0',
        NodeKind::HardLink { .. } => b'1',
        NodeKind::Symlink { .. } => b'2',
        NodeKind::CharacterDevice { .. } => b'3',
        NodeKind::BlockDevice { .. } => b'4',
        NodeKind::Directory => b'5',
        NodeKind::Fifo => b'6',
    });
    header.text(NAME, &entry_name(node));
    header.number(MODE, u64::from(node.mode));
    header.number(UID, u64::from(node.uid));
    header.number(GID, u64::from(node.gid));
    header.number(SIZE, stored);
    header.number(MTIME, u64::try_from(node.modified.seconds).unwrap_or(0));
    if let Some(target) = link(node) {
        header.text(LINK, target);
    }
    let (major, minor) = match node.kind {
        NodeKind::CharacterDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            (major, minor)
        }
        // Of other entries some readers want to see numbers, too.
        _ => (0, 0),
    };
    header.number(MAJOR, u64::from(major));
    header.number(MINOR, u64::from(minor));
    header
}

/// The name of an entry; that of a directory ends with a slash.
fn entry_name(node: &TreeNode) -> Vec<u8> {
    let mut name = node.path.0.clone();
    if node.kind == NodeKind::Directory {
        name.push(b'/');
    }
    name
}

fn link(node: &TreeNode) -> Option<&[u8]> {
    match &node.kind {
        NodeKind::HardLink { to } => Some(&to.0),
        NodeKind::Symlink { target } => Some(&target.0),
        _ => None,
    }
}

/// A header.
struct Header([u8; RECORD]);

impl Header {
    fn new(kind: u8) -> Header {
        let mut header = Header([0; RECORD]);
        header.text(TYPE, &[kind]);
        header.text(MAGIC, b"ustar\x0000");
        header
    }

    /// As much of the text as there is room for.
    fn text(&mut self, (start, length): (usize, usize), text: &[u8]) {
        let field = self.0.iter_mut().skip(start).take(length);
        field.zip(text).for_each(|(byte, new)| *byte = *new);
    }

    /// A number in octal digits, with a zero behind it. What has no room is in an extended header, and 0 here.
    fn number(&mut self, (start, length): (usize, usize), number: u64) {
        let digits = length.saturating_sub(1);
        let number = if fits(length, number) { number } else { 0 };
        self.text((start, length), format!("{number:0digits$o}").as_bytes());
    }

    fn finish(mut self) -> [u8; RECORD] {
        self.text(CHECKSUM, b"        ");
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.text(CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// Whether a number has room in a field of so many bytes.
fn fits(length: usize, number: u64) -> bool {
    let bits = length.saturating_sub(1).saturating_mul(3);
    number >> bits == 0
}

/// The records of an extended header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn describe(&mut self, node: &TreeNode, stored: u64, map: Option<&SparseMap>) {
        let name = entry_name(node);
        if let (NodeKind::File { size }, Some(map)) = (&node.kind, map) {
            debug_assert!(map.data <= *size);
            self.add(b"GNU.sparse.major", b"1");
            self.add(b"GNU.sparse.minor", b"0");
            self.add(b"GNU.sparse.name", &name);
            self.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
        } else if name.len() > NAME.1 {
            self.add(b"path", &name);
        }
        if let Some(target) = link(node)
            && target.len() > LINK.1
        {
            self.add(b"linkpath", target);
        }
        let numbers: [(&[u8], _, _); 3] = [
            (b"uid", UID, u64::from(node.uid)),
            (b"gid", GID, u64::from(node.gid)),
            (b"size", SIZE, stored),
        ];
        for (key, (_, length), number) in numbers {
            if !fits(length, number) {
                self.add(key, number.to_string().as_bytes());
            }
        }
        let ClockTime {
            seconds,
            nanoseconds,
        } = node.modified;
        if nanoseconds != 0 || !u64::try_from(seconds).is_ok_and(|seconds| fits(MTIME.1, seconds)) {
            self.add(b"mtime", time(node.modified).as_bytes());
        }
    }

    /// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len().saturating_add(value.len()).saturating_add(3);
        let mut length = rest;
        while length != rest.saturating_add(length.to_string().len()) {
            length = rest.saturating_add(length.to_string().len());
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

/// Seconds since 1970 with a fraction. -1.25 is 0.75 s after -2.
fn time(time: ClockTime) -> String {
    let ClockTime {
        seconds,
        nanoseconds,
    } = time;
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        (_, _) => {
            let whole = seconds.saturating_add(1).unsigned_abs();
            let part = 1_000_000_000_u32.saturating_sub(nanoseconds);
            format!("-{whole}.{part:09}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_itself() {
        let mut records = Records::default();
        // With one digit more it is one byte longer, which takes the digit.
        records.add(b"k", &[b'v'; 4]);
        records.add(b"k", &[b'v'; 5]);
        records.add(b"k", &[b'v'; 94]);
        let text = String::from_utf8(records.0).unwrap();
        let lengths: Vec<_> = text
            .lines()
            .map(|line| (line.len() + 1, line.split(' ').next().unwrap()))
            .collect();
        assert_eq!(lengths, [(9, "9"), (11, "11"), (101, "101")]);
    }

    #[test]
    fn times_before_1970_have_their_fraction_below() {
        let text = |seconds, nanoseconds| {
            time(ClockTime {
                seconds,
                nanoseconds,
            })
        };
        assert_eq!(text(-2, 750_000_000), "-1.250000000");
        assert_eq!(text(-1, 5), "-0.999999995");
        assert_eq!(text(7, 1), "7.000000001");
        assert_eq!(text(-7, 0), "-7");
    }
}
