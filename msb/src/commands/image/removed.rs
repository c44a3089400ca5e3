//! What was removed, as it is printed.

use microsandbox::images::RemovedImages;

/// A line for each name and for each image that went with its last one.
pub(super) fn lines(removed: &RemovedImages) -> String {
    let mut text = String::new();
    for name in &removed.references {
        text.push_str(&format!("untagged: {}\n", name.familiar_tagged()));
    }
    for image in &removed.images {
        text.push_str(&format!("removed: {image}\n"));
    }
    text
}
