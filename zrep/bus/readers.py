"""Which sockets are readable and who reads them: one poll, then receives until each is empty.

`poll` costs microseconds in Python and a receive that finds nothing costs two, so a socket is read only
after a poll named it, and then without polling again until it is empty.
"""

from collections.abc import Callable
from typing import TypeAlias

import zmq

from zrep.bus.sockets import Socket
from zrep.bus.wake import Wake

Reader: TypeAlias = Callable[[int], bool]
"""Reads up to so many messages; True when the socket is empty now."""


class Readers:
    """The poller and, for each socket, its reader."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._poller = zmq.Poller()
        self._poller.register(wake.fileno(), zmq.POLLIN)
        self._readers: dict[Socket, Reader] = {}
        self._ready: dict[Socket, Reader] = {}

    def add(self, socket: Socket, reader: Reader) -> None:
        self._poller.register(socket, zmq.POLLIN)
        self._readers[socket] = reader

    def remove(self, socket: Socket) -> None:
        self._poller.unregister(socket)
        self._readers.pop(socket)
        self._ready.pop(socket, None)

    def wait(self, timeout_ms: int | None) -> None:
        """Wait until a socket is readable or the wake-up is set; not at all if one was left readable."""
        for item, _ in self._poller.poll(0 if self._ready else timeout_ms):
            if isinstance(item, zmq.Socket):
                self._ready[item] = self._readers[item]
            else:
                self._wake.clear()

    @property
    def ready(self) -> bool:
        return bool(self._ready)

    def read(self, limit: int) -> None:
        """Let every readable socket's reader read up to `limit` messages."""
        for socket, reader in tuple(self._ready.items()):
            if self._ready.get(socket) is reader and reader(limit):
                self._ready.pop(socket, None)
