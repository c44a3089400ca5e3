//! What `-o` says about a new image.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use disk::{CreateOptions, Format, Preallocation, Subformat, qcow2};

use crate::failure::with_hint;
use crate::options::parse_disk_size;

/// A new image of `size` bytes as the options want it, each `NAME=VALUE,...`.
pub(super) fn layout(
    format: Format,
    size: u64,
    options: &[String],
    backing: Option<(PathBuf, Format)>,
) -> anyhow::Result<CreateOptions> {
    if backing.is_some() && format != Format::Qcow2 {
        bail!("an image of the format {format} cannot have a backing file");
    }
    let mut layout = match format {
        Format::Raw => CreateOptions::Raw {
            size,
            preallocation: Preallocation::Off,
        },
        Format::Qcow2 => CreateOptions::Qcow2(qcow2::CreateOptions {
            backing,
            ..qcow2::CreateOptions::of_size(size)
        }),
        Format::Vmdk => CreateOptions::Vmdk {
            size,
            subformat: Subformat::MonolithicSparse,
        },
    };
    for option in options.iter().flat_map(|options| options.split(',')) {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| anyhow!("the option {option:?} is not NAME=VALUE"))?;
        set(&mut layout, name, value)?;
    }
    Ok(layout)
}

fn set(layout: &mut CreateOptions, name: &str, value: &str) -> anyhow::Result<()> {
    let wrong = |values: &str| {
        with_hint(
            anyhow!("the option {name} cannot be {value:?}"),
            format!("it is {values}"),
        )
    };
    match (&mut *layout, name) {
        (CreateOptions::Raw { preallocation, .. }, "preallocation") => {
            *preallocation = match value {
                "off" => Preallocation::Off,
                "falloc" => Preallocation::Falloc,
                "full" => Preallocation::Full,
                _ => return Err(wrong("off, falloc or full")),
            };
        }
        (CreateOptions::Qcow2(options), "cluster_size") => {
            options.cluster_size =
                parse_disk_size(value).map_err(|_| wrong("a power of two from 512 to 2M"))?;
        }
        (CreateOptions::Qcow2(options), "preallocation") => {
            options.preallocation = match value {
                "off" => qcow2::Preallocation::Off,
                "metadata" => qcow2::Preallocation::Metadata,
                _ => return Err(wrong("off or metadata")),
            };
        }
        (CreateOptions::Qcow2(options), "lazy_refcounts") => {
            options.lazy_refcounts = match value {
                "on" => true,
                "off" => false,
                _ => return Err(wrong("on or off")),
            };
        }
        (CreateOptions::Vmdk { subformat, .. }, "subformat") => {
            *subformat = Subformat::from_name(value)
                .ok_or_else(|| wrong("monolithicSparse or monolithicFlat"))?;
        }
        _ => {
            let known = match layout.format() {
                Format::Raw => "preallocation",
                Format::Qcow2 => "cluster_size, preallocation and lazy_refcounts",
                Format::Vmdk => "subformat",
            };
            return Err(with_hint(
                anyhow!("the format {} has no option {name:?}", layout.format()),
                format!("it has {known}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_qemu_img_spells_them() {
        let layout =
            |format, options: &str| super::layout(format, 1 << 20, &[options.into()], None);
        assert!(matches!(
            layout(Format::Raw, "preallocation=full"),
            Ok(CreateOptions::Raw {
                preallocation: Preallocation::Full,
                size: 1_048_576
            })
        ));
        assert!(matches!(
            layout(Format::Qcow2, "cluster_size=128k,lazy_refcounts=on"),
            Ok(CreateOptions::Qcow2(options)) if options.cluster_size == 128 << 10 && options.lazy_refcounts
        ));
        assert!(matches!(
            layout(Format::Vmdk, "subformat=monolithicFlat"),
            Ok(CreateOptions::Vmdk {
                subformat: Subformat::MonolithicFlat,
                ..
            })
        ));
        for (format, options) in [
            (Format::Raw, "cluster_size=64k"),
            (Format::Raw, "preallocation"),
            (Format::Qcow2, "cluster_size=big"),
            (Format::Vmdk, "subformat=unknown"),
        ] {
            assert!(layout(format, options).is_err(), "{options}");
        }
        let backing = Some((PathBuf::from("a"), Format::Raw));
        assert!(super::layout(Format::Raw, 512, &[], backing).is_err());
    }
}
