"""Counts KVM exits by reason, with a histogram that the kernel keeps on its kvm_exit event."""

import re

from switches import read_text, write_line

EVENT = "/sys/kernel/tracing/events/kvm/kvm_exit"
HISTOGRAM = "hist:keys=exit_reason"


def start_counting() -> None:
    write_line(f"{EVENT}/trigger", HISTOGRAM)


def stop_counting() -> dict[str, int]:
    """The exits since `start_counting`, most frequent first."""
    histogram = read_text(f"{EVENT}/hist")
    write_line(f"{EVENT}/trigger", "!" + HISTOGRAM)
    found = re.findall(r"exit_reason:\s*(\d+)\s*\}\s*hitcount:\s*(\d+)", histogram)
    names = _names()
    counts = {names.get(int(reason), hex(int(reason))): int(count) for reason, count in found}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _names() -> dict[int, str]:
    """The kernel's own names. The event's format lists Intel's reasons first and then AMD's."""
    intel, amd = read_text(f"{EVENT}/format").split("__print_symbolic(")[1:3]
    reasons = amd if "AuthenticAMD" in read_text("/proc/cpuinfo") else intel
    found = re.findall(r'\{ (0x[0-9a-f]+|\d+)(?: \+ (\d+))?, "([^"]+)" \}', reasons)
    return {int(first, 0) + int(more or 0): name for first, more, name in found}
