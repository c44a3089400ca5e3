"""How long a whole command takes, from its start to its end. The programs take turns, so that what disturbs one disturbs all."""

import os
import time
from pathlib import Path
from statistics import median

import peers
from tables import table


def measure(folder: Path) -> None:
    rounds = int(os.environ.get("BENCH_ROUNDS", "5"))
    commands = peers.boots(folder)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        # The first run of each reads its files from the disk.
        peers.run(command)
    for _ in range(rounds):
        for name, command in commands.items():
            begin = time.monotonic()
            peers.run(command)
            times[name].append(time.monotonic() - begin)
    ours = median(times[peers.MSB])
    rows = []
    for name, seconds in times.items():
        figures = [f"{1000 * value:.0f}" for value in (min(seconds), median(seconds), max(seconds))]
        rows.append((name, [*figures, f"{ours / median(seconds):.2f}"]))
    table(f"wall time, {rounds} rounds", ["min ms", "median ms", "max ms", "msb is"], rows)
