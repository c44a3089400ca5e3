"""What a machine's process takes of the host's memory besides the guest's own, and how large agentd is."""

import re
import subprocess
import time
from pathlib import Path

import peers
from tables import table

GUEST = 128 << 20
PROCESS_NAME = "msb-vm"


def measure(folder: Path) -> None:
    command = peers.msb(folder, "sh", "-c", "echo up; exec sleep 1000")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        # What the start needed for a moment is given back.
        time.sleep(1)
        resident, private = _besides_guest(_machine_process())
        process.terminate()
    agentd = (peers.BIN.parent / "x86_64-unknown-linux-gnu/agentd/agentd").stat().st_size
    table(
        "memory, 1 processor and 128 MiB",
        ["MiB", "of it private"],
        [
            ("machine's process besides the guest", [_mib(resident), _mib(private)]),
            ("agentd on disk", [_mib(agentd), ""]),
        ],
    )


def _machine_process() -> Path:
    for folder in Path("/proc").glob("[0-9]*"):
        if (folder / "comm").read_text().strip() == PROCESS_NAME:
            return folder
    raise SystemExit(f"error: no process is called {PROCESS_NAME}")


def _besides_guest(process: Path) -> tuple[int, int]:
    resident = private = 0
    size = 0
    for line in (process / "smaps").read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            size = int(mapping[2], 16) - int(mapping[1], 16)
        elif size != GUEST and (amount := re.match(r"(Rss|Private_Clean|Private_Dirty): +(\d+) kB", line)):
            if amount[1] == "Rss":
                resident += int(amount[2]) << 10
            else:
                private += int(amount[2]) << 10
    return resident, private


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.2f}"
