"""fio's jobs in a guest, and their figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from exit_counts import Counter
from guests import Guest, GuestError

KIB = 1024
MIB = 1 << 20

# Threads, because the guest's root has no place for what fio's processes would share. Among random requests the same block may
# come twice, so that fio keeps no account of them.
GLOBAL = "fio --output-format=terse --terse-version=3 --direct=1 --thread --norandommap"
# Around each job, without what it takes to start fio.
MARKS = "--exec_prerun=mark --exec_postrun=mark"
# Of the fields that fio's manual lists: error, read_kb, read_runtime_ms, write_kb, write_runtime_ms.
FIELDS = "5,6,9,47,50"


@dataclass(frozen=True)
class Job:
    name: str
    block: int
    # What fio is told besides.
    arguments: str
    # For so long; once through the file when that is 0.
    seconds: int = 0

    def in_mib(self) -> bool:
        """Whether its rate is told in MiB/s; small requests are counted."""
        return self.block >= MIB

    def section(self, number: int, marks: str) -> str:
        long = f"--time_based --runtime={self.seconds}" if self.seconds else ""
        return f"--name=job{number} --stonewall {marks} --bs={self.block} {long} {self.arguments}"


@dataclass(frozen=True)
class Done:
    requests: int
    seconds: float

    def rate(self) -> float:
        return self.requests / self.seconds


def run(guest: Guest, jobs: Sequence[Job], file: str, size: int, counter: Counter | None = None) -> list[Done]:
    """Runs one job after the other on the first `size` bytes of the file. The counter counts in each of them."""
    marks, toggle = (MARKS, counter.toggle) if counter else ("", None)
    sections = " ".join(job.section(number, marks) for number, job in enumerate(jobs))
    # In /tmp, because fio writes what the marks print into files.
    command = f"cd /tmp && {GLOBAL} --filename={file} --size={size} {sections} | cut -s -d';' -f{FIELDS}"
    output = guest.run(command, toggle).output
    lines = [line.split(";") for line in output.splitlines()]
    if len(lines) != len(jobs) or any(len(fields) != 5 or fields[0] != "0" for fields in lines):
        raise GuestError(f"`{command}` failed: {output}")
    done = []
    for job, fields in zip(jobs, lines, strict=True):
        read, read_ms, written, write_ms = (int(field) for field in fields[1:])
        done.append(Done((read + written) * KIB // job.block, (read_ms + write_ms) / 1000))
    return done
