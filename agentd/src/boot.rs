//! Carrying out the boot message.

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::sethostname;
use protocol::{Boot, Failure, MountSource, RootAccess, RootSource, Stage};

use crate::devices::Devices;
use crate::disks::BlockDevices;
use crate::failure::{OrFailed, failure};
use crate::gauges::Gauges;
use crate::mount_plan::PlannedMount;
use crate::profile::Profile;
use crate::root::Beneath;
use crate::staging::Staging;
use crate::{init, limits, mount_plan, mounts, network, patches, read_ahead, root, scripts};

/// Longest host name, see gethostname(2).
const MAX_HOSTNAME: usize = 64;

/// What agentd keeps of the guest that it has set up.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) devices: Devices,
    pub(crate) gauges: Gauges,
    pub(crate) profile: Profile,
    /// PID 1 is another program.
    pub(crate) has_init: bool,
}

/// Turns the initramfs into the guest that `boot` describes. Each step needs those before it; what
/// can be checked is checked before the first of them.
pub(crate) fn carry_out(boot: &Boot) -> Result<Guest, Failure> {
    let plan = mount_plan::plan(&boot.root, &boot.mounts, boot.restricted)?;
    check_hostname(&boot.hostname)?;
    scripts::check(&boot.scripts)?;
    patches::check(&boot.root, &boot.patches)?;
    if let Some(init) = &boot.init {
        init::check(init)?;
    }
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let (staging, beneath) = enter_root(boot, &plan)?;
    mounts::mount_system(boot)?;
    patches::make(&boot.patches, &staging)?;
    // Before the mounts of the plan, which may cover /dev.
    let devices = Devices::open().or_failed(Stage::Stdio, || {
        "/dev/null and /dev/pts cannot be opened".into()
    })?;
    let (upper, layer_of_patches) = match beneath {
        Beneath::Nothing => (None, None),
        Beneath::Disk(upper) => (Some(upper), None),
        Beneath::Patches(layer) => (None, Some(layer)),
    };
    let gauges =
        Gauges::open(upper).or_failed(Stage::Mount, || "/proc/meminfo cannot be opened".into())?;
    limits::set_own().or_failed(Stage::ResourceLimit, || {
        "agentd cannot set its own limits".into()
    })?;
    let profile = Profile::of(boot);
    profile.restrict_guest()?;
    scripts::make(&boot.scripts)?;
    // While /sys is what was just mounted there.
    let own_sys = plan.iter().all(|mount| !mount.target.starts_with("/sys"));
    mounts::mount_planned(&plan, &staging)?;
    staging.leave().or_failed(Stage::Mount, || {
        "The place of the mounts' sources cannot be left".into()
    })?;
    if own_sys {
        read_ahead::set();
    }
    network::bring_up_loopback()?;
    sethostname(&boot.hostname)
        .or_failed(Stage::Hostname, || "The host name cannot be set".into())?;
    if let Some(layer) = layer_of_patches {
        root::seal(&layer)?;
    }
    Ok(Guest {
        devices,
        gauges,
        profile,
        has_init: boot.init.is_some(),
    })
}

/// Mounts what comes from outside, while device files are in reach, and makes the root file system the root.
fn enter_root(boot: &Boot, plan: &[PlannedMount]) -> Result<(Staging, Beneath), Failure> {
    let root = &boot.root;
    let has_disks = matches!(root.source, RootSource::Disk(_))
        || matches!(root.access, RootAccess::DiskLayer(_))
        || plan
            .iter()
            .any(|mount| matches!(mount.source, MountSource::Disk(_)));
    let no_devices = || "The kernel's disks cannot be looked at".into();
    let devices = match has_disks {
        true => Some(BlockDevices::open().or_failed(Stage::Mount, no_devices)?),
        false => None,
    };
    let staging = Staging::mount(plan, &boot.patches, devices.as_ref())?;
    let beneath = root::mount(root, !boot.patches.is_empty(), devices.as_ref())?;
    if let Some(devices) = devices {
        devices.close().or_failed(Stage::Mount, no_devices)?;
    }
    root::enter()?;
    Ok((staging, beneath))
}

fn check_hostname(name: &str) -> Result<(), Failure> {
    let is_fine = !name.is_empty() && name.len() <= MAX_HOSTNAME && !name.contains('\0');
    is_fine.then_some(()).ok_or_else(|| {
        let rule = format!("A host name has 1 to {MAX_HOSTNAME} bytes, none of them zero");
        failure(Stage::Hostname, Errno::EINVAL, rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_have_limits() {
        assert!(check_hostname("box").is_ok());
        assert!(check_hostname(&"x".repeat(64)).is_ok());
        for name in ["", "a\0b", &"x".repeat(65)] {
            assert_eq!(check_hostname(name).unwrap_err().stage, Stage::Hostname);
        }
    }
}
