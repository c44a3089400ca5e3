"""A command inside the host: its processes, its output and its standard input."""

import contextlib
import fcntl
import functools
import json
import os
import struct
import subprocess
import termios
import time
from collections.abc import Callable

from frames import CHUNK, COUNT, OUTPUT_WINDOW, Kind, Outbox
from switches import write_line
from watcher import Watcher

# How long a killed command may take to die before it is given up, and the host with it.
DEATH_SECONDS = 10.0

Send = Callable[[int, Kind, bytes], None]


class Request:
    """What `run` asks for. Bytes that are not text travel as Latin-1."""

    def __init__(self, payload: bytes) -> None:
        fields = json.loads(payload)
        self.argv = [argument.encode("latin-1") for argument in fields["argv"]]
        self.cwd: bytes = fields["cwd"].encode("latin-1")
        self.env = {name.encode("latin-1"): value.encode("latin-1") for name, value in fields["env"].items()}
        self.umask: int = fields["umask"]
        self.timeout: float = fields["timeout"]
        self.exits: bool = fields["exits"]
        self.now: float = fields["now"]


class Stream:
    """One output. Once the command has ended, only what is in the pipe by then is still passed on (`left`): a process
    that it left in the background may hold the pipe open for ever."""

    def __init__(self, descriptor: int, kind: Kind) -> None:
        self.descriptor = descriptor
        self.kind = kind
        self.left: int | None = None


class Command:
    """A running command. It has a cgroup of its own, so that killing it kills all that it started."""

    def __init__(self, channel: int, request: Request, watcher: Watcher, send: Send) -> None:
        """Starts it; raises OSError when it cannot be started."""
        self.channel = channel
        self.exclusive = request.exits
        self.deadline = time.monotonic() + request.timeout
        self.status: int | None = None
        self.timed_out = False
        self._cancelled = False
        self._watcher = watcher
        self._send = send
        self._window = OUTPUT_WINDOW
        self._stdin_box = Outbox()
        self._stdin_ended = False
        self._cgroup = f"/sys/fs/cgroup/command-{channel}"
        self._start(request)
        self._watch_streams()

    def _start(self, request: Request) -> None:
        stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
        stdout_read, stdout_write = os.pipe2(os.O_CLOEXEC)
        stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
        self._stdin: int | None = stdin_write
        self._streams = [Stream(stdout_read, Kind.STDOUT), Stream(stderr_read, Kind.STDERR)]
        for ours in (stdin_write, stdout_read, stderr_read):
            os.set_blocking(ours, False)
        os.mkdir(self._cgroup)
        try:
            process = subprocess.Popen(
                request.argv,
                stdin=stdin_read,
                stdout=stdout_write,
                stderr=stderr_write,
                cwd=request.cwd,
                env=request.env,
                umask=request.umask,
                start_new_session=True,
                preexec_fn=self._enter_cgroup,
            )
        except OSError:
            self._close_all()
            raise
        finally:
            for theirs in (stdin_read, stdout_write, stderr_write):
                os.close(theirs)
        self.pid = process.pid
        # The agent reaps every process itself; this keeps Popen from trying.
        process.returncode = 0

    def _enter_cgroup(self) -> None:
        write_line(f"{self._cgroup}/cgroup.procs", "0")

    @property
    def done(self) -> bool:
        """Ended, and all its output passed on."""
        return self.status is not None and not self._streams

    def is_stuck(self, now: float) -> bool:
        killed = self.timed_out or self._cancelled
        return killed and self.status is None and now >= self.deadline + DEATH_SECONDS

    def time_out(self) -> None:
        self.timed_out = True
        self._kill()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled = True
        self.deadline = time.monotonic()
        self._kill()
        self._close_all()

    def _kill(self) -> None:
        write_line(f"{self._cgroup}/cgroup.kill", "1")

    def end(self, status: int) -> None:
        """Its first process is gone."""
        self.status = status
        for stream in self._streams[:]:
            waiting = fcntl.ioctl(stream.descriptor, termios.FIONREAD, b"\0" * 4)
            stream.left = struct.unpack("i", waiting)[0]
            self._close_if_passed_on(stream)
        self._close_stdin()
        # It may have left processes in the background, which is its right.
        with contextlib.suppress(OSError):
            os.rmdir(self._cgroup)

    # Output

    def credit(self, count: int) -> None:
        self._window += count
        self._watch_streams()

    def _watch_streams(self) -> None:
        for stream in self._streams:
            self._watcher.watch(stream.descriptor, functools.partial(self._pass_on, stream), read=self._window > 0)

    def _pass_on(self, stream: Stream, _: int) -> None:
        limit = min(CHUNK, self._window) if stream.left is None else min(CHUNK, self._window, stream.left)
        data = os.read(stream.descriptor, limit)
        if not data:
            self._close(stream)
            return
        self._send(self.channel, stream.kind, data)
        self._window -= len(data)
        if stream.left is not None:
            stream.left -= len(data)
            self._close_if_passed_on(stream)
        if self._window == 0:
            self._watch_streams()

    def _close_if_passed_on(self, stream: Stream) -> None:
        if stream.left == 0:
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        self._watcher.forget(stream.descriptor)
        os.close(stream.descriptor)
        self._streams.remove(stream)

    def _close_all(self) -> None:
        for stream in self._streams[:]:
            self._close(stream)
        self._close_stdin()

    # Standard input

    def feed(self, data: bytes) -> None:
        self._stdin_box.put(data)
        self._flush_stdin()

    def end_stdin(self) -> None:
        self._stdin_ended = True
        self._flush_stdin()

    def _flush_stdin(self) -> None:
        """Passes on what the command takes. Once it takes no more, what comes counts as passed on."""
        if self._stdin is None:
            self._give_credit(self._stdin_box.clear())
            return
        try:
            self._give_credit(self._stdin_box.flush(self._stdin))
        except BrokenPipeError:
            self._close_stdin()
            return
        if self._stdin_ended and not self._stdin_box:
            self._close_stdin()
        else:
            self._watcher.watch(self._stdin, lambda _: self._flush_stdin(), read=False, write=bool(self._stdin_box))

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            self._watcher.forget(self._stdin)
            os.close(self._stdin)
            self._stdin = None
        self._give_credit(self._stdin_box.clear())

    def _give_credit(self, count: int) -> None:
        if count:
            self._send(self.channel, Kind.CREDIT, COUNT.pack(count))
