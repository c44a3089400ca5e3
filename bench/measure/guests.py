"""Guests that run one command after another: what bench/guest boots, with the machine's serial console as its line."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

READY = "ready"
DONE = "done"
END = "end"
MARK = "mark"
# A guest that takes longer for one command is hung.
PATIENCE = 600


class GuestError(Exception):
    """A guest did not do what it was told, and what it said."""


@dataclass
class Result:
    output: str
    seconds: float


class Guest:
    def __init__(self, machine: subprocess.Popen[bytes]) -> None:
        assert machine.stdin and machine.stdout
        self._machine = machine
        self._commands: IO[bytes] = machine.stdin
        self._console: IO[bytes] = machine.stdout
        self._answer()

    def run(self, command: str, at_mark: Callable[[], None] | None = None) -> Result:
        """Runs a line of shell in the guest. Its time is taken by the guest's clock, without the console's share. What calls
        `mark` in the guest goes on after `at_mark` here."""
        self._send(command)
        output, done = self._answer(at_mark)
        status, nanoseconds = (int(figure) for figure in done)
        if status != 0:
            raise GuestError(f"`{command}` ended with {status} in the guest: {output}")
        return Result(output, nanoseconds / 1e9)

    def end(self) -> None:
        """Ends the machine."""
        self._send(END)

    def _send(self, line: str) -> None:
        self._commands.write(line.encode() + b"\n")
        self._commands.flush()

    def _answer(self, at_mark: Callable[[], None] | None = None) -> tuple[str, list[str]]:
        watchdog = threading.Timer(PATIENCE, self._machine.kill)
        watchdog.start()
        try:
            return self._read_answer(at_mark)
        finally:
            watchdog.cancel()

    def _read_answer(self, at_mark: Callable[[], None] | None) -> tuple[str, list[str]]:
        lines: list[str] = []
        for raw in self._console:
            line = raw.decode(errors="replace").strip()
            if line == READY:
                return "", []
            if line.startswith(DONE + " "):
                return "\n".join(lines), line.split()[1:]
            if line == MARK and at_mark:
                at_mark()
                self._send("")
            else:
                lines.append(line)
        raise GuestError("the guest ended early: " + "\n".join(lines[-20:]))


@contextmanager
def booted(command: list[str]) -> Iterator[Guest]:
    """The guest of the machine that this command starts; the machine ends with the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            guest = Guest(process)
            yield guest
            guest.end()
            process.wait(PATIENCE)
        finally:
            process.kill()
