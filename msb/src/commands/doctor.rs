//! `msb doctor`

use std::fs;

use clap::Args;
use microsandbox::home::Home;
use microsandbox::launch::{BootFile, INITRAMFS, KERNEL};
use serde::Serialize;
use vmm::probe::{KvmState, probe};

use super::Format;
use crate::boot_files;
use crate::failure::FAILED;
use crate::host::host_memory;
use crate::options::display_size;
use crate::output;

/// Checks whether this machine can run microVMs
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when everything is fine, 1 otherwise

Examples:
  msb doctor
  msb doctor --format json")]
pub(super) struct Arguments {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    /// What.
    name: &'static str,
    /// Whether it is as it should be.
    fine: bool,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    fine: bool,
    checks: Vec<Check>,
}

/// Prints what is fine and what is not. Returns the exit status.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let mut checks = kvm_checks(&probe());
    checks.push(boot_file("kernel", &KERNEL));
    checks.push(boot_file("initramfs", &INITRAMFS));
    checks.push(memory());
    let fine = checks.iter().all(|check| check.fine);
    let diagnosis = Diagnosis { fine, checks };
    let text = match arguments.format {
        Format::Text => diagnosis.checks.iter().map(line).collect(),
        Format::Json => output::json(&diagnosis)?,
    };
    output::print(&text)?;
    Ok(if fine { 0 } else { FAILED })
}

fn line(check: &Check) -> String {
    let mark = if check.fine { "ok  " } else { "FAIL" };
    let mut line = format!("{mark} {}: {}\n", check.name, check.found);
    if let Some(hint) = &check.hint {
        line.push_str(&format!("       hint: {hint}\n"));
    }
    line
}

fn fine(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        name,
        fine: true,
        found: found.into(),
        hint: None,
    }
}

fn wrong(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Check {
    Check {
        name,
        fine: false,
        found: found.into(),
        hint: Some(hint.into()),
    }
}

/// What the probe says, as one check for each thing that can be wrong.
fn kvm_checks(state: &KvmState) -> Vec<Check> {
    let present = || fine("device", "/dev/kvm is there");
    let permitted = || fine("permission", "/dev/kvm can be opened");
    match state {
        KvmState::Fine => vec![
            present(),
            permitted(),
            fine(
                "virtualisation",
                "KVM runs the instructions of ordinary kernels",
            ),
        ],
        KvmState::Missing => vec![wrong(
            "device",
            "there is no /dev/kvm",
            "turn on virtualisation in the firmware, or nested virtualisation of this VM, and load \
             the module kvm_intel or kvm_amd",
        )],
        KvmState::NotPermitted { group } => {
            let hint = match group {
                Some(group) => format!(
                    "add yourself to the group {group}: `sudo usermod -aG {group} $USER`, then log in anew"
                ),
                None => "let your user read and write /dev/kvm".to_owned(),
            };
            vec![
                present(),
                wrong("permission", "/dev/kvm cannot be opened", hint),
            ]
        }
        KvmState::CannotRun { reason } => vec![
            present(),
            permitted(),
            wrong(
                "virtualisation",
                format!("KVM does not run ordinary kernels: {reason}"),
                "this is a virtual machine whose host gives it no full KVM: use another machine",
            ),
        ],
    }
}

fn boot_file(name: &'static str, file: &BootFile) -> Check {
    let found = Home::from_environment()
        .map_err(anyhow::Error::from)
        .and_then(|home| boot_files::find(file, None, &home))
        .and_then(|path| Ok((fs::metadata(&path)?.len(), path)));
    match found {
        Ok((size, path)) => fine(name, format!("{} ({} KiB)", path.display(), size >> 10)),
        Err(error) => wrong(
            name,
            format!("{error:#}"),
            "build it with `make kernel` and `make initramfs`",
        ),
    }
}

fn memory() -> Check {
    match host_memory() {
        Some(size) => fine("memory", display_size(size >> 20 << 20)),
        None => wrong("memory", "/proc/meminfo does not tell", "mount /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_has_its_advice() {
        let group = Some("kvm".to_owned());
        for (state, advice) in [
            (KvmState::Missing, "firmware"),
            (KvmState::NotPermitted { group }, "usermod -aG kvm"),
            (
                KvmState::CannotRun {
                    reason: "cmpxchg16b".into(),
                },
                "another machine",
            ),
        ] {
            let checks = kvm_checks(&state);
            let last = checks.last().unwrap();
            assert!(!last.fine && line(last).contains(advice), "{last:?}");
        }
        assert!(kvm_checks(&KvmState::Fine).iter().all(|check| check.fine));
    }
}
