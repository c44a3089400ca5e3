//! A header of an archive: a block of 512 bytes (POSIX.1-2001 pax, "ustar Interchange Format"; tar(5) of libarchive for
//! the older forms and those of GNU and star).

/// Bytes of a header, and what everything in an archive is padded to.
pub(super) const RECORD: usize = 512;

/// A stretch of a sparse file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub offset: u64,
    pub length: u64,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: i64,
    pub kind: u8,
    pub major: u64,
    pub minor: u64,
}

/// Which family of archives a header belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Before POSIX: names of 100 bytes, no devices.
    V7,
    Ustar,
    /// As Ustar, with other fields in the last part of the prefix.
    Star,
    Gnu,
}

/// Reads a header whose checksum is right.
pub(super) fn parse(record: &[u8; RECORD]) -> Result<Header, String> {
    let stored = unsigned("checksum", &record[148..156])?;
    if !checksums(record).contains(&i64::try_from(stored).unwrap_or(i64::MIN)) {
        return Err("the header's checksum is wrong".to_owned());
    }
    let family = family(record);
    let mut path = text(&record[..100]).to_vec();
    let prefix = match family {
        Family::Ustar => text(&record[345..500]),
        Family::Star => text(&record[345..476]),
        Family::V7 | Family::Gnu => b"",
    };
    if !prefix.is_empty() {
        path = [prefix, b"/", &path].concat();
    }
    let kind = record[156];
    let is_device = matches!(kind, b'3' | b'4') && family != Family::V7;
    let device = |what, field| {
        if is_device {
            unsigned(what, field)
        } else {
            Ok(0)
        }
    };
    Ok(Header {
        path,
        link: text(&record[157..257]).to_vec(),
        mode: unsigned("mode", &record[100..108])?,
        uid: unsigned("owner", &record[108..116])?,
        gid: unsigned("group", &record[116..124])?,
        size: unsigned("size", &record[124..136])?,
        mtime: number("time", &record[136..148])?,
        kind,
        major: device("major device number", &record[329..337])?,
        minor: device("minor device number", &record[337..345])?,
    })
}

fn family(record: &[u8; RECORD]) -> Family {
    match (&record[257..263], &record[263..265], &record[508..512]) {
        (b"ustar\0", _, b"tar\0") => Family::Star,
        (b"ustar\0", ..) => Family::Ustar,
        (b"ustar ", b" \0", _) => Family::Gnu,
        _ => Family::V7,
    }
}

/// The sums that may stand in a header: some programs took its bytes for signed.
fn checksums(record: &[u8; RECORD]) -> [i64; 2] {
    let blank = |index: usize| (148..156).contains(&index);
    record
        .iter()
        .enumerate()
        .fold([0, 0], |[plain, signed], (index, byte)| {
            let byte = if blank(index) { b' ' } else { *byte };
            [
                plain + i64::from(byte),
                signed + i64::from(byte.cast_signed()),
            ]
        })
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number that cannot be negative.
fn unsigned(what: &str, field: &[u8]) -> Result<u64, String> {
    u64::try_from(number(what, field)?).map_err(|_| format!("the {what} is negative"))
}

/// A number in octal digits, or in binary if its first bit is set (GNU).
fn number(what: &str, field: &[u8]) -> Result<i64, String> {
    let wrong = || format!("the {what} is no number");
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            // Six bits of the first byte count, and the next one is the sign.
            let start = i64::from(first & 0x3f) - i64::from(first & 0x40);
            rest.iter()
                .try_fold(start, |value, byte| {
                    value.checked_mul(256)?.checked_add(i64::from(*byte))
                })
                .ok_or_else(|| format!("the {what} is too large"))
        }
        _ => trimmed(field)
            .iter()
            .try_fold(0_i64, |value, digit| match digit {
                b'0'..=b'7' => value
                    .checked_mul(8)
                    .and_then(|value| value.checked_add(i64::from(digit - b'0')))
                    .ok_or_else(wrong),
                _ => Err(wrong()),
            }),
    }
}

/// A field without blanks and NULs on both sides.
fn trimmed(field: &[u8]) -> &[u8] {
    let digit = |byte: &u8| *byte != b' ' && *byte != 0;
    let start = field.iter().position(digit);
    let end = field.iter().rposition(digit);
    match (start, end) {
        (Some(start), Some(end)) => field.get(start..=end).unwrap_or_default(),
        _ => &[],
    }
}

/// The map of a sparse file in a header of GNU's own form: 4 stretches, and whether more of them follow.
pub(super) fn gnu_sparse(record: &[u8; RECORD]) -> Result<(Vec<Stretch>, bool, u64), String> {
    let real_size = unsigned("size of a sparse file", &record[483..495])?;
    Ok((stretches(&record[386..482])?, record[482] != 0, real_size))
}

/// More of that map, in a record of its own: 21 stretches.
pub(super) fn gnu_sparse_more(record: &[u8; RECORD]) -> Result<(Vec<Stretch>, bool), String> {
    Ok((stretches(&record[..504])?, record[504] != 0))
}

fn stretches(fields: &[u8]) -> Result<Vec<Stretch>, String> {
    let mut stretches = Vec::new();
    for pair in fields.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        // An unused one.
        if offset.starts_with(b"\0") || length.starts_with(b"\0") {
            break;
        }
        stretches.push(Stretch {
            offset: unsigned("map of a sparse file", offset)?,
            length: unsigned("map of a sparse file", length)?,
        });
    }
    Ok(stretches)
}
