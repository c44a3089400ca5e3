//! Layers of images: tar archives, compressed or not, which become EROFS images.
