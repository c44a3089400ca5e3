//! `msb ls` and `msb ps`

mod filter;
mod view;

use clap::Args;
use microsandbox::MicrosandboxError;
use microsandbox::names::Name;

use super::advice::advise;
use super::runtime::block_on;
use super::{ListFormat, records};
use crate::failure::{self, FAILED};
use crate::options::Label;
use crate::output;
use crate::table::table;
use filter::{Filter, are_met};
use view::View;

pub(super) use view::View as SandboxView;

/// Lists the sandboxes
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all that is recorded can be read, 1 otherwise

Examples:
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
#[command(after_help = "Exit status:
  0 when all that were named are there and all that is recorded can be read, 1 otherwise

Examples:
  msb ps
  msb ps -a
  msb ps web db
  msb ps -q --label tier=batch
  msb ps --filter name=web")]
pub(super) struct PsArguments {
    /// Only those with these names, running or not
    #[arg(value_name = "NAME")]
    names: Vec<Name>,

    /// Also those that do not run; a filter of status finds them without
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

    /// Only those where this is so: name=PART, status=STATUS, label=KEY[=VALUE]; of several of one key one, but all labels
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
    let (all, status) = all()?;
    listing.print(&listing.wanted(&all, wanted), |views| {
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
    })?;
    Ok(status)
}

/// Lists them with what runs in them.
pub(super) fn ps(arguments: &PsArguments) -> anyhow::Result<u8> {
    let listing = &arguments.listing;
    let wanted = Wanted {
        running: true,
        stopped: arguments.all
            || !arguments.names.is_empty()
            || listing.filter.iter().any(Filter::is_of_status),
    };
    let (all, mut status) = all()?;
    let mut views = listing.wanted(&all, wanted);
    let names = &arguments.names;
    views.retain(|view| names.is_empty() || names.iter().any(|name| is_of(view, name)));
    listing.print(&views, |views| {
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
    })?;
    for name in names
        .iter()
        .filter(|name| !all.iter().any(|view| is_of(view, name)))
    {
        let name = name.to_string();
        let error =
            block_on(async { Ok(advise(MicrosandboxError::SandboxNotFound { name }).await) });
        failure::report(&error?);
        status = FAILED;
    }
    Ok(status)
}

fn is_of(view: &View, name: &Name) -> bool {
    view.name == name.as_str()
}

/// All sandboxes, by name, and the exit status: what is damaged of their records is reported.
fn all() -> anyhow::Result<(Vec<View>, u8)> {
    let (sandboxes, mut status) = block_on(records::all())?;
    for sandbox in &sandboxes {
        if let Err(error) = records::configuration(sandbox) {
            failure::report(&error);
            status = FAILED;
        }
    }
    let mut views: Vec<_> = sandboxes.iter().map(View::of).collect();
    views.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((views, status))
}

impl Listing {
    /// Those that are wanted.
    fn wanted<'a>(&self, all: &'a [View], wanted: Wanted) -> Vec<&'a View> {
        let is_wanted = |view: &&View| {
            let alive = view.status.is_alive();
            (if alive {
                wanted.running
            } else {
                wanted.stopped
            }) && self.label.iter().all(|label| view.has(label))
                && are_met(&self.filter, view)
        };
        all.iter().filter(is_wanted).collect()
    }

    fn print(
        &self,
        views: &[&View],
        columns: impl FnOnce(&[&View]) -> String,
    ) -> anyhow::Result<()> {
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
        output::print(&text)
    }
}
