//! Sizes of disks, as qemu-img(1) reads them: `20G`, `512M`, `1048576` (bytes).

use disk::SECTOR;

/// Why a text is no size of a disk.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DiskSizeError {
    /// No number, or something behind the unit.
    #[error("a size is a number with K, M, G or T behind it; without, it counts bytes")]
    Format,
    /// Zero.
    #[error("a size of 0 holds nothing")]
    Zero,
    /// More than a file can have.
    #[error("the size is too large")]
    TooLarge,
}

/// A new size, or a difference to the present one; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewSize {
    /// So large.
    To(u64),
    /// So much larger.
    Grow(u64),
    /// So much smaller.
    Shrink(u64),
}

/// Reads a size in bytes, rounded up to whole sectors. Unlike sizes of memory, a bare number counts bytes: so it does in qemu-img(1).
pub(crate) fn parse_disk_size(text: &str) -> Result<u64, DiskSizeError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(DiskSizeError::Format);
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(DiskSizeError::Format),
    };
    // Nothing but digits: the only possible error is one of size.
    let number: u64 = number.parse().map_err(|_| DiskSizeError::TooLarge)?;
    let size = number
        .checked_mul(1 << shift)
        .and_then(|size| size.checked_next_multiple_of(SECTOR))
        .filter(|&size| i64::try_from(size).is_ok())
        .ok_or(DiskSizeError::TooLarge)?;
    if size == 0 {
        return Err(DiskSizeError::Zero);
    }
    Ok(size)
}

/// Reads a size with a sign, which makes it a difference, or without.
pub(crate) fn parse_new_size(text: &str) -> Result<NewSize, DiskSizeError> {
    if let Some(more) = text.strip_prefix('+') {
        parse_disk_size(more).map(NewSize::Grow)
    } else if let Some(less) = text.strip_prefix('-') {
        parse_disk_size(less).map(NewSize::Shrink)
    } else {
        parse_disk_size(text).map(NewSize::To)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_qemu_img_reads_them() {
        for (text, size) in [
            ("1048576", 1 << 20),
            ("1000", 1024),
            ("1", 512),
            ("64k", 64 << 10),
            ("20G", 20 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_disk_size(text), Ok(size), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "+1", "1 G", "1X", "1GG"] {
            assert_eq!(parse_disk_size(text), Err(DiskSizeError::Format), "{text}");
        }
        assert_eq!(parse_disk_size("0"), Err(DiskSizeError::Zero));
        for text in ["99999999999999999999", "9223372036854775807", "16777216T"] {
            assert_eq!(
                parse_disk_size(text),
                Err(DiskSizeError::TooLarge),
                "{text}"
            );
        }
    }

    #[test]
    fn a_sign_makes_a_difference() {
        assert_eq!(parse_new_size("+1G"), Ok(NewSize::Grow(1 << 30)));
        assert_eq!(parse_new_size("-1K"), Ok(NewSize::Shrink(1 << 10)));
        assert_eq!(parse_new_size("1G"), Ok(NewSize::To(1 << 30)));
        assert_eq!(parse_new_size("+"), Err(DiskSizeError::Format));
    }
}
