"""The frames that `run`, the keeper and the agent inside the host exchange.

A frame is a header (channel, kind, length) and a payload. A channel is one command; the keeper numbers them, so that
many commands share the one serial port into the host. Output and standard input are subject to credit: a sender starts
with a window of bytes for each command and may send more only as the other end says that it has passed bytes on. So
nobody has to buffer without bound, and a command whose output nobody reads does not hold up its neighbours.
"""

import collections
import enum
import os
import struct
from collections.abc import Iterator

HEADER = struct.Struct("<IBI")
COUNT = struct.Struct("<I")
CHUNK = 64 * 1024
OUTPUT_WINDOW = 1024 * 1024
INPUT_WINDOW = 256 * 1024

# A heartbeat is one byte: the number of the processor that it proves alive, or this for the agent itself.
AGENT_BEAT = 255


class Kind(enum.IntEnum):
    """What a frame carries, and between whom it travels."""

    START = 1  # run -> agent: JSON, the command to start
    STDIN = 2  # run -> agent: bytes
    STDIN_END = 3  # run -> agent
    CREDIT = 4  # both ways: so many bytes have been passed on
    CANCEL = 5  # keeper -> agent: nobody waits for this command any more
    STDOUT = 6  # agent -> run: bytes
    STDERR = 7  # agent -> run: bytes
    EXIT = 8  # agent -> run: JSON, how the command ended
    UP = 9  # agent -> keeper: the host is ready for commands
    INFO = 10  # keeper -> run: JSON, about the host; the first frame on a connection
    NOTE = 11  # keeper -> run: text for the user
    LOST = 12  # keeper -> run: text, why the host and the command with it are gone
    STOP = 13  # stop -> keeper


def pack(channel: int, kind: Kind, payload: bytes = b"") -> bytes:
    return HEADER.pack(channel, kind, len(payload)) + payload


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            channel, kind, length = HEADER.unpack_from(self._buffer, start)
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            yield channel, kind, bytes(self._buffer[start + HEADER.size : end])
            start = end
        del self._buffer[:start]


class Outbox:
    """Bytes on their way to a non-blocking descriptor."""

    def __init__(self) -> None:
        self._chunks: collections.deque[memoryview] = collections.deque()

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def put(self, data: bytes) -> None:
        if data:
            self._chunks.append(memoryview(data))

    def clear(self) -> int:
        """Throws everything away; returns how much that was."""
        dropped = sum(map(len, self._chunks))
        self._chunks.clear()
        return dropped

    def flush(self, descriptor: int) -> int:
        """Writes what the descriptor takes now; returns how much that was."""
        written = 0
        while self._chunks:
            try:
                count = os.write(descriptor, self._chunks[0])
            except BlockingIOError:
                break
            written += count
            if count == len(self._chunks[0]):
                self._chunks.popleft()
            else:
                self._chunks[0] = self._chunks[0][count:]
        return written
