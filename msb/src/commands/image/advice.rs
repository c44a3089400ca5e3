//! What to do about errors of images.

use std::io;

use microsandbox::images::ImageError;
use microsandbox::images::image::ArchiveError;

use crate::commands::volume::advice::database;
use crate::failure::with_hint;

/// Adds to an error what to do about it.
pub(in crate::commands) fn advise(error: ImageError) -> anyhow::Error {
    let hint = match &error {
        ImageError::InvalidReference(_) => {
            "an image is named like debian, python:3.12 or ghcr.io/owner/image:tag".to_owned()
        }
        ImageError::NotATag { .. } => {
            "give it a name with a tag, or with nothing behind it".to_owned()
        }
        ImageError::ImageNotFound { .. } => {
            "`msb image ls` lists the images, `msb pull` and `msb image load` add some".to_owned()
        }
        ImageError::Ambiguous { .. } => "give more of its digits".to_owned(),
        ImageError::ImageInUse { .. } => {
            "remove them first with `msb rm` and `msb snapshot rm`, or give the image another name with `msb image tag`"
                .to_owned()
        }
        ImageError::Damaged { digest, .. } => format!(
            "`msb pull --force` gets all of it again, and loading it what is missing; or remove it with `msb image rm {digest}`"
        ),
        ImageError::Archive { source, .. } => archive(source),
        ImageError::Directory(_) => {
            "make it a directory of yours that nobody else can write".to_owned()
        }
        ImageError::Database(error) => database(error),
        ImageError::Io { source, .. } if source.kind() == io::ErrorKind::IsADirectory => {
            "name a file, which may be a new one in that directory".to_owned()
        }
        ImageError::Store(_) | ImageError::Io { .. } => {
            "look at the permissions and the free room there".to_owned()
        }
        _ => return error.into(),
    };
    with_hint(error, hint)
}

fn archive(error: &ArchiveError) -> String {
    match error {
        ArchiveError::NotAnArchive => {
            "`docker save`, `podman save`, `skopeo copy` and `msb image save` make such archives"
                .to_owned()
        }
        ArchiveError::Compression { by } => format!("decompress it first, such as with `{by} -d`"),
        ArchiveError::NoSuchTag { .. } | ArchiveError::Several { .. } => {
            "name one of those that it has".to_owned()
        }
        ArchiveError::Store(_) | ArchiveError::Io { .. } => {
            "look at the permissions and the free room there".to_owned()
        }
        ArchiveError::Document { .. } => {
            "get it for linux/amd64, from somebody who makes it as OCI or Docker specify".to_owned()
        }
        _ => "make the archive again".to_owned(),
    }
}
