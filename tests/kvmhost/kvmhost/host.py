"""Where `run` gets a host from: a kept one that is there, or a keeper that it starts."""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import image
from frames import CHUNK, HEADER, Kind, Splitter, pack
from keeper import BACKLOG, peer

KEEPER = Path(__file__).resolve().parent / "keeper.py"
ANSWER_SECONDS = 10.0


@dataclass
class Size:
    """Of a host, as far as the caller has a wish."""

    memory: str | None
    processors: int | None

    def or_default(self) -> dict[str, Any]:
        """One processor: on several emulated ones a guest with several vCPUs fails now and then, and an idle one is
        always busy, which costs more than it gives on a machine that has other things to do."""
        return {"memory": self.memory or "6G", "processors": self.processors or 1}

    def difference(self, info: dict[str, Any]) -> str | None:
        for what, wanted in (("memory", self.memory), ("processors", self.processors)):
            if wanted and info[what] != wanted:
                return f"the kept host has {what}: {info[what]}"
        return None


class HostError(Exception):
    """No host can be had, and why."""


@dataclass
class Host:
    """A connection to a keeper, and what the keeper says about itself."""

    connection: socket.socket
    info: dict[str, Any]
    splitter: Splitter
    keeper: subprocess.Popen[bytes] | None = None

    def difference(self, size: Size) -> str | None:
        """In what it is not the host that this program would start."""
        if self.info["build"] != image.build_id():
            return "the kept host is of another version"
        return size.difference(self.info)

    def close(self) -> None:
        """After this a private host is gone, the keeper with it."""
        self.connection.close()
        if self.keeper:
            self.keeper.wait()


def check_caller() -> None:
    if os.geteuid() != 0:
        raise HostError("needs root, because virtiofsd shares the machine's whole root; use sudo")
    if "KVMHOST" in os.environ:
        raise HostError("this is the KVM host already")


def find_kept() -> Host | None:
    """The kept host, if one runs."""
    connection = _connect_kept()
    return _greet(connection, None) if connection else None


def start_kept(size: Size, idle_minutes: float) -> Host:
    """The kept host; starts it unless somebody else is quicker."""
    settings = _settings(size, idle_minutes)
    while True:
        if found := find_kept():
            return found
        # The bound name is the lock: whoever has it starts the keeper, which inherits it.
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(_kept_name())
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                time.sleep(0.05)
                continue
            listener.listen(BACKLOG)
            with (Path(settings["image"]).parent / "keeper.log").open("wb") as log:
                _start_keeper(settings, listener, log.fileno())


def start_private(size: Size) -> Host:
    """A host that lives as long as the connection to it."""
    settings = _settings(size, 0.0)
    ours, theirs = socket.socketpair()
    with theirs:
        keeper = _start_keeper(settings, theirs, None)
    return _greet(ours, keeper)


def stop_kept() -> bool:
    """Ends the kept host, if one runs. A keeper that does not answer is killed; what it started dies too."""
    connection = _connect_kept()
    if not connection:
        return False
    keeper = os.pidfd_open(peer(connection).pid)
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.sendall(pack(0, Kind.STOP))
        while connection.recv(CHUNK):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        signal.pidfd_send_signal(keeper, signal.SIGKILL)
    select.select([keeper], [], [])
    os.close(keeper)
    connection.close()
    return True


def _connect_kept() -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(_kept_name())
    except ConnectionRefusedError:
        connection.close()
        return None
    if peer(connection).uid != os.geteuid():
        raise HostError("another user has taken the name of the kept host; choose another with KVMHOST_NAME")
    return connection


def _kept_name() -> str:
    return f"\0msb-kvmhost-{os.geteuid()}-{os.environ.get('KVMHOST_NAME', 'default')}"


def _settings(size: Size, idle_minutes: float) -> dict[str, Any]:
    return {
        "image": str(image.ensure()),
        "build": image.build_id(),
        **size.or_default(),
        "idle_minutes": idle_minutes,
    }


def _start_keeper(settings: dict[str, Any], end: socket.socket, log: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-B", "-E", "-s", str(KEEPER), json.dumps(settings), str(end.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        cwd="/",
        pass_fds=[end.fileno()],
        start_new_session=True,
    )


def _greet(connection: socket.socket, keeper: subprocess.Popen[bytes] | None) -> Host:
    connection.settimeout(ANSWER_SECONDS)
    received = b""
    try:
        # No more than the first frame: what follows is for whoever uses the connection.
        while len(received) < HEADER.size:
            received += _receive(connection, HEADER.size - len(received))
        length = HEADER.unpack(received)[2]
        payload = b""
        while len(payload) < length:
            payload += _receive(connection, length - len(payload))
    except TimeoutError:
        raise HostError("the keeper does not answer; tests/kvmhost/stop ends it") from None
    connection.settimeout(None)
    return Host(connection, json.loads(payload), Splitter(), keeper)


def _receive(connection: socket.socket, count: int) -> bytes:
    try:
        data = connection.recv(count)
    except ConnectionError:
        data = b""
    if not data:
        raise HostError("the keeper ended by itself; a kept one says why in keeper.log in the cache")
    return data
