"""Broadcasts: the XPUB we speak on and who hears it, the SUB we hear on and whom.

Two topics. `B<group>\\0` carries the messages, control directly behind it in the first frame: half of
the cost of a small message is per frame. `S<site>\\0<incarnation>` carries nothing: a subscription to it
tells an XPUB *which* site listens, in which of its runs, and its end that nobody does any more. That is
how a site sees another die a millisecond after it did.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import zmq

from zrep.bus.sockets import Socket, receive, send
from zrep.ids import GroupId, Incarnation, SiteId

LISTENERS = 1024
"""Most listeners that are counted: what an XPUB receives may come from any stranger."""


def group_topic(group: GroupId) -> bytes:
    return b"B%b\0" % group.encode()


def listener_topic(site: SiteId, incarnation: Incarnation) -> bytes:
    return b"S%b\0%b" % (site.encode(), incarnation.to_bytes(8))


class Publisher:
    """Our XPUB, and the count of those who listen.

    Counted, because a half-open connection shows as subscribe, subscribe, unsubscribe.
    """

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self._listening: dict[bytes, int] = {}

    def publish(self, topic: bytes, frames: Sequence[bytes]) -> bool:
        """Broadcast to who follows `topic`. A subscriber at its high-water mark misses it and will notice the gap."""
        return send(self.socket, (topic + frames[0], *frames[1:]))

    def hears_us(self, site: SiteId, incarnation: Incarnation) -> bool:
        """Tell whether that run of a site is subscribed here: no broadcast to it is missed any more."""
        return listener_topic(site, incarnation) in self._listening

    def changes(self, limit: int) -> Iterator[SiteId | None]:
        """Read up to `limit` subscriptions: yield the site that came or went, None for what is no news."""
        for frame, *_ in receive(self.socket, limit):
            yield self._count(frame)

    def _count(self, frame: bytes) -> SiteId | None:
        came, topic = frame[:1] == b"\1", frame[1:]
        if topic[:1] != b"S":
            return None
        before = self._listening.get(topic, 0)
        after = before + 1 if came else max(before - 1, 0)
        if not before and len(self._listening) >= LISTENERS:
            return None
        if after:
            self._listening[topic] = after
        else:
            self._listening.pop(topic, None)
        if bool(before) == bool(after):
            return None
        name, _, _ = topic[1:].partition(b"\0")
        return SiteId(name.decode("ascii", "replace"))


class Subscriber:
    """Our SUB: connected to every known peer's XPUB, subscribed to the group and to ourselves."""

    def __init__(
        self, socket: Socket, site: SiteId, incarnation: Incarnation, touched: Callable[[Socket], None]
    ) -> None:
        """`touched` is called whenever something else than reading was done with the socket."""
        self.socket = socket
        self.topic = b""
        self._uris: dict[SiteId, str] = {}
        self._touched = touched
        socket.subscribe(listener_topic(site, incarnation))

    def follow(self, group: GroupId) -> None:
        """Hear the broadcasts of that group and of no other."""
        topic = group_topic(group)
        if topic != self.topic:
            self.socket.subscribe(topic)
            if self.topic:
                self.socket.unsubscribe(self.topic)
            self.topic = topic
            self._touched(self.socket)

    def hears(self, site: SiteId) -> bool:
        """Tell whether we are connected, or connecting, to a site's XPUB."""
        return site in self._uris

    @property
    def uris(self) -> tuple[str, ...]:
        return tuple(self._uris.values())

    def connect(self, site: SiteId, uri: str) -> None:
        """Hear a site at that address, by a new connection."""
        self.disconnect(site)
        self.socket.connect(uri)
        self._uris[site] = uri
        self._touched(self.socket)

    def disconnect(self, site: SiteId) -> None:
        """Hear a site no more. One that took over its address is still heard."""
        uri = self._uris.pop(site, None)
        if uri is not None and uri not in self._uris.values():
            with contextlib.suppress(zmq.ZMQError):  # over inproc a peer that closed has ended it already
                self.socket.disconnect(uri)
            self._touched(self.socket)
