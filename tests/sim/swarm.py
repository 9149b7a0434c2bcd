"""A seed: random options, random faults aimed at roles, writers; then healing, and life demanded (I21).

*Swarm*: each seed switches each kind of fault on with probability one half, so that some seeds see one
kind alone and in excess. The first phase demands safety only. Then everything heals, a random majority
at least comes back, and the group must elect, catch up and make a new write permanent in bounded time.
"""

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.sim.disk import Speed
from tests.sim.host import Host
from tests.sim.network import Faults
from tests.sim.recovery import Recovery
from tests.sim.truth import Violation
from tests.sim.world import World, join
from zrep.errors import ZrepError
from zrep.ids import Nanoseconds, SiteId, majority
from zrep.options import KIB, MILLISECOND, Options
from zrep.ports import Meta
from zrep.replica.replica import Replica

KINDS = (
    "crash",
    "partition",
    "reset",
    "pause",
    "loss",
    "duplicate",
    "reorder",
    "ghost",
    "echo",
    "slow disk",
    "slow network",
    "small queue",
    "clocks",
    "lazy engine",
    "lagging store",
    "priorities",
    "trimming",
    "founding",
    "wiped disk",
)
"""The kinds of fault, each on or off for a whole seed."""

NEWCOMERS = {"founding", "wiped disk"}
"""With these, sites join that have nothing; a group must keep its whole log for them."""

SHAPES = ("majority", "isolate", "deaf", "mute", "bridge", "single link", "ring", "chain", "flapping")
"""The shapes of a partition. A deaf site hears nobody, a mute one is heard by nobody."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    steps: int
    simulated_ns: Nanoseconds
    digest: str
    counts: Counter[str]


class Failed(Exception):
    """A seed broke a promise. The message has the line that repeats it and the tail of the trace."""


def run_seed(seed: int, nsites: int | None = None, events: int = 2000, check_codec: bool | None = None) -> Outcome:
    """Run one seed. Raises Failed, with the trace, when a promise is broken."""
    swarm = Swarm(seed, nsites, seed % 10 == 0 if check_codec is None else check_codec)
    gc.disable()
    try:
        swarm.run(events)
    except (Violation, ZrepError, AssertionError, LookupError, TypeError, ValueError, AttributeError) as error:
        again = f"python -m tests.sim {seed} --events {events}" + (f" --sites {nsites}" if nsites else "")
        lines = [f"seed {seed}: {type(error).__name__}: {error}", f"repeat it with: {again} --trace"]
        raise Failed("\n".join(lines + swarm.world.trace.tail())) from error
    finally:
        gc.enable()
    world = swarm.world
    return Outcome(seed, world.steps, world.now, world.trace.digest, world.checkers.counts)


class Swarm:
    """The world of one seed, and who troubles it."""

    def __init__(self, seed: int, nsites: int | None, check_codec: bool) -> None:
        self.world = World(seed, check_codec)
        self._plan = self.world.stream("plan")
        self._nemesis = self.world.stream("nemesis")
        self._load = self.world.stream("load")
        self._written = 0
        self._asked = 0
        self._troubled = True
        draw = self._plan.random
        self.kinds = {kind for kind in KINDS if draw() < 0.5}
        self.options = self._draw_options()
        if draw() < 0.7:
            self.kinds -= {"founding", "wiped disk"}
        sites = [SiteId(name) for name in "abcdefg"[: nsites or self._plan.choice((2, 3, 3, 3, 4, 5))]]
        priorities = [self._plan.choice((0, 50, 100, 100)) for _ in sites] if "priorities" in self.kinds else []
        if priorities and sum(priority > 0 for priority in priorities) < 2:
            priorities[:2] = [100, 100]
        if "founding" in self.kinds or len(sites) < 3:
            self.kinds.discard("wiped disk")  # more than a minority would be gone
        if "founding" in self.kinds:
            self.hosts = [self.world.add_founder(sites[0], self.options)]
            self.hosts += [self.world.add(Meta(site), (), self.options) for site in sites[1:]]
        else:
            self.hosts = self.world.add_group(sites, self.options, priorities)

    def run(self, events: int) -> None:
        """Trouble the group for `events` events, then heal it and demand life."""
        world = self.world
        for host in self.hosts:
            self._trouble(host)
            self.boot(host.site)
        world.network.faults = self._draw_faults()
        world.after(0, self._write)
        world.after(0, self._read)
        world.after(self._pause(), self._strike)
        if "wiped disk" in self.kinds:
            world.after(5 * self._pause(), self._wipe)
        world.run_until(1 << 62, events)
        self._troubled = False
        Recovery(self).demand()
        world.checkers.sweep()

    @property
    def newcomers(self) -> bool:
        """Whether sites join that have nothing."""
        return bool(self.kinds & NEWCOMERS)

    # What differs from seed to seed.

    def _draw_options(self) -> Options:
        choice = self._plan.choice
        heartbeat = choice((10, 20, 40))
        election = heartbeat * choice((4, 6, 10))
        return Options(
            heartbeat_ms=heartbeat,
            election_timeout_ms=election,
            quorum_timeout_ms=choice((election, 2 * election)),
            full_election_timeout_ms=choice((0, 0, 0, election)),
            request_min_ms=choice((2, 5, 20)),
            request_max_ms=choice((20, 80, 320)),
            bulk_bytes=choice((4 * KIB, 1024 * KIB)),
            limit_bytes=choice((4 * KIB, 8 * KIB, 10240 * KIB)),
        )

    def _draw_faults(self) -> Faults:
        kinds, draw = self.kinds, self._plan.random
        faults = Faults()
        if "slow network" in kinds:
            faults.delay_ns = self._plan.choice((2, 5, 10)) * MILLISECOND
            faults.jitter_ns = self._plan.choice((1, 5, 20)) * MILLISECOND
        faults.loss = 0.1 * draw() if "loss" in kinds else 0.0
        faults.duplicate = 0.1 * draw() if "duplicate" in kinds else 0.0
        faults.reorder = 0.2 * draw() if "reorder" in kinds else 0.0
        faults.ghost = 0.05 * draw() if "ghost" in kinds else 0.0
        faults.echo = 0.05 * draw() if "echo" in kinds else 0.0
        faults.capacity = self._plan.choice((2, 4, 8)) if "small queue" in kinds else 1000
        return faults

    def _trouble(self, host: Host) -> None:
        draw = self._plan.random
        if "slow disk" in self.kinds and draw() < 0.4:
            host.disk.speed = Speed(self._plan.choice((2, 10, 50)) * MILLISECOND, 5 * MILLISECOND)
        if "clocks" in self.kinds:
            host.clock.offset_ns = self._plan.randrange(10**15)
            host.clock.ppm = self._plan.choice((-50_000, -1000, 0, 1000, 50_000))
        if "lazy engine" in self.kinds:
            host.lazy_ns = self._plan.choice((1, 3)) * MILLISECOND
        if "lagging store" in self.kinds:
            host.lag = 0.5
        host.trims = "trimming" in self.kinds and not self.newcomers

    def boot(self, site: SiteId) -> None:
        """Start a site; one that is no voter yet asks to become one, one without a disk never comes back."""
        if all(host.site != site for host in self.hosts):
            return
        self.world.boot(site, join if site not in self.world.checkers.voters(site) else Replica.start)

    # Writers and readers.

    def _write(self) -> None:
        """Hand a unique payload to whoever believes to be master, sometimes to two of them."""
        for host in self.world.masters:
            if self._load.random() < 0.9:
                self._written += 1
                size = 1500 if self._load.random() < 0.05 else 0
                host.put("submit", b"w%d" % self._written + bytes(size))
        if self._troubled:
            self.world.after(self._load.randrange(1, 20) * MILLISECOND, self._write)

    def _read(self) -> None:
        """Ask every master for an authoritative read."""
        for host in self.world.masters:
            self._asked += 1
            host.put("read", self._asked)
        if self._troubled:
            self.world.after(self._load.randrange(1, 60) * MILLISECOND, self._read)

    def write_once(self, site: SiteId) -> bytes:
        """Submit one payload and return it."""
        self._written += 1
        payload = b"w%d" % self._written
        self.world.hosts[site].put("submit", payload)
        return payload

    # The nemesis.

    def _pause(self) -> Nanoseconds:
        return self._nemesis.randrange(5, 40 + 2 * self.options.election_timeout_ms) * MILLISECOND

    def _strike(self) -> None:
        """Do something bad, if this seed has anything bad to do, and plan the next."""
        if not self._troubled:
            return
        blows: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "partition": self._part,
            "reset": self._reset,
            "pause": self._stop,
        }
        chosen = [kind for kind in blows if kind in self.kinds]
        if chosen:
            blows[self._nemesis.choice(chosen)]()
        self.world.after(self._pause(), self._strike)

    def _victim(self) -> Host:
        """Aim at a role half of the time: a master, a candidate, the most up-to-date client."""
        rng, hosts = self._nemesis, self.hosts
        if rng.random() < 0.5:
            return rng.choice(hosts)
        aim = rng.choice(("master", "candidate", "best client"))
        running = [host for host in hosts if host.replica is not None]
        masters = [host for host in running if host.reigns]
        clients = [host for host in running if not host.reigns]
        if aim == "master" and masters:
            return rng.choice(masters)
        if aim == "candidate" and clients:
            return max(clients, key=lambda host: (host.disk.saved.promise, host.site))
        if clients:
            return max(clients, key=lambda host: (host.disk.log.tip.position, host.site))
        return rng.choice(hosts)

    def _crash(self) -> None:
        victim = self._victim()
        if victim.replica is None:
            return
        self.world.kill(victim.site)
        self.world.after(self._outage(), self.boot, victim.site)

    def _wipe(self) -> None:
        """One site loses its disk: it is gone for ever, and a new site stands in for it (R4)."""
        if not self._troubled:
            return
        victim = self._victim()
        self.world.trace.note(self.world.now, victim.site, "lost its disk")
        if victim.replica is not None:
            self.world.kill(victim.site)
        meta = Meta(SiteId(victim.site.upper()), replaces=victim.site)
        host = self.world.add(meta, (), self.options, victim.priority)
        self._trouble(host)
        self.hosts[self.hosts.index(victim)] = host
        self.world.after(self._outage(), self.boot, host.site)

    def _outage(self) -> Nanoseconds:
        longest = self._nemesis.choice((20, self.options.election_timeout_ms, 4 * self.options.election_timeout_ms))
        return self._nemesis.randrange(5, longest) * MILLISECOND

    def _stop(self) -> None:
        self.world.pause(self._victim().site, self._outage())

    def _reset(self) -> None:
        victim = self._victim().site
        peer = self._nemesis.choice([host.site for host in self.hosts if host.site != victim])
        self.world.trace.note(self.world.now, victim, "connection reset to", peer)
        self.world.network.reset(victim, peer)

    def _part(self) -> None:
        rng = self._nemesis
        shape = rng.choice(SHAPES)
        cuts = shape_cuts(shape, [host.site for host in self.hosts], self._victim().site, rng)
        self._cut(shape, cuts)
        self.world.after(self._outage(), self._heal, cuts, rng.randrange(1, 5) if shape == "flapping" else 0)

    def _cut(self, shape: str, cuts: list[tuple[SiteId, SiteId]]) -> None:
        if not self._troubled:
            return
        told = " ".join(f"{src}>{dst}" for src, dst in cuts)
        self.world.trace.note(self.world.now, SiteId("net"), f"cut ({shape})", told)
        for src, dst in cuts:
            self.world.network.cut(src, dst)

    def _heal(self, cuts: list[tuple[SiteId, SiteId]], again: int) -> None:
        if not self._troubled:
            return
        self.world.trace.note(self.world.now, SiteId("net"), "healed")
        for src, dst in cuts:
            self.world.network.heal(src, dst)
        if again:
            flap = self._nemesis.randrange(10, 100) * MILLISECOND
            self.world.after(flap, self._cut, "flapping", cuts)
            self.world.after(2 * flap, self._heal, cuts, again - 1)


def shape_cuts(shape: str, sites: list[SiteId], victim: SiteId, rng: Random) -> list[tuple[SiteId, SiteId]]:
    """Return the directed cuts that make a partition of that shape around `victim`."""
    others = [site for site in sites if site != victim]
    rng.shuffle(others)
    order = [victim, *others]
    size = len(sites)

    def apart(some: list[SiteId], rest: list[SiteId]) -> list[tuple[SiteId, SiteId]]:
        return [cut for a in some for b in rest for cut in ((a, b), (b, a))]

    def keep(kept: list[tuple[SiteId, SiteId]]) -> list[tuple[SiteId, SiteId]]:
        return [(a, b) for a in sites for b in sites if a != b and (a, b) not in kept and (b, a) not in kept]

    if shape == "majority":
        minority = order[: size - majority(size)]
        return apart(minority, order[len(minority) :])
    if shape == "deaf":
        return [(other, victim) for other in others]
    if shape == "mute":
        return [(victim, other) for other in others]
    if shape == "bridge":
        half = (size - 1) // 2
        return apart(others[:half], others[half:])
    if shape == "single link":
        return apart([victim], others[:1])
    if shape == "ring":
        return keep([(order[i], order[(i + 1) % size]) for i in range(size)])
    if shape == "chain":
        return keep([(order[i], order[i + 1]) for i in range(size - 1)])
    return apart([victim], others)
