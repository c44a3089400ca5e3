//! A small machine that mounts disks for one job: the host's kernel should not mount what a guest has written.
//!
//! Its root is in memory, and nothing runs in it but the agent, which serves the files of the disks.

mod error;
mod remote;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{Bytes, MountOptions};

use crate::home::Home;
use crate::launch::{
    BOOT_TIMEOUT_MS, DiskImage, DiskProblem, Ending, INITRAMFS, KERNEL, LaunchConfig, Lifetime,
    MachineProcess, Mount, MountSource, Program, Report, Root, RootAccess, RootSource, StartStage,
};
use crate::names::Name;
use crate::run_directory::RunDirectory;
use crate::volumes::VolumeUse;
pub use error::DiskMachineError;
pub(crate) use remote::{Remote, RemoteError};

/// Memory of the guest in bytes: the agent holds a part of a file at a time, the rest is the kernel's.
const MEMORY: u64 = 128 << 20;

/// How long a job may take: what a guest has written can be such that another one's kernel never comes to an end with it.
const JOB_TIME_MS: u64 = 60 * 60 * 1000;

/// A disk, and where the guest has it.
#[derive(Debug)]
pub(crate) struct MountedDisk {
    pub(crate) disk: DiskImage,
    /// Where it is mounted.
    pub(crate) directory: &'static str,
    /// Whether the image cannot be written either.
    pub(crate) read_only: bool,
}

/// A machine whose guest is up. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct DiskMachine(MachineProcess);

impl DiskMachine {
    /// Starts it. It has `volumes` in use as long as it lives.
    ///
    /// # Errors
    /// [`DiskMachineError::InUse`] if something else has a disk.
    pub(crate) fn start(
        home: &Home,
        name: Name,
        disks: Vec<MountedDisk>,
        volumes: Vec<VolumeUse>,
    ) -> Result<DiskMachine, DiskMachineError> {
        let program = Program::find(home)?;
        let config = config(home, &program, &name, disks)?;
        let claim = RunDirectory::claim(home, &name)?;
        let process = MachineProcess::spawn(&program, name, claim, config, volumes, None)?;
        let mut machine = DiskMachine(process);
        machine.wait_until_ready()?;
        Ok(machine)
    }

    /// A connection to the agent, for [`work`](Self::work).
    ///
    /// # Errors
    /// As connect(2).
    pub(crate) fn connect(&self) -> Result<UnixStream, DiskMachineError> {
        Ok(self.0.connect()?)
    }

    /// Does `work` with the files beneath `directory`, and shuts the machine down, so that what was changed is durable.
    ///
    /// # Errors
    /// [`RemoteError::Files`] of `work`; when the machine fails.
    pub(crate) fn work<T>(
        mut self,
        stream: UnixStream,
        directory: &str,
        work: impl FnOnce(&mut Remote) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let result = session(stream, directory, work);
        if !matches!(result, Err(RemoteError::Agent(_))) {
            self.shut_down()?;
        }
        result
    }

    /// As [`work`](Self::work), with work that leaves nothing to be written: the machine is killed, which takes no time.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn look<T>(
        self,
        stream: UnixStream,
        directory: &str,
        work: impl FnOnce(&mut Remote) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        session(stream, directory, work)
    }

    fn wait_until_ready(&mut self) -> Result<(), DiskMachineError> {
        let reason = match self.next_report()? {
            Some(Report::Ready(_)) => return Ok(()),
            Some(Report::Failed(failure)) => {
                if failure.stage == StartStage::Disk(DiskProblem::InUse) {
                    return Err(DiskMachineError::InUse);
                }
                let mut reasons = vec![failure.message];
                reasons.extend(failure.causes);
                reasons.join(": ")
            }
            Some(Report::Ended { how, .. }) => format!("{how:?}"),
            None => "its process ended".to_owned(),
        };
        Err(DiskMachineError::Start { reason })
    }

    fn shut_down(&mut self) -> Result<(), DiskMachineError> {
        self.0.shutdown(Duration::ZERO);
        let how = match self.next_report()? {
            Some(Report::Ended { how, .. }) => Some(how),
            _ => None,
        };
        if how != Some(Ending::Clean) {
            return Err(DiskMachineError::End { how });
        }
        // It removes its run directory, and lets go of the volumes.
        self.0.wait()?;
        Ok(())
    }

    /// Waits for the next report; `None` at the end of the process.
    fn next_report(&mut self) -> Result<Option<Report>, DiskMachineError> {
        loop {
            if let Some(report) = self.0.next_report()? {
                return Ok(Some(report));
            }
            if self.0.has_ended() {
                return Ok(None);
            }
            let mut descriptors = [PollFd::new(self.0.reports(), PollFlags::POLLIN)];
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}

/// Does `work` in one session.
fn session<T>(
    stream: UnixStream,
    directory: &str,
    work: impl FnOnce(&mut Remote) -> Result<T, RemoteError>,
) -> Result<T, RemoteError> {
    let mut remote = Remote::attach(stream, directory)?;
    let result = work(&mut remote)?;
    remote.finish()?;
    Ok(result)
}

fn config(
    home: &Home,
    program: &Program,
    name: &Name,
    disks: Vec<MountedDisk>,
) -> Result<LaunchConfig, DiskMachineError> {
    let mount = |mounted: MountedDisk| Mount {
        target: Bytes(mounted.directory.as_bytes().to_vec()),
        source: MountSource::Disk(mounted.disk),
        options: MountOptions {
            read_only: mounted.read_only,
            no_exec: true,
            no_suid: true,
            no_dev: true,
        },
    };
    Ok(LaunchConfig {
        name: name.to_string(),
        vcpus: 1,
        memory: MEMORY,
        kernel: KERNEL.find(None, program, home)?,
        initramfs: INITRAMFS.find(None, program, home)?,
        extra_command_line: String::new(),
        // A disk as root would get directories for /proc and /dev.
        root: Root {
            source: RootSource::Memory,
            access: RootAccess::Writable,
        },
        mounts: disks.into_iter().map(mount).collect(),
        allowed: Vec::new(),
        hostname: name.to_hostname(),
        boot_timeout_ms: BOOT_TIMEOUT_MS,
        log_level: "error".to_owned(),
        scripts: Vec::new(),
        patches: Vec::new(),
        restricted: false,
        init: None,
        lifetime: Lifetime {
            max_duration_ms: Some(JOB_TIME_MS),
            ..Lifetime::default()
        },
        main: None,
        state: None,
        log: None,
    })
}
