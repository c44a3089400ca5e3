"""What sandboxes of one image take of the disk."""

from pathlib import Path

import oci_images
from sandboxes import Program, programs
from tables import table

SANDBOXES = 10
MIB = 1 << 20


def measure(folder: Path) -> None:
    rows = [(program.name, _row(program, folder / "sharing")) for program in programs(folder)]
    columns = ["image MiB", f"{SANDBOXES} sandboxes MiB", "MiB each"]
    table("disk that sandboxes of one image take", columns, rows)


def _row(program: Program, home: Path) -> list[str]:
    program = oci_images.in_fresh_home(program, home)
    tag = str(oci_images.LAYERS[0])
    before = oci_images.allocated(program.home)
    oci_images.load(program, tag)
    loaded = oci_images.allocated(program.home)
    program = oci_images.of(program, oci_images.name(tag))
    names = [f"shared-{number}" for number in range(SANDBOXES)]
    for name in names:
        program.create(name)
        program.stop(name)
    taken = oci_images.allocated(program.home) - loaded
    program.remove(*names)
    return [f"{figure / MIB:.1f}" for figure in (loaded - before, taken, taken / SANDBOXES)]
