"""How long a command takes in a sandbox that runs: with the command line, and with the library beside its parts."""

import os
from pathlib import Path
from statistics import median

import latency
from sandboxes import NOTHING, milliseconds, programs, share
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))


def measure(folder: Path) -> None:
    sandbox = "exec"
    found = programs(folder)
    times: dict[str, list[float]] = {program.name: [] for program in found}
    for program in found:
        program.create(sandbox)
        program.exec(sandbox, *NOTHING)
    for _ in range(ROUNDS):
        for program in found:
            times[program.name].append(program.exec(sandbox, *NOTHING))
    rows = [(name, [*milliseconds(taken), share(times, name)]) for name, taken in times.items()]
    table(f"msb exec NAME -- true, {ROUNDS} rounds", ["min ms", "median ms", "max ms", "msb is"], rows)
    print()
    _library(latency.measure(found[0], sandbox, 10 * ROUNDS, "exec"))
    for program in found:
        program.remove(sandbox)


def _library(times: dict[str, list[float]]) -> None:
    greeting, fork, execution = (median(times[name]) for name in ("greeting", "fork", "exec"))
    rows = [
        ("a connection and the agent's greeting", milliseconds(times["greeting"])),
        ("fork and exec by the guest's shell", milliseconds(times["fork"])),
        ("exec with the library", milliseconds(times["exec"])),
    ]
    table(f"library, {len(times['exec'])} rounds", ["min ms", "median ms", "max ms"], rows)
    print(f"exec is {execution / (greeting + fork):.2f} of the sum of both")
