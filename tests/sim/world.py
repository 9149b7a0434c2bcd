"""One simulated world: an agenda in virtual time, hosts, a network, checkers.

Everything that happens is an action on the agenda, ordered by (time, order of planning); every draw comes
from a stream of its own, so a draw added in one place shifts no other. A world does nothing by itself:
the swarm plans trouble for it, a scenario drives it by hand.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any

from tests.sim.checkers import Checkers
from tests.sim.host import Host
from tests.sim.network import Network
from tests.sim.trace import Trace
from tests.sim.truth import Violation
from zrep import codec
from zrep.codec import Malformed
from zrep.events import Event
from zrep.ids import GroupId, Nanoseconds, SiteId
from zrep.messages import Message
from zrep.options import MILLISECOND, Options
from zrep.ports import Meta
from zrep.records import Config, Kind, Member, Record, Tip, make_record
from zrep.replica.replica import Replica, found

GROUP = GroupId("simulated")


class World:
    """Virtual time and everything in it. `now` is nobody's clock."""

    def __init__(self, seed: object, check_codec: bool = False, kept: int | None = 300) -> None:
        self.seed = seed
        self.now: Nanoseconds = 0
        self.hosts: dict[SiteId, Host] = {}
        self.trace = Trace(kept)
        self.checkers = Checkers()
        self.network = self._make_network()
        self.steps = 0
        self._check_codec = check_codec
        self._agenda: list[tuple[Nanoseconds, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    def _make_network(self) -> Network:
        return Network(self, (), self.stream("net"))

    def stream(self, name: str) -> Random:
        """Return the random numbers of one purpose."""
        return Random(f"{self.seed}/{name}")

    def add(self, meta: Meta, records: tuple[Record, ...], options: Options, priority: int = 100) -> Host:
        """Put up a computer whose disk holds `meta` and `records`."""
        host = Host(self, meta, records, options, priority)
        self.hosts[meta.site] = host
        self.network.add(meta.site)
        self.checkers.add(host)
        return host

    def add_group(self, sites: Sequence[SiteId], options: Options, priorities: Sequence[int] = ()) -> list[Host]:
        """Put up a formed group: the first site's reign record and the configuration are permanent everywhere."""
        priorities = tuple(priorities) or (100,) * len(sites)
        records = founding_records(sites, priorities)
        meta = Meta(site=sites[0], group=GROUP, promise=1, vote=sites[0])
        return [
            self.add(meta._replace(site=site), records, options, priority)
            for site, priority in zip(sites, priorities, strict=True)
        ]

    def add_founder(self, site: SiteId, options: Options) -> Host:
        """Put up a computer whose site has just founded a group."""
        host = self.add(Meta(site), (), options)
        log = host.disk.log
        host.disk.save(found(log, host.disk.saved, GROUP, options, wall_ms=0, endpoints=(f"sim://{site}",)))
        log.flush()
        return host

    @property
    def masters(self) -> list[Host]:
        """The hosts whose site believes to be master."""
        return [host for host in self.hosts.values() if host.reigns]

    # Time.

    def at(self, when: Nanoseconds, action: Callable[..., None], *args: Any) -> None:
        """Have `action(*args)` called at `when`."""
        self._planned += 1
        heappush(self._agenda, (when, self._planned, action, args))

    def after(self, delay: Nanoseconds, action: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay, action, *args)

    def step(self) -> None:
        """Let the next planned thing happen."""
        self.now, _, action, args = heappop(self._agenda)
        self.steps += 1
        action(*args)

    def run_until(self, when: Nanoseconds, most: int = 1 << 60) -> None:
        """Let everything happen that is planned up to `when`, at most `most` things."""
        last = self.steps + most
        while self._agenda and self._agenda[0][0] <= when and self.steps < last:
            self.step()
        if not self._agenda or self._agenda[0][0] > when:
            self.now = max(self.now, when)

    # What hosts and network ask of the world.

    def alive(self, site: SiteId) -> bool:
        return self.hosts[site].replica is not None

    def send(self, host: Host, message: Message) -> None:
        """Take a message from its sender, past the checkers, to the network."""
        self.checkers.leaves(host, message)
        if self._check_codec:
            message = through_codec(message)
        self.network.send(message)

    def deliver(self, message: Message, to: SiteId) -> None:
        host = self.hosts[to]
        if host.replica is not None:
            self.trace.note(self.now, to, "received", message)
            self.checkers.arrives(host, message)
            host.put("message", message)

    def tell(self, site: SiteId, peer: SiteId, connected: bool) -> None:
        host = self.hosts[site]
        if host.replica is not None:
            what = "connected" if connected else "disconnected"
            self.trace.note(self.now, site, what, peer)
            host.put(what, peer)

    def happened(self, host: Host, event: Event) -> None:
        """Take note of an event that a site tells its application."""
        self.trace.note(self.now, host.site, "event", event)
        self.checkers.happened(host, event)

    # Faults.

    def kill(self, site: SiteId) -> None:
        self.trace.note(self.now, site, "killed")
        self.hosts[site].kill()

    def boot(self, site: SiteId, begin: Callable[[Replica, Nanoseconds], object] = Replica.start) -> None:
        if self.hosts[site].replica is None:
            self.trace.note(self.now, site, "started")
            self.hosts[site].boot(begin)

    def pause(self, site: SiteId, duration: Nanoseconds) -> None:
        host = self.hosts[site]
        if host.replica is not None and not host.paused:
            self.trace.note(self.now, site, "paused", f"{duration // MILLISECOND} ms")
            host.pause()
            self.after(duration, self.resume, site, host.run)

    def resume(self, site: SiteId, run: int) -> None:
        host = self.hosts[site]
        if host.run == run and host.paused:
            self.trace.note(self.now, site, "resumed")
            host.resume()


def join(replica: Replica, now: Nanoseconds) -> None:
    """Start, and ask to be admitted."""
    replica.start(now)
    replica.join(now)


def founding_records(sites: Sequence[SiteId], priorities: Sequence[int]) -> tuple[Record, ...]:
    """Return the log of a group that has just been formed."""
    reign = make_record(Tip(), 1, 0, Kind.REIGN, codec.encode_reign(sites[0]))
    members = tuple(
        Member(site, priority=priority, endpoints=(f"sim://{site}",), publish=(f"sim://{site}/publish",))
        for site, priority in zip(sites, priorities, strict=True)
    )
    tip = Tip(reign.gen, reign.lsn, reign.chain)
    return reign, make_record(tip, 1, 0, Kind.CONFIG, codec.encode_config(Config(members)))


def through_codec(message: Message) -> Message:
    """Return what a receiver decodes from the message's frames: the same message."""
    decoded = codec.decode(codec.encode(message))
    if isinstance(decoded, Malformed):
        raise Violation(f"a message that nobody can decode: {decoded.reason}: {message}")
    if decoded != message:
        raise Violation(f"decoded differently: {message} became {decoded}")
    return decoded
