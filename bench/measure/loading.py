"""How long it takes until an image from an archive can be run; what unpacks it for containers is the peer."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import oci_images
from sandboxes import Program, milliseconds, programs, share
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
UMOCI = "umoci unpack"
SKOPEO_UMOCI = "skopeo copy, umoci unpack"


def measure(folder: Path) -> None:
    """Needs no KVM: bench/run starts it where the others are not."""
    layout = folder / "layout"
    _copy(layout)
    found = programs(folder)
    jobs: dict[str, Callable[[], float]] = {program.name: _loader(program, folder) for program in found}
    jobs[UMOCI] = lambda: _unpack(folder, layout)
    jobs[SKOPEO_UMOCI] = lambda: _copy_and_unpack(folder)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            times[name].append(job())
    rows = [(name, [*milliseconds(taken), share(times, name)]) for name, taken in times.items()]
    size = oci_images.archive(oci_images.BIG).stat().st_size / 1e6
    title = f"load of an image, {size:.0f} MB in an archive, {ROUNDS} rounds"
    table(title, ["min ms", "median ms", "max ms", "msb is"], rows)


def _loader(program: Program, folder: Path) -> Callable[[], float]:
    """Loads into a home that has no images."""
    home = folder / "loaded"

    def job() -> float:
        fresh = oci_images.in_fresh_home(program, home)
        _settle()
        took = oci_images.load(fresh, oci_images.BIG)
        shutil.rmtree(home)
        return took

    return job


def _unpack(folder: Path, layout: Path) -> float:
    bundle = folder / "bundle"
    _settle()
    begin = time.monotonic()
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:{oci_images.BIG}", bundle], check=True)
    took = time.monotonic() - begin
    shutil.rmtree(bundle)
    return took


def _copy(layout: Path) -> None:
    source = f"oci-archive:{oci_images.archive(oci_images.BIG)}"
    subprocess.run(["skopeo", "copy", "--quiet", source, f"oci:{layout}:{oci_images.BIG}"], check=True)


def _copy_and_unpack(folder: Path) -> float:
    layout = folder / "copied"
    _settle()
    begin = time.monotonic()
    _copy(layout)
    copied = time.monotonic() - begin
    took = copied + _unpack(folder, layout)
    shutil.rmtree(layout)
    return took


def _settle() -> None:
    # What the one before left to write must not disturb the next.
    os.sync()
