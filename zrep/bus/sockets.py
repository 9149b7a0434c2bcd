"""ZeroMQ sockets with the options that every socket of a site has, and binds that fail with a sentence.

This file decides options and turns ZeroMQ's errors into ours; what is sent is decided elsewhere.
HEARTBEAT_IVL and its companions are never set: with a finite high-water mark libzmq 4.3.5 aborts the
process after a stall (libzmq #3937, #4767).
"""

import errno
import fcntl
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeAlias

import zmq
from zmq.utils.monitor import parse_monitor_message

from zrep.codec import MESSAGE_LIMIT
from zrep.endpoints import Endpoint, parse, resolve
from zrep.errors import OptionError

Socket: TypeAlias = zmq.Socket[bytes]
SocketHook: TypeAlias = Callable[[Socket, str], None]

_COMMON: dict[int, int | bytes] = {
    zmq.LINGER: 0,
    zmq.MAXMSGSIZE: MESSAGE_LIMIT,
    zmq.IPV6: 1,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 30,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.TCP_MAXRT: 10_000,
    zmq.RECONNECT_IVL: 100,
    zmq.RECONNECT_IVL_MAX: 5000,
    zmq.CONNECT_TIMEOUT: 3000,
    zmq.HANDSHAKE_IVL: 3000,
    zmq.BACKLOG: 256,
}
CONTROL_HWM = 1000
BULK_HWM = 32
ROUTER_HWM = 128
"""Of each peer: what it sends beyond that waits in its own sockets, where more room is."""
BROADCAST_HWM = 256
"""A live frame is at most 256 KiB, so that a subscriber that stands still costs at most 64 MiB."""
LARGE = 64 * 1024
"""Frames of this size are sent without a copy, and to one peer over its bulk DEALER."""
SUBSCRIPTION_BYTES = 256
"""An XPUB receives nothing but subscriptions."""
REPLY_LINGER_MS = 1000
DESCRIPTORS = 32
"""What the sockets of a site with two others take, and a few more."""

# As integers: pyzmq's flags are enumerations, and each `|` and `&` of theirs takes half a microsecond.
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)

_BIND_ERRORS = {
    errno.EADDRINUSE: "it is in use: stop what listens there, or choose another",
    errno.EADDRNOTAVAIL: "this host has no such address: bind to one it has, and advertise the other",
    errno.ENODEV: "this host has no such address: bind to one it has, and advertise the other",
    errno.EACCES: "permission denied: choose another port or path, or correct the permissions",
    errno.ENOENT: "its directory does not exist: create it first",
}
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class NoDescriptorError(OptionError):
    """The system gives no descriptor for another socket: a start says so, a dial is repeated later."""


@contextmanager
def _may_lack_descriptors() -> Iterator[None]:
    try:
        yield
    except (zmq.ZMQError, OSError) as error:
        if error.errno not in _SHORTAGES:
            raise
        raise NoDescriptorError(
            f"{os.strerror(error.errno).lower()}: allow this process more (`ulimit -n 4096`, systemd's LimitNOFILE=), "
            "or see who keeps connections open"
        ) from None


def require_descriptors() -> None:
    """Raise NoDescriptorError unless a site's sockets can be opened: without, ZeroMQ aborts the process."""
    with _may_lack_descriptors(), ExitStack() as stack:
        for _ in range(DESCRIPTORS):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def send(socket: Socket, frames: Sequence[bytes]) -> bool:
    """Send without waiting; False when the socket would not take it now. Never half a message.

    Large frames go without a copy, small ones are cheaper with one.
    """
    try:
        for frame in frames[:-1]:
            socket.send(frame, _NOBLOCK_MORE)
        socket.send(frames[-1], _NOBLOCK, copy=len(frames[-1]) < LARGE)
    except zmq.ZMQError as error:
        if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            raise
        return False
    return True


def receive(socket: Socket, limit: int = sys.maxsize) -> Iterator[list[bytes]]:
    """Yield the messages that have arrived, at most `limit`. Fewer: the socket is empty.

    To ask whether there is more costs a third of being told with an exception that there is not.
    """
    for _ in range(limit):
        try:
            frame = socket.recv(_NOBLOCK, copy=False)
        except zmq.Again:
            return
        frames = [frame.bytes]
        while frame.more:
            frame = socket.recv(copy=False)
            frames.append(frame.bytes)
        yield frames
        if not is_readable(socket):
            return


def is_readable(socket: Socket) -> bool:
    """Ask a socket whether a message is there; until it says no, its descriptor may stay silent about the next."""
    events: int = socket.get(zmq.EVENTS)  # type: ignore[assignment]
    return bool(events & _POLLIN)


class Sockets:
    """Makes a site's sockets; `hook` sees each, with its purpose, before it binds or connects."""

    def __init__(self, context: "zmq.Context[Socket]", hook: SocketHook | None) -> None:
        self._context = context
        self._hook = hook
        self.bound: list[Endpoint] = []
        """Where our sockets listen."""
        self._kept: list[Socket] = []
        """Those that a site has one of, to be closed at its end."""
        self._names: list[tuple[Socket, str]] = []
        self._locks: list[_PathLock] = []

    def router(self) -> Socket:
        """The socket that receives from peers and serves foreign programs."""
        return self._keep(
            zmq.ROUTER,
            "router",
            {
                zmq.ROUTER_MANDATORY: 1,
                zmq.ROUTER_HANDOVER: 1,
                zmq.LINGER: REPLY_LINGER_MS,
                zmq.SNDHWM: CONTROL_HWM,
                zmq.RCVHWM: ROUTER_HWM,
            },
        )

    def publisher(self) -> Socket:
        """The socket that broadcasts, and sees who listens."""
        return self._keep(
            zmq.XPUB,
            "publisher",
            {zmq.XPUB_VERBOSER: 1, zmq.SNDHWM: BROADCAST_HWM, zmq.MAXMSGSIZE: SUBSCRIPTION_BYTES},
        )

    def subscriber(self) -> Socket:
        """The socket that hears every peer's broadcasts."""
        return self._keep(zmq.SUB, "subscriber", {zmq.RCVHWM: BROADCAST_HWM})

    def dealer(self, route: bytes | None, purpose: str, hwm: int) -> Socket:
        """A socket that sends to one site. IMMEDIATE, so that nothing piles up for one that is not there."""
        options: dict[int, int | bytes] = {zmq.IMMEDIATE: 1, zmq.SNDHWM: hwm, zmq.RCVHWM: CONTROL_HWM}
        if route is not None:
            options[zmq.ROUTING_ID] = route
        return self._make(zmq.DEALER, purpose, options)

    def _keep(self, kind: int, purpose: str, options: Mapping[int, int | bytes]) -> Socket:
        socket = self._make(kind, purpose, options)
        self._kept.append(socket)
        return socket

    def _make(self, kind: int, purpose: str, options: Mapping[int, int | bytes]) -> Socket:
        with _may_lack_descriptors():
            socket = self._context.socket(kind)
        settings: dict[int, int | bytes] = {**_COMMON, **options}
        for option, setting in settings.items():
            socket.setsockopt(option, setting)
        if self._hook is not None:
            self._hook(socket, purpose)
        return socket

    def bind(self, socket: Socket, endpoint: Endpoint) -> Endpoint:
        """Bind, and return the endpoint with the real port. Raises OptionError, saying why not."""
        if endpoint.scheme == "ipc" and not endpoint.address.startswith("@"):
            lock = _PathLock(endpoint)
            self._locks.append(lock)  # first: who is interrupted releases it
            lock.take()
        try:
            socket.bind(str(resolve(endpoint)[0]))
        except zmq.ZMQError as error:
            reason = _BIND_ERRORS.get(error.errno or 0, f"{os.strerror(error.errno or 0)}: choose another")
            raise OptionError(f"cannot bind {endpoint}: {reason}") from None
        if endpoint.scheme == "inproc":
            self._names.append((socket, str(endpoint)))  # a name is free when unbound; closing frees it some time later
        if endpoint.scheme == "tcp":
            last = parse(socket.getsockopt_string(zmq.LAST_ENDPOINT), bind=True)
            endpoint = endpoint._replace(port=last.port)
        self.bound.append(endpoint)
        return endpoint

    def close(self) -> None:
        """Close all but the dealers, which who connected them closes, and let go of the names and paths. Idempotent."""
        while self._names:
            socket, name = self._names.pop()
            socket.unbind(name)
        for socket in self._kept:
            socket.close()
        while self._locks:
            self._locks.pop().release()


class _PathLock:
    """Holds an ipc path: ZeroMQ would let a second bind steal it without a word.

    The lock file stays: to delete it would let two holders lock two files of one name.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._path = endpoint.address
        try:
            self.fd = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = _BIND_ERRORS.get(error.errno or 0, f"{error.strerror}: choose another")
            raise OptionError(f"cannot bind {endpoint}: {reason}") from None
        _held.add(self)

    def take(self) -> None:
        """Raise OptionError when another has it. Who has it takes it again."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OptionError(f"cannot bind {self._endpoint}: {_BIND_ERRORS[errno.EADDRINUSE]}") from None

    def release(self) -> None:
        """Remove the path, if it is not another's."""
        _held.discard(self)
        with suppress(OptionError):
            self.take()
            if os.path.exists(self._path):
                os.unlink(self._path)
        os.close(self.fd)


_held: "weakref.WeakSet[_PathLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    """A forked child must not keep the parent's paths locked after the parent's death."""
    for lock in list(_held):
        os.close(lock.fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


_WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
)


class Monitor:
    """What happens to a DEALER's connection. inproc has none: there a site is connected by HELLO alone."""

    def __init__(self, socket: Socket) -> None:
        self._watched = socket
        try:
            with _may_lack_descriptors():
                self.socket: Socket = socket.get_monitor_socket(_WATCHED)
        except NoDescriptorError:
            socket.disable_monitor()  # it has two ends, and one may be made
            raise

    def events(self) -> Iterator[int]:
        """Yield the zmq.EVENT_* that have happened."""
        for frames in receive(self.socket):
            yield int(parse_monitor_message(frames)["event"])

    def close(self) -> None:
        """End monitoring; without this, terminating the context would wait for ever."""
        self._watched.disable_monitor()
        self.socket.close(0)
