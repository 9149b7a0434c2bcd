"""The ZeroMQ bus: one site's sockets, what is for it, and by which socket what it says goes.

    ROUTER bind  <- 2 DEALERs of every peer, and foreign programs     XPUB bind  <- every peer's SUB
    2 DEALERs    -> every peer's ROUTER                               SUB        -> every peer's XPUB

Everything received is hostile until the codec has passed it; then it must be addressed to us, of our
group, from a site we know, and of that site's newest run. What it means is the replica's business, and
who is connected is `acquaintance`'s.
"""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import zmq

from zrep import codec
from zrep.bus import forks
from zrep.bus.acquaintance import Acquaintance
from zrep.bus.arrivals import Arrival, ClientRequest, ConnectFailed, DuplicateSite
from zrep.bus.broadcast import Publisher, Subscriber
from zrep.bus.listen import listen
from zrep.bus.peer import Seed
from zrep.bus.readers import Readers
from zrep.bus.resolver import Resolver
from zrep.bus.sockets import LARGE, Socket, SocketHook, Sockets, receive, require_descriptors, send
from zrep.bus.wake import Wake
from zrep.endpoints import Endpoint
from zrep.ids import NO_GROUP, GroupId, Incarnation, Nanoseconds, SiteId
from zrep.messages import Hello, JoinReply, Message, Status, Type
from zrep.records import Member

GROUPLESS = frozenset({Type.HELLO, Type.NEWCLIENT, Type.MASTER_REQ, Type.JOIN, Type.JOIN_REPLY})
"""What may pass between a home that is in no group yet and one that is."""
ROUNDS = 8
"""How often a turn goes on reading what is not for us before the engine gets on with its work."""
REPORTS = 64
"""Most foreign groups, and doubles of ourselves, that are told of; more are only counted."""


class Bus:
    """One site's connections. Everything but `wake` belongs to the engine thread.

    `now` is a monotonic clock in nanoseconds. Nothing here ever waits for a peer: what cannot be sent is
    counted and lost, and the protocol asks again.
    """

    def __init__(
        self,
        *,
        bind: Sequence[str],
        local: str | None = None,
        publish: str | None = None,
        advertise: Sequence[str] | None = None,
        site: SiteId,
        incarnation: Incarnation,
        group: GroupId = NO_GROUP,
        insecure: bool = False,
        rng: random.Random,
        context: "zmq.Context[Socket] | None" = None,
        socket_hook: SocketHook | None = None,
        software: str = "",
    ) -> None:
        """Bind. `local` is an address for programs of this host, `advertise` where peers reach `bind`.

        Raises OptionError, in a sentence, for an endpoint that is wrong, taken or open to strangers, and when
        this process may not open enough files.
        """
        require_descriptors()
        self.counters: Counter[str] = Counter()
        self._site = site
        self._incarnation = incarnation
        self._context = zmq.Context() if context is None else context
        self._owns_context = context is None
        self._sockets = Sockets(self._context, socket_hook)
        self._wake = Wake()
        try:
            listening = listen(
                self._sockets, bind, local=local, publish=publish, advertise=advertise, insecure=insecure
            )
            self._router, _, self.endpoints, self.publish = listening
            self._publisher = Publisher(listening.publisher)
            self._resolver = Resolver(self._wake.set)
            self._readers = Readers(self._wake)
            self._subscriber = Subscriber(self._sockets.subscriber(), site, incarnation, self._readers.doubt)
            self._news: list[Arrival] = []
            self._reported: set[str] = set()
            self._pause = False
            self._known = Acquaintance(
                site=site,
                incarnation=incarnation,
                group=group,
                hello=Hello(self.endpoints, self.publish, False, software),
                sockets=self._sockets,
                publisher=self._publisher,
                subscriber=self._subscriber,
                readers=self._readers,
                rng=rng,
                lookup=self._resolver.lookup,
                tell=self._tell,
                read_seed=self._read_seed,
                counters=self.counters,
            )
            self.tick = self._known.tick
            """Repeats HELLOs and gives up dead connections. Call when the sockets are drained."""
            self.deadline = self._known.deadline
            """Tells when `tick` wants to run; None: never."""
            self._subscriber.follow(group)
            self._readers.add(self._publisher.socket, self._read_listeners)
            self._readers.add(self._subscriber.socket, self._read_broadcasts)
            self._readers.add(self._router, self._read_router)
        except BaseException:
            self._sockets.close()
            self._wake.close()
            if self._owns_context:
                self._context.destroy(linger=0)  # sockets that nobody has noted would make `term` wait for ever
            raise
        forks.watch(self)

    @property
    def group(self) -> GroupId:
        """The group we are in; set it when this site founds or joins one."""
        return self._known.group

    @group.setter
    def group(self, group: GroupId) -> None:
        if group != self._known.group:
            self._known.group = group
            self._subscriber.follow(group)
            self._known.greet_all()

    def seed(self, endpoint: str) -> None:
        """Connect to an address whose site is not known yet. Raises OptionError for what is no address."""
        self._known.seed(endpoint)

    def members(self, members: Iterable[Member]) -> None:
        """Connect to the members of the configuration in force, and drop who is none any more."""
        self._known.members(members)

    def connected(self) -> frozenset[SiteId]:
        """The sites with which HELLO was exchanged both ways, and that hear our broadcasts."""
        return self._known.connected()

    def wake(self) -> None:
        """Make `poll` return. Any thread; cheap, and costs nothing when one is on its way."""
        self._wake.set()

    def poll(self, timeout_ms: int | None) -> None:
        """Wait until something can be received, `wake` was called, or the time is over."""
        self._readers.wait(0 if self._news else timeout_ms)

    def receive(self, now: Nanoseconds, limit: int) -> list[Arrival]:
        """Return what has arrived, at most `limit` messages of each socket; nothing when all are drained.

        Reads what the last `poll` found; call again, without polling, until it returns nothing.
        """
        self._known.now = now
        self._pause = False
        for _ in range(ROUNDS):
            if self._news or not self._readers.ready:
                break
            self._readers.read(limit)
        news, self._news = self._news, []
        return news

    def send(self, message: Message) -> bool:
        """Send to one site, or broadcast with `to=None`. False when it could not leave now.

        Raises ProtocolError for a message larger than any receiver takes.
        """
        frames = codec.encode(message)
        if message.to is None:
            sent = self._publisher.publish(self._subscriber.topic, frames)
            self._readers.doubt(self._publisher.socket)
        else:
            peer = self._known.peer(message.to)
            bulk = message.type is Type.LOG or (len(frames) > 1 and len(frames[1]) >= LARGE)
            sent = peer is not None and peer.send(frames, bulk=bulk)
        self.counters["sent" if sent else "not_sent"] += 1
        return sent

    def reply(self, route: bytes, reply: codec.Reply) -> None:
        """Answer a foreign program; one that is gone or does not read loses the answer."""
        sent = self._send_back(route, codec.encode_reply(reply))
        self.counters["replies" if sent else "replies_lost"] += 1

    def _send_back(self, route: bytes, frames: Sequence[bytes]) -> bool:
        """Answer by the connection that something came by."""
        self._readers.doubt(self._router)
        return send(self._router, (route, *frames))

    def close(self) -> None:
        """Close every socket. Waits up to a second for replies to foreign programs to leave."""
        self._known.close()
        self._sockets.close()
        self._resolver.close()
        self._wake.close()
        self._end_context()

    def places(self) -> tuple[Collection[Endpoint], Collection[Endpoint]]:
        """Return where our sockets are bound and what they are connected to, for a forked child to close."""
        return self._sockets.bound, self._known.places()

    def _end_context(self) -> None:
        if self._owns_context:
            self._context.term()

    def _tell(self, arrival: Arrival) -> None:
        self._news.append(arrival)

    # Reading: each reader returns True when its socket is empty.

    def _read_listeners(self, limit: int) -> bool:
        seen = 0
        for site in self._publisher.changes(limit):
            seen += 1
            if site is not None:
                self._known.on_listener(site)
        return seen < limit

    def _read_broadcasts(self, limit: int) -> bool:
        seen = 0
        for frames in receive(self._subscriber.socket, limit):
            seen += 1
            topic = self._subscriber.topic
            if frames[0].startswith(topic):
                frames[0] = frames[0][len(topic) :]
            self._on_frames(frames)
        return seen < limit

    def _read_router(self, limit: int) -> bool:
        limit = 0 if self._pause else limit
        seen = 0
        for route, *frames in receive(self._router, limit):
            seen += 1
            if frames and frames[0] == codec.FOREIGN:
                self._on_request(route, frames)
            else:
                self._on_frames(frames, route)
            if self._pause:
                return False
        return seen < limit

    def _read_seed(self, seed: Seed, limit: int) -> bool:
        """Read who answers at a seed: a HELLO, by the connection that we made."""
        frames = next(receive(seed.link.control, 1), None) if seed.link is not None else None
        if frames is None:
            return True
        self._on_frames(frames, seed=seed)
        return seed.link is None

    def _on_request(self, route: bytes, frames: Sequence[bytes]) -> None:
        request = codec.decode_request(frames)
        if isinstance(request, codec.Malformed):
            self.counters["malformed"] += 1
            self.reply(route, codec.Reply(0, Status.REFUSED, request.reason))
        else:
            self.counters["requests"] += 1
            self._news.append(ClientRequest(route, request))

    def _on_frames(self, frames: Sequence[bytes], route: bytes | None = None, seed: Seed | None = None) -> None:
        """Pass a message on if it is one, and for us; HELLO is the bus's own."""
        message = codec.decode(frames)
        if isinstance(message, codec.Malformed):
            self.counters["malformed"] += 1
            return
        if message.sender == self._site:
            self._on_own(message.incarnation)
        elif message.to is not None and message.to != self._site:
            self.counters["misaddressed"] += 1
            if message.type is Type.HELLO and message.group == self._known.group:
                self._known.on_stray_hello(message, message.fields)
        elif message.group != self._known.group and not self._may_pass(message):
            self._on_foreign(message, route, seed)
        elif message.type is Type.HELLO:
            self._known.on_hello(message, message.fields, seed)
            self._answer(message, route)
        else:
            self._on_message(message)

    def _on_message(self, message: Message) -> None:
        peer = self._known.peer(message.sender)
        if peer is None:
            self.counters["stranger"] += 1
        elif self._known.is_current(peer, message.incarnation):
            self.counters["received"] += 1
            self._news.append(message)
            # Who is admitted takes the group's id; what follows at once is of that group, so it waits.
            self._pause = not self._known.group and isinstance(message.fields, JoinReply)

    def _may_pass(self, message: Message) -> bool:
        return message.type in GROUPLESS and NO_GROUP in (message.group, self.group)

    def _answer(self, message: Message, route: bytes | None) -> None:
        """Tell one who dialled an address, not a site, who is here: by the same connection."""
        if message.type is Type.HELLO and message.to is None and route is not None:
            hello = self._known.hello_to(message.sender)
            self._send_back(route, codec.encode(hello))

    def _on_own(self, incarnation: Incarnation) -> None:
        """Our own broadcast came back, or somebody else speaks with our site id (R1)."""
        self.counters["own"] += 1
        if incarnation != self._incarnation and self._is_news(f"own {incarnation}"):
            self._news.append(DuplicateSite(self._site))

    def _on_foreign(self, message: Message, route: bytes | None, seed: Seed | None) -> None:
        """A site of another group; a home belongs to one group for good."""
        self.counters["foreign"] += 1
        self._answer(message, route)
        if message.type is Type.HELLO and self._is_news(message.group):
            where = str(seed.endpoint) if seed is not None else ", ".join(message.fields.endpoints)
            reason = (
                f"it belongs to group {message.group or 'none'} and this home to {self.group or 'none'}: "
                "connect to sites of one group, or join with a new home"
            )
            self._news.append(ConnectFailed(where[:200], reason, refused=seed is not None))

    def _is_news(self, what: str) -> bool:
        """Tell whether to report it: once, and not more than a stranger may make us remember."""
        new = what not in self._reported and len(self._reported) < REPORTS
        self._reported.add(what) if new else None
        return new
