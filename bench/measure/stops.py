"""How long it takes to stop a sandbox that is up and idle."""

import os
from pathlib import Path

from sandboxes import NOTHING, milliseconds, programs, share
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))


def measure(folder: Path) -> None:
    sandbox = "stop"
    found = programs(folder)
    starts: dict[str, list[float]] = {program.name: [] for program in found}
    stops: dict[str, list[float]] = {program.name: [] for program in found}
    for program in found:
        program.create(sandbox)
        program.stop(sandbox)
    for _ in range(ROUNDS):
        for program in found:
            starts[program.name].append(program.start(sandbox))
            program.exec(sandbox, *NOTHING)
            stops[program.name].append(program.stop(sandbox))
    for title, times in (("start", starts), ("stop", stops)):
        rows = [(name, [*milliseconds(taken), share(times, name)]) for name, taken in times.items()]
        table(f"msb {title} NAME, {ROUNDS} rounds", ["min ms", "median ms", "max ms", "msb is"], rows)
        print()
    for program in found:
        program.remove(sandbox)
