"""How long a small request takes while nothing else happens in a sandbox, and while 8 sessions write as fast as they can."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import latency
from sandboxes import NOTHING, Program, percentile, programs
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "100"))
SESSIONS = 8
# A command of the command line starts a program each time: so many, or those of so many seconds if these are few.
COMMANDS = max(ROUNDS // 5, 5)
SECONDS = 60


def measure(folder: Path) -> None:
    sandbox = "ping"
    found = programs(folder)
    for program in found:
        program.create(sandbox)
        program.exec(sandbox, *NOTHING)
    rows = [_row("msb, library: connection and greeting", *_both(found[0], sandbox, _greetings))]
    for program in found:
        rows.append(_row(f"{program.name} exec NAME -- true", *_both(program, sandbox, _execs)))
    columns = ["idle median ms", "idle p95 ms", "busy median ms", "busy p95 ms", "busy p95 is"]
    table(f"while {SESSIONS} sessions write", columns, rows)
    for program in found:
        program.remove(sandbox)


def _greetings(program: Program, sandbox: str) -> list[float]:
    return latency.measure(program, sandbox, ROUNDS, "ping")["greeting"]


def _execs(program: Program, sandbox: str) -> list[float]:
    end = time.monotonic() + SECONDS
    times: list[float] = []
    while len(times) < COMMANDS and (len(times) < 5 or time.monotonic() < end):
        times.append(program.exec(sandbox, *NOTHING))
    return times


def _both(program: Program, sandbox: str, requests) -> tuple[list[float], list[float]]:
    idle = requests(program, sandbox)
    with _writing(program, sandbox):
        return idle, requests(program, sandbox)


@contextmanager
def _writing(program: Program, sandbox: str) -> Iterator[None]:
    """Sessions that write while the block runs, and clients that read all of it."""
    command = program.command("exec", sandbox, "--", "cat", "/dev/zero")
    clients = []
    for _ in range(SESSIONS):
        client = subprocess.Popen(
            command,
            env=program.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        clients.append(client)
    # The first bytes show that it has begun; the rest goes to a reader that costs next to nothing.
    sinks = []
    for client in clients:
        assert client.stdout
        os.read(client.stdout.fileno(), 1)
        sinks.append(subprocess.Popen(["dd", "bs=1M", "of=/dev/null", "status=none"], stdin=client.stdout))
    try:
        yield
    finally:
        for process in [*clients, *sinks]:
            process.kill()
            process.wait()
        for client in clients:
            assert client.stdout
            client.stdout.close()


def _row(name: str, idle: list[float], busy: list[float]) -> tuple[str, list[str]]:
    figures = [median(idle), percentile(idle, 95), median(busy), percentile(busy, 95)]
    return name, [*(f"{1000 * value:.1f}" for value in figures), f"{figures[3] / figures[1]:.1f}"]
