"""One other site: the DEALERs to it, where it may be reached, and how far we got to know each other.

What is here is kept, timed and sent; what it means is decided in `acquaintance`.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeAlias

import zmq

from zrep.bus.sockets import BULK_HWM, CONTROL_HWM, Monitor, Socket, Sockets, send
from zrep.endpoints import Endpoint, resolve
from zrep.ids import Incarnation, Nanoseconds, SiteId
from zrep.messages import Hello
from zrep.options import MILLISECOND

HELLO_MIN = 2 * MILLISECOND
HELLO_MAX = 500 * MILLISECOND
"""Pauses between repeats of HELLO to somebody who is not connected."""
RENEW = 2000 * MILLISECOND
"""A connection on which nobody has answered for so long is given up for a new one, to the next address."""


class Routes:
    """The routing ids of one run of a site: no two sockets, and no two runs, ever share one.

    Not even one socket and the next to the same peer: a ROUTER that stood still finds both, and may take
    the one that is gone for the newer. The other goes on sending, and nothing of it ever arrives.
    """

    def __init__(self, site: SiteId, incarnation: Incarnation) -> None:
        self._name = site.encode() + incarnation.to_bytes(8)
        self._numbers = itertools.count(1)

    def control(self) -> bytes:
        return b"\1" + self._new()

    def bulk(self) -> bytes:
        return b"\2" + self._new()

    def seed(self) -> bytes:
        """To an address we know no site of, which may turn out to be one that we know."""
        return b"\3" + self._new()

    def _new(self) -> bytes:
        return self._name + next(self._numbers).to_bytes(4)


class Link:
    """A connection to one address: *control*, its monitor, and *bulk* beside it.

    Bulk carries what may be large, so that a stream of records never delays a vote, an ack or a heartbeat.
    """

    def __init__(self, sockets: Sockets, endpoint: Endpoint, control: bytes | None, bulk: bytes | None = None) -> None:
        """Begin to connect. Raises NoDescriptorError, with nothing left open."""
        self.endpoint = endpoint
        self.up = False
        """A handshake was seen; always False over inproc, which has no monitor."""
        with ExitStack() as half_made:
            self.control: Socket = sockets.dealer(control, "control", CONTROL_HWM)
            half_made.callback(self.control.close, 0)
            self.monitor = Monitor(self.control)
            half_made.callback(self.monitor.close)
            self.bulk: Socket | None = None if bulk is None else sockets.dealer(bulk, "bulk", BULK_HWM)
            half_made.pop_all()
        for dealer in filter(None, (self.control, self.bulk)):
            dealer.connect(str(endpoint))

    def send(self, frames: Sequence[bytes], *, bulk: bool = False) -> bool:
        """Send without waiting; False when the peer is slow or not there."""
        return send(self.bulk if bulk and self.bulk is not None else self.control, frames)

    def events(self) -> Iterator[int]:
        """Yield the connection's zmq.EVENT_*, and keep `up` by them."""
        for event in self.monitor.events():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.up = True
            elif event == zmq.EVENT_DISCONNECTED:
                self.up = False
            yield event

    def broke(self) -> bool:
        """Read all events; tell whether the last is that nobody is at the other end."""
        return [zmq.EVENT_HANDSHAKE_SUCCEEDED, *self.events()][-1] != zmq.EVENT_HANDSHAKE_SUCCEEDED

    def close(self) -> None:
        """Drop the connection and all that waits in it."""
        self.monitor.close()
        self.control.close(0)
        if self.bulk is not None:
            self.bulk.close(0)


Lookup: TypeAlias = Callable[[Endpoint], list[Endpoint]]
"""Gives the addresses of an endpoint."""


class Addresses:
    """Where somebody may be reached: every address of its endpoints in turn, IPv6 first."""

    def __init__(self, endpoints: Sequence[Endpoint] = (), lookup: Lookup = resolve) -> None:
        self.endpoints = tuple(endpoints)
        self._lookup = lookup
        self._untried: list[Endpoint] = []

    def next(self) -> Endpoint | None:
        """Return the address to try; None when there is none yet."""
        if not self._untried:
            self._untried = [address for endpoint in self.endpoints for address in self._lookup(endpoint)]
        return self._untried.pop(0) if self._untried else None

    @property
    def exhausted(self) -> bool:
        """Whether every address has had its turn, and `next` begins again."""
        return not self._untried


class Dial:
    """Somebody we try to reach, until they answer: the connection, and when to say HELLO again."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.link: Link | None = None
        self.greeted = False
        """Our HELLO went out on the present connection."""
        self.told: set[str] = set()
        """Why it is not reached, as far as that was told already."""
        self.due: Nanoseconds = 0
        """When `Acquaintance.tick` must look at it."""
        self.renew_at: Nanoseconds = 0
        self._pause = HELLO_MIN

    def opened(self, link: Link | None, now: Nanoseconds, rng: random.Random) -> None:
        """Begin anew on that connection; on none, if there is no address or no descriptor: then the pauses grow on.

        It is renewed after a random time, so that a group does not redial in step.
        """
        self.link = link
        self.greeted = False
        self.renew_at = now + RENEW + rng.randrange(RENEW // 2)
        if link is not None:
            self.hurry(now)

    def send(self, frames: Sequence[bytes], *, bulk: bool = False) -> bool:
        return self.link is not None and self.link.send(frames, bulk=bulk)

    def hurry(self, now: Nanoseconds) -> None:
        """Say HELLO again after the shortest pause, and then ever less often."""
        self._pause = HELLO_MIN
        self.due = now + HELLO_MIN

    def back_off(self, now: Nanoseconds) -> None:
        self._pause = min(2 * self._pause, HELLO_MAX)
        self.due = now + self._pause


class Seed(Dial):
    """An address that we were told to connect to, whoever is there."""

    def __init__(self, addresses: Addresses) -> None:
        super().__init__(addresses)
        (self.endpoint,) = addresses.endpoints
        self.site: SiteId | None = None
        """Who answered."""


class Peer(Dial):
    """What the bus knows of one other site."""

    def __init__(self, site: SiteId, addresses: Addresses, now: Nanoseconds) -> None:
        super().__init__(addresses)
        self.site = site
        self.since = now
        self.listed = False
        """The configuration in force lists it."""
        self.listed_at: tuple[Endpoint, ...] = ()
        """Where."""
        self.seeded = False
        """It answered at a seed."""
        self.publish = Addresses()
        self.hello = Hello((), (), False)
        """The last one heard."""
        self.incarnation: Incarnation = 0
        """Its newest run that was heard; 0: none."""
        self.run_since: Nanoseconds = 0
        self.reported = False
        """That an older run still spoke when it should be dead was told."""
        self.connected = False
        self.doubted_at: Nanoseconds | None = None
        """Since when, connected, it says that it does not hear us."""
        self.heard_at: Nanoseconds = 0

    @property
    def is_stranger(self) -> bool:
        """Whether only its own HELLO told us of it."""
        return not (self.listed or self.seeded)
