"""How often the guest leaves to KVM or the monitor during a whole command, counted by the kernel."""

from pathlib import Path

import exits
import peers
from tables import table


def measure(folder: Path) -> None:
    if not possible():
        print("(KVM exits are left out: the kernel counts them for root only, and with CONFIG_HIST_TRIGGERS)")
        return
    counts = {}
    for name, command in peers.boots(folder).items():
        peers.run(command)
        counts[name] = _count(command)
    reasons = sorted({reason for count in counts.values() for reason in count}, key=lambda r: -_most(counts, r))
    rows = [(reason, [str(count.get(reason, 0)) for count in counts.values()]) for reason in reasons]
    rows.append(("all", [str(sum(count.values())) for count in counts.values()]))
    rows.append(("all but interrupts", [str(sum(count.values()) - _interrupts(count)) for count in counts.values()]))
    table("KVM exits of one command", list(counts), rows)


def _count(command: list[str]) -> dict[str, int]:
    exits.start_counting()
    try:
        peers.run(command)
    finally:
        counts = exits.stop_counting()
    return counts


def possible() -> bool:
    return Path(exits.EVENT, "trigger").exists()


class Counter:
    """Counts the exits of the whole host by reason from each odd toggle to the next; none where they cannot be counted."""

    def __init__(self) -> None:
        self.counts: list[dict[str, int]] = []
        self._counting = False

    def toggle(self) -> None:
        if self._counting:
            self.counts.append(exits.stop_counting() if possible() else {})
        elif possible():
            exits.start_counting()
        self._counting = not self._counting


def _interrupts(count: dict[str, int]) -> int:
    """Most of them are ticks of clocks, and the slower the machine, the more of these a boot takes."""
    return sum(number for reason, number in count.items() if reason in ("interrupt", "vintr"))


def _most(counts: dict[str, dict[str, int]], reason: str) -> int:
    return max(count.get(reason, 0) for count in counts.values())
