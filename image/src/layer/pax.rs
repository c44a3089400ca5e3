//! Extended headers (POSIX.1-2001 pax, "pax Extended Header"): records that say more than a header can, or say it better.

use std::collections::BTreeMap;

use crate::erofs::Time;

/// What the name of a record of an extended attribute begins with, after star, in which all programs follow.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Records by their names; the last one of a name counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The map of a sparse file of version 0.0, whose records have the same names again and again.
    pub sparse: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: u64,
}

impl Records {
    /// Adds the records of an extended header.
    pub(super) fn parse(&mut self, mut content: &[u8]) -> Result<(), String> {
        let wrong = || "an extended header has a record that is not in order".to_owned();
        // Some programs pad with NULs.
        while content.first().is_some_and(|byte| *byte != 0) {
            let blank = content.iter().take(20).position(|byte| *byte == b' ');
            let (digits, _) = content.split_at(blank.ok_or_else(wrong)?);
            let length = decimal(digits).and_then(|length| usize::try_from(length).ok());
            let (record, rest) = length
                .and_then(|length| content.split_at_checked(length))
                .ok_or_else(wrong)?;
            let record = record
                .get(digits.len() + 1..)
                .and_then(|record| record.strip_suffix(b"\n"))
                .ok_or_else(wrong)?;
            let mut halves = record.splitn(2, |byte| *byte == b'=');
            match (halves.next(), halves.next()) {
                (Some(name @ [_, ..]), Some(value)) => self.add(name, value),
                _ => return Err(wrong()),
            }
            content = rest;
        }
        Ok(())
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.bytes += (name.len() + value.len()) as u64;
        if name == b"GNU.sparse.offset" || name == b"GNU.sparse.numbytes" {
            self.sparse.push((name.to_vec(), value.to_vec()));
        } else {
            self.values.insert(name.to_vec(), value.to_vec());
        }
    }

    /// Bytes of everything that was added.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What extended headers say of an entry: its own, and those for all that follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extended<'a> {
    pub own: &'a Records,
    pub global: &'a Records,
}

impl<'a> Extended<'a> {
    /// The value of a record; an empty one means that there is none.
    pub(super) fn get(self, name: &str) -> Option<&'a [u8]> {
        let own = self.own.values.get(name.as_bytes());
        let value = own.or_else(|| self.global.values.get(name.as_bytes()))?;
        (!value.is_empty()).then_some(&value[..])
    }

    /// A value that is a number.
    pub(super) fn number(self, name: &str) -> Result<Option<u64>, String> {
        let wrong = || format!("the record {name} of an extended header is no number");
        self.get(name)
            .map(|value| decimal(value).ok_or_else(wrong))
            .transpose()
    }

    /// A value that is a time: seconds, and a fraction of which 9 digits count.
    pub(super) fn time(self, name: &str) -> Result<Option<Time>, String> {
        let wrong = || format!("the record {name} of an extended header is no time");
        self.get(name)
            .map(|value| time(value).ok_or_else(wrong))
            .transpose()
    }

    /// Extended attributes: names and values.
    pub(super) fn xattrs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let inherited = self
            .global
            .values
            .iter()
            .filter(|(name, _)| !self.own.values.contains_key(*name));
        let all = self.own.values.iter().chain(inherited);
        all.filter_map(|(name, value)| Some((name.strip_prefix(XATTR)?, &value[..])))
    }
}

/// A number in decimal digits, and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn time(value: &[u8]) -> Option<Time> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |index: usize| {
        fraction
            .get(index)
            .map_or(0, |digit| u32::from(digit - b'0'))
    };
    let nanoseconds = (0..9).fold(0, |value, index| value * 10 + digit(index));
    // -1.25 is 0.75 s after -2.
    Some(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}
