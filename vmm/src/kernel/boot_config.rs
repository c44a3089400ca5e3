//! A boot configuration: parameters that stand behind the initramfs instead of on the command line, whose 2048 bytes do not limit them.
//!
//! Source: Linux `Documentation/admin-guide/bootconfig.rst`. A kernel with CONFIG_BOOT_CONFIG puts what stands below `kernel` in front of its
//! command line, if that says [`PARAMETER`].

/// Tells the kernel to look for a boot configuration.
pub(crate) const PARAMETER: &str = "bootconfig";
/// Ends an initramfs that has one.
const MAGIC: &[u8] = b"#BOOTCONFIG\n";
/// Size and checksum.
const FIELDS: usize = 8;
/// The magic has to end at a multiple of this.
const ALIGNMENT: usize = 4;

/// What has to follow an initramfs of `initramfs_size` bytes so that the kernel finds these values of one parameter. They consist of letters,
/// digits and `@:-+._`.
pub(crate) fn of_parameter(name: &str, values: &[String], initramfs_size: u64) -> Vec<u8> {
    let mut bytes = format!("kernel.{name} = {}\n", values.join(", ")).into_bytes();
    let behind = (initramfs_size % ALIGNMENT as u64) as usize + bytes.len() + FIELDS + MAGIC.len();
    // The padding is a part of the text, which ends with the first NUL.
    bytes.resize(bytes.len() + behind.next_multiple_of(ALIGNMENT) - behind, 0);
    let size = bytes.len() as u32;
    let checksum = bytes
        .iter()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(MAGIC);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_finds_it_from_the_end() {
        for initramfs_size in 0..8 {
            let values = ["4K@0xd0000000:1".to_owned(), "4K@0xd0001000:2".to_owned()];
            let bytes = of_parameter("virtio_mmio.device", &values, initramfs_size);
            assert_eq!((initramfs_size + bytes.len() as u64) % 4, 0);
            let rest = bytes.strip_suffix(b"#BOOTCONFIG\n").unwrap();
            let (rest, checksum) = rest.split_last_chunk().unwrap();
            let (text, size) = rest.split_last_chunk().unwrap();
            assert_eq!(u32::from_le_bytes(*size) as usize, text.len());
            let sum: u32 = text.iter().map(|byte| u32::from(*byte)).sum();
            assert_eq!(u32::from_le_bytes(*checksum), sum);
            let text = std::str::from_utf8(text).unwrap().trim_end_matches('\0');
            assert_eq!(
                text,
                "kernel.virtio_mmio.device = 4K@0xd0000000:1, 4K@0xd0001000:2\n"
            );
        }
    }
}
