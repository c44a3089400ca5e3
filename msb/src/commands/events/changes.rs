//! What has changed between two looks at the sandboxes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use microsandbox::sandbox::{SandboxHandle, SandboxStatus, StopReason};

/// Something that happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) event: &'static str,
    pub(super) name: String,
    /// Why it ended.
    pub(super) reason: Option<StopReason>,
    /// It has a machine since.
    begins_run: bool,
}

/// Sandboxes as they were at the last look.
#[derive(Debug, Default)]
pub(super) struct Known {
    sandboxes: BTreeMap<String, Seen>,
}

/// A sandbox at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Tells it from others of the same name.
    created_at: SystemTime,
    /// Changes with each run.
    updated_at: SystemTime,
    status: SandboxStatus,
    reason: Option<StopReason>,
}

impl Change {
    /// Whether a machine's end is to be waited for from now on.
    pub(super) fn begins_run(&self) -> bool {
        self.begins_run
    }
}

impl Known {
    /// Takes the sandboxes as they are now; returns what has happened since the last look. What a sandbox must have gone through
    /// on its way is told, too, however short it was.
    pub(super) fn update(&mut self, handles: &[SandboxHandle]) -> Vec<Change> {
        let now = handles.iter().map(|handle| {
            let end = handle.last_stop().filter(|_| !handle.status().is_alive());
            let seen = Seen {
                created_at: handle.created_at(),
                updated_at: handle.updated_at(),
                status: handle.status(),
                reason: end.map(|end| end.reason),
            };
            (handle.name().to_owned(), seen)
        });
        self.compare(now.collect())
    }

    fn compare(&mut self, now: BTreeMap<String, Seen>) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = std::mem::replace(&mut self.sandboxes, now);
        for (name, seen) in &before {
            let is_gone = |now: &Seen| now.created_at != seen.created_at;
            if self.sandboxes.get(name).is_none_or(is_gone) {
                if seen.status.is_alive() {
                    // Nothing remains of one that was to leave nothing.
                    changes.push(change(name, "stopped", None));
                }
                changes.push(change(name, "removed", None));
            }
        }
        for (name, now) in &self.sandboxes {
            let before = before
                .get(name)
                .filter(|before| before.created_at == now.created_at);
            steps(name, before, now, &mut changes);
        }
        changes
    }
}

fn change(name: &str, event: &'static str, reason: Option<StopReason>) -> Change {
    Change {
        event,
        name: name.to_owned(),
        reason,
        begins_run: false,
    }
}

/// What a sandbox went through between two looks.
fn steps(name: &str, before: Option<&Seen>, now: &Seen, changes: &mut Vec<Change>) {
    if before == Some(now) {
        return;
    }
    if before.is_none() {
        changes.push(change(name, "created", None));
    }
    let status = before.map(|before| before.status);
    let was_alive = status.is_some_and(SandboxStatus::is_alive);
    let another_run = before.is_some_and(|before| before.updated_at != now.updated_at);
    let begins = !was_alive && (now.status.is_alive() || before.is_none() || another_run);
    let first = changes.len();
    if begins {
        changes.push(change(name, "starting", None));
    }
    let came_up = !matches!(now.status, SandboxStatus::Starting | SandboxStatus::Crashed);
    let was_up = was_alive && status != Some(SandboxStatus::Starting);
    if came_up && !was_up && now.status != SandboxStatus::Running {
        changes.push(change(name, "running", None));
    }
    if now.status != SandboxStatus::Starting && status != Some(now.status)
        || begins && !now.status.is_alive()
    {
        changes.push(change(name, now.status.name(), now.reason));
    }
    if let Some(change) = changes.get_mut(first).filter(|_| begins) {
        change.begins_run = now.status.is_alive();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn seen(created: u64, updated: u64, status: SandboxStatus) -> Seen {
        let moment = |second| UNIX_EPOCH + Duration::from_secs(second);
        Seen {
            created_at: moment(created),
            updated_at: moment(updated),
            status,
            reason: None,
        }
    }

    /// The events of each look.
    fn events(looks: &[Option<Seen>]) -> Vec<Vec<&'static str>> {
        let mut known = Known::default();
        let events = looks.iter().map(|look| {
            let now = look.iter().map(|seen| ("web".to_owned(), seen.clone()));
            let changes = known.compare(now.collect());
            changes.iter().map(|change| change.event).collect()
        });
        events.collect()
    }

    use SandboxStatus::{Crashed, Draining, Paused, Running, Starting, Stopped, Stopping};

    #[test]
    fn a_life_that_is_looked_at_often() {
        let looks = [
            Starting, Starting, Running, Paused, Running, Draining, Stopping,
        ]
        .map(|status| Some(seen(1, 1, status)));
        assert_eq!(
            events(&looks),
            [
                vec!["created", "starting"],
                vec![],
                vec!["running"],
                vec!["paused"],
                vec!["running"],
                vec!["draining"],
                vec!["stopping"],
            ]
        );
    }

    #[test]
    fn what_was_missed_is_made_up_for() {
        assert_eq!(
            events(&[
                Some(seen(1, 1, Running)),
                Some(seen(1, 2, Stopped)),
                // It ran in between.
                Some(seen(1, 3, Stopped)),
                Some(seen(1, 4, Starting)),
                Some(seen(1, 5, Crashed)),
                // Another one of that name.
                Some(seen(6, 6, Paused)),
                None,
            ]),
            [
                vec!["created", "starting", "running"],
                vec!["stopped"],
                vec!["starting", "running", "stopped"],
                vec!["starting"],
                vec!["crashed"],
                vec!["removed", "created", "starting", "running", "paused"],
                vec!["stopped", "removed"],
            ]
        );
    }
}
