"""Runs one command in a host: passes its standard input, output and errors, and learns how it ended."""

import json
import os
import select
import socket
import sys
from dataclasses import dataclass
from typing import Any

from frames import CHUNK, COUNT, INPUT_WINDOW, Kind, Outbox, Splitter, pack
from watcher import READ, WRITE, Watcher

STDIN = 0
OUTPUTS = {Kind.STDOUT: 1, Kind.STDERR: 2}


@dataclass
class Outcome:
    """How the command ended: with a report from inside, or lost with its host."""

    report: dict[str, Any] | None
    lost: str | None
    stdin_used: bool


class Run:
    """One run of one command on a connection to a keeper."""

    def __init__(self, connection: socket.socket, splitter: Splitter, request: dict[str, Any]) -> None:
        self._connection = connection
        self._splitter = splitter
        self._watcher = Watcher()
        self._outbox = Outbox()
        self._window = INPUT_WINDOW
        self._stdin_used = False
        self._stdin_open = _has_stdin()
        self._outcome: Outcome | None = None
        self._send(Kind.START, json.dumps(request).encode())
        if not self._stdin_open:
            self._send(Kind.STDIN_END)

    def wait(self) -> Outcome:
        self._connection.setblocking(False)
        descriptor = self._connection.fileno()
        while self._outcome is None:
            self._watcher.watch(descriptor, self._on_connection, read=True, write=bool(self._outbox))
            self._watcher.watch(STDIN, self._on_stdin, read=self._stdin_open and self._window > 0)
            self._watcher.wait(3600)
        return self._outcome

    def _send(self, kind: Kind, payload: bytes = b"") -> None:
        self._outbox.put(pack(0, kind, payload))

    def _on_stdin(self, _: int) -> None:
        try:
            data = os.read(STDIN, min(CHUNK, self._window))
        except BlockingIOError:
            return
        if data:
            self._stdin_used = True
            self._window -= len(data)
            self._send(Kind.STDIN, data)
        else:
            self._stdin_open = False
            self._send(Kind.STDIN_END)

    def _on_connection(self, events: int) -> None:
        try:
            if events & WRITE:
                self._outbox.flush(self._connection.fileno())
            data = self._connection.recv(4 * CHUNK) if events & READ else None
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if data == b"":
            self._lose("the keeper of the KVM host ended, and the host with it")
        elif data:
            for _, kind, payload in self._splitter.feed(data):
                self._on_frame(kind, payload)

    def _on_frame(self, kind: int, payload: bytes) -> None:
        if kind in (Kind.STDOUT, Kind.STDERR):
            _write_all(OUTPUTS[Kind(kind)], payload)
            self._send(Kind.CREDIT, COUNT.pack(len(payload)))
        elif kind == Kind.CREDIT:
            self._window += COUNT.unpack(payload)[0]
        elif kind == Kind.EXIT:
            self._outcome = Outcome(json.loads(payload), None, self._stdin_used)
        elif kind == Kind.LOST:
            self._lose(payload.decode())
        elif kind == Kind.NOTE:
            say(payload.decode())

    def _lose(self, reason: str) -> None:
        self._outcome = Outcome(None, reason, self._stdin_used)


def say(text: str) -> None:
    print(f"kvmhost: {text}", file=sys.stderr, flush=True)


def _has_stdin() -> bool:
    """A terminal is not passed on: there is none inside."""
    try:
        return not os.isatty(STDIN) and bool(os.fstat(STDIN))
    except OSError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
