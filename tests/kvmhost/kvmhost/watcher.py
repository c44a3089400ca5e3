"""A poll loop's bookkeeping: which callback belongs to which descriptor."""

import selectors
from collections.abc import Callable

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Watcher:
    """Calls back with READ, WRITE or both. Poll, not epoll: a regular file can be standard input, too."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()

    def watch(self, descriptor: int, callback: Callable[[int], None], read: bool, write: bool = False) -> None:
        """From now on watches the descriptor for these events, and no others; for none, forgets it."""
        events = (READ if read else 0) | (WRITE if write else 0)
        key = self._selector.get_map().get(descriptor)
        if not events:
            self.forget(descriptor)
        elif not key:
            self._selector.register(descriptor, events, callback)
        elif key.events != events:
            self._selector.modify(descriptor, events, callback)

    def forget(self, descriptor: int) -> None:
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def wait(self, seconds: float) -> None:
        for key, events in self._selector.select(max(0.0, seconds)):
            # A callback of this very round may have forgotten the descriptor, and its number may be another's by now.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)
