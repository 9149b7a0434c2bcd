"""Who is connected: HELLO, the peers and seeds we dial, and what makes us give one up.

    A                                            B
    dials B: HELLO(not seen) ------------------> learns where A is, dials back, hears A's XPUB
    hears B's XPUB <--------- HELLO(not seen)
    sees B subscribe: HELLO(seen) -------------> sees A subscribe: connected
    connected <------------------ HELLO(seen)

A HELLO that asks for an answer carries REREQUEST; an answer does not, so no exchange feeds itself. We
dial the members of our configuration, seeds, who answers at a seed, and a few strangers who said HELLO:
a joiner must be answered, but what a stranger says must not make us connect to the whole world.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import zmq

from zrep import codec
from zrep.bus.arrivals import Arrival, Connected, ConnectFailed, Disconnected, DuplicateSite
from zrep.bus.broadcast import Publisher, Subscriber
from zrep.bus.peer import RENEW, Addresses, Dial, Link, Lookup, Peer, Routes, Seed
from zrep.bus.readers import Readers
from zrep.bus.sockets import NoDescriptorError, Sockets
from zrep.endpoints import Endpoint, parse
from zrep.errors import OptionError
from zrep.ids import GroupId, Incarnation, Nanoseconds, SiteId
from zrep.messages import Flag, Hello, Message, Type
from zrep.options import MILLISECOND
from zrep.records import Member

PROBE = 1000 * MILLISECOND
"""A connected site that said nothing for so long is asked for a HELLO."""
SILENCE = 4 * PROBE
"""After so long it is not connected any more: what a stopped process or a cut cable look like."""
DOUBT = 200 * MILLISECOND
"""So long may a connected site say that it does not hear us, before it is not connected."""
STRANGERS = 8
"""Most sites that we dial back although nobody told us to."""
STRANGER_TIME = 30_000 * MILLISECOND
ENDPOINTS = 8
"""Most addresses of one site."""
LINGERING = 1000 * MILLISECOND
"""What an older run of a site sent may still arrive for so long; later, two are alive (R1)."""


class Acquaintance:
    """The peers of one site, and the HELLOs by which they become connected."""

    def __init__(
        self,
        *,
        site: SiteId,
        incarnation: Incarnation,
        group: GroupId,
        hello: Hello,
        sockets: Sockets,
        publisher: Publisher,
        subscriber: Subscriber,
        readers: Readers,
        rng: random.Random,
        lookup: Lookup,
        tell: Callable[[Arrival], None],
        read_seed: Callable[[Seed, int], bool],
        counters: Counter[str],
    ) -> None:
        self.group = group
        self.now: Nanoseconds = time.monotonic_ns()
        """The engine's clock at its last call."""
        self._ticked = self.now
        self._due: Nanoseconds | None = None
        """No dial is due before."""
        self._site = site
        self._incarnation = incarnation
        self._hello = hello
        self._routes = Routes(site, incarnation)
        self._sockets = sockets
        self._publisher = publisher
        self._subscriber = subscriber
        self._readers = readers
        self._rng = rng
        self._lookup = lookup
        self._tell = tell
        self._read_seed = read_seed
        self._counters = counters
        self._peers: dict[SiteId, Peer] = {}
        self._seeds: list[Seed] = []

    def peer(self, site: SiteId) -> Peer | None:
        return self._peers.get(site)

    def connected(self) -> frozenset[SiteId]:
        return frozenset(site for site, peer in self._peers.items() if peer.connected)

    # Whom to know.

    def seed(self, uri: str) -> None:
        """Dial an address whose site is not known yet. Raises OptionError for what is no address."""
        endpoint = parse(uri)
        if str(endpoint) not in self._hello.endpoints and all(seed.endpoint != endpoint for seed in self._seeds):
            seed = Seed(self._at((endpoint,)))
            self._seeds.append(seed)
            self._open(seed)

    def members(self, members: Iterable[Member]) -> None:
        """Dial the members of the configuration in force; once it lists ourselves, drop everybody else.

        It may list a member at an older address than the one that its HELLO told: only what it changes is followed.
        """
        listed = {member.site: member for member in members}
        joined = listed.pop(self._site, None) is not None
        for site, member in listed.items():
            endpoints = _usable(member.endpoints)
            peer = self._peers.get(site) or self._add(site, endpoints)
            if peer is None:
                continue
            if peer.listed_at != endpoints:
                self._follow_move(peer, endpoints)
            peer.listed, peer.listed_at = True, endpoints
        if joined:
            # A seed where nobody has answered yet may still turn out to be of another group.
            for seed in [seed for seed in self._seeds if seed.site is not None]:
                self._close(seed)
                self._seeds.remove(seed)
            for peer in [peer for peer in self._peers.values() if peer.site not in listed]:
                if peer.listed or peer.seeded:
                    self._drop(peer, "it is not a member any more")

    def _at(self, endpoints: Sequence[Endpoint]) -> Addresses:
        return Addresses(endpoints, self._lookup)

    def _add(self, site: SiteId, endpoints: Sequence[Endpoint]) -> Peer | None:
        if not endpoints:
            return None
        peer = Peer(site, self._at(endpoints), self.now)
        self._peers[site] = peer
        self._open(peer)
        return peer

    def _drop(self, peer: Peer, reason: str) -> None:
        self._lose(peer, reason)
        self._close(peer)
        self._subscriber.disconnect(peer.site)
        del self._peers[peer.site]

    # HELLO.

    def greet(self, dial: Dial, flags: int = Flag.NONE) -> None:
        """Say HELLO to somebody."""
        site = dial.site if isinstance(dial, Peer) else None
        sent = dial.send(codec.encode(self.hello_to(site, flags)))
        if isinstance(dial, Seed) and dial.link is not None:
            self._readers.doubt(dial.link.control)
        if sent:
            dial.greeted = True
            if isinstance(dial, Peer):
                self._settle(dial)

    def hello_to(self, site: SiteId | None, flags: int = Flag.NONE) -> Message:
        peer = self._peers.get(site) if site is not None else None
        sees = peer is not None and self._publisher.hears_us(peer.site, peer.incarnation)
        hello = self._hello._replace(sees_you=sees)
        return Message(Type.HELLO, self.group, self._site, self._incarnation, site, 0, 0, flags, hello)

    def greet_all(self) -> None:
        """Tell everybody what has changed of us."""
        for peer in self._peers.values():
            self.greet(peer)

    def on_hello(self, message: Message, hello: Hello, seed: Seed | None = None) -> None:
        """Learn who a site is and where; `seed` is the one through which it answered."""
        self._counters["hellos"] += 1
        peer = self._peers.get(message.sender) or self._meet(message.sender, hello, seed)
        if peer is None:
            self._counters["refused"] += 1
            return
        if seed is not None:
            self._close(seed)
            seed.site, seed.due = peer.site, self.now + RENEW
            peer.seeded = True
        if not self.is_current(peer, message.incarnation):
            return
        self._follow_move(peer, _usable(hello.endpoints))
        if not self.group:
            self._subscriber.follow(message.group)  # it may soon be ours: then no broadcast shall be missed
        publish = _usable(hello.publish)
        if publish and peer.publish.endpoints != publish:
            peer.publish = self._at(publish)
            self._hear(peer)
        if peer.connected and not hello.sees_you:
            self._doubt(peer)
            return
        peer.hello, peer.doubted_at = hello, None
        if message.flags & Flag.REREQUEST:
            self.greet(peer)
        self._settle(peer)

    def on_stray_hello(self, message: Message, hello: Hello) -> None:
        """Learn where a peer is from the HELLO by which it looks for another site here.

        Where all sites took one another's addresses, nobody dials anybody else's right one.
        """
        peer = self._peers.get(message.sender)
        if peer is not None and self.is_current(peer, message.incarnation):
            self._follow_move(peer, _usable(hello.endpoints))

    def _doubt(self, peer: Peer) -> None:
        """A connected site says that it does not hear us: most likely it saw our replaced SUB go, and not yet the new.

        It is asked again, and lost when it says so for long.
        """
        if peer.doubted_at is None:
            peer.doubted_at = self.now
            peer.hurry(self.now)
            self._expect(peer)
        elif self.now - peer.doubted_at >= DOUBT:
            self._lose(peer, "it does not hear us any more")

    def _hear(self, peer: Peer) -> None:
        """Connect our SUB to a site, or connect it anew, at the next address of its XPUB."""
        address = peer.publish.next()
        if address is not None:
            self._subscriber.connect(peer.site, str(address))

    def _follow_move(self, peer: Peer, endpoints: tuple[Endpoint, ...]) -> None:
        """Dial a site where it is said to be, if that is not where we thought; a connected one once it is lost.

        That a connection stands means nothing as long as no HELLO was exchanged: where a site was another may
        be now, or we ourselves.
        """
        if endpoints and not set(endpoints) <= set(peer.addresses.endpoints):
            peer.addresses = self._at(endpoints)
            if not peer.connected:
                self._open(peer)

    def _meet(self, site: SiteId, hello: Hello, seed: Seed | None) -> Peer | None:
        """Dial back a site that is not in our configuration, if it is one of the few that we may."""
        endpoints = _usable(hello.endpoints)
        if seed is not None:
            endpoints = (seed.endpoint, *endpoints)
        elif sum(peer.is_stranger for peer in self._peers.values()) >= STRANGERS:
            return None
        return self._add(site, endpoints)

    def is_current(self, peer: Peer, incarnation: Incarnation) -> bool:
        """Tell whether a message is of the newest run of its sender, and begin anew with one newer still (R1)."""
        if incarnation == peer.incarnation:
            peer.heard_at = self.now
            return True
        older = incarnation < peer.incarnation
        if not older or (not peer.connected and self.now - peer.run_since > LINGERING):
            self._begin_run(peer, incarnation)  # an older one, and alone: the home was put back as it once was
            return True
        self._counters["stale"] += 1
        if self.now - peer.run_since > LINGERING and not peer.reported:
            peer.reported = True
            self._tell(DuplicateSite(peer.site))
        return False

    def _begin_run(self, peer: Peer, incarnation: Incarnation) -> None:
        """Replace the sockets to a site that was restarted: ZeroMQ would try for up to RECONNECT_IVL_MAX."""
        self._lose(peer, "it was restarted")
        restarted = peer.incarnation != 0
        peer.incarnation = incarnation
        peer.run_since = peer.heard_at = self.now
        peer.publish = Addresses()
        peer.reported = False
        if restarted or (peer.link is not None and not peer.link.up):
            self._open(peer)

    def on_listener(self, site: SiteId) -> None:
        """A site's subscription to our broadcasts came or went."""
        peer = self._peers.get(site)
        if peer is None:
            return
        if not self._publisher.hears_us(site, peer.incarnation):
            self._lose(peer, "its subscription ended")
        self.greet(peer)

    def _settle(self, peer: Peer) -> None:
        """Decide whether a site is connected, from what both sides said and saw."""
        both = peer.hello.sees_you and self._publisher.hears_us(peer.site, peer.incarnation)
        if both and peer.greeted and not peer.connected:
            peer.connected, peer.doubted_at = True, None
            peer.told.clear()
            peer.due = self.now + PROBE
            self._tell(Connected(peer.site, peer.hello))

    def _lose(self, peer: Peer, reason: str) -> None:
        peer.hello = peer.hello._replace(sees_you=False)
        peer.hurry(self.now)
        self._expect(peer)
        if peer.connected:
            peer.connected = False
            self._tell(Disconnected(peer.site, reason))

    # Connections and their time.

    def tick(self, now: Nanoseconds) -> None:
        """Repeat HELLOs, and give up connections on which nobody answers. Call with the sockets drained."""
        if now - self._ticked > SILENCE // 2:  # it was we who stood still: what peers said meanwhile is yet unread
            for peer in self._peers.values():
                peer.heard_at = now
        self.now = self._ticked = now
        if self._due is None or now < self._due:
            return
        for dial in (*self._peers.values(), *self._seeds):
            if now >= dial.due:
                self._attend(dial)
        self._due = min((dial.due for dial in (*self._peers.values(), *self._seeds)), default=None)

    def deadline(self) -> Nanoseconds | None:
        """Return when `tick` wants to run next."""
        return self._due

    def _expect(self, dial: Dial) -> None:
        if self._due is None or dial.due < self._due:
            self._due = dial.due

    def _attend(self, dial: Dial) -> None:
        if isinstance(dial, Peer) and dial.connected:
            self._watch_over(dial)
        elif isinstance(dial, Peer) and dial.is_stranger and self.now - dial.since >= STRANGER_TIME:
            self._drop(dial, "nobody told us of it")
        elif isinstance(dial, Seed) and dial.site in self.connected():
            dial.due = self.now + RENEW
        else:
            self._call(dial)

    def _watch_over(self, peer: Peer) -> None:
        """See that a connected site still answers."""
        silent = self.now - peer.heard_at
        if silent >= SILENCE:
            self._lose(peer, f"it was silent for {SILENCE // MILLISECOND} ms")
            self._open(peer)
        elif peer.doubted_at is not None:
            self.greet(peer, Flag.REREQUEST)
            peer.back_off(self.now)
        else:
            if silent >= PROBE:
                self.greet(peer, Flag.REREQUEST)
            peer.due = max(peer.heard_at, self.now) + PROBE

    def _call(self, dial: Dial) -> None:
        """Say HELLO to somebody who is not connected, if need be by a new connection to another address."""
        renewed = False
        if self.now >= dial.renew_at or dial.link is None:
            self._open(dial)
            renewed = dial.link is not None
        if isinstance(dial, Peer) and (renewed or not self._subscriber.hears(dial.site)):
            self._hear(dial)
        self.greet(dial, Flag.REREQUEST)
        dial.back_off(self.now)

    def _open(self, dial: Dial) -> None:
        """Connect, or connect anew, to the next address."""
        self._close(dial)
        dial.opened(self._connect(dial), self.now, self._rng)
        self._expect(dial)

    def _connect(self, dial: Dial) -> Link | None:
        """Begin to connect; None when no address is known yet, or no descriptor is left."""
        endpoint, routes = dial.addresses.next(), self._routes
        if endpoint is None:
            return None
        try:
            if isinstance(dial, Seed):
                link = Link(self._sockets, endpoint, routes.seed())
                self._readers.add(link.control, partial(self._read_seed, dial))
            else:
                link = Link(self._sockets, endpoint, routes.control(), routes.bulk())
        except NoDescriptorError as error:
            self._report(dial, str(error))
            return None
        self._readers.add(link.monitor.socket, partial(self._read_events, dial))
        return link

    def _report(self, dial: Dial, reason: str) -> None:
        """Tell why somebody is not reached: each reason once, until they are."""
        if reason not in dial.told:
            dial.told.add(reason)
            self._tell(ConnectFailed(str(dial.addresses.endpoints[0]), reason))

    def _close(self, dial: Dial) -> None:
        link, dial.link = dial.link, None
        if link is not None:
            self._readers.remove(link.monitor.socket)
            if isinstance(dial, Seed):
                self._readers.remove(link.control)
            link.close()

    def _read_events(self, dial: Dial, limit: int) -> bool:
        """Follow a connection's monitor."""
        link = dial.link
        for event in link.events() if link is not None else ():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.greet(dial, Flag.REREQUEST)
            elif event == zmq.EVENT_DISCONNECTED:
                dial.greeted = False
                if isinstance(dial, Peer):
                    self._lose(dial, "its connection broke")
            elif not dial.addresses.exhausted:
                self._open(dial)
            elif not dial.greeted:
                refused = event != zmq.EVENT_CONNECT_RETRIED
                reason = "what listens there is not a zrep site, or refuses us" if refused else "nobody answers there"
                self._report(dial, reason)
            if dial.link is not link:
                break
        return True

    def places(self) -> list[Endpoint]:
        """Return what we are connected to."""
        links = [dial.link for dial in (*self._peers.values(), *self._seeds) if dial.link is not None]
        return [link.endpoint for link in links] + [parse(uri) for uri in self._subscriber.uris]

    def close(self) -> None:
        for dial in (*self._peers.values(), *self._seeds):
            self._close(dial)
        self._peers.clear()
        self._seeds.clear()


def _usable(uris: Sequence[str]) -> tuple[Endpoint, ...]:
    """Return the endpoints among what a peer says of itself."""
    found = []
    for uri in uris[:ENDPOINTS]:
        with contextlib.suppress(OptionError):
            found.append(parse(uri))
    return tuple(found)
