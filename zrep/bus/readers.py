"""Which sockets are readable and who reads them: one poll, then receives until each is empty.

What is polled are the sockets' descriptors: ZeroMQ's own poll asks every socket before it waits and again
after it, two system calls each. A descriptor tells once that something has happened to its socket, and any
operation on the socket may take note of that. So a reader empties its socket, and one on which something
else was done is in *doubt*: it is asked before the next wait.
"""

import select
from collections.abc import Callable
from typing import TypeAlias

import zmq

from zrep.bus.sockets import Socket, is_readable
from zrep.bus.wake import Wake

Reader: TypeAlias = Callable[[int], bool]
"""Reads up to so many messages; True when the socket is empty now."""


class Readers:
    """The poller and, for each socket, its reader."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._poller = select.poll()
        self._poller.register(wake.fileno(), select.POLLIN)
        self._readers: dict[Socket, Reader] = {}
        self._sockets: dict[int, Socket] = {}
        """By descriptor."""
        self._ready: dict[Socket, Reader] = {}
        self._doubtful: set[Socket] = set()

    def add(self, socket: Socket, reader: Reader) -> None:
        fd: int = socket.get(zmq.FD)  # type: ignore[assignment]
        self._poller.register(fd, select.POLLIN)
        self._sockets[fd] = socket
        self._readers[socket] = reader
        self._doubtful.add(socket)

    def remove(self, socket: Socket) -> None:
        """Forget a socket, before it is closed."""
        fd: int = socket.get(zmq.FD)  # type: ignore[assignment]
        self._poller.unregister(fd)
        del self._sockets[fd], self._readers[socket]
        self._ready.pop(socket, None)
        self._doubtful.discard(socket)

    def doubt(self, socket: Socket) -> None:
        """Note that something else than reading was done with a socket that is read here."""
        self._doubtful.add(socket)

    def wait(self, timeout_ms: int | None) -> None:
        """Wait until a socket is readable or the wake-up is set; not at all if one was left readable."""
        for socket in self._doubtful:
            if is_readable(socket):
                self._ready[socket] = self._readers[socket]
        self._doubtful.clear()
        for fd, _ in self._poller.poll(0 if self._ready else timeout_ms):
            found = self._sockets.get(fd)
            if found is None:
                self._wake.clear()
            else:
                self._ready[found] = self._readers[found]

    @property
    def ready(self) -> bool:
        return bool(self._ready)

    def read(self, limit: int) -> None:
        """Let every readable socket's reader read up to `limit` messages."""
        for socket, reader in tuple(self._ready.items()):
            if self._ready.get(socket) is reader and reader(limit):
                self._ready.pop(socket, None)
