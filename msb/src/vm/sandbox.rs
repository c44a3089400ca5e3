//! A sandbox's machine, from what its creator handed over to its last report.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use microsandbox::launch::{
    Handover, LaunchConfig, LogTarget, Moment, Report, Startup, send_report,
};
use microsandbox::protocol::Ready;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use vmm::fs::raise_descriptor_limit;
use vmm::machine::{self, Stopper};
use vmm::virtio::vsock::Observer;

use super::boot_message::boot_message;
use super::console::{ConsoleLog, LastLines};
use super::log::{Log, LogLines};
use super::start::StartError;
use super::supervisor::{Action, Event, Supervisor, Verdict};
use super::{agent, creator, devices};
use crate::logging::{self, LogLevel};
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
    logging::start(level);
    prepare_process()?;

    let Handover {
        config,
        directory,
        lock,
        listener,
        reports,
        commands,
        volumes,
        console,
    } = handover;
    tracing::debug!(
        name = config.name,
        vcpus = config.vcpus,
        memory = config.memory,
        "booting"
    );
    let last_lines = LastLines::default();
    let log = config.log.clone().and_then(open_log);
    let lines = log.as_ref().map(Log::lines).unwrap_or_default();
    lines.write("the machine starts");
    let console = ConsoleLog::new(last_lines.clone(), console, lines.clone());
    let output = Output {
        console,
        log,
        lines: lines.clone(),
    };
    let verdict = run(process, &config, listener, commands, &reports, output)
        .unwrap_or_else(Verdict::NotStarted);
    lines.finish(match &verdict {
        Verdict::NotStarted(_) => "the machine did not start",
        Verdict::Ended(_) => "the machine has ended",
    });
    // Before the report: who has read it finds the volumes and the name free.
    drop(volumes);
    if let Err(error) = directory.remove(lock) {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    let (report, status) = match verdict {
        Verdict::NotStarted(error) => (
            Report::Failed(error.to_failure(last_lines.get())),
            failure::RUN_FAILED,
        ),
        Verdict::Ended(how) => (
            Report::Ended {
                how,
                console: last_lines.get(),
            },
            0,
        ),
    };
    // A creator that is gone needs no report.
    let _ = send_report(&reports, &report);
    Ok(status)
}

/// Where what comes from the guest goes.
struct Output {
    console: ConsoleLog,
    log: Option<Log>,
    lines: LogLines,
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
    process: Moment,
    config: &LaunchConfig,
    listener: UnixListener,
    commands: File,
    reports: &File,
    output: Output,
) -> Result<Verdict, StartError> {
    let (events, received) = channel();
    creator::listen(commands, events.clone()).map_err(StartError::Thread)?;
    let (accept, connection) = agent::rendezvous();
    let boot_message = boot_message(config);
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
        devices: devices::make(
            config,
            accept,
            listener,
            output.log.map(|log| Box::new(log) as Box<dyn Observer>),
        )?,
    })?;
    let kernel_entry = Moment::now();
    let stopper = machine.stopper();
    let agent =
        agent::serve(connection, boot_message, events.clone()).map_err(StartError::Thread)?;
    wait_for_machine(machine, agent, events).map_err(StartError::Thread)?;
    let boot_timeout = Duration::from_millis(config.boot_timeout_ms.into());
    Ok(supervise(
        Supervisor::new(Instant::now(), boot_timeout),
        &received,
        &stopper,
        |agent| {
            output.lines.write("the guest is ready");
            Startup {
                process,
                kernel_entry,
                ready: Moment::now(),
                agent,
            }
        },
        reports,
    ))
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

/// Carries out what the supervisor decides, until the machine is no more.
fn supervise(
    mut supervisor: Supervisor,
    events: &Receiver<Event>,
    stopper: &Stopper,
    startup: impl Fn(Ready) -> Startup,
    reports: &File,
) -> Verdict {
    loop {
        let action = match next(events, supervisor.deadline()) {
            Some(event) => supervisor.on_event(event, Instant::now()),
            None => supervisor.on_deadline(Instant::now()),
        };
        match action {
            Action::Wait => {}
            Action::ReportReady(ready) => {
                // A creator that is gone shows as the end of its commands.
                let _ = send_report(reports, &Report::Ready(startup(ready)));
            }
            Action::ShutDown { grace_ms } => {
                // An agent that cannot be asked any more means a guest that is about to end by itself, and to tell how;
                // if not, the deadline ends it.
                if let Some(control) = &mut supervisor.control
                    && let Err(error) = control.shut_down(grace_ms)
                {
                    tracing::debug!(%error, "the agent cannot be asked to shut down");
                }
            }
            Action::Stop => stopper.stop(),
            Action::Finish => return supervisor.into_verdict(),
        }
    }
}

/// The next event, or `None` when the deadline came first.
fn next(events: &Receiver<Event>, deadline: Option<Instant>) -> Option<Event> {
    let Some(deadline) = deadline else {
        // The thread that waits for the machine always has a last word.
        return events.recv().ok();
    };
    events
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .ok()
}
