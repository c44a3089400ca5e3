//! Any kernel on this terminal.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Context, anyhow};
use disk::{Cache, Format, OpenOptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::pipe2;
use vmm::fs::{FolderOptions, SharedFolder, raise_descriptor_limit};
use vmm::machine::{self, BootError, Ending, Stopper};
use vmm::virtio::{BlkConfig, DeviceDescription, blk_device, fs_device, rng_device};

use crate::failure::{Hint, with_hint};
use crate::signals::Signals;
use crate::terminal::RawMode;

/// Ctrl-], as of telnet(1), which ends the machine from the keyboard.
const END_KEY: u8 = 0x1d;

/// Exit status when the guest's kernel panicked.
const PANICKED: u8 = 1;

/// Exit status when the guest ran into a triple fault.
const TRIPLE_FAULT: u8 = 2;

/// A machine without an agent.
#[derive(Debug)]
pub(crate) struct Foreground {
    /// Virtual processors.
    pub(crate) vcpus: u8,
    /// Memory in bytes.
    pub(crate) memory: u64,
    /// ELF `vmlinux` or bzImage.
    pub(crate) kernel: PathBuf,
    /// cpio archive.
    pub(crate) initramfs: Option<PathBuf>,
    /// The kernel's command line.
    pub(crate) command_line: String,
    /// Where the serial port leads.
    pub(crate) console: ConsoleTarget,
    /// Shared folders.
    pub(crate) shares: Vec<Share>,
    /// Disk images.
    pub(crate) disks: Vec<Disk>,
    /// An entropy device.
    pub(crate) entropy: bool,
}

/// Where the serial port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConsoleTarget {
    /// To standard input and output.
    Stdio,
    /// To a file; nothing is read.
    File(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// A shared folder without anybody to mount it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// The folder.
    pub(crate) source: PathBuf,
    /// The name under which the guest mounts it.
    pub(crate) tag: String,
    /// The guest cannot change it.
    pub(crate) read_only: bool,
}

/// A disk without anybody to mount it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The image.
    pub(crate) source: PathBuf,
    /// How it holds the sectors.
    pub(crate) format: Format,
    /// The guest cannot change it.
    pub(crate) read_only: bool,
}

/// What ended the machine from outside.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Key,
    Signal(Signal),
}

/// Boots the machine and waits for its end. Returns the exit status.
///
/// # Errors
/// When the machine does not start, or the monitor fails.
pub(crate) fn boot_in_foreground(machine: Foreground) -> anyhow::Result<u8> {
    // Before the first thread.
    let signals = Signals::take_over().context("cannot take over signals")?;
    // The guest's kernel applies its own umask to what it makes in shared folders.
    umask(Mode::empty());
    raise_descriptor_limit().context("cannot raise the limit of open files")?;
    let stop = Arc::new(OnceLock::new());
    let devices = devices(&machine)?;
    let kernel = open(&machine.kernel)?;
    let initramfs = machine.initramfs.as_deref().map(open).transpose()?;
    let (console, keyboard) = console(&machine.console)?;
    let raw_mode = (keyboard.is_some() && io::stdin().is_terminal())
        .then(RawMode::enter)
        .transpose()
        .context("cannot put the terminal into raw mode")?;
    let machine = machine::boot(machine::Config {
        vcpus: machine.vcpus,
        memory: machine.memory,
        kernel,
        initramfs,
        command_line: machine.command_line,
        console,
        devices,
    })
    .map_err(|error| {
        let hint = match error {
            BootError::Kernel(_) => "--kernel names a vmlinux or a bzImage for x86_64",
            _ => "`msb doctor` tells whether this machine can run microVMs",
        };
        with_hint(anyhow!(error).context("cannot boot the machine"), hint)
    })?;
    if let Some(keyboard) = keyboard {
        read_keyboard(keyboard, machine.stopper(), Arc::clone(&stop))?;
    }
    watch_signals(signals, machine.stopper(), Arc::clone(&stop))?;
    let ending = machine.wait();
    // Before anything is printed.
    drop(raw_mode);
    exit_status(ending, stop.get().copied())
}

fn exit_status(ending: Ending, stop: Option<Stop>) -> anyhow::Result<u8> {
    let (error, status) = match ending {
        Ending::Reset | Ending::Halted => return Ok(0),
        Ending::Stopped => {
            return Ok(match stop {
                Some(Stop::Signal(signal)) => 128 + signal as u8,
                Some(Stop::Key) | None => 0,
            });
        }
        Ending::Panicked { message } => {
            (anyhow!("the guest's kernel panicked: {message}"), PANICKED)
        }
        Ending::TripleFault => (anyhow!("the guest ran into a triple fault"), TRIPLE_FAULT),
        Ending::Failed { reason } => {
            let error = anyhow!(reason).context("the monitor could not go on");
            return Err(with_hint(
                error,
                "`msb doctor` tells whether KVM runs ordinary kernels",
            ));
        }
    };
    crate::failure::report(&error);
    Ok(status)
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path)
        .with_context(|| format!("cannot open {}", path.display()))
        .hint("--kernel and --initramfs name files that can be read")
}

fn devices(machine: &Foreground) -> anyhow::Result<Vec<DeviceDescription>> {
    let mut devices = Vec::new();
    if machine.entropy {
        devices.push(rng_device());
    }
    for share in &machine.shares {
        let options = FolderOptions {
            read_only: share.read_only,
            ..FolderOptions::DEFAULT
        };
        let folder = SharedFolder::open(&share.source, options)
            .context("cannot share a folder with the guest")
            .hint("--share names a folder that can be read")?;
        devices.push(fs_device(&share.tag, folder).context("cannot share a folder")?);
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        let options = OpenOptions {
            format: disk.format,
            read_only: disk.read_only,
            cache: Cache::Writeback,
            allowed: Vec::new(),
        };
        let image = disk::open(&disk.source, &options)
            .context("cannot give the guest a disk")
            .hint("--disk names a disk image that nobody else uses")?;
        let (device, _) = blk_device(BlkConfig {
            image: Some(image.into()),
            read_only: disk.read_only,
            serial: format!("disk{index}"),
            queues: machine.vcpus.into(),
        })
        .context("cannot give the guest a disk")?;
        devices.push(device);
    }
    Ok(devices)
}

/// The serial port's two directions, and where to write what is typed.
fn console(target: &ConsoleTarget) -> anyhow::Result<(machine::Console, Option<File>)> {
    match target {
        ConsoleTarget::Stdio => {
            let (input, keyboard) =
                pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot make a pipe")?;
            let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            let console = machine::Console {
                output: Some(Box::new(output)),
                input: Some(input),
            };
            Ok((console, Some(File::from(keyboard))))
        }
        ConsoleTarget::File(path) => {
            let file = File::create(path)
                .with_context(|| format!("cannot write the console to {}", path.display()))
                .hint("--console names a file that can be written")?;
            Ok((
                machine::Console {
                    output: Some(Box::new(file)),
                    input: None,
                },
                None,
            ))
        }
        ConsoleTarget::Nowhere => Ok((machine::Console::default(), None)),
    }
}

/// Passes standard input on until its end, or until the end key on a terminal.
fn read_keyboard(
    mut keyboard: File,
    stopper: Stopper,
    stop: Arc<OnceLock<Stop>>,
) -> anyhow::Result<()> {
    let terminal = io::stdin().is_terminal();
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Never joined: it may wait for a key that nobody presses.
    thread::Builder::new()
        .name("keyboard".to_owned())
        .spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = match input.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => return,
                };
                let data = buffer.get(..count).unwrap_or_default();
                let end = data.iter().position(|&byte| terminal && byte == END_KEY);
                if keyboard
                    .write_all(data.get(..end.unwrap_or(count)).unwrap_or_default())
                    .is_err()
                {
                    return;
                }
                if end.is_some() {
                    let _ = stop.set(Stop::Key);
                    stopper.stop();
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

/// Ends the machine when a signal asks for it.
fn watch_signals(
    signals: Signals,
    stopper: Stopper,
    stop: Arc<OnceLock<Stop>>,
) -> anyhow::Result<()> {
    // Never joined: it waits for a signal that may never come.
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                let _ = poll(
                    &mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::NONE,
                );
                match signals.next() {
                    Ok(Some(Signal::SIGWINCH) | None) => {}
                    Ok(Some(signal)) => {
                        let _ = stop.set(Stop::Signal(signal));
                        stopper.stop();
                    }
                    Err(_) => return,
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}
