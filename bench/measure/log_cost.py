"""What it costs a session that its output is logged: how long much output takes with a log and without."""

import os
from pathlib import Path
from statistics import median

from sandboxes import programs
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
MIB = 256


def measure(folder: Path) -> None:
    msb = programs(folder)[0]
    sandboxes = {"with its log": "logged", "--quiet-logs": "quiet"}
    msb.create("logged")
    msb.create("quiet", "--quiet-logs")
    times: dict[str, list[float]] = {kind: [] for kind in sandboxes}
    for number in range(ROUNDS + 1):
        for kind, sandbox in sandboxes.items():
            took = msb.exec(sandbox, "head", "-c", str(MIB << 20), "/dev/zero")
            # The first of each fills caches.
            if number > 0:
                times[kind].append(took)
    msb.remove(*sandboxes.values())
    quiet = median(times["--quiet-logs"])
    rows = []
    for kind, taken in times.items():
        rates = [f"{MIB / value:.1f}" for value in (max(taken), median(taken), min(taken))]
        rows.append((kind, [*rates, f"{100 * (median(taken) / quiet - 1):.1f} %"]))
    table(f"{MIB} MiB of output, {ROUNDS} rounds", ["min MiB/s", "median", "max", "takes longer by"], rows)
