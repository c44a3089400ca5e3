"""The commands `run`, `start`, `stop` and `status`."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import image
from client import Outcome, Run, say
from host import (
    Host,
    HostError,
    Size,
    check_caller,
    find_kept,
    start_kept,
    start_private,
    stop_kept,
)

FAILED = 125
NOT_RUNNING = 3

# What means nothing inside: addresses under /run, which is fresh there, and numbers of descriptors.
DROPPED = {
    "CARGO_MAKEFLAGS",
    "DBUS_SESSION_BUS_ADDRESS",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAKEFLAGS",
    "MFLAGS",
    "NOTIFY_SOCKET",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
}
ADDED = {"KVMHOST": "1", "KVMHOST_SCRATCH": "/mnt/scratch"}


def run(arguments: list[str]) -> int:
    options = _run_parser().parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        _run_parser().error("no command")
    check_caller()
    host = _choose_host(options)
    try:
        for attempt in range(options.retry + 1):
            outcome = Run(host.connection, host.splitter, _request(command, options)).wait()
            if outcome.report:
                return _report(outcome.report, options)
            can_retry = attempt < options.retry and _may_repeat(outcome)
            say(f"{outcome.lost}\nkvmhost: the command is lost with it" + ("; running it again" if can_retry else ""))
            if not can_retry:
                break
        return FAILED
    finally:
        host.close()


def start(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="start", description="Starts the kept host and waits until it is up.")
    _add_host_options(parser)
    options = parser.parse_args(arguments)
    check_caller()
    begun = time.monotonic()
    size = Size(options.memory, options.processors)
    host = start_kept(size, options.idle)
    if difference := host.difference(size):
        raise HostError(f"{difference}; end it with tests/kvmhost/stop")
    options.timeout, options.exits = 600.0, None
    outcome = Run(host.connection, host.splitter, _request(["true"], options)).wait()
    host.close()
    if outcome.lost:
        raise HostError(outcome.lost)
    say(f"the kept host is up ({time.monotonic() - begun:.1f} s)")
    return 0


def stop(arguments: list[str]) -> int:
    argparse.ArgumentParser(prog="stop", description="Powers the kept host off.").parse_args(arguments)
    check_caller()
    say("the kept host is off" if stop_kept() else "no kept host is running")
    return 0


def status(arguments: list[str]) -> int:
    description = f"Says what the kept host does, as JSON. Exit status {NOT_RUNNING} if there is none."
    argparse.ArgumentParser(prog="status", description=description).parse_args(arguments)
    check_caller()
    kept = find_kept()
    if not kept:
        say("no kept host is running")
        return NOT_RUNNING
    print(json.dumps(kept.info, indent=2))
    kept.close()
    return 0


def main(action: Callable[[list[str]], int]) -> NoReturn:
    """Runs the action; whatever ends it, its host is closed on the way out."""
    _open_standard_descriptors()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_by_signal)
    try:
        sys.exit(action(sys.argv[1:]))
    except (HostError, image.ImageError) as error:
        say(str(error))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # Nobody reads the output any more. The interpreter must not try to write it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)


def _open_standard_descriptors() -> None:
    """A caller may have closed some; no connection must take their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _exit_by_signal(number: int, _: Any) -> NoReturn:
    sys.exit(128 + number)


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run",
        usage="run [options] [--] COMMAND [ARGUMENT...]",
        description="Runs a command inside the KVM host. Its exit status is the command's; 124 if its time was up; "
        "125 if the host failed.",
        allow_abbrev=False,
    )
    parser.add_argument("--keep", action="store_true", help="start the kept host if it is not there, and use it")
    parser.add_argument("--private", action="store_true", help="boot a host for this command even if one is kept")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="default: %(default).0f")
    parser.add_argument("--retry", type=int, default=0, metavar="N", help="run it again if the host fails, N times")
    parser.add_argument("--exits", type=Path, metavar="FILE", help="write the KVM exits by reason to FILE, as JSON")
    _add_host_options(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _add_host_options(parser: argparse.ArgumentParser) -> None:
    """What a host that is started is like; each has a variable as well, for a whole test run."""
    memory = os.environ.get("KVMHOST_MEMORY")
    processors = os.environ.get("KVMHOST_PROCESSORS")
    idle = os.environ.get("KVMHOST_IDLE", "30")
    parser.add_argument("--memory", default=memory, metavar="SIZE", help="default: KVMHOST_MEMORY or 6G")
    parser.add_argument(
        "--processors", type=int, default=processors, metavar="N", help="default: KVMHOST_PROCESSORS or 1"
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=idle,
        metavar="MINUTES",
        help="a kept host without a command powers itself off after so long; default: KVMHOST_IDLE or 30",
    )


def _choose_host(options: argparse.Namespace) -> Host:
    size = Size(options.memory, options.processors)
    if options.private:
        return start_private(size)
    kept = start_kept(size, options.idle) if options.keep else find_kept()
    if kept is None:
        return start_private(size)
    if difference := kept.difference(size):
        kept.close()
        say(f"{difference}, so a private one is booted (tests/kvmhost/stop ends the kept one)")
        return start_private(size)
    return kept


def _request(command: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """What the agent needs to start the command. Bytes that are not text travel as Latin-1."""
    environment = {name: value for name, value in os.environ.items() if name not in DROPPED} | ADDED
    umask = os.umask(0)
    os.umask(umask)
    return {
        "argv": [_latin(argument) for argument in command],
        "cwd": _latin(os.getcwd()),
        "env": {_latin(name): _latin(value) for name, value in environment.items()},
        "umask": umask,
        "timeout": options.timeout,
        "exits": options.exits is not None,
        "now": time.time(),
    }


def _latin(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


def _may_repeat(outcome: Outcome) -> bool:
    if outcome.stdin_used:
        say("the command has read standard input, so it cannot be run again")
    return not outcome.stdin_used


def _report(report: dict[str, Any], options: argparse.Namespace) -> int:
    if report.get("timed_out"):
        say(f"the command's time was up after {options.timeout:g} s; it was killed")
    if options.exits:
        options.exits.write_text(json.dumps(report.get("exits", {}), indent=2) + "\n")
    return int(report["status"])
