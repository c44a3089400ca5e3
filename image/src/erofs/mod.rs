//! File system images in the format EROFS, which Linux mounts read-only.
