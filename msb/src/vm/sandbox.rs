//! A sandbox's machine, from what its creator handed over to its last report.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum;
use microsandbox::home::Home;
use microsandbox::launch::{Handover, LaunchConfig, LogTarget, Moment, send_report};
use microsandbox::run_directory::RunDirectory;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use vmm::fs::raise_descriptor_limit;
use vmm::machine;
use vmm::virtio::vsock::Observer;

use super::attendant::Attendant;
use super::boot_message::boot_message;
use super::console::{ConsoleLog, LastLines};
use super::control::ControlThread;
use super::diagnostics::Diagnostics;
use super::log::{Log, LogLines};
use super::metrics::Metrics;
use super::sessions::Sessions;
use super::start::StartError;
use super::supervisor::{Event, Supervisor};
use super::verdict::{Outcome, Verdict};
use super::{agent, clock, creator, devices};
use crate::logging::LogLevel;
use crate::{crash, failure};

/// The kernel's command line.
const COMMAND_LINE: [&str; 6] = [
    // The log goes to the only serial port.
    "console=ttyS0",
    "8250.nr_uarts=1",
    // A panic ends the machine at once instead of stopping it for ever,
    "panic=-1",
    // by the keyboard controller, which the monitor knows; a triple fault then is a triple fault.
    "reboot=k",
    // KVM vouches for the clock: no calibration against another, and no watching it later.
    "tsc=reliable",
    "no_timer_check",
];

/// With a reader, the kernel's log is complete; otherwise warnings are enough, and every character costs time.
const WITHOUT_READER: &str = "quiet";

/// Runs the machine that was handed over to this process under the descriptor `launch`. Returns the exit status.
///
/// # Errors
/// When nothing was handed over, so that there is nobody to report to.
pub(crate) fn serve_sandbox(launch: RawFd) -> anyhow::Result<u8> {
    let process = Moment::now();
    crash::report_panics();
    let handover = Handover::receive(launch).context("`msb vm --launch-fd` is for msb itself")?;
    let level = LogLevel::from_str(&handover.config.log_level, false).unwrap_or(LogLevel::Warn);
    let diagnostics = Diagnostics::start(level);
    prepare_process()?;

    let Handover {
        config,
        directory,
        lock,
        listener,
        control,
        reports,
        commands,
        volumes,
        console,
    } = handover;
    if config.lifetime.detached {
        let state = config.state.as_ref().map(|path| path.0.as_path());
        diagnostics
            .leave_creator(state)
            .context("cannot let go of the creator")?;
    }
    let last_lines = LastLines::default();
    let log = config.log.clone().and_then(open_log);
    let lines = log.as_ref().map(Log::lines).unwrap_or_default();
    diagnostics.set_log(log.as_ref().map(Log::lines));
    lines.write("the machine starts");
    tracing::debug!(
        name = config.name,
        vcpus = config.vcpus,
        memory = config.memory,
        "booting"
    );
    let output = Output {
        console: ConsoleLog::new(last_lines.clone(), console, lines.clone()),
        log,
    };
    let (events, received) = channel();
    let control = ControlThread::start(
        control,
        directory.clone(),
        config.main.is_some(),
        events.clone(),
    )
    .context("cannot serve the machine's clients")?;
    let host = Host {
        process,
        config: &config,
        directory: &directory,
        control: &control,
        reports: &reports,
        lines: &lines,
        diagnostics: &diagnostics,
    };
    let verdict = run(&host, listener, commands, output, events, &received)
        .unwrap_or_else(Verdict::not_started);
    let console = last_lines.get();
    let ended = verdict.to_ended(&console);
    diagnostics.set_log(None);
    lines.finish(&ended.to_string());
    if let Some(state) = &config.state
        && let Err(error) = ended.write(&state.0)
    {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    // Before anybody is told: who knows of the end finds the volumes and the name free.
    drop(volumes);
    if let Err(error) = directory.remove(lock) {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    if config.state.is_some()
        && let Err(error) = conclude(&directory, &config.name)
    {
        // The next reader does it.
        tracing::debug!("{error:#}");
    }
    let status = match verdict.outcome {
        Outcome::NotStarted(_) => failure::RUN_FAILED,
        Outcome::Ended(_) => 0,
    };
    // A creator that is gone needs no report.
    let _ = send_report(&reports, &verdict.to_report(console));
    control.finish(ended);
    Ok(status)
}

/// Records the end in the database.
fn conclude(directory: &RunDirectory, name: &str) -> anyhow::Result<()> {
    // $MSB_HOME/run/<hash>
    let home = directory.path().parent().and_then(Path::parent);
    let home = Home::at(home.context("the run directory lies in no home")?);
    Ok(microsandbox::conclude(&home, &name.parse()?)?)
}

/// What a machine's process has besides the machine.
struct Host<'a> {
    process: Moment,
    config: &'a LaunchConfig,
    directory: &'a RunDirectory,
    control: &'a ControlThread,
    reports: &'a File,
    lines: &'a LogLines,
    diagnostics: &'a Diagnostics,
}

/// Where what comes from the guest goes.
struct Output {
    console: ConsoleLog,
    log: Option<Log>,
}

/// Opens the sandbox's log. Without one there is still a sandbox.
fn open_log(target: LogTarget) -> Option<Log> {
    Log::start(target)
        .inspect_err(|error| tracing::warn!("what the sandbox writes is not logged: {error}"))
        .ok()
}

/// Makes this process what the monitor and its shared folders expect.
fn prepare_process() -> anyhow::Result<()> {
    prctl::set_name(c"msb-vm").context("cannot set the name of the process")?;
    // The guest's kernel has applied its own umask.
    umask(Mode::empty());
    raise_descriptor_limit().context("cannot raise the limit of open files")?;
    // Beyond a limit on the size of files (`ulimit -f`) a write of the guest fails; it does not end the machine.
    // SAFETY: no handler is installed, so there is nothing that could run.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.context("cannot ignore SIGXFSZ")?;
    Ok(())
}

/// Boots the machine and sees it through to its end.
fn run(
    host: &Host<'_>,
    listener: UnixListener,
    commands: File,
    output: Output,
    events: Sender<Event>,
    received: &Receiver<Event>,
) -> Result<Verdict, StartError> {
    let started = Instant::now();
    let config = host.config;
    creator::listen(commands, events.clone()).map_err(StartError::Thread)?;
    let (accept, connection) = agent::rendezvous();
    let boot_message = boot_message(config);
    // Looking on costs a copy of what the guest sends: where nobody asks, nobody looks.
    let sessions = (config.state.is_some() || output.log.is_some())
        .then(|| Sessions::new(events.clone(), output.log))
        .transpose()
        .map_err(StartError::Event)?;
    let door = sessions
        .as_ref()
        .map(Sessions::door)
        .transpose()
        .map_err(StartError::Event)?;
    let observer = sessions.map(|sessions| Box::new(sessions) as Box<dyn Observer>);
    let machine = machine::boot(machine::Config {
        vcpus: config.vcpus,
        memory: config.memory,
        kernel: open(&config.kernel)?,
        initramfs: Some(open(&config.initramfs)?),
        command_line: command_line(config, output.console.has_reader()),
        console: machine::Console {
            output: Some(Box::new(output.console)),
            input: None,
        },
        devices: devices::make(config, accept, listener, observer)?,
    })?;
    let kernel_entry = Moment::now();
    let stopper = machine.stopper();
    let pauser = machine.pauser();
    let metrics = Metrics::new(config, machine.meter(), started);
    clock::watch(events.clone()).map_err(StartError::Thread)?;
    let agent =
        agent::serve(connection, boot_message, events.clone()).map_err(StartError::Thread)?;
    wait_for_machine(machine, agent, events).map_err(StartError::Thread)?;
    let attendant = Attendant {
        supervisor: Supervisor::new(config, Instant::now()),
        events: received,
        stopper,
        pauser,
        metrics,
        control: host.control,
        door,
        directory: host.directory,
        reports: host.reports,
        process: host.process,
        kernel_entry,
        ready_at: None,
        main: config.main.clone(),
        state: config.state.as_ref().map(|path| path.0.as_path()),
        lines: host.lines,
        diagnostics: host.diagnostics,
    };
    Ok(attendant.attend())
}

fn open(path: &Path) -> Result<File, StartError> {
    File::open(path).map_err(|source| StartError::Kernel {
        path: path.to_owned(),
        source,
    })
}

fn command_line(config: &LaunchConfig, has_reader: bool) -> String {
    let mut command_line = COMMAND_LINE.join(" ");
    for more in [
        if has_reader { "" } else { WITHOUT_READER },
        &config.extra_command_line,
    ] {
        if !more.is_empty() {
            command_line.push(' ');
            command_line.push_str(more);
        }
    }
    command_line
}

/// Waits for the end of the machine on a thread of its own.
fn wait_for_machine(
    machine: machine::Machine,
    agent: JoinHandle<()>,
    events: Sender<Event>,
) -> io::Result<()> {
    thread::Builder::new()
        .name("machine".to_owned())
        .spawn(move || {
            let ending = machine.wait();
            // The devices are gone, and with them the agent's connection. What the agent said before comes first.
            let _ = agent.join();
            let _ = events.send(Event::Machine(ending));
        })?;
    Ok(())
}
