"""How fast data goes through a session: out of the guest by standard output, into it by standard input."""

import subprocess
import time
from pathlib import Path

import peers
from tables import table

MIB = 1 << 20
# The peer is so much slower that the same amount would take minutes.
OURS = 256
THEIRS = 16


def measure(folder: Path) -> None:
    rows = []
    columns = {peers.MSB: (OURS, peers.msb)}
    if peers.MICROSANDBOX:
        columns[peers.THEIRS] = (THEIRS, lambda *command: peers.microsandbox(folder, *command))
    figures: dict[str, dict[str, float]] = {"output": {}, "input": {}}
    for name, (amount, program) in columns.items():
        empty = _seconds(program("/bin/true"), 0)
        out = program("head", "-c", str(amount * MIB), "/dev/zero")
        figures["output"][name] = amount / (_seconds(out, 0) - empty)
        into = program("sh", "-c", "cat >/dev/null")
        figures["input"][name] = amount / (_seconds(into, amount) - empty)
    for direction, rates in figures.items():
        cells = [f"{rate:.1f}" for rate in rates.values()]
        ratio = [f"{rates[peers.MSB] / rates[peers.THEIRS]:.1f}"] if peers.MICROSANDBOX else []
        rows.append((direction, cells + ratio))
    heads = [f"{name} MiB/s" for name in columns] + (["msb is"] if peers.MICROSANDBOX else [])
    sizes = ", ".join(f"{amount} MiB with {name}" for name, (amount, _) in columns.items())
    table(f"streams ({sizes})", heads, rows)


def _seconds(command: list[str], amount: int) -> float:
    """How long the command takes that reads so many MiB; the input ends after them."""
    begin = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin
        block = bytes(MIB)
        for _ in range(amount):
            process.stdin.write(block)
        process.stdin.close()
    if process.returncode != 0:
        raise SystemExit(f"error: {command[0]} ended with {process.returncode}")
    return time.monotonic() - begin
