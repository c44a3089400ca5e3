//! Mounts, in a mount namespace of their own. There is no virtio-fs here; folders of the host's
//! own file system stand for it.
