//! `msb registry ls`

use clap::Args;
use microsandbox::images;
use microsandbox::images::distribution::Login;
use serde::Serialize;

use crate::commands::ListFormat;
use crate::commands::registry_advice::advise;
use crate::output;
use crate::table::table;

/// Lists the registries for which credentials are kept, and where: in Docker's config.json or by a credential helper
///
/// Secrets are not shown. The user is not known of an identity token, nor if a helper does not tell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb registry ls
  msb registry ls --format json")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,
}

/// Credentials as programs read them.
#[derive(Serialize)]
struct View<'a> {
    registry: &'a str,
    username: Option<&'a str>,
    kept_in: String,
}

/// Lists them.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let logins = images::logins().map_err(advise)?;
    output::print(&match arguments.format {
        ListFormat::Table => table(
            ["REGISTRY", "USER", "KEPT IN"],
            &logins.iter().map(row).collect::<Vec<_>>(),
        ),
        ListFormat::Json => {
            let views: Vec<_> = logins.iter().map(view).collect();
            output::json(&views)?
        }
    })?;
    Ok(0)
}

/// Names come from files and programs of others, and must not steer a terminal.
fn row(login: &Login) -> [String; 3] {
    let user = login.username.as_deref().unwrap_or("-");
    [&login.registry, user, &login.kept_in.to_string()].map(str::to_owned)
}

fn view(login: &Login) -> View<'_> {
    View {
        registry: &login.registry,
        username: login.username.as_deref(),
        kept_in: login.kept_in.to_string(),
    }
}
