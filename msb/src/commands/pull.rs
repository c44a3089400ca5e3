//! `msb pull`

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use microsandbox::home::Home;
use microsandbox::images::image::Reference;
use microsandbox::images::{self, PullOptions, PullPolicy, RegistryOptions, ResolvedImage};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::Format;
use super::image::view::named;
use super::layer_bars::with_bars;
use super::registry_advice::advise;
use super::runtime::block_on;
use crate::failure::Hint;
use crate::output;

/// Pulls an image from a registry, and prints its name and its digest
///
/// What is here of it is not downloaded again, unless --force is given. A pull that is broken off leaves what came for the next one, until `msb image prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Registries are spoken to with TLS, and without only on this machine (localhost, 127.0.0.0/8, ::1). Credentials are those of `msb login` and `docker login`. Mirrors and the like stand in $MSB_HOME/registries.json; proxies in HTTPS_PROXY and NO_PROXY.

Examples:
  msb pull debian
  msb pull ghcr.io/owner/image:1.2
  msb pull --force debian
  msb pull -q localhost:5000/image@sha256:..."
)]
pub(super) struct Arguments {
    /// Name of the image, as Docker understands it
    #[arg(value_name = "IMAGE")]
    reference: Reference,

    /// Downloads all of it again and makes its file system again, although it is here: for what a disk has damaged. Sandboxes are not disturbed; what was here stays until what replaces it is complete
    #[arg(short, long)]
    force: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "quiet")]
    format: Format,

    /// Prints the digest only
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    registry: RegistryArguments,
}

/// How a registry is spoken to.
#[derive(Debug, Args)]
pub(super) struct RegistryArguments {
    /// Speaks HTTP without TLS, also where the registry is not this machine
    #[arg(long, conflicts_with = "ca_certs")]
    insecure: bool,

    /// Certificates in PEM that are trusted beside the system's
    #[arg(long, value_name = "FILE")]
    ca_certs: Option<PathBuf>,
}

impl RegistryArguments {
    pub(super) fn options(self) -> RegistryOptions {
        RegistryOptions {
            insecure: self.insecure,
            ca_certs: self.ca_certs,
        }
    }
}

/// Pulls it. Returns the exit status: 128 and the number of the signal that ended it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    let reference = arguments.reference;
    let options = PullOptions {
        policy: PullPolicy::Always,
        renew: arguments.force,
        auth: None,
        registry: arguments.registry.options(),
    };
    let ended = with_bars(arguments.quiet, |progress| {
        block_on(async {
            let pulling = images::pull(&home, &reference, options, progress);
            let ended = tokio::select! {
                image = pulling => Ok(image.map_err(advise)),
                signal = asked_to_end() => Err(signal?),
            };
            Ok(ended)
        })
    });
    match ended? {
        Err(signal) => Ok(128 + signal as u8),
        Ok(image) => {
            let text = named(&image?, &reference, arguments.format, arguments.quiet)?;
            output::print(&text)?;
            Ok(0)
        }
    }
}

/// The image of a sandbox, which is pulled if `policy` says so. A signal ends the program, as it does while the sandbox is made.
///
/// # Errors
/// When it is not here and cannot be pulled.
pub(super) fn fetch(home: &Home, image: &str, policy: PullPolicy) -> anyhow::Result<ResolvedImage> {
    let options = PullOptions {
        policy,
        ..PullOptions::default()
    };
    with_bars(false, |progress| {
        block_on(async {
            let provided = images::provide(home, image, options, progress).await;
            provided.map_err(advise)
        })
    })
}

/// Waits for the signals that end a program.
pub(super) async fn asked_to_end() -> anyhow::Result<Signal> {
    let context = "cannot handle signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(context)?;
    let mut terminate = signal(SignalKind::terminate()).context(context)?;
    let mut hang_up = signal(SignalKind::hangup()).context(context)?;
    Ok(tokio::select! {
        _ = interrupt.recv() => Signal::SIGINT,
        _ = terminate.recv() => Signal::SIGTERM,
        _ = hang_up.recv() => Signal::SIGHUP,
    })
}
