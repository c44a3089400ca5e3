"""What idle sandboxes take of the host's memory, as many as are measured at a time, and how many a host would have room for."""

import os
import re
import time
from pathlib import Path

import peers
from sandboxes import CommandFailed, Program, programs
from tables import table

MIB = 1 << 20
# As many as are measured, if there is room for them.
WANTED = int(os.environ.get("BENCH_SANDBOXES", "32"))
# Room that is left to the host.
RESERVE = 512 * MIB
EXTRAPOLATED = 1000


def measure(folder: Path) -> None:
    columns = ["measured", "MiB each", f"GiB for {EXTRAPOLATED}, extrapolated"]
    table("idle sandboxes", columns, [_row(program) for program in programs(folder)])


def _row(program: Program) -> tuple[str, list[str]]:
    """What is free before and after counts: memory of the host's kernel is in it, and what they share counts once."""
    names: list[str] = []
    try:
        # What all of them share is there with the first.
        _add(program, names)
        first = _available()
        least = first
        while len(names) < 2 or len(names) < WANTED and least > RESERVE + _most_for_one(first - least, len(names)):
            try:
                _add(program, names)
            except CommandFailed as failure:
                # One that can have no more has been measured, too.
                if program.name == peers.MSB or len(names) < 2:
                    raise
                print(f"({program.name} could not create number {len(names) + 1}: {failure})")
                break
            least = _available()
        each = (first - least) / (len(names) - 1)
    finally:
        if names:
            program.remove(*names)
    return program.name, [str(len(names)), f"{each / MIB:.1f}", f"{EXTRAPOLATED * each / (1 << 30):.1f}"]


def _add(program: Program, names: list[str]) -> None:
    name = f"idle-{len(names)}"
    program.create(name)
    names.append(name)


def _most_for_one(taken: int, sandboxes: int) -> int:
    """Room that the next one may need, the boot included."""
    return 2 * taken // sandboxes + 128 * MIB


def _available() -> int:
    # What a start needed for a moment is given back.
    time.sleep(1)
    meminfo = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable: +(\d+) kB$", meminfo, re.MULTILINE)
    assert found
    return int(found[1]) << 10
