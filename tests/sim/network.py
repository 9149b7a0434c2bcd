"""The virtual network: three channels per directed link, connections that break, partitions.

As over ZeroMQ, each directed link has a PUB channel for broadcasts, a control DEALER and a bulk DEALER
for records that answer a request. A channel is first in, first out; the three have no order among
themselves. It decides what becomes of every message; who may speak is none of its business.

Two kinds of trouble look different from inside: a *reset*, or a process that dies, breaks the connection
and both ends are told within milliseconds; a *cut* tells nobody anything until it heals.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any, Protocol

from zrep.ids import Nanoseconds, SiteId
from zrep.messages import Message, Type
from zrep.options import MILLISECOND


class Path(Enum):
    """The sockets a message may take."""

    PUB = 0
    CONTROL = 1
    BULK = 2


@dataclass(slots=True)
class Faults:
    """What the links do to messages; all zero is a healthy network."""

    delay_ns: Nanoseconds = MILLISECOND // 2
    jitter_ns: Nanoseconds = MILLISECOND // 2
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """How often a message ignores the order of its channel."""
    ghost: float = 0.0
    """How often a copy turns up again seconds later, whatever became of the connection meanwhile."""
    echo: float = 0.0
    """How often a message also reaches somebody it is not for, its own sender among them."""
    capacity: int = 1000
    """A PUB channel with so many messages in flight drops the newest (PUB's high-water mark)."""


class Ends(Protocol):
    """What the network needs of the world: a clock, an agenda, and somebody to deliver to."""

    now: Nanoseconds

    def at(self, when: Nanoseconds, action: Any, *args: Any) -> None:
        """Have `action(*args)` called at `when`."""

    def alive(self, site: SiteId) -> bool:
        """Tell whether a process runs there."""

    def deliver(self, message: Message, to: SiteId) -> None:
        """Put a message into the inbox of a site, if a process runs there."""

    def tell(self, site: SiteId, peer: SiteId, connected: bool) -> None:
        """Tell a site that a connection is made or broken."""


class Channel:
    """One socket's way from one site to another."""

    __slots__ = ("dst", "flying", "last", "link", "path", "src")

    def __init__(self, link: "Link", src: SiteId, dst: SiteId, path: Path) -> None:
        self.link = link
        self.src = src
        self.dst = dst
        self.path = path
        self.last: Nanoseconds = 0
        """When the newest message arrives: the next may not arrive before."""
        self.flying = 0


class Link:
    """The connection between two sites: up or down, and in which directions it is cut."""

    __slots__ = ("cut", "epoch", "held", "owed", "told", "up")

    def __init__(self) -> None:
        self.up = False
        self.epoch = 0
        """Counts connections: what was sent over an earlier one never arrives."""
        self.cut: set[tuple[SiteId, SiteId]] = set()
        self.held: list[tuple[Channel, Message]] = []
        """What the kernels keep for a cut connection; it arrives after the cut, however late."""
        self.owed: list[tuple[SiteId, SiteId]] = []
        """(whom, of whom): breaks that a cut keeps an end from noticing."""
        self.told: Nanoseconds = 0
        """When the newest notice arrives: notices come in order."""


class Network:
    """All links of a world."""

    def __init__(self, ends: Ends, sites: Iterable[SiteId], rng: Random) -> None:
        self.ends = ends
        self.rng = rng
        self.faults = Faults()
        self.sites = tuple(sites)
        self.links: dict[tuple[SiteId, SiteId], Link] = {}
        self.channels: dict[tuple[SiteId, SiteId, Path], Channel] = {}
        for site in self.sites:
            self._wire(site)

    def add(self, site: SiteId) -> None:
        """Wire a new site to all others."""
        self.sites = (*self.sites, site)
        self._wire(site)

    def link(self, a: SiteId, b: SiteId) -> Link:
        return self.links[(a, b)]

    # Messages.

    def send(self, message: Message) -> None:
        """Put a message on its way: a broadcast to everybody connected, another to its receiver."""
        sender = message.sender
        if message.to is None:
            for site in self.sites:
                if site != sender:
                    self._send(self.channels[(sender, site, Path.PUB)], message)
            if self.faults.echo and self.rng.random() < self.faults.echo:
                self.ends.at(self.ends.now + self._delay(), self._deliver_stray, message, sender)
            return
        path = Path.BULK if message.type is Type.LOG else Path.CONTROL
        channel = self.channels.get((sender, message.to, path))
        if channel is not None:
            self._send(channel, message)
            if self.faults.echo and self.rng.random() < self.faults.echo:
                stray = self.rng.choice(self.sites)
                self.ends.at(self.ends.now + self._delay(), self._deliver_stray, message, stray)

    def _send(self, channel: Channel, message: Message) -> None:
        link, faults, random = channel.link, self.faults, self.rng.random
        if not link.up or (channel.path is Path.PUB and channel.flying >= faults.capacity):
            return
        if faults.loss and random() < faults.loss:
            return
        self._fly(channel, message, in_order=not faults.reorder or random() >= faults.reorder)
        if faults.duplicate and random() < faults.duplicate:
            self._fly(channel, message, in_order=False)
        if faults.ghost and random() < faults.ghost:
            late = self.ends.now + self.rng.randrange(50, 3000) * MILLISECOND
            self.ends.at(late, self._deliver_stray, message, channel.dst)

    def _fly(self, channel: Channel, message: Message, in_order: bool) -> None:
        arrival = self.ends.now + self._delay()
        if in_order:
            arrival = channel.last = max(arrival, channel.last)
        channel.flying += 1
        self.ends.at(arrival, self._arrive, channel, channel.link.epoch, message)

    def _delay(self) -> Nanoseconds:
        return self.faults.delay_ns + int(self.faults.jitter_ns * self.rng.expovariate(1.0))

    def _arrive(self, channel: Channel, epoch: int, message: Message) -> None:
        link = channel.link
        channel.flying -= 1
        if not link.up or link.epoch != epoch:
            return
        if (channel.src, channel.dst) in link.cut:
            link.held.append((channel, message))
            return
        self.ends.deliver(message, channel.dst)

    def _deliver_stray(self, message: Message, to: SiteId) -> None:
        if self.faults.ghost or self.faults.echo:
            self.ends.deliver(message, to)

    # Connections.

    def connect(self, a: SiteId, b: SiteId) -> None:
        """Make the connection between two sites, if both live and can reach each other."""
        link = self.links[(a, b)]
        if link.up or link.cut or not (self.ends.alive(a) and self.ends.alive(b)):
            return
        link.up = True
        link.epoch += 1
        self._tell(link, a, b, connected=True)
        self._tell(link, b, a, connected=True)

    def reset(self, a: SiteId, b: SiteId) -> None:
        """Break the connection between two living sites: what is in flight is lost, both are told."""
        link = self.links[(a, b)]
        if link.up and not link.cut:
            self.sever(a, b)
            self._redial(link, a, b)

    def sever(self, a: SiteId, b: SiteId) -> None:
        """Break a connection for as long as nobody dials."""
        link = self.links[(a, b)]
        self._break(link, a, b)
        self._tell(link, b, a, connected=False)

    def started(self, site: SiteId) -> None:
        """A process started: it dials everybody."""
        for peer in self.sites:
            if peer != site:
                self._redial(self.links[(site, peer)], site, peer)

    def died(self, site: SiteId) -> None:
        """A process died: its connections break, and whoever is not cut off notices."""
        for peer in self.sites:
            if peer == site:
                continue
            link = self.links[(site, peer)]
            link.owed = [owed for owed in link.owed if owed[0] != site]
            if link.up:
                self._break(link, peer, site)

    def cut(self, src: SiteId, dst: SiteId) -> None:
        """Let nothing through from `src` to `dst` any more; nobody is told."""
        self.links[(src, dst)].cut.add((src, dst))

    def heal(self, a: SiteId, b: SiteId) -> None:
        """End the cuts between two sites. What was held arrives late, or the connection turns out dead."""
        link = self.links[(a, b)]
        if not link.cut:
            return
        link.cut.clear()
        held, link.held = link.held, []
        for whom, of in link.owed:
            self._tell(link, whom, of, connected=False)
        link.owed = []
        if link.up and self.rng.random() < 0.5:
            self.reset(a, b)
        elif link.up:
            for channel, message in held:
                self._fly(channel, message, in_order=True)
        else:
            self._redial(link, a, b)

    def heal_all(self) -> None:
        for (a, b), link in self.links.items():
            if a < b and link.cut:
                self.heal(a, b)

    def pairs(self) -> Iterator[tuple[SiteId, SiteId]]:
        """Yield every two sites once."""
        return ((a, b) for a, b in self.links if a < b)

    def _break(self, link: Link, end: SiteId, gone: SiteId) -> None:
        link.up = False
        link.held.clear()
        if link.cut:
            link.owed.append((end, gone))
        else:
            self._tell(link, end, gone, connected=False)

    def _tell(self, link: Link, site: SiteId, peer: SiteId, connected: bool) -> None:
        delay = self.rng.randrange(1 * MILLISECOND, 3 * MILLISECOND)
        link.told = max(link.told, self.ends.now + delay)
        self.ends.at(link.told, self.ends.tell, site, peer, connected)

    def _redial(self, link: Link, a: SiteId, b: SiteId) -> None:
        when = max(link.told, self.ends.now + self.rng.randrange(1 * MILLISECOND, 20 * MILLISECOND))
        self.ends.at(when, self.connect, a, b)

    def _wire(self, site: SiteId) -> None:
        for peer in self.sites:
            if peer != site and (site, peer) not in self.links:
                link = Link()
                self.links[(site, peer)] = self.links[(peer, site)] = link
                for src, dst in ((site, peer), (peer, site)):
                    for path in Path:
                        self.channels[(src, dst, path)] = Channel(link, src, dst, path)
