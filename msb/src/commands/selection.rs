//! The sandboxes that a command is for.

use std::collections::BTreeMap;
use std::future::Future;

use anyhow::Context;
use clap::Args;
use microsandbox::names::Name;
use microsandbox::sandbox::SandboxHandle;
use microsandbox::{MicrosandboxError, Sandbox};
use tokio::task::JoinSet;

use super::advice::advise;
use crate::failure::{self, FAILED};
use crate::options::Label;
use crate::output;

/// Names and labels.
#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Names of the sandboxes
    #[arg(value_name = "NAME", required_unless_present = "label")]
    names: Vec<Name>,

    /// All sandboxes with this label besides; given again, those with all of the labels
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,
}

impl Selection {
    /// Does the same with each of the sandboxes, at the same time. What `work` returns is printed when that is done; an
    /// error is reported with the name of its sandbox, and stops none of the others. `action` names the work in the
    /// infinitive. Returns the exit status.
    ///
    /// # Errors
    /// When the sandboxes cannot be listed, or nothing can be printed.
    pub(super) async fn each<F>(
        self,
        action: &str,
        work: impl Fn(SandboxHandle) -> F,
    ) -> anyhow::Result<u8>
    where
        F: Future<Output = Result<String, MicrosandboxError>> + Send + 'static,
    {
        let mut status = 0;
        let mut report = |name: &str, error: anyhow::Error| {
            failure::report(&error.context(format!("cannot {action} {name:?}")));
            status = FAILED;
        };
        let mut at_work = JoinSet::new();
        for (name, found) in self.look_up().await? {
            match found {
                Ok(handle) => {
                    let work = work(handle);
                    at_work.spawn(async move { (name, work.await) });
                }
                Err(error) => report(&name, advise(error).await),
            }
        }
        while let Some(done) = at_work.join_next().await {
            match done.context("a task ended early")? {
                (_, Ok(text)) => output::print(&text)?,
                (name, Err(error)) => report(&name, advise(error).await),
            }
        }
        Ok(status)
    }

    /// Each of the sandboxes once, by name.
    async fn look_up(
        self,
    ) -> anyhow::Result<BTreeMap<String, Result<SandboxHandle, MicrosandboxError>>> {
        let mut found = BTreeMap::new();
        for name in self.names {
            let name = name.to_string();
            let handle = Sandbox::get(&name).await;
            found.insert(name, handle);
        }
        if self.label.is_empty() {
            return Ok(found);
        }
        let all = match Sandbox::list().await {
            Ok(all) => all,
            Err(error) => return Err(advise(error).await),
        };
        for handle in all
            .into_iter()
            .filter(|handle| has_all(handle, &self.label))
        {
            found.insert(handle.name().to_owned(), Ok(handle));
        }
        Ok(found)
    }
}

/// Whether a sandbox has all of these labels.
pub(super) fn has_all(sandbox: &SandboxHandle, wanted: &[Label]) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let Ok(config) = sandbox.config() else {
        return false;
    };
    wanted.iter().all(|label| {
        let found = config.labels.get(&label.key);
        match &label.value {
            Some(value) => found == Some(value),
            None => found.is_some(),
        }
    })
}
