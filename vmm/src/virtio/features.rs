//! Feature bits that concern every device, section 6.

/// Chains may refer to a table of descriptors.
pub(crate) const RING_INDIRECT_DESC: u64 = 1 << 28;
/// Both sides say from which index on they want to be notified.
pub(crate) const RING_EVENT_IDX: u64 = 1 << 29;
/// No legacy interface.
pub(crate) const VERSION_1: u64 = 1 << 32;

/// What the shared queue worker can do, offered by every device.
pub(crate) const RING: u64 = VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC;
