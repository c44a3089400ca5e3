"""The images of bench/images, and how each program gets them."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import peers
from sandboxes import Program

IMAGES = Path(os.environ["BENCH_IMAGES"])
# The same root file system as a folder.
FOLDER = IMAGES / "root"
LAYERS = (1, 3, 30)
BIG = "big"


def archive(tag: str) -> Path:
    return IMAGES / f"{tag}.tar"


def name(tag: str) -> str:
    return f"bench:{tag}"


def load(program: Program, tag: str) -> float:
    """Loads one of them, and returns how long that took."""
    return program.run("image", "load", "-q", "-i", str(archive(tag)))


def in_fresh_home(program: Program, home: Path) -> Program:
    """The program with a home that has no images."""
    shutil.rmtree(home, ignore_errors=True)
    if our(program):
        home.mkdir(mode=0o700)
    else:
        shutil.copytree(peers.MICROSANDBOX, home, symlinks=True)
    return replace(program, home=home)


def of(program: Program, root: str) -> Program:
    """The program with another root for its sandboxes."""
    return replace(program, root=root)


def run(program: Program, *command: str) -> float:
    """One command in a sandbox that is gone afterwards."""
    return program.run("run", *program.create_options, program.root, "--", *command)


def allocated(folder: Path) -> int:
    """Bytes of the disk that a folder takes."""
    done = subprocess.run(["du", "--summarize", "--block-size=1", folder], capture_output=True, check=True)
    return int(done.stdout.split()[0])


def our(program: Program) -> bool:
    return program.name == peers.MSB
