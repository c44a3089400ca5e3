"""The keeper: boots the host, passes frames between it and the clients, and sees to it that it lives.

There is one keeper for each host. A private keeper serves the one client that started it and goes when that goes, for
whatever reason; a kept one listens on a socket and goes when it has been idle for long enough. It is a process of its
own in a session of its own, so that no signal meant for the client reaches it.
"""

import json
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frames import AGENT_BEAT, CHUNK, COUNT, Kind, Outbox, Splitter, pack
from machine import Machine
from watcher import READ, WRITE, Watcher

BOOT_ATTEMPTS = 2
# How long a host with nothing to do runs on before it is paused.
PAUSE_SECONDS = 2.0
TICK_SECONDS = 0.5
BACKLOG = 64
CONSOLE_KEPT = 16 * 1024


@dataclass(frozen=True)
class Moment:
    """A point in time, by the clock and by the processor time that QEMU has had."""

    clock: float
    processor: float


@dataclass(frozen=True)
class Patience:
    """How long a host may be silent. On a busy machine it may get next to nothing of the processors; then it is slow
    and not hung. So the clock alone decides only at the very end; before that, the host must have had the processor
    time to do better, or stand still."""

    clock: float
    processor: float
    end: float

    def is_over(self, since: Moment, now: Moment, stands_still: bool) -> bool:
        clock, processor = now.clock - since.clock, now.processor - since.processor
        return clock > self.end or (clock > self.clock and (processor > self.processor or stands_still))


# A host that takes less processor time than this within so long stands still.
STANDSTILL = Moment(clock=10.0, processor=0.05)
BOOT = Patience(clock=60.0, processor=60.0, end=600.0)
BEAT = Patience(clock=15.0, processor=7.5, end=180.0)

# QEMU's emulation of AMD-V clears a bit of the pending interrupts at every exit of a nested guest, and not atomically
# (7.2, target/i386/tcg/sysemu/svm_helper.c): a timer's interrupt that comes at that moment is lost, and the timer is
# not set again. The next interrupt of any device brings the lost one along, so a host that is silent gets one.
NUDGE_SECONDS = 2.5
# To no command: the agent drops it.
NUDGE = pack(0, Kind.CREDIT, COUNT.pack(0))


@dataclass(eq=False)
class Client:
    """A connection, with at most one command at a time."""

    connection: socket.socket
    splitter: Splitter = field(default_factory=Splitter)
    outbox: Outbox = field(default_factory=Outbox)
    channel: int | None = None
    title: str = ""
    since: float = 0.0


class Keeper:
    """The loop, the host and the clients."""

    def __init__(self, settings: dict[str, Any], listener: socket.socket | None, first: socket.socket | None) -> None:
        self.settings = settings
        self.listener = listener
        self.watcher = Watcher()
        self.clients: list[Client] = []
        self.channels: dict[int, Client] = {}
        self.last_channel = 0
        self.machine: Machine | None = None
        self.stopping = False
        self.last_used = time.monotonic()
        self.hosts_lost = 0
        self.to_host = Outbox()
        if listener:
            # Listening again makes this process, not the one that bound the name, the peer that clients see.
            listener.listen(BACKLOG)
            listener.setblocking(False)
            self.watcher.watch(listener.fileno(), self._on_connection, read=True)
        self._boot(attempt=1)
        if first:
            self._add_client(first)

    def run(self) -> None:
        try:
            while not self._is_over():
                if self.machine and self.up:
                    commands = self.machine.commands.fileno()
                    self.watcher.watch(commands, self._on_commands, read=True, write=bool(self.to_host))
                self.watcher.wait(TICK_SECONDS)
                self._check_host()
        finally:
            if self.machine:
                self.machine.kill()

    def _is_over(self) -> bool:
        if self.channels:
            self.last_used = time.monotonic()
        if self.listener is None:
            return not self.clients
        return self.stopping or time.monotonic() > self.last_used + 60 * self.settings["idle_minutes"]

    # The host

    def _boot(self, attempt: int) -> None:
        self.attempt = attempt
        self.up = False
        self.splitter = Splitter()
        self.console = b""
        self.heard: dict[int, Moment] = {}
        self.machine = machine = Machine(
            Path(self.settings["image"]), self.settings["memory"], self.settings["processors"]
        )
        self.booted = self.moved = self._now()
        callbacks = (self._on_commands, self._on_beats, self._on_monitor, self._on_console)
        for descriptor, callback in zip(machine.descriptors, callbacks, strict=True):
            self.watcher.watch(descriptor, callback, read=True)

    def _lose(self, reason: str) -> None:
        """Kills the host. One that never came up is booted again with its commands still waiting; otherwise they are
        lost with it, and a kept host is replaced at once."""
        assert self.machine
        machine, self.machine = self.machine, None
        for descriptor in machine.descriptors:
            self.watcher.forget(descriptor)
        machine.kill()
        self.hosts_lost += 1
        again = not self.up and self.attempt < BOOT_ATTEMPTS
        notice = f"the KVM host (process {machine.pid}) {reason}" + self._last_words()
        if again:
            self._tell_all(Kind.NOTE, notice + "; booting it again")
            self._boot(self.attempt + 1)
            return
        self._tell_all(Kind.LOST, notice)
        self.to_host.clear()
        for client in self.channels.values():
            client.channel = None
        self.channels.clear()
        if self.up and self.listener:
            self._boot(attempt=1)

    def _last_words(self) -> str:
        """What the console says of the end: the kernel's panic if there was one, or else its last line."""
        lines = self.console.decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        panics = [line for line in said if "Kernel panic" in line]
        return f"; its console said: {(panics or said)[-1]}" if said else ""

    def _tell_all(self, kind: Kind, text: str) -> None:
        for client in list(self.channels.values()):
            self._send(client, kind, text.encode())

    def _check_host(self) -> None:
        if not self.machine or (self.up and self.machine.paused):
            return
        now = self._now()
        if now.processor > self.moved.processor + STANDSTILL.processor:
            self.moved = now
        stands_still = now.clock > self.moved.clock + STANDSTILL.clock
        if self.up and now.clock > max(self.nudged, min(m.clock for m in self.heard.values())) + NUDGE_SECONDS:
            self.nudged = now.clock
            self.to_host.put(NUDGE)
        if not self.up:
            if BOOT.is_over(self.booted, now, stands_still):
                self._lose(f"hung: it did not come up within {now.clock - self.booted.clock:.0f} s; it was killed")
        elif silent := [source for source, since in self.heard.items() if BEAT.is_over(since, now, stands_still)]:
            sources = " and ".join("its agent" if s == AGENT_BEAT else f"its processor {s}" for s in silent)
            seconds = now.clock - min(self.heard[source].clock for source in silent)
            self._lose(f"hung: no heartbeat from {sources} for {seconds:.0f} s; it was killed")
        elif self.listener and not self.channels and now.clock > self.last_used + PAUSE_SECONDS:
            self.machine.pause()

    def _now(self) -> Moment:
        assert self.machine
        return Moment(time.monotonic(), self.machine.processor_seconds())

    def _expect_beats(self) -> None:
        self.moved = self._now()
        self.nudged = 0.0
        self.heard = dict.fromkeys([*range(self.settings["processors"]), AGENT_BEAT], self.moved)

    def _on_commands(self, events: int) -> None:
        assert self.machine
        if events & WRITE:
            self.to_host.flush(self.machine.commands.fileno())
        if events & READ:
            try:
                data = self.machine.commands.recv(4 * CHUNK)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._lose("ended by itself")
                return
            for channel, kind, payload in self.splitter.feed(data):
                self._on_host_frame(channel, kind, payload)

    def _on_host_frame(self, channel: int, kind: int, payload: bytes) -> None:
        if kind == Kind.UP:
            self.up = True
            self._expect_beats()
            return
        stuck = kind == Kind.EXIT and json.loads(payload).get("stuck")
        if client := self.channels.get(channel):
            self._send(client, Kind(kind), payload)
            if kind == Kind.EXIT:
                self._end_channel(client)
        if stuck:
            self._lose("cannot end a process; it was killed")

    def _on_beats(self, _: int) -> None:
        assert self.machine
        try:
            data = self.machine.beats.recv(CHUNK)
        except OSError:
            return
        if not data:
            self.watcher.forget(self.machine.beats.fileno())
        if self.up:
            now = self._now()
            for source in data:
                self.heard[source] = now

    def _on_console(self, _: int) -> None:
        """Kept for the report about a host that fails."""
        assert self.machine
        try:
            data = os.read(self.machine.console, CHUNK)
        except BlockingIOError:
            return
        self.console = (self.console + data)[-CONSOLE_KEPT:]
        if not data:
            self.watcher.forget(self.machine.console)

    def _on_monitor(self, _: int) -> None:
        """What the monitor echoes is of no interest."""
        assert self.machine
        try:
            if self.machine.monitor.recv(CHUNK):
                return
        except OSError:
            pass
        self.watcher.forget(self.machine.monitor.fileno())

    # The clients

    def _on_connection(self, _: int) -> None:
        assert self.listener
        try:
            connection, _address = self.listener.accept()
        except BlockingIOError:
            return
        if peer(connection).uid == os.geteuid():
            self._add_client(connection)
        else:
            connection.close()

    def _add_client(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        client = Client(connection)
        self.clients.append(client)
        self._send(client, Kind.INFO, json.dumps(self._info()).encode())

    def _info(self) -> dict[str, Any]:
        now = time.monotonic()
        running = [{"command": c.title, "seconds": round(now - c.since)} for c in self.channels.values()]
        return {
            **self.settings,
            "pid": os.getpid(),
            "up_seconds": round(now - self.booted.clock),
            "hosts_lost": self.hosts_lost,
            "running": running,
        }

    def _send(self, client: Client, kind: Kind, payload: bytes) -> None:
        client.outbox.put(pack(0, kind, payload))
        self._serve(client, WRITE)

    def _serve(self, client: Client, events: int) -> None:
        if client not in self.clients:
            return
        try:
            if events & WRITE:
                client.outbox.flush(client.connection.fileno())
            if events & READ:
                data = client.connection.recv(CHUNK)
                if not data:
                    raise ConnectionError
                for _, kind, payload in client.splitter.feed(data):
                    self._on_client_frame(client, kind, payload)
        except BlockingIOError:
            pass
        except ConnectionError:
            self._drop(client)
            return
        callback = lambda events: self._serve(client, events)  # noqa: E731
        self.watcher.watch(client.connection.fileno(), callback, read=True, write=bool(client.outbox))

    def _on_client_frame(self, client: Client, kind: int, payload: bytes) -> None:
        if kind == Kind.STOP:
            self.stopping = True
        elif kind == Kind.START:
            self._open_channel(client, json.loads(payload)["argv"])
        if client.channel is not None:
            self.to_host.put(pack(client.channel, Kind(kind), payload))

    def _open_channel(self, client: Client, argv: list[str]) -> None:
        self.last_channel += 1
        client.channel = self.last_channel
        client.title = " ".join(argv)
        client.since = time.monotonic()
        self.channels[client.channel] = client
        if self.machine is None:
            self._boot(attempt=1)
        elif self.machine.paused:
            self.machine.resume()
            self._expect_beats()

    def _end_channel(self, client: Client) -> None:
        if client.channel is not None:
            del self.channels[client.channel]
            client.channel = None
        self.last_used = time.monotonic()

    def _drop(self, client: Client) -> None:
        if client.channel is not None:
            self.to_host.put(pack(client.channel, Kind.CANCEL))
        self._end_channel(client)
        self.clients.remove(client)
        self.watcher.forget(client.connection.fileno())
        client.connection.close()


@dataclass
class Peer:
    """The process at the other end of a connection."""

    pid: int
    uid: int


def peer(connection: socket.socket) -> Peer:
    """Tells users apart: an abstract socket has no permissions that could keep others out."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return Peer(pid, uid)


def main() -> None:
    settings = json.loads(sys.argv[1])
    given = socket.socket(fileno=int(sys.argv[2]))
    listening = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    Keeper(settings, given if listening else None, None if listening else given).run()


if __name__ == "__main__":
    main()
