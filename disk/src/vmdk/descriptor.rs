//! The text that says which files make up a disk ("Virtual Disk Format 5.0", section "The Descriptor File").

use std::fmt::Write;

use super::refusal::Refusal;
use crate::SECTOR;

/// Most bytes of a descriptor that stands in a file of its own.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Most extents of a disk: each is an open file.
const MAX_EXTENTS: usize = 512;

/// What it begins with.
const FIRST_LINE: &str = "# Disk DescriptorFile";

/// `parentCID` of a disk that depends on no other.
const NO_PARENT: u32 = u32::MAX;

/// How a disk lies in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subformat {
    /// One file that grows.
    MonolithicSparse,
    /// One file of the disk's size, and the descriptor.
    MonolithicFlat,
    /// Several files that grow, and the descriptor.
    TwoGbMaxExtentSparse,
    /// Several files, and the descriptor.
    TwoGbMaxExtentFlat,
    /// One compressed file, for transport.
    StreamOptimized,
}

impl Subformat {
    const ALL: [Subformat; 5] = [
        Subformat::MonolithicSparse,
        Subformat::MonolithicFlat,
        Subformat::TwoGbMaxExtentSparse,
        Subformat::TwoGbMaxExtentFlat,
        Subformat::StreamOptimized,
    ];

    /// Its name in the descriptor (`createType`), which qemu-img(1) uses, too.
    pub fn name(self) -> &'static str {
        match self {
            Subformat::MonolithicSparse => "monolithicSparse",
            Subformat::MonolithicFlat => "monolithicFlat",
            Subformat::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Subformat::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Subformat::StreamOptimized => "streamOptimized",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Subformat> {
        Subformat::ALL
            .into_iter()
            .find(|known| known.name() == name)
    }
}

/// A descriptor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// How the disk lies in files.
    pub(super) subformat: Subformat,
    /// The files, in the order of the sectors.
    pub(super) extents: Vec<ExtentLine>,
    /// Where the digits of the content id are in the text, which every first change of the disk replaces.
    pub(super) content_id: Option<std::ops::Range<u64>>,
}

/// A stretch of the disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// Its size in sectors.
    pub(super) sectors: u64,
    /// Whether it may be written.
    pub(super) writable: bool,
    /// Where it lies.
    pub(super) place: ExtentPlace,
}

/// Where a stretch lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExtentPlace {
    /// In a file, one sector after the other.
    Flat {
        /// The file.
        name: String,
        /// Its first sector in the file.
        offset: u64,
    },
    /// In a file with a [`Header`](super::header::Header).
    Sparse {
        /// The file.
        name: String,
    },
    /// Nowhere: it is zeros.
    Zero,
}

impl Descriptor {
    /// Reads a descriptor. Behind a zero byte is padding.
    pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor, Refusal> {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text)
            .map_err(|_| Refusal::invalid("its descriptor is no UTF-8 text"))?;
        if !text.starts_with(FIRST_LINE) {
            return Err(Refusal::invalid("it has no descriptor"));
        }
        let mut subformat = None;
        let mut parent = None;
        let mut content_id = None;
        let mut extents = Vec::new();
        let mut at = 0_usize;
        for line in text.split('\n') {
            let start = at;
            at = at.saturating_add(line.len()).saturating_add(1);
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            if let Some(extent) = ExtentLine::parse(trimmed)? {
                if extents.len() == MAX_EXTENTS {
                    return Err(Refusal::unsupported(format!(
                        "it has more than {MAX_EXTENTS} extents"
                    )));
                }
                extents.push(extent);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                return Err(Refusal::invalid(format!(
                    "its descriptor has the line {}",
                    shown(trimmed)
                )));
            };
            let unquoted = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "createtype" => set(&mut subformat, "createType", unquoted)?,
                "parentcid" => set(&mut parent, "parentCID", unquoted)?,
                "cid" => {
                    let before = value.len().saturating_sub(value.trim_start().len());
                    let first = start
                        .saturating_add(key.len())
                        .saturating_add(1)
                        .saturating_add(before) as u64;
                    let digits = unquoted.bytes().all(|byte| byte.is_ascii_hexdigit())
                        && unquoted == value.trim();
                    let range = first..first.saturating_add(unquoted.len() as u64);
                    set(&mut content_id, "CID", digits.then_some(range))?;
                }
                _ => {}
            }
        }
        if let Some(parent) = parent
            && u32::from_str_radix(parent, 16) != Ok(NO_PARENT)
        {
            return Err(Refusal::unsupported(
                "it holds the differences to another disk",
            ));
        }
        let name = subformat.ok_or_else(|| Refusal::invalid("its descriptor has no createType"))?;
        let subformat = Subformat::from_name(name).ok_or_else(|| {
            Refusal::unsupported(format!("disks of the type {} are unknown", shown(name)))
        })?;
        Ok(Descriptor {
            subformat,
            extents,
            content_id: content_id.flatten(),
        })
    }

    /// Size of the disk in sectors.
    pub(super) fn sectors(&self) -> Result<u64, Refusal> {
        let sectors = self
            .extents
            .iter()
            .try_fold(0_u64, |sum, extent| sum.checked_add(extent.sectors));
        match sectors {
            Some(0) => Err(Refusal::invalid("its descriptor has no extents")),
            // Files cannot be larger (off_t).
            Some(sectors) if sectors <= i64::MAX as u64 / SECTOR => Ok(sectors),
            _ => Err(Refusal::invalid("the sizes of its extents have no sum")),
        }
    }

    /// The text of a new descriptor.
    pub(super) fn render(&self, content_id: u32) -> String {
        let mut text = format!(
            "{FIRST_LINE}\nversion=1\nCID={content_id:08x}\nparentCID={NO_PARENT:08x}\ncreateType=\"{}\"\n\n\
             # Extent description\n",
            self.subformat.name()
        );
        let mut sectors = 0_u64;
        for extent in &self.extents {
            sectors = sectors.saturating_add(extent.sectors);
            let access = if extent.writable { "RW" } else { "RDONLY" };
            let size = extent.sectors;
            // Writing to a string does not fail.
            let _ = match &extent.place {
                ExtentPlace::Flat { name, offset } => {
                    writeln!(text, "{access} {size} FLAT \"{name}\" {offset}")
                }
                ExtentPlace::Sparse { name } => {
                    writeln!(text, "{access} {size} SPARSE \"{name}\"")
                }
                ExtentPlace::Zero => writeln!(text, "{access} {size} ZERO"),
            };
        }
        // The geometry of IDE disks: nobody uses it, but VMware asks for it.
        let cylinders = sectors.div_ceil(16 * 63).min(16_383);
        let _ = write!(
            text,
            "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n"
        );
        text
    }
}

impl ExtentLine {
    /// Reads a line: `ACCESS SECTORS TYPE ["FILE" [OFFSET]]`. `None` if it does not begin as one.
    fn parse(line: &str) -> Result<Option<ExtentLine>, Refusal> {
        let (access, rest) = word(line);
        let writable = match access {
            "RW" => true,
            "RDONLY" => false,
            "NOACCESS" => {
                return Err(Refusal::unsupported("parts of it may not be accessed"));
            }
            _ => return Ok(None),
        };
        let broken = || Refusal::invalid(format!("its descriptor has the extent {}", shown(line)));
        let (sectors, rest) = word(rest);
        let sectors: u64 = sectors.parse().map_err(|_| broken())?;
        if sectors == 0 {
            return Err(broken());
        }
        let (kind, rest) = word(rest);
        let place = match kind {
            "ZERO" if rest.is_empty() => ExtentPlace::Zero,
            "FLAT" | "SPARSE" => {
                let (name, rest) = quoted(rest).ok_or_else(broken)?;
                let (offset, rest) = word(rest);
                if name.is_empty() || !rest.is_empty() {
                    return Err(broken());
                }
                let offset = match offset {
                    "" => 0,
                    digits => digits.parse().map_err(|_| broken())?,
                };
                let name = name.to_owned();
                match kind {
                    "FLAT" => ExtentPlace::Flat { name, offset },
                    _ if offset == 0 => ExtentPlace::Sparse { name },
                    _ => return Err(broken()),
                }
            }
            "ZERO" => return Err(broken()),
            kind => {
                return Err(Refusal::unsupported(format!(
                    "extents of the type {} are unknown",
                    shown(kind)
                )));
            }
        };
        Ok(Some(ExtentLine {
            sectors,
            writable,
            place,
        }))
    }
}

/// The first word, and what follows.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

/// What stands in quotation marks, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix('"')?.split_once('"')?;
    Some((name, rest.trim_start()))
}

fn set<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), Refusal> {
    if slot.replace(value).is_some() {
        return Err(Refusal::invalid(format!(
            "its descriptor has {key} several times"
        )));
    }
    Ok(())
}

/// A piece of hostile text for an error: not more than fits a line.
fn shown(text: &str) -> String {
    let mut piece: String = text.chars().take(60).collect();
    if piece.len() < text.len() {
        piece.push_str("...");
    }
    format!("{piece:?}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINIMAL: &str =
        "# Disk DescriptorFile\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";

    fn with(lines: &str) -> Result<Descriptor, Refusal> {
        Descriptor::parse(format!("{MINIMAL}{lines}").as_bytes())
    }

    #[test]
    fn a_descriptor_of_vmware_is_understood() {
        let text = "# Disk DescriptorFile\r\nversion=1\r\nencoding=\"UTF-8\"\r\nCID=a1b2c3d4\r\nparentCID=ffffffff\r\n\
            isNativeSnapshot=\"no\"\r\ncreateType=\"twoGbMaxExtentFlat\"\r\n\r\n# Extent description\r\n\
            RW 4192256 FLAT \"my disk-f001.vmdk\" 0\r\nRDONLY 63 ZERO \r\nRW 2048 FLAT \"my disk-f002.vmdk\" 8\r\n\
            ddb.geometry.heads = \"16\"\r\n\0\0garbage";
        let descriptor = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(descriptor.subformat, Subformat::TwoGbMaxExtentFlat);
        let id = descriptor.content_id.clone().unwrap();
        assert_eq!(&text[id.start as usize..id.end as usize], "a1b2c3d4");
        assert_eq!(descriptor.sectors().unwrap(), 4_192_256 + 63 + 2048);
        assert_eq!(
            descriptor.extents[2],
            ExtentLine {
                sectors: 2048,
                writable: true,
                place: ExtentPlace::Flat {
                    name: "my disk-f002.vmdk".into(),
                    offset: 8
                }
            }
        );
        assert!(!descriptor.extents[1].writable);
        assert_eq!(descriptor.extents[1].place, ExtentPlace::Zero);
    }

    #[test]
    fn a_descriptor_is_read_as_it_was_written() {
        let descriptor =
            with("RW 100 FLAT \"a b.vmdk\" 7\nRDONLY 5 SPARSE \"c\"\nRW 1 ZERO\n").unwrap();
        let text = descriptor.render(0x1234);
        let again = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(again.extents, descriptor.extents);
        let id = again.content_id.unwrap();
        assert_eq!(&text[id.start as usize..id.end as usize], "00001234");
    }

    #[test]
    fn what_is_no_descriptor() {
        for lines in [
            "RW",
            "RW 0 ZERO",
            "RW x FLAT \"a\" 0",
            "RW -1 FLAT \"a\" 0",
            "RW 99999999999999999999 FLAT \"a\" 0",
            "RW 1 FLAT",
            "RW 1 FLAT a 0",
            "RW 1 FLAT \"a 0",
            "RW 1 FLAT \"\" 0",
            "RW 1 FLAT \"a\" 0 0",
            "RW 1 FLAT \"a\" b",
            "RW 1 SPARSE \"a\" 1",
            "RW 1 ZERO \"a\"",
            "nonsense",
            "CID=1",
            "createType=\"monolithicFlat\"",
        ] {
            let refusal = with(lines);
            assert!(
                matches!(refusal, Err(Refusal::Invalid(_))),
                "{lines}: {refusal:?}"
            );
        }
        for lines in [
            "RW 1 VMFSRDM \"a\"",
            "NOACCESS 1 ZERO",
            &"RW 1 ZERO\n".repeat(513),
        ] {
            assert!(
                matches!(with(lines), Err(Refusal::Unsupported(_))),
                "{lines}"
            );
        }
        assert!(with("").unwrap().sectors().is_err());
        let huge = "RW 18446744073709551615 ZERO\n";
        assert!(with(&huge.repeat(2)).unwrap().sectors().is_err());
        assert!(with(huge).unwrap().sectors().is_err());
        assert!(Descriptor::parse(b"").is_err());
        assert!(Descriptor::parse(b"# Disk DescriptorFile\n").is_err());
        assert!(Descriptor::parse(b"# Disk DescriptorFile\n\xff").is_err());
    }

    #[test]
    fn differences_to_another_disk_are_refused() {
        let text = MINIMAL.replace("ffffffff", "12345678");
        let refusal = Descriptor::parse(text.as_bytes());
        assert!(
            matches!(refusal, Err(Refusal::Unsupported(_))),
            "{refusal:?}"
        );
        let text = MINIMAL.replace("monolithicFlat", "fullDevice");
        let refusal = Descriptor::parse(text.as_bytes());
        assert!(
            matches!(refusal, Err(Refusal::Unsupported(_))),
            "{refusal:?}"
        );
    }

    proptest! {
        #[test]
        fn hostile_text_makes_no_panic(lines in "((RW|RDONLY|CID=|\"| |[0-9a-z]|FLAT|ZERO|\n){0,40})") {
            if let Ok(descriptor) = with(&lines) {
                let _ = descriptor.sectors();
                if let Some(id) = descriptor.content_id {
                    let text = format!("{MINIMAL}{lines}");
                    prop_assert!(text.get(id.start as usize..id.end as usize).is_some());
                }
            }
        }
    }
}
