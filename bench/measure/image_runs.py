"""A sandbox of an image beside one of a folder with the same files: its start, and its first reads while nothing is cached."""

import os
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import oci_images
import peers
from sandboxes import NOTHING, Program, milliseconds, programs, shuffled
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
MIB = 1 << 20
SANDBOX = "cold"
# Reads every library, and says how many bytes that were.
READ = ("sh", "-c", "find /usr/lib -xdev -type f -exec cat {} + | wc -c")


def measure(folder: Path) -> None:
    # Beside the images, which are in the programs' homes, and not where the KVM host of the tests has a share.
    root = folder / "root"
    subprocess.run(["cp", "-a", oci_images.FOLDER, root], check=True)
    kinds = _kinds(programs(folder), root)
    _starts(kinds)
    print()
    _first_reads({name: program for name, program in kinds.items() if name.endswith(("folder", "1 layer"))})


def _kinds(found: list[Program], root: Path) -> dict[str, Program]:
    """Every program with the folder, and with an image in so many layers."""
    kinds: dict[str, Program] = {}
    for program in found:
        kinds[f"{program.name}, folder"] = oci_images.of(program, str(root))
        for layers in oci_images.LAYERS if oci_images.our(program) else oci_images.LAYERS[:1]:
            oci_images.load(program, str(layers))
            name = f"{program.name}, {layers} layer" + ("s" if layers > 1 else "")
            kinds[name] = oci_images.of(program, oci_images.name(str(layers)))
            if layers > 1:
                kinds[f"{program.name}, {layers} disks"] = _with_disks(kinds[f"{program.name}, 1 layer"], layers - 1)
    return kinds


def _with_disks(program: Program, layers: int) -> Program:
    """What a start would take at least if every layer were a disk of its own: there are so many, and nothing stacks them."""
    image = oci_images.IMAGES / "layer.img"
    disks = [f"--mount-disk={image}:/layers/{number}:ro" for number in range(layers)]
    return replace(program, create_options=(*program.create_options, *disks))


def _starts(kinds: dict[str, Program]) -> None:
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for program in kinds.values():
        oci_images.run(program, *NOTHING)
    for _ in range(ROUNDS):
        for name, program in shuffled(kinds):
            times[name].append(oci_images.run(program, *NOTHING))
    ours = median(times[f"{peers.MSB}, folder"])
    rows = [(name, [*milliseconds(taken), f"{median(taken) / ours:.2f}"]) for name, taken in times.items()]
    table(f"msb run IMAGE -- true, {ROUNDS} rounds", ["min ms", "median ms", "max ms", "of msb, folder"], rows)


def _first_reads(kinds: dict[str, Program]) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, program in shuffled(kinds):
            speeds[name].append(_first_read(program))
    ours = median(speeds[f"{peers.MSB}, 1 layer"])
    rows = []
    for name, taken in speeds.items():
        figures = [f"{value:.0f}" for value in (min(taken), median(taken), max(taken))]
        rows.append((name, [*figures, f"{ours / median(taken):.2f}"]))
    columns = ["min MiB/s", "median MiB/s", "max MiB/s", "msb's image is"]
    table(f"first reads of /usr/lib, {ROUNDS} rounds", columns, rows)


def _first_read(program: Program) -> float:
    """MiB a second of a sandbox that has read nothing yet, on a host that has nothing of it in memory either."""
    program.create(SANDBOX)
    try:
        subprocess.run(["sh", "-c", "sync && echo 3 >/proc/sys/vm/drop_caches"], check=True)
        begin = time.monotonic()
        done = subprocess.run(
            program.command("exec", SANDBOX, "--", *READ),
            env=program.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
        )
        took = time.monotonic() - begin
    finally:
        program.remove(SANDBOX)
    size = re.search(rb"\d+", done.stdout)
    assert size
    return int(size[0]) / MIB / took
