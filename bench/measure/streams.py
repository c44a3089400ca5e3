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
    columns = {peers.MSB: (OURS, lambda *command: peers.msb(folder, *command))}
    if peers.MICROSANDBOX:
        columns[peers.THEIRS] = (THEIRS, lambda *command: peers.microsandbox(folder, *command))
    outputs, inputs = [], []
    for amount, program in columns.values():
        empty = _seconds(program("/bin/true"), 0, 0)
        out = _seconds(program("head", "-c", str(amount * MIB), "/dev/zero"), 0, amount * MIB)
        outputs.append(_rate(amount, out, empty))
        inputs.append(_rate(amount, _seconds(program("wc", "-c"), amount, None), empty))
    heads = [f"{name} MiB/s" for name in columns]
    sizes = ", ".join(f"{amount} MiB with {name}" for name, (amount, _) in columns.items())
    table(f"streams ({sizes})", heads, [("output", outputs), ("input", inputs)])


def _rate(amount: int, taken: float | None, empty: float | None) -> str:
    if taken is None or empty is None:
        return "fails"
    return f"{amount / (taken - empty):.1f}"


def _seconds(command: list[str], amount: int, expected: int | None) -> float | None:
    """How long the command takes with so many MiB to read. `None` when it does not write as much as is
    `expected` or, without an expectation, does not tell that it has read everything."""
    begin = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            block = bytes(MIB)
            for _ in range(amount):
                process.stdin.write(block)
            process.stdin.close()
        except BrokenPipeError:
            pass
        written, last = 0, b""
        while block := process.stdout.read1(MIB):
            written += len(block)
            last = block
    taken = time.monotonic() - begin
    if expected is None:
        complete = last.strip() == str(amount * MIB).encode()
    else:
        complete = written == expected
    return taken if complete and process.returncode == 0 else None
