"""The first process of the host (its PID 1): runs the commands that come over the serial port.

One loop, no threads: it starts commands, passes their output and standard input, ends those whose time is up, and
reaps every process that loses its parent. If it fails, the kernel panics and the host ends, which the keeper notices.
"""

# Under emulation every import costs: this module and those it imports leave out the heavy ones (typing, dataclasses,
# pathlib).
import contextlib
import json
import os
import signal
import time

import exits
from command import Command, Request
from frames import AGENT_BEAT, CHUNK, COUNT, Kind, Outbox, Splitter, pack
from switches import read_text, write_line
from watcher import READ, WRITE, Watcher

BEAT_SECONDS = 1.0


class Agent:
    """The loop, and the commands that run or wait to."""

    def __init__(self, port: int, beats: int) -> None:
        self.port = port
        self.beats = beats
        self.splitter = Splitter()
        self.outbox = Outbox()
        self.commands: dict[int, Command] = {}
        self.waiting: dict[int, Request] = {}
        # Frames for commands that wait to start.
        self.early: dict[int, list[tuple[int, bytes]]] = {}
        self.watcher = Watcher()
        self.child_signals = _child_signals()
        self.watcher.watch(self.child_signals, self._reap, read=True)

    def run(self) -> None:
        self._send(0, Kind.UP)
        next_beat = 0.0
        while True:
            now = time.monotonic()
            if now >= next_beat:
                _beat(self.beats, AGENT_BEAT)
                next_beat = now + BEAT_SECONDS
                self._check_deadlines(now)
            self._finish_done()
            self.watcher.watch(self.port, self._on_port, read=True, write=bool(self.outbox))
            self.watcher.wait(next_beat - time.monotonic())

    def _send(self, channel: int, kind: Kind, payload: bytes = b"") -> None:
        self.outbox.put(pack(channel, kind, payload))

    def _on_port(self, events: int) -> None:
        if events & WRITE:
            self.outbox.flush(self.port)
        if events & READ:
            try:
                data = os.read(self.port, CHUNK)
            except BlockingIOError:
                return
            for channel, kind, payload in self.splitter.feed(data):
                self._on_frame(channel, kind, payload)

    def _on_frame(self, channel: int, kind: int, payload: bytes) -> None:
        if kind == Kind.START:
            self.waiting[channel] = Request(payload)
            self.early[channel] = []
            self._start_waiting()
        elif channel in self.waiting:
            self.early[channel].append((kind, payload))
            if kind == Kind.CANCEL:
                del self.waiting[channel], self.early[channel]
                self._start_waiting()
        elif command := self.commands.get(channel):
            _on_command_frame(command, kind, payload)

    def _start_waiting(self) -> None:
        """Starts what may start. A command that counts exits has the host to itself: it waits until the others are
        done, and those after it wait for it."""
        for channel, request in list(self.waiting.items()):
            if self.commands and (request.exits or any(c.exclusive for c in self.commands.values())):
                return
            del self.waiting[channel]
            self._start(channel, request)
            for kind, payload in self.early.pop(channel):
                self._on_frame(channel, kind, payload)

    def _start(self, channel: int, request: Request) -> None:
        _set_clock(request.now)
        if request.exits:
            exits.start_counting()
        try:
            self.commands[channel] = Command(channel, request, self.watcher, self._send)
        except OSError as error:
            if request.exits:
                exits.stop_counting()
            self._send_failure(channel, request, error)

    def _send_failure(self, channel: int, request: Request, error: OSError) -> None:
        """The statuses that a shell gives."""
        culprit = os.fsencode(error.filename or request.argv[0])
        message = b"kvmhost: %s: %s\n" % (culprit, os.fsencode(error.strerror or str(error)))
        self._send(channel, Kind.STDERR, message)
        status = 127 if isinstance(error, FileNotFoundError) else 126
        self._send(channel, Kind.EXIT, json.dumps({"status": status}).encode())

    def _reap(self, _: int) -> None:
        os.read(self.child_signals, CHUNK)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for command in self.commands.values():
                if command.pid == pid and command.status is None:
                    code = os.waitstatus_to_exitcode(status)
                    command.end(code if code >= 0 else 128 - code)

    def _check_deadlines(self, now: float) -> None:
        for command in list(self.commands.values()):
            if now >= command.deadline and command.status is None and not command.timed_out:
                command.time_out()
            elif command.is_stuck(now):
                self._finish(command, {"status": 124, "timed_out": True, "stuck": True})

    def _finish_done(self) -> None:
        for command in list(self.commands.values()):
            if command.done:
                status = 124 if command.timed_out else command.status
                self._finish(command, {"status": status, "timed_out": command.timed_out})

    def _finish(self, command: Command, report: dict[str, object]) -> None:
        del self.commands[command.channel]
        if command.exclusive:
            report["exits"] = exits.stop_counting()
        self._send(command.channel, Kind.EXIT, json.dumps(report).encode())
        self._start_waiting()


def _on_command_frame(command: Command, kind: int, payload: bytes) -> None:
    if kind == Kind.CREDIT:
        command.credit(COUNT.unpack(payload)[0])
    elif kind == Kind.STDIN:
        command.feed(payload)
    elif kind == Kind.STDIN_END:
        command.end_stdin()
    elif kind == Kind.CANCEL:
        command.cancel()


def _child_signals() -> int:
    """A descriptor that becomes readable when a child ends."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


def _set_clock(now: float) -> None:
    """The host stands still while it has nothing to do, and so does its clock."""
    if abs(time.time() - now) > 0.5:
        time.clock_settime(time.CLOCK_REALTIME, now)


def _open_port(name: str) -> int:
    ports = "/sys/class/virtio-ports"
    for port in os.listdir(ports):
        if read_text(f"{ports}/{port}/name").strip() == name:
            return os.open(f"/dev/{port}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    raise FileNotFoundError(f"no serial port {name}")


def _beat(beats: int, source: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.write(beats, bytes([source]))


def _start_pulses(beats: int) -> None:
    """A process on each processor shows that this processor still runs what is put on it, whatever else it has to do:
    a processor that has lost its wake-up is the usual way for the host to hang."""
    for processor in os.sched_getaffinity(0):
        if os.fork() == 0:
            os.sched_setaffinity(0, {processor})
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            while True:
                _beat(beats, processor)
                time.sleep(BEAT_SECONDS)


def _bring_processors_up() -> None:
    """The host boots on one processor: patching the kernel while it loads kvm.ko interrupts every other one many times
    over, which takes ten seconds if the machine is busy."""
    for processor in range(1, os.sysconf("SC_NPROCESSORS_CONF")):
        write_line(f"/sys/devices/system/cpu/cpu{processor}/online", "1")


def main() -> None:
    _bring_processors_up()
    beats = _open_port("kvmhost.beats")
    _start_pulses(beats)
    Agent(_open_port("kvmhost.commands"), beats).run()


if __name__ == "__main__":
    main()
