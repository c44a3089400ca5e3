"""What it costs a session that its output is logged: how long much output takes with a log and without."""

import os
from pathlib import Path
from statistics import median

from sandboxes import programs
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
MIB = 64
PIECES = (4, 64)
SANDBOXES = {"with its log": "logged", "--quiet-logs": "quiet"}


def measure(folder: Path) -> None:
    msb = programs(folder)[0]
    msb.create("logged")
    msb.create("quiet", "--quiet-logs")
    rows = []
    for piece in PIECES:
        times: dict[str, list[float]] = {kind: [] for kind in SANDBOXES}
        for number in range(ROUNDS + 1):
            for kind, sandbox in SANDBOXES.items():
                took = msb.exec(sandbox, "dd", "if=/dev/zero", f"bs={piece}k", f"count={MIB * 1024 // piece}")
                # The first of each fills caches and the log, which takes up no more room from then on.
                if number > 0:
                    times[kind].append(took)
        quiet = median(times["--quiet-logs"])
        for kind, taken in times.items():
            rates = [f"{MIB / value:.1f}" for value in (max(taken), median(taken), min(taken))]
            rows.append((f"pieces of {piece} KiB, {kind}", [*rates, f"{100 * (median(taken) / quiet - 1):.1f} %"]))
    msb.remove(*SANDBOXES.values())
    table(f"{MIB} MiB of output, {ROUNDS} rounds", ["min MiB/s", "median", "max", "takes longer by"], rows)
