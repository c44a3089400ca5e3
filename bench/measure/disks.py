"""How fast the disk of a guest is, by the format of its image: fio in the guest, with msb and with QEMU."""

import os
from collections import defaultdict
from pathlib import Path
from statistics import median

import exit_counts
import fio
import images
import machines
import peers
from fio import KIB, MIB, Job
from guests import Guest, booted
from images import Kind
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SIZE = int(os.environ.get("BENCH_DISK_MIB", "128" if os.environ.get("KVMHOST") else "1024")) * MIB
SECONDS = int(os.environ.get("BENCH_SECONDS", "1"))

PROGRAMS = {peers.MSB: lambda disks: machines.msb(disks, {}), peers.QEMU: machines.qemu}

LIBAIO = "--ioengine=libaio --iodepth"
READS = (
    Job("random read 4 KiB, depth 1", 4 * KIB, f"--rw=randread {LIBAIO}=1", SECONDS),
    Job("random read 4 KiB, depth 32", 4 * KIB, f"--rw=randread {LIBAIO}=32", SECONDS),
    Job("sequential read 1 MiB", MIB, f"--rw=read {LIBAIO}=4"),
)
# The first flush takes along what earlier jobs wrote, which is more the faster the program is: so the job that waits for flushes comes first.
WRITES = (
    Job("write 4 KiB and fsync", 4 * KIB, "--rw=randwrite --ioengine=psync --fsync=1", SECONDS),
    Job("random write 4 KiB, depth 1", 4 * KIB, f"--rw=randwrite {LIBAIO}=1", SECONDS),
    Job("random write 4 KiB, depth 32", 4 * KIB, f"--rw=randwrite {LIBAIO}=32", SECONDS),
    Job("sequential write 1 MiB", MIB, f"--rw=write {LIBAIO}=4"),
)

# Exits that are no request's: ticks of the host's clock, and the marks' programs, which start and use the serial console. In KVM's
# words for AMD and Intel.
FOREIGN = ("interrupt", "io", "cpuid", "EXTERNAL_INTERRUPT", "IO_INSTRUCTION", "CPUID")

# By the job, and in it by the program: a figure of each round.
Figures = dict[str, dict[str, list[float]]]


def measure(folder: Path) -> None:
    rates: dict[Kind, Figures] = {kind: defaultdict(lambda: defaultdict(list)) for kind in images.KINDS}
    exits: dict[Kind, Figures] = {kind: defaultdict(lambda: defaultdict(list)) for kind in images.KINDS}
    for _ in range(ROUNDS):
        for kind in images.KINDS:
            for name, program in PROGRAMS.items():
                image = images.make(folder, kind, SIZE)
                with booted(program([machines.Disk(str(image), kind.format)])) as guest:
                    _run_jobs(guest, kind, name, rates[kind], exits[kind])
    for kind in images.KINDS:
        print()
        _rates(f"{kind.name}, {SIZE // MIB} MiB, {ROUNDS} rounds", rates[kind])
    if exit_counts.possible():
        print()
        _exits(exits)


def _run_jobs(guest: Guest, kind: Kind, program: str, rates: Figures, exits: Figures) -> None:
    disk = guest.run("for disk in /dev/vd?; do busybox grep -q ^$disk /proc/mounts || echo $disk; done").output
    jobs = _order(kind)
    counter = exit_counts.Counter()
    results = fio.run(guest, jobs, disk, SIZE, counter)
    for job, done, counts in zip(jobs, results, counter.counts, strict=True):
        rates[job.name][program].append(done.rate())
        caused = sum(number for reason, number in counts.items() if reason not in FOREIGN)
        exits[job.name][program].append(1000 * caused / done.requests)


def _order(kind: Kind) -> tuple[Job, ...]:
    """An overlay is read while everything is below it; the others are read after something has been written."""
    return (*READS, *WRITES) if kind.overlay else (*WRITES, *READS)


def _rates(title: str, rates: Figures) -> None:
    rows = []
    for job in (*READS, *WRITES):
        medians = [median(rates[job.name][name]) for name in PROGRAMS]
        unit = "MiB/s" if job.in_mib() else "a second"
        rows.append((job.name, [*(f"{value:.0f} {unit}" for value in medians), f"{medians[0] / medians[1]:.2f}"]))
    table(title, [*PROGRAMS, "msb is"], rows)


def _exits(exits: dict[Kind, Figures]) -> None:
    """At depth 32, where they say how well requests are gathered."""
    rows = []
    for job in (READS[1], WRITES[2]):
        for kind, figures in exits.items():
            medians = [median(figures[job.name][name]) for name in PROGRAMS]
            rows.append((f"{job.name}, {kind.name}", [f"{value:.0f}" for value in medians]))
    table("KVM exits per 1,000 requests, without ticks", list(PROGRAMS), rows)
