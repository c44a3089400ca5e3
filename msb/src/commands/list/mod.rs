//! `msb ls` and `msb ps`

mod filter;
mod view;

use clap::Args;
use microsandbox::Sandbox;

use super::ListFormat;
use super::advice::advise;
use super::runtime::block_on;
use crate::options::Label;
use crate::output;
use crate::table::table;
use filter::Filter;
use view::View;

pub(super) use view::View as SandboxView;

/// Lists the sandboxes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb ls
  msb ls --running --label env=prod
  msb ls --filter status=crashed --format json
  msb rm $(msb ls -q --stopped)")]
pub(super) struct LsArguments {
    /// Only those that have a machine: running, paused, draining, starting, stopping
    #[arg(long, conflicts_with = "stopped")]
    running: bool,

    /// Only those that have none: stopped, crashed
    #[arg(long)]
    stopped: bool,

    #[command(flatten)]
    listing: Listing,
}

/// Lists the sandboxes that run, and what runs in them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb ps
  msb ps -a
  msb ps -q --label tier=batch
  msb ps --filter name=web")]
pub(super) struct PsArguments {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,

    #[command(flatten)]
    listing: Listing,
}

/// Which sandboxes, and how they are printed.
#[derive(Debug, Args)]
struct Listing {
    /// Only those with this label; given again, with all of them
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,

    /// Only those where this is so: name=PART, status=STATUS, label=KEY[=VALUE]
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,

    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,

    /// Prints names only
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
}

/// Whether sandboxes that run are wanted, and those that do not.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    running: bool,
    stopped: bool,
}

/// Lists them.
pub(super) fn ls(arguments: &LsArguments) -> anyhow::Result<u8> {
    let wanted = Wanted {
        running: !arguments.stopped,
        stopped: !arguments.running,
    };
    let listing = &arguments.listing;
    listing.print(&listing.views(wanted)?, |views| {
        let rows = views.iter().map(|view| {
            [
                view.name.clone(),
                view.image.clone(),
                view.status.to_string(),
                view.created_at.clone(),
            ]
        });
        table(
            ["NAME", "IMAGE", "STATUS", "CREATED"],
            &rows.collect::<Vec<_>>(),
        )
    })
}

/// Lists them with what runs in them.
pub(super) fn ps(arguments: &PsArguments) -> anyhow::Result<u8> {
    let wanted = Wanted {
        running: true,
        stopped: arguments.all,
    };
    let listing = &arguments.listing;
    listing.print(&listing.views(wanted)?, |views| {
        let rows = views.iter().map(|view| {
            [
                view.name.clone(),
                view.image.clone(),
                view.shown_command(),
                view.cpus.to_string(),
                format!("{} MiB", view.memory_mib),
                view.status.to_string(),
            ]
        });
        table(
            ["NAME", "IMAGE", "COMMAND", "CPUS", "MEMORY", "STATUS"],
            &rows.collect::<Vec<_>>(),
        )
    })
}

impl Listing {
    /// The sandboxes that are wanted, by name.
    fn views(&self, wanted: Wanted) -> anyhow::Result<Vec<View>> {
        let sandboxes = block_on(async {
            match Sandbox::list().await {
                Ok(sandboxes) => Ok(sandboxes),
                Err(error) => Err(advise(error).await),
            }
        })?;
        let mut views: Vec<_> = sandboxes.iter().map(View::of).collect();
        views.retain(|view| {
            let alive = view.status.is_alive();
            (if alive {
                wanted.running
            } else {
                wanted.stopped
            }) && self.label.iter().all(|label| view.has(label))
                && self.filter.iter().all(|filter| filter.matches(view))
        });
        views.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(views)
    }

    fn print(&self, views: &[View], columns: impl FnOnce(&[View]) -> String) -> anyhow::Result<u8> {
        let text = if self.quiet {
            views
                .iter()
                .map(|view| format!("{}\n", view.name))
                .collect()
        } else {
            match self.format {
                ListFormat::Table => columns(views),
                ListFormat::Json => output::json(views)?,
            }
        };
        output::print(&text)?;
        Ok(0)
    }
}
