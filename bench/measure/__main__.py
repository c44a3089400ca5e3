"""Measurements of msb and its peers. bench/run starts this where KVM works."""

import sys

import crowd
import disks
import execs
import exit_counts
import files
import folders
import image_runs
import listing
import loading
import log_cost
import memory
import pings
import sharing
import stops
import streams
import wall
from peers import scratch

MEASUREMENTS = {
    "exits": exit_counts.measure,
    "wall": wall.measure,
    "exec": execs.measure,
    "ping": pings.measure,
    "stop": stops.measure,
    "ls": listing.measure,
    "memory": memory.measure,
    "crowd": crowd.measure,
    "streams": streams.measure,
    "logs": log_cost.measure,
    "load": loading.measure,
    "image": image_runs.measure,
    "sharing": sharing.measure,
    "files": files.measure,
    "disks": disks.measure,
    "folders": folders.measure,
}


def main() -> int:
    # bench/run starts that one by itself.
    names = sys.argv[1:] or [name for name in MEASUREMENTS if name != "load"]
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
