"""The second phase of a seed: faults end, a majority at least returns, and life is demanded of it (I21, I22).

A group that recovers elects one master, catches up, and makes a new write permanent, all in bounded time;
and then falls quiet.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.disk import Speed
from tests.sim.host import Host
from tests.sim.network import Faults
from tests.sim.truth import violated
from zrep.ids import Gen, Nanoseconds, SiteId, majority
from zrep.messages import Type
from zrep.options import MILLISECOND

if TYPE_CHECKING:
    from tests.sim.swarm import Swarm

RESIDUE = 100 * MILLISECOND
"""What a slow network still held arrives; only then is the network healthy, and the clock starts."""

LATE = 500 * MILLISECOND
"""After that long nothing of the troubled time is on its way any more."""


class Recovery:
    """Who comes back, and what is demanded of them."""

    def __init__(self, swarm: "Swarm") -> None:
        self._swarm = swarm
        self._world = swarm.world
        self._timeout = swarm.options.election_timeout_ms * MILLISECOND
        rng = swarm.world.stream("recovery")
        fewest = len(swarm.hosts) if swarm.newcomers else majority(len(swarm.hosts))
        back = rng.randrange(fewest, len(swarm.hosts) + 1)
        order = rng.sample(swarm.hosts, len(swarm.hosts))
        electable = next(index for index, host in enumerate(order) if host.priority > 0)
        order.insert(0, order.pop(electable))
        self._back = order[:back]
        self._gone = order[back:]
        self._star = rng.random() < 0.2 and not swarm.newcomers
        """Only the links of the first site come back: it alone hears a majority, and must win."""
        self._healed: Nanoseconds = 0
        self._written = b""
        self._at: tuple[SiteId, Gen] | None = None

    def demand(self) -> None:
        """Heal, then demand one master within 5 election timeouts, and all equal within 10 (I21).

        A cold boot may wait for all. In a star, a master at the rim must first notice that it has lost its
        quorum (R12); and in a star of three it stays, so that the other end learns by asking.
        """
        self._heal()
        patience = 10 if self._star or self._swarm.options.full_election_timeout_ms else 5
        self._within(patience * self._timeout, f"I21: one master within {patience} timeouts", self._one_master)
        asking = 2 * self._swarm.options.request_max_ms * MILLISECOND if self._star else 0
        self._within(5 * self._timeout + asking, "I21: a new write permanent, all equal", self._write_is_everywhere)
        if not self._star:
            self._quiet()

    def _heal(self) -> None:
        world = self._world
        world.trace.note(world.now, SiteId("net"), "all healed; back are", ",".join(host.site for host in self._back))
        world.network.faults = Faults()
        self._healed = world.now
        for host in self._gone:
            if host.replica is not None:
                world.kill(host.site)
        world.run_until(world.now + 5 * MILLISECOND)
        world.network.heal_all()
        if self._star:
            self._cut_rim()
        for host in self._back:
            host.disk.speed = Speed()
            host.lazy_ns = 0
            host.lag = 0.0
            self._swarm.boot(host.site)
            world.resume(host.site, host.run)
        world.run_until(world.now + RESIDUE)

    def _cut_rim(self) -> None:
        network = self._world.network
        rim = [host.site for host in self._back[1:]]
        for a, b in [(a, b) for a in rim for b in rim if a < b]:
            network.reset(a, b)
            network.cut(a, b)
            network.cut(b, a)

    def _one_master(self) -> bool:
        """Whether one site reigns and all follow it; in a star, some through the site in the middle."""
        masters = self._world.masters
        if len(masters) != 1:
            return False
        return self._star or all(host.process.master == masters[0].site for host in self._back)

    def _write_is_everywhere(self) -> bool:
        """Write at the master, and again at the next one if that one is deposed; tell whether all have it."""
        truth = self._world.checkers.truth
        if self._written not in truth.lsn_by_payload:
            masters = [(host.site, host.process.gen) for host in self._world.masters]
            if masters and self._at not in masters:
                self._at = masters[-1]
                self._written = self._swarm.write_once(self._at[0])
            return False
        stores = (host.disk.store.applied.tip.lsn for host in self._back if not self._is_stranded(host))
        return all(lsn == truth.end for lsn in stores)

    def _is_stranded(self, host: Host) -> bool:
        """Whether a site at the end of a star of three promised more than the reign it hears of.

        It takes nothing of a lower gen (R7), and to depose that master it would have to reach it.
        """
        gens = [master.process.gen for master in self._world.masters]
        return self._star and host.disk.saved.promise > max(gens, default=0)

    def _quiet(self) -> None:
        """I22: an idle group exchanges heartbeats and their answers, and nothing else."""
        world = self._world
        world.run_until(max(world.now + 2 * self._timeout, self._healed + LATE))
        before = Counter(world.checkers.counts)
        world.run_until(world.now + 2 * self._timeout)
        grown = world.checkers.counts - before
        beats = 2 * self._timeout // (self._swarm.options.heartbeat_ms * MILLISECOND) + 2
        for kind in Type:
            if grown[kind.name] > beats and kind not in (Type.MASTER_REQ, Type.HELLO):
                violated("I22: no exchange without progress", type=kind.name, messages=grown[kind.name], beats=beats)

    def _within(self, duration: Nanoseconds, promise: str, reached: Callable[[], bool]) -> None:
        world = self._world
        last = world.now + duration
        while not reached():
            if world.now >= last:
                sites = {host.site: self._status(host) for host in self._back}
                violated(promise, waited_ms=duration // MILLISECOND, **sites)
            world.run_until(min(last, world.now + MILLISECOND))

    def _status(self, host: Host) -> str:
        if host.replica is None:
            return "down"
        replica = host.replica
        return (
            f"{replica.role.value} of {replica.master} gen={replica.gen} promise={replica.promise}"
            f" end={host.disk.log.tip.position} perm={replica.perm} applied={host.disk.store.applied.tip.lsn}"
        )
