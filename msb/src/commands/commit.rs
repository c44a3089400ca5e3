//! `msb commit`

use clap::Args;
use microsandbox::images::image::Reference;
use microsandbox::sandbox::CommitOptions;
use microsandbox::{MicrosandboxError, Sandbox};

use super::Format;
use super::advice::advise;
use super::image::view::named;
use super::layer_bars::with_bars;
use super::pull::asked_to_end;
use super::runtime::block_on;
use crate::failure::with_hint;
use crate::operand::operand;
use crate::output;

/// Makes an image of a stopped sandbox, and prints its name and its digest
///
/// It is the image that the sandbox was made of, and a layer with what was changed in its root since then; it is run as the sandbox was. What is in volumes is not part of it, nor are /etc/hosts, /etc/hostname and /etc/resolv.conf, which every sandbox gets anew. An image that had the name loses it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb commit box mine
  msb commit -m 'with git' -a 'A. N. Other <a@example.org>' box mine:2
  msb run mine:2 -- git --version")]
pub(super) struct Arguments {
    /// Name of the sandbox
    #[arg(value_name = "SANDBOX")]
    sandbox: String,

    /// Name of the image, as Docker understands it
    #[arg(value_name = "IMAGE[:TAG]")]
    image: Reference,

    /// A remark on the change, kept in the history of the image
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// Who made it
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "quiet")]
    format: Format,

    /// Prints the digest only
    #[arg(short, long)]
    quiet: bool,
}

/// Commits it. Returns the exit status: 128 and the number of the signal that ended it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let options = CommitOptions {
        message: arguments.message,
        author: arguments.author,
    };
    let reference = arguments.image;
    let ended = with_bars(arguments.quiet, |progress| {
        block_on(async {
            let committing = async {
                let sandbox = Sandbox::get(&arguments.sandbox).await?;
                let committed = sandbox.commit_with_progress(&reference, options, progress);
                committed.await
            };
            tokio::select! {
                committed = committing => match committed {
                    Ok(image) => Ok(Ok(image)),
                    Err(error @ MicrosandboxError::Fs { .. }) => Err(with_hint(
                        error,
                        format!("start the sandbox with `msb start {}`, and rename or remove it there", operand(&arguments.sandbox)),
                    )),
                    Err(error) => Err(advise(error).await),
                },
                // The commit ends with its future, which leaves nothing.
                signal = asked_to_end() => Ok(Err(signal?)),
            }
        })
    });
    match ended? {
        Err(signal) => Ok(128 + signal as u8),
        Ok(image) => {
            output::print(&named(
                &image,
                &reference,
                arguments.format,
                arguments.quiet,
            )?)?;
            Ok(0)
        }
    }
}
