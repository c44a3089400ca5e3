"""What the program that speaks to a sandbox with the library has measured, in seconds."""

import subprocess
from collections import defaultdict

import peers
from sandboxes import Program


def measure(program: Program, sandbox: str, count: int, what: str) -> dict[str, list[float]]:
    command = [str(peers.BIN / "examples/latency"), sandbox, str(count), what]
    done = subprocess.run(
        command, env=program.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
    )
    times = defaultdict(list)
    for line in done.stdout.decode().splitlines():
        name, microseconds = line.split()
        times[name].append(int(microseconds) / 1_000_000)
    return times
