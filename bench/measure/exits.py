"""How often the guest leaves to KVM or the monitor during a whole command, counted by the kernel."""

import re
from pathlib import Path

import peers
from tables import table

TRACING = Path("/sys/kernel/tracing")
EVENT = TRACING / "events/kvm/kvm_exit"
HISTOGRAM = "hist:keys=exit_reason"


def measure(folder: Path) -> None:
    if not (EVENT / "trigger").exists():
        print("(KVM exits are left out: the kernel counts them for root only, and with CONFIG_HIST_TRIGGERS)")
        return
    names = _names()
    counts = {}
    for name, command in peers.boots(folder).items():
        peers.run(command)
        counts[name] = _count(command, names)
    reasons = sorted({reason for count in counts.values() for reason in count}, key=lambda r: -_most(counts, r))
    rows = [(reason, [str(count.get(reason, 0)) for count in counts.values()]) for reason in reasons]
    rows.append(("all", [str(sum(count.values())) for count in counts.values()]))
    rows.append(("all but interrupts", [str(sum(count.values()) - _interrupts(count)) for count in counts.values()]))
    table("KVM exits of one command", list(counts), rows)


def _interrupts(count: dict[str, int]) -> int:
    """Most of them are ticks of clocks, and the slower the machine, the more of these a boot takes."""
    return sum(number for reason, number in count.items() if reason in ("interrupt", "vintr"))


def _most(counts: dict[str, dict[str, int]], reason: str) -> int:
    return max(count.get(reason, 0) for count in counts.values())


def _count(command: list[str], names: dict[int, str]) -> dict[str, int]:
    (EVENT / "trigger").write_text(HISTOGRAM)
    try:
        peers.run(command)
        histogram = (EVENT / "hist").read_text()
    finally:
        (EVENT / "trigger").write_text("!" + HISTOGRAM)
    found = re.findall(r"exit_reason:\s*(\d+)\s*\}\s*hitcount:\s*(\d+)", histogram)
    return {names.get(int(reason), reason): int(count) for reason, count in found}


def _names() -> dict[int, str]:
    """The kernel's own names: the event's format lists Intel's first and then AMD's."""
    vendors = (EVENT / "format").read_text().split("__print_symbolic(")[1:]
    amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    found = re.findall(r'\{ (0x[0-9a-f]+|\d+)(?: \+ (\d+))?, "([^"]+)" \}', vendors[1 if amd else 0])
    return {int(first, 0) + int(more or 0): name for first, more, name in found}
