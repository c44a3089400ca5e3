"""How fast files of a shared folder are read and written, with dd in the guest: large and small requests, past its page cache."""

import subprocess
import time
from pathlib import Path

import peers
from tables import table

AMOUNT = 64 << 20
# What dd is told, by the name of the row.
WORK = {
    "write 1 MiB": ("if=/dev/zero", "of=/data/file", "bs=1048576", f"count={AMOUNT >> 20}", "conv=fsync"),
    "read 1 MiB": ("if=/data/file", "of=/dev/null", "bs=1048576"),
    "write 4 KiB": ("if=/dev/zero", "of=/data/file", "bs=4096", f"count={AMOUNT >> 12}", "conv=fsync"),
    "read 4 KiB": ("if=/data/file", "of=/dev/null", "bs=4096"),
}


def measure(folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    volume = ("-v", f"{data}:/data")
    programs = {peers.MSB: lambda *command: peers.msb(folder, *command, options=volume)}
    if peers.MICROSANDBOX:
        programs[peers.THEIRS] = lambda *command: peers.microsandbox(folder, *command, options=volume)
    rates: dict[str, dict[str, float]] = {work: {} for work in WORK}
    for name, program in programs.items():
        empty = _seconds(program("/bin/true"))
        for work, arguments in WORK.items():
            taken = _seconds(program("dd", *arguments)) - empty
            rates[work][name] = AMOUNT / (1 << 20) / taken
    rows = []
    for work, row in rates.items():
        ratio = [f"{row[peers.MSB] / row[peers.THEIRS]:.1f}"] if peers.MICROSANDBOX else []
        rows.append((work, [f"{rate:.0f}" for rate in row.values()] + ratio))
    heads = [f"{name} MiB/s" for name in programs] + (["msb is"] if peers.MICROSANDBOX else [])
    table("files of a shared folder, 64 MiB", heads, rows)


def _seconds(command: list[str]) -> float:
    begin = time.monotonic()
    subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin
