"""Measurements of msb and its peers. bench/run starts this where KVM works."""

import sys

import disks
import exit_counts
import files
import folders
import memory
import streams
import wall
from peers import scratch

MEASUREMENTS = {
    "exits": exit_counts.measure,
    "wall": wall.measure,
    "memory": memory.measure,
    "streams": streams.measure,
    "files": files.measure,
    "disks": disks.measure,
    "folders": folders.measure,
}


def main() -> int:
    names = sys.argv[1:] or list(MEASUREMENTS)
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"error: no measurement is called {unknown[0]}", file=sys.stderr)
        print(f"  hint: there are {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    with scratch() as folder:
        for name in names:
            print(flush=True)
            MEASUREMENTS[name](folder)
    return 0


sys.exit(main())
