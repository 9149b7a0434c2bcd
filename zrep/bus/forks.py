"""What a forked child lets go of: else its parent's port stays taken, and its death goes unnoticed.

ZeroMQ does not tell which descriptors it holds, but each names itself: one that listens or was accepted
by its own address, one that we connected by that of its other end.
"""

import os
import socket
import weakref
from collections.abc import Collection
from typing import Protocol

from zrep.endpoints import Endpoint, unmapped

DESCRIPTORS = "/proc/self/fd"


class Holder(Protocol):
    """Who holds sockets that a child must not keep."""

    def places(self) -> tuple[Collection[Endpoint], Collection[Endpoint]]:
        """Return where its sockets are bound, and what they are connected to."""


_holders: "weakref.WeakSet[Holder]" = weakref.WeakSet()


def watch(holder: Holder) -> None:
    """Close this holder's sockets in every child that is forked from now on."""
    _holders.add(holder)


def _forget_in_child() -> None:
    for holder in list(_holders):
        close(*holder.places())
    _holders.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def close(bound: Collection[Endpoint], connected: Collection[Endpoint]) -> None:
    """Close every descriptor of this process that is a socket at one of these places."""
    ports = {endpoint.port for endpoint in bound if endpoint.scheme == "tcp"}
    places = {*bound, *connected}
    for name in os.listdir(DESCRIPTORS) if os.path.isdir(DESCRIPTORS) else ():
        ends = _ends(int(name))
        if not places.isdisjoint(ends) or any(end.scheme == "tcp" and end.port in ports for end in ends[:1]):
            os.close(int(name))


def _ends(fd: int) -> list[Endpoint]:
    """Return the address of a socket's own end, and of the other if there is one; nothing for other files."""
    try:
        opened = socket.socket(fileno=fd)
    except OSError:
        return []
    ends = []
    try:
        for end in (opened.getsockname, opened.getpeername):
            ends.append(_endpoint(end()))
    except OSError:
        return ends
    finally:
        opened.detach()
    return ends


def _endpoint(address: object) -> Endpoint:
    if isinstance(address, tuple):
        return unmapped(Endpoint("tcp", str(address[0]), int(address[1])))
    if isinstance(address, bytes):
        return Endpoint("ipc", os.fsdecode(address.replace(b"\0", b"@", 1)))
    return Endpoint("ipc", str(address))
