"""How fast a shared folder is: requests of a file past the guest's page cache, and what people do with a tree of many files."""

import os
import resource
import shutil
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median

import fio
import machines
import peers
import tree
from fio import KIB, MIB, Job
from guests import Guest, booted
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "1"))
# Where KVM is emulated, a round with 50,000 files takes 40 minutes.
FILES = int(os.environ.get("BENCH_FILES", "2000" if os.environ.get("KVMHOST") else "50000"))
SIZE = 64 * MIB

READS = (
    Job("read 4 KiB, one after another", 4 * KIB, "--rw=randread --ioengine=psync", SECONDS),
    Job("read 1 MiB, one after another", MIB, "--rw=read --ioengine=psync"),
)
# The guest forgets the folder, but not the programs, which lie on its disk.
FORGET = (
    "sync && echo 3 >/proc/sys/vm/drop_caches && "
    "cat /bin/busybox /bin/rm /usr/bin/git /usr/bin/find /lib/x86_64-linux-gnu/*.so* /usr/lib/x86_64-linux-gnu/libpcre2* >/dev/null"
)
# Without its progress, which would go over the serial console.
GIT_STATUS = "git -C /data/tree status --short 2>/dev/null"
# What is timed, and what comes before it.
TREE: dict[str, tuple[str, str]] = {
    "tar -x": ("true", "tar -xf /data/tree.tar -C /data && sync"),
    "find": (FORGET, "find /data/tree -newermt 1990-01-01 | wc -l"),
    "git status, reads all files": (FORGET, GIT_STATUS),
    "git status": (FORGET, GIT_STATUS),
    "rm -rf": (FORGET, "rm -rf /data/tree"),
}

# By the row, and in it by the program: a figure of each round.
Figures = dict[str, dict[str, list[float]]]
Machine = Callable[[Path, Path], AbstractContextManager[list[str]]]


def _msb(_: Path, share: Path) -> AbstractContextManager[list[str]]:
    return nullcontext(machines.msb([], {"data": share}))


def _qemu(folder: Path, share: Path) -> AbstractContextManager[list[str]]:
    return machines.qemu_with_virtiofsd(folder, "data", share)


QEMU = "QEMU and virtiofsd"
PROGRAMS: dict[str, Machine] = {peers.MSB: _msb, QEMU: _qemu}


# Descriptors that a program may have where systemd starts it. The tests' KVM host leaves it at Linux's own 4,096.
DESCRIPTORS = 524288


def measure(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.environ.get("KVMHOST"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, DESCRIPTORS)))
    archive = tree.archive(machines.GUEST.parent, FILES, folder)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for _ in range(ROUNDS):
        for name, machine in PROGRAMS.items():
            share = folder / "share"
            share.mkdir()
            shutil.copy(archive, share / "tree.tar")
            with machine(folder, share) as command, booted(command) as guest:
                _measure_requests(guest, name, figures)
                _measure_tree(guest, name, figures)
            shutil.rmtree(share)
    _print(figures)


def _measure_requests(guest: Guest, program: str, figures: Figures) -> None:
    guest.run("busybox mount -t virtiofs data /data")
    guest.run(f"dd if=/dev/zero of=/data/file bs=1M count={SIZE // MIB} conv=fsync status=none")
    for job, done in zip(READS, fio.run(guest, READS, "/data/file", SIZE), strict=True):
        figures[job.name][program].append(done.rate())


def _measure_tree(guest: Guest, program: str, figures: Figures) -> None:
    guest.run("git --version")
    for name, (before, command) in TREE.items():
        guest.run(before)
        figures[name][program].append(guest.run(command).seconds)


def _print(figures: Figures) -> None:
    rows = []
    for job in READS:
        ours, theirs = (median(figures[job.name][name]) for name in PROGRAMS)
        cells = [f"{rate:.0f} MiB/s" if job.in_mib() else f"{1e6 / rate:.0f} us" for rate in (ours, theirs)]
        rows.append((job.name, [*cells, f"{ours / theirs:.2f}"]))
    for name in TREE:
        rows.append(_row(name, [median(figures[name][program]) for program in PROGRAMS]))
    rows.append(_row("all of the tree", [sum(median(figures[name][program]) for name in TREE) for program in PROGRAMS]))
    table(f"shared folder, {FILES} files, {ROUNDS} rounds", [*PROGRAMS, "msb is"], rows)


def _row(name: str, seconds: list[float]) -> tuple[str, list[str]]:
    ours, theirs = seconds
    return name, [f"{1000 * ours:.0f} ms", f"{1000 * theirs:.0f} ms", f"{theirs / ours:.2f}"]
