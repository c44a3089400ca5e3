//! An image as it is printed.

use std::collections::BTreeMap;

use microsandbox::images::ImageHandle;
use microsandbox::images::image::Reference;
use serde::Serialize;

use crate::commands::Format;
use crate::output;
use crate::utc::rfc3339;

/// Digits of a digest that are enough for people.
const DIGITS: usize = 12;

/// What is known of an image without a look at it, as `--format json` prints it.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct View {
    pub(super) references: Vec<String>,
    pub(super) digest: String,
    config_digest: String,
    pub(super) size_bytes: u64,
    pub(super) created_at: String,
}

impl View {
    pub(in crate::commands) fn of(image: &ImageHandle) -> View {
        let names = image.references().iter();
        View {
            references: names.map(|name| name.familiar_tagged()).collect(),
            digest: image.digest().to_string(),
            config_digest: image.config_digest().to_string(),
            size_bytes: image.size_bytes(),
            created_at: rfc3339(image.created_at()),
        }
    }
}

/// What is told of an image that was just pulled or made under the name `reference`: with `quiet` the digest only.
///
/// # Errors
/// When it cannot be written as JSON.
pub(in crate::commands) fn named(
    image: &ImageHandle,
    reference: &Reference,
    format: Format,
    quiet: bool,
) -> anyhow::Result<String> {
    let digest = image.digest();
    Ok(match format {
        Format::Json => output::json(&View::of(image))?,
        Format::Text if quiet => format!("{digest}\n"),
        Format::Text => format!("{} {digest}\n", reference.familiar_tagged()),
    })
}

/// The beginning of a digest, which names the image as well.
pub(super) fn short(image: &ImageHandle) -> String {
    let digits = image.digest().hex();
    digits.get(..DIGITS).unwrap_or(&digits).to_owned()
}

/// Pairs, as people write them.
pub(super) fn pairs(map: &BTreeMap<String, String>) -> Vec<String> {
    map.iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}
