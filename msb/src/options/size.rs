//! Sizes: `512M`, `1G`, `512` (MiB).

/// Why a text is no size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// No number, or something behind the unit.
    #[error("a size is a number with K, M, G or T behind it; without, it counts MiB")]
    Format,
    /// Zero.
    #[error("a size of 0 holds nothing")]
    Zero,
    /// More than 64 bits, or than can be counted.
    #[error("the size is too large")]
    TooLarge,
    /// A part of a MiB.
    #[error("the size is not a whole number of MiB")]
    NotWhole,
}

/// Reads a size in bytes. Units are binary and of any case, `M`, `MB` and `MiB` the same; a bare
/// number counts MiB.
pub(crate) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Format);
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(SizeError::Format),
    };
    // Nothing but digits: the only possible error is one of size.
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err(SizeError::Zero),
        Some(size) => Ok(size),
        None => Err(SizeError::TooLarge),
    }
}

/// Reads a size that is a whole number of MiB, and returns that number.
pub(crate) fn parse_whole_mebibytes(text: &str) -> Result<u32, SizeError> {
    let size = parse_size(text)?;
    if !size.is_multiple_of(1 << 20) {
        return Err(SizeError::NotWhole);
    }
    u32::try_from(size >> 20).map_err(|_| SizeError::TooLarge)
}

/// Writes what was measured as people read it, with one digit behind the point: `1.5 MiB`.
pub(crate) fn display_rounded_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|&(shift, _)| bytes >> shift > 0) {
        Some((shift, name)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

/// Writes a size as people do: `512 MiB`.
pub(crate) fn display_size(bytes: u64) -> String {
    let units = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    match units
        .into_iter()
        .find(|&(unit, _)| bytes >= unit && bytes.is_multiple_of(unit))
    {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, size) in [
            ("512", 512 << 20),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("512MiB", 512 << 20),
            ("1G", 1 << 30),
            ("64k", 64 << 10),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in ["", "M", "-1", "1.5G", "1 G", "1X", "1GG", "\u{661}M"] {
            assert_eq!(parse_size(text), Err(SizeError::Format), "{text}");
        }
        assert_eq!(parse_size("0"), Err(SizeError::Zero));
        assert_eq!(parse_size("99999999999999999999"), Err(SizeError::TooLarge));
        assert_eq!(parse_size("16777216T"), Err(SizeError::TooLarge));
    }

    #[test]
    fn sizes_as_people_read_them() {
        assert_eq!(display_size(512 << 20), "512 MiB");
        assert_eq!(display_size(2 << 30), "2 GiB");
        assert_eq!(display_size(1000), "1000 bytes");
    }

    #[test]
    fn whole_mebibytes_are_counted() {
        assert_eq!(parse_whole_mebibytes("20G"), Ok(20 << 10));
        assert_eq!(parse_whole_mebibytes("2048K"), Ok(2));
        assert_eq!(parse_whole_mebibytes("512K"), Err(SizeError::NotWhole));
        assert_eq!(parse_whole_mebibytes("5000T"), Err(SizeError::TooLarge));
    }

    #[test]
    fn what_was_measured_is_rounded_down() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (512, "512 bytes"),
            (4096, "4.0 KiB"),
            (1_600_000, "1.5 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(display_rounded_size(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = parse_size(&text);
        }

        #[test]
        fn counts_mebibytes(number in 1..=u64::MAX >> 20) {
            prop_assert_eq!(parse_size(&number.to_string()), Ok(number << 20));
        }
    }
}
