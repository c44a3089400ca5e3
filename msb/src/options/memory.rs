//! How much memory a guest can have.

use anyhow::anyhow;

use super::size::display_size;
use crate::failure::with_hint;

/// Least and most memory of a guest, in bytes.
const MEMORY: std::ops::RangeInclusive<u64> = 64 << 20..=64 << 30;

/// Memory comes in pages of so many bytes.
const PAGE: u64 = 4096;

/// Checks the memory of a guest, in bytes, against what a machine can have, and against `host`, the memory of this one if it is
/// known. Memory is taken as the guest uses it; but it may use all of it, and one that finds less is killed.
///
/// # Errors
/// Which of these it breaks, with what to give instead.
pub(crate) fn check_memory(memory: u64, host: Option<u64>) -> anyhow::Result<()> {
    let shown = display_size(memory);
    if !MEMORY.contains(&memory) {
        let error = anyhow!("a guest cannot have {shown} of memory");
        return Err(with_hint(error, "give --memory 64M to 64G"));
    }
    if !memory.is_multiple_of(PAGE) {
        let error = anyhow!("{shown} of memory are not whole pages of 4 KiB");
        return Err(with_hint(error, "give --memory a multiple of 4K"));
    }
    match host {
        Some(host) if memory > host => {
            let error = anyhow!("{shown} of memory are more than this machine has");
            Err(with_hint(
                error,
                format!("give --memory at most {}M", host >> 20),
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_limits() {
        assert!(check_memory(64 << 20, None).is_ok());
        assert!(check_memory(64 << 30, Some(64 << 30)).is_ok());
        assert!(check_memory((64 << 20) - PAGE, None).is_err());
        assert!(check_memory((64 << 30) + PAGE, None).is_err());
        assert!(check_memory((64 << 20) + 1024, None).is_err());
        let error = check_memory(2 << 30, Some(1 << 30)).unwrap_err();
        assert!(error.to_string().contains("2 GiB"), "{error}");
    }
}
