//! The sandboxes that a command is for.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use anyhow::Context;
use clap::Args;
use microsandbox::names::Name;
use microsandbox::sandbox::SandboxHandle;
use microsandbox::{MicrosandboxError, Sandbox};
use tokio::task::JoinSet;

use super::advice::advise;
use super::done::{Done, DoneArguments, Line};
use super::records;
use crate::failure::{self, FAILED};
use crate::options::Label;

/// Names and labels, and how it is told what was done.
#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Names of the sandboxes
    #[arg(value_name = "NAME", required_unless_present = "label")]
    names: Vec<Name>,

    /// All sandboxes with this label besides; given again, those with all of the labels
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = Label::parse)]
    label: Vec<Label>,

    #[command(flatten)]
    done: DoneArguments,

    /// Whether one that does not exist is none of those that are meant.
    #[arg(skip)]
    may_be_missing: bool,
}

/// A sandbox that is meant, or why it is not known.
type Found = (String, Result<SandboxHandle, MicrosandboxError>);

impl Selection {
    /// The same, without those that do not exist if `may_be_missing`.
    pub(super) fn that_exist(self, may_be_missing: bool) -> Selection {
        Selection {
            may_be_missing,
            ..self
        }
    }

    /// Does the same with each of the sandboxes, at the same time. What `work` returns is printed when that is done, in the order in
    /// which they were named; an error is reported with the name of its sandbox, and stops none of the others. `action` names the
    /// work in the infinitive. Returns the exit status.
    ///
    /// # Errors
    /// When the sandboxes cannot be listed, or nothing can be printed.
    pub(super) async fn each<F, T>(
        self,
        action: &str,
        work: impl Fn(SandboxHandle) -> F,
    ) -> anyhow::Result<u8>
    where
        F: Future<Output = Result<T, MicrosandboxError>> + Send + 'static,
        T: Line + Send + 'static,
    {
        let mut done = Done::new(self.done);
        let (found, mut status) = self.look_up().await?;
        let mut in_order = InOrder::default();
        let mut at_work = JoinSet::new();
        for (place, (name, found)) in found.into_iter().enumerate() {
            match found {
                Ok(handle) => {
                    let work = work(handle);
                    at_work.spawn(async move { (place, (name, work.await)) });
                }
                Err(error) => in_order.add(place, (name, Err(error))),
            }
        }
        loop {
            for (name, outcome) in in_order.by_ref() {
                match outcome {
                    Ok(one) => done.add(one)?,
                    Err(error) => {
                        let error = advise(error).await;
                        failure::report(&error.context(format!("cannot {action} {name:?}")));
                        status = FAILED;
                    }
                }
            }
            let Some(next) = at_work.join_next().await else {
                break;
            };
            let (place, outcome) = next.context("a task ended early")?;
            in_order.add(place, outcome);
        }
        done.finish()?;
        Ok(status)
    }

    /// Each of the sandboxes once: those that are named, then those with the labels by name; and the exit status, since some may
    /// have the labels of which nothing can be read.
    async fn look_up(self) -> anyhow::Result<(Vec<Found>, u8)> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for name in self.names {
            let name = name.to_string();
            if !seen.insert(name.clone()) {
                continue;
            }
            match Sandbox::get(&name).await {
                Err(MicrosandboxError::SandboxNotFound { .. }) if self.may_be_missing => {}
                handle => found.push((name, handle)),
            }
        }
        if self.label.is_empty() {
            return Ok((found, 0));
        }
        let (all, status) = records::all().await?;
        let labelled = all
            .into_iter()
            .filter(|handle| has_all(handle, &self.label) && !seen.contains(handle.name()));
        let labelled = labelled.map(|handle| (handle.name().to_owned(), handle));
        let labelled: BTreeMap<_, _> = labelled.collect();
        found.extend(
            labelled
                .into_iter()
                .map(|(name, handle)| (name, Ok(handle))),
        );
        Ok((found, status))
    }
}

/// Puts what comes in any order into that of its places: an iterator over what has come, up to the first place of which nothing has.
#[derive(Debug)]
struct InOrder<T> {
    waiting: BTreeMap<usize, T>,
    next: usize,
}

impl<T> Default for InOrder<T> {
    fn default() -> InOrder<T> {
        InOrder {
            waiting: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<T> InOrder<T> {
    fn add(&mut self, place: usize, one: T) {
        self.waiting.insert(place, one);
    }
}

impl<T> Iterator for InOrder<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let one = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some(one)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_any_order_goes_in_one() {
        let mut in_order = InOrder::default();
        in_order.add(1, "b");
        assert_eq!(in_order.next(), None);
        in_order.add(0, "a");
        assert_eq!(in_order.by_ref().collect::<Vec<_>>(), ["a", "b"]);
        in_order.add(3, "d");
        assert_eq!(in_order.next(), None);
        in_order.add(2, "c");
        assert_eq!(in_order.collect::<Vec<_>>(), ["c", "d"]);
    }
}
