"""Remote access without a local copy: reads from any site, writes to the master, through fail-overs.

A write carries (session, seq), so it is asked again wherever a master may be, as often as it takes, and
still happens at most once (R25). This file decides whom to ask, when to ask again, and what an answer
means; it keeps no data.

    ask --- OK -------------> done              --- REDIRECT -> ask the master it names
        --- BUSY -----------> ask the next,     --- silence --> ask the next, wait twice as long
            after a pause     a broken connection counts as silence at once
"""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zmq

from zrep.bus.peer import Addresses, Link
from zrep.bus.sockets import Sockets, receive
from zrep.codec import MESSAGE_LIMIT, Malformed, Reply, Request, decode_reply, encode_batch, encode_request
from zrep.commit import Batch, CommitResult, CommitToken
from zrep.endpoints import Endpoint, parse
from zrep.errors import (
    ConflictError,
    ForkError,
    NoMasterError,
    NotAppliedError,
    OptionError,
    ProtocolError,
    TxnTooLargeError,
    UnknownOutcomeError,
    ZrepError,
)
from zrep.ids import SiteId
from zrep.messages import Status
from zrep.options import MILLISECOND, REPEATED_MS

PAUSE_MS, PAUSE_PART = 2, 16
"""After "no master is known here" or "too much is queued": an election takes a few milliseconds. Then it is a part of
what the call has waited: an answer is late by no more than that, and a crowd that has to wait asks less and less."""
ANSWER_MS = 20
"""Even what is sent at the last moment has so long to be answered: an outcome is better than punctuality."""
PATIENCE_MS = 100
"""How long an unanswered request waits before it is asked elsewhere too; doubled every time."""
PATIENCE_MAX_MS = 1600
CONNECT_MS = 20
"""How long a master whose address we have just been told may take to be connected."""
REDIAL_MS = 1000
"""An address that has not answered for so long is tried by a new connection, at its next number."""
RETURNED_MS = 20
"""The same for a site that another one names as master: it is back, and ZeroMQ's next try may be far off."""
SERVERS = 64
"""Most addresses that are learnt."""
SESSION_IDLE_MS = 600_000
"""A session is remembered for an hour; one that idled this long is not used again."""
SCAN_PAGE = 1000
BATCH_LIMIT = MESSAGE_LIMIT - 1024
"""What is left of a message for a batch."""


def connect(*endpoints: str, timeout_ms: int = 5000, roam: bool = True) -> "Client":
    """Return a client of the group that these addresses belong to; it connects in the background.

    One address is enough: the client learns the others. With `roam=False` only the given addresses are
    read from, which tells what *that* site holds. Raises OptionError for what is no address.
    """
    return Client(endpoints, timeout_ms, roam)


class _Server:
    """One address, and the connection to it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.addresses = Addresses((endpoint,))
        self.link: Link | None = None
        self.dialled_at = 0
        self.up = False
        """It has taken a request since its connection last broke."""
        self.failed = False
        """Its connection broke, or was refused, since it was last dialled."""


class Client:
    """A connection to a group. Any thread may use it, one call at a time.

    `timeout_ms` is how long a call tries. Reads are of the permanent state at one site, which may be a
    moment behind the master's; a write waits as the master's `ack_policy` says.
    """

    def __init__(self, endpoints: Iterable[str], timeout_ms: int = 5000, roam: bool = True) -> None:
        self.timeout_ms = timeout_ms
        self._roam = roam
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._servers: dict[Endpoint, _Server] = {}
        self._turn: list[_Server] = []
        """Whom to ask, in order: who answered last is first."""
        self._master: _Server | None = None
        self._session = ""
        self._seq = 0
        self._used_at = 0
        self._number = 0
        self._learning: set[int] = set()
        self._replies: dict[int, Reply] = {}
        self._awaited: set[int] = set()
        self._closed = False
        known = [parse(uri) for uri in endpoints]
        if not known:
            raise OptionError("a client needs an address: connect('tcp://host:port')")
        self._given = frozenset(known)
        self._context = zmq.Context()
        self._sockets = Sockets(self._context, None)
        self._poller = zmq.Poller()
        for endpoint in known:
            self._add(endpoint)

    # What a program asks.

    def get(self, key: bytes, db: bytes | None = None, *, timeout_ms: int | None = None) -> bytes | None:
        """Return the value of a key, or None. Raises NoMasterError when no site answers in time."""
        _check_bytes(key=key, db=db)
        result = self._read("get", (db, key), timeout_ms)
        if result is not None and type(result) is not bytes:
            raise ProtocolError("the site's answer is not a value: is it a zrep of another version?")
        return result

    def put(self, key: bytes, value: bytes, db: bytes | None = None, *, timeout_ms: int | None = None) -> CommitResult:
        """Store a pair. As `write`."""
        return self.write(Batch().put(key, value, db), timeout_ms=timeout_ms)

    def delete(self, key: bytes, db: bytes | None = None, *, timeout_ms: int | None = None) -> CommitResult:
        """Remove a key, if it is there. As `write`."""
        return self.write(Batch().delete(key, db), timeout_ms=timeout_ms)

    def write(self, batch: Batch, *, timeout_ms: int | None = None) -> CommitResult:
        """Apply a batch, all of it or nothing, and return when it is acknowledged as the master's ack policy wants.

        Raises ConflictError when an `expect` failed, TxnTooLargeError, OptionError for a batch that cannot
        be applied, NoMasterError when no master took it in time (it did not happen), and
        UnknownOutcomeError when one may have: read before writing it again.
        """
        data = encode_batch(batch)
        if len(data) > BATCH_LIMIT:
            raise TxnTooLargeError(f"the batch has {len(data)} bytes and a request holds {BATCH_LIMIT}: split it")
        with self._lock:
            session, seq = self._take_session()
            reply = self._ask(
                "write",
                lambda left_ms: (session, seq, left_ms, data),
                timeout_ms,
                again=_UNDECIDED,
                to_master=True,
            )
            result = _commit_result(reply)
            if result.token is not None and result.perm:  # else its session may have no trace of it
                self._session, self._seq = session, seq
            return result

    def scan(
        self, prefix: bytes = b"", db: bytes | None = None, *, timeout_ms: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the pairs whose keys begin with `prefix`, in order; read in pages, each of one moment.

        Raises OptionError for a prefix in a database whose keys are not in the order of their bytes.
        """
        _check_bytes(prefix=prefix, db=db)
        return self._pages(prefix, db, timeout_ms)

    def _pages(self, prefix: bytes, db: bytes | None, timeout_ms: int | None) -> Iterator[tuple[bytes, bytes]]:
        after: tuple[bytes, bytes] | None = None
        while page := self._read("scan", (db, prefix, after, SCAN_PAGE), timeout_ms):
            for pair in page:
                if type(pair) is not tuple or len(pair) != 2 or {type(item) for item in pair} != {bytes}:
                    raise ProtocolError("the site's answer is not a page of pairs: is it a zrep of another version?")
                yield pair
            after = page[-1]

    def status(self, *, timeout_ms: int | None = None) -> dict[str, Any]:
        """Return what the site that answers first knows of itself and the group, as plain values."""
        result = self._read("status", (), timeout_ms)
        if type(result) is not dict:
            raise ProtocolError("the site's answer is not a status: is it a zrep of another version?")
        return result

    def close(self) -> None:
        """Disconnect. A call in another thread ends first."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                for server in self._servers.values():
                    self._hang_up(server)
                self._context.term()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Asking.

    def _read(self, verb: str, args: tuple[Any, ...], timeout_ms: int | None) -> Any:
        with self._lock:
            reply = self._ask(verb, lambda _: args, timeout_ms, again=_NOT_NOW, to_master=False)
            if reply.code != Status.OK:
                raise OptionError(reply.text or f"the site refused {verb}")
            return reply.result

    def _take_session(self) -> tuple[str, int]:
        """Return what this write is called. Only a permanent one lets a session go on.

        After anything else a late copy of that write may still be on its way, and must not meet a
        different one under its name.
        """
        now = _now_ms()
        if not self._session or now - self._used_at > SESSION_IDLE_MS:
            self._session, self._seq = secrets.token_hex(16), 0
        session, seq = self._session, self._seq + 1
        self._session, self._used_at = "", now
        return session, seq

    def _ask(
        self,
        verb: str,
        args: Callable[[int], tuple[Any, ...]],
        timeout_ms: int | None,
        *,
        again: frozenset[int],
        to_master: bool,
    ) -> Reply:
        """Ask one site after another until one decides. `args` are made from the milliseconds left.

        Raises NoMasterError when nobody took it, UnknownOutcomeError when somebody may have.
        """
        self._check()
        timeout_ms = min(self.timeout_ms if timeout_ms is None else timeout_ms, REPEATED_MS)
        began = _now_ms()
        deadline = began + timeout_ms
        patience = PATIENCE_MS
        last: Reply | None = None
        self._awaited.clear()
        self._replies.clear()
        while (left := deadline - _now_ms()) > 0:
            server = self._next(to_master)
            number = self._send(server, Request(0, verb, args(left)))
            if number is None:
                if server is not self._master or server.failed or _now_ms() - server.dialled_at > CONNECT_MS:
                    self._pass_over(server)
                self._pause(began, deadline)
                continue
            self._awaited.add(number)
            now = _now_ms()
            reply = self._await(server, number, max(min(deadline, now + patience), now + ANSWER_MS), again)
            if reply is None:
                if server.up:
                    patience = min(2 * patience, PATIENCE_MAX_MS)
                self._pass_over(server)
            elif reply.code not in again:
                if to_master:
                    self._master = server
                return reply
            else:
                followed = reply.code == Status.REDIRECT and self._follow(reply)
                if not followed:
                    self._pass_over(server)
                if not followed or (last is not None and last.code == Status.REDIRECT):
                    self._pause(began, deadline)
                last = reply
        where = ", ".join(str(server.endpoint) for server in self._servers.values())
        if to_master and self._awaited:
            raise UnknownOutcomeError(
                f"the write was sent, but no answer came within {timeout_ms} ms: it may or may not have happened, "
                "read before you write it again"
            )
        if last is not None:
            raise NoMasterError(f"no master took the request within {timeout_ms} ms ({last.text}): see `zrep status`")
        raise NoMasterError(f"no site answered at {where} within {timeout_ms} ms: check that one of them runs")

    def _pause(self, began: int, deadline: int) -> None:
        """Leave the group alone for a moment, in proportion to how long it has not been able to answer."""
        now = _now_ms()
        self._poll(min(max(deadline - now, 0), max(PAUSE_MS, (now - began) // PAUSE_PART)))

    def _await(self, server: _Server, number: int, until: int, again: frozenset[int]) -> Reply | None:
        """Return the answer to the request just sent, or a decision on an earlier copy; None for silence."""
        while True:
            for answered in [known for known in self._replies if known in self._awaited]:
                reply = self._replies.pop(answered)
                if reply.code not in _MAYBE:
                    self._awaited.discard(answered)
                if answered == number or reply.code not in again:
                    return reply
            left = until - _now_ms()
            if left <= 0 or not server.up:
                return None
            self._poll(left)

    def _send(self, server: _Server, request: Request) -> int | None:
        """Send a request; return its number, or None when the connection does not take it."""
        if server.link is None or (not server.up and _now_ms() - server.dialled_at > REDIAL_MS):
            self._dial(server)
        if not server.up:
            learning = self._send_now(server, Request(0, "status"))
            if learning is None:
                return None
            server.up = True
            self._learning.add(learning)  # it tells the group's other addresses
        return self._send_now(server, request)

    def _send_now(self, server: _Server, request: Request) -> int | None:
        self._number += 1
        sent = server.link is not None and server.link.send(encode_request(request._replace(id=self._number)))
        return self._number if sent else None

    # Whom to ask.

    def _next(self, to_master: bool) -> _Server:
        if to_master and self._master is not None:
            return self._master
        if to_master or self._roam:
            return self._turn[0]
        return next(server for server in self._turn if server.endpoint in self._given)

    def _pass_over(self, server: _Server) -> None:
        """Ask others before this one, and no longer as the master."""
        if self._master is server:
            self._master = None
        self._turn.remove(server)
        self._turn.append(server)

    def _follow(self, reply: Reply) -> bool:
        """Take the master's address from a REDIRECT; False when it names none that might work."""
        result = reply.result
        endpoints = _endpoints(result.get("endpoints")) if type(result) is dict else []
        servers = [server for endpoint in endpoints if (server := self._add(endpoint)) is not None]
        if not servers:
            return False
        master = self._master = next((server for server in servers if server.up), servers[0])
        if not master.up and _now_ms() - master.dialled_at > RETURNED_MS:
            self._dial(master)
        return True

    def _learn(self, status: Any) -> None:
        members = status.get("members") if type(status) is dict else None
        for member in members if type(members) is tuple else ():
            for endpoint in _endpoints(member.get("endpoints") if type(member) is dict else None):
                self._add(endpoint)

    def _add(self, endpoint: Endpoint) -> _Server | None:
        server = self._servers.get(endpoint)
        if server is None and len(self._servers) < SERVERS:
            server = self._servers[endpoint] = _Server(endpoint)
            self._turn.append(server)
            self._dial(server)
        return server

    # Connections.

    def _dial(self, server: _Server) -> None:
        self._hang_up(server)
        link = server.link = Link(self._sockets, server.addresses.next() or server.endpoint, None)
        server.dialled_at, server.failed = _now_ms(), False
        self._poller.register(link.control, zmq.POLLIN)
        self._poller.register(link.monitor.socket, zmq.POLLIN)

    def _hang_up(self, server: _Server) -> None:
        link, server.link, server.up = server.link, None, False
        if link is not None:
            self._poller.unregister(link.control)
            self._poller.unregister(link.monitor.socket)
            link.close()

    def _poll(self, timeout_ms: int) -> None:
        """Wait for anything, then take in every answer and every broken connection."""
        readable = {socket for socket, _ in self._poller.poll(timeout_ms)}
        for server in [server for server in self._servers.values() if server.link is not None]:
            link = server.link
            if link is not None and link.control in readable:
                self._take_replies(link)
            if link is not None and link.monitor.socket in readable and link.broke():
                self._on_failure(server)

    def _on_failure(self, server: _Server) -> None:
        """A connection broke, or was refused: ZeroMQ tries it again, and we another address if there is one."""
        if not server.up and not server.addresses.exhausted:
            self._dial(server)
        else:
            server.up, server.failed = False, True

    def _take_replies(self, link: Link) -> None:
        for frames in receive(link.control):
            reply = decode_reply(frames)
            if isinstance(reply, Malformed):
                continue
            if reply.id in self._learning:
                self._learning.discard(reply.id)
                self._learn(reply.result)
            elif reply.id in self._awaited:
                self._replies[reply.id] = reply

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkError("this client belongs to the parent process: connect again in the child")
        if self._closed:
            raise ZrepError("this client is closed: connect again")


_NOT_NOW = frozenset({Status.BUSY, Status.REDIRECT})
_MAYBE = frozenset({Status.UNKNOWN})
_UNDECIDED = _NOT_NOW | _MAYBE | {Status.NOT_APPLIED}
"""Answers after which the same write, under the same name, is asked again: whoever is master next knows."""


def _check_bytes(db: bytes | None, **given: bytes) -> None:
    for name, value in given.items() if db is None else (given | {"db": db}).items():
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"{name} must be bytes, not {type(value).__name__}")


def _now_ms() -> int:
    return time.monotonic_ns() // MILLISECOND


def _endpoints(uris: Any) -> list[Endpoint]:
    """Return the endpoints among what a site says; the others are its own affair."""
    found = []
    for uri in uris if type(uris) is tuple else ():
        try:
            found.append(parse(uri))
        except (OptionError, AttributeError):
            continue
    return [endpoint for endpoint in found if endpoint.scheme != "inproc"]


def _commit_result(reply: Reply) -> CommitResult:
    """Return what a decided write achieved, or raise what it came to."""
    result = reply.result if type(reply.result) is dict else {}
    match reply.code:
        case Status.OK:
            gen, lsn, site = result.get("gen"), result.get("lsn"), result.get("site")
            acked, perm, durable = result.get("acked"), result.get("perm"), result.get("durable")
            if type(gen) is int and type(lsn) is int and type(site) is str and type(acked) is tuple:
                token = CommitToken(gen, lsn, SiteId(site)) if lsn else None
                return CommitResult(token, perm is True, tuple(SiteId(str(one)) for one in acked), str(durable))
            raise ProtocolError("the write happened, but the answer is not a commit's: is it another version of zrep?")
        case Status.CONFLICT:
            raise ConflictError(reply.text, result.get("key", b""), result.get("found"))
        case Status.NOT_APPLIED:
            raise NotAppliedError(reply.text)
        case Status.TOO_LARGE:
            raise TxnTooLargeError(reply.text)
        case _:
            raise OptionError(reply.text or f"the master refused the write ({reply.code})")
