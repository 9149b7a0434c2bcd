"""A simulated computer and the site on it: an inbox, a clock, a disk, and the turns of the engine.

This is the engine's twin: it feeds one `Replica`, performs its effects in the order of their
obligations, and holds back whatever must not leave before the disk has it (*persist before you speak*).
A turn is a generator that yields how long each write to the disk takes; a crash simply drops it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.sim.disk import Disk
from zrep.errors import NotMasterError
from zrep.events import Event
from zrep.ids import Gen, Incarnation, Lsn, Nanoseconds, SiteId
from zrep.messages import Message
from zrep.options import Options
from zrep.ports import Meta
from zrep.records import Record
from zrep.replica.replica import Replica, Role

if TYPE_CHECKING:
    from tests.sim.world import World

INBOX_TURN = 16
"""At most so many messages in one turn."""
APPLY_BYTES = 1 << 20


@dataclass(slots=True)
class Clock:
    """A site's monotonic clock: its own origin, and its own idea of a second."""

    offset_ns: Nanoseconds = 0
    ppm: int = 0

    def read(self, now: Nanoseconds) -> Nanoseconds:
        return self.offset_ns + now + now * self.ppm // 1_000_000

    def when(self, local: Nanoseconds) -> Nanoseconds:
        """Return the first instant at which this clock shows at least `local`."""
        now = (local - self.offset_ns) * 1_000_000 // (1_000_000 + self.ppm)
        while self.read(now) < local:
            now += 1
        return now


class Submitted(NamedTuple):
    """A record that a writer waits for."""

    lsn: Lsn
    gen: Gen
    payload: bytes


class Host:
    """One computer. `replica` is None while no process runs."""

    def __init__(
        self, world: "World", meta: Meta, records: tuple[Record, ...], options: Options, priority: int
    ) -> None:
        self.world = world
        self.site: SiteId = meta.site
        self.options = options
        self.priority = priority
        self.clock = Clock()
        self.disk = Disk(self, meta, records, world.stream(f"disk:{meta.site}"))
        self.replica: Replica | None = None
        self.paused = False
        self.lazy_ns: Nanoseconds = 0
        """How long the engine may take to wake up; messages gather meanwhile."""
        self.lag = 0.0
        """How often a turn leaves applying to a later one."""
        self.trims = False
        """Whether records that nobody needs are let go of."""
        self.inbox: deque[tuple[str, Any]] = deque()
        self.waiting: deque[Submitted] = deque()
        """Writers, in the order of their LSNs."""
        self.readers: dict[int, Lsn] = {}
        """Readers that wait for their read-index round, and what was acknowledged when they asked."""
        self.incarnation: Incarnation = 0
        self.run = 0
        """Counts processes: what was scheduled for an earlier one is void."""
        self._rng: Random = world.stream(f"host:{meta.site}")
        self._turn: Iterator[Nanoseconds] | None = None
        self._wake: Nanoseconds | None = None
        self._stalled = False

    def __lt__(self, other: "Host") -> bool:
        return self.site < other.site

    @property
    def now(self) -> Nanoseconds:
        return self.clock.read(self.world.now)

    @property
    def reigns(self) -> bool:
        """Whether a site runs here that believes to be master."""
        return self.replica is not None and self.replica.role is Role.MASTER

    @property
    def process(self) -> Replica:
        """The running site."""
        assert self.replica is not None
        return self.replica

    # The process's life.

    def boot(self, begin: Callable[[Replica, Nanoseconds], object] = Replica.start) -> None:
        """Start the process: a new incarnation on what the disk holds; `begin` is its first call."""
        meta = self.disk.saved
        meta = meta._replace(boots=meta.boots + 1)
        self.disk.save(meta)
        self.run += 1
        self.incarnation = meta.boots << 32 | self._rng.getrandbits(32)
        self.replica = Replica(
            meta=meta,
            incarnation=self.incarnation,
            log=self.disk.log,
            applied=self.disk.store.applied,
            options=self.options,
            rng=self.world.stream(f"core:{self.site}:{self.run}"),
            now=self.now,
            priority=self.priority,
            endpoints=(f"sim://{self.site}",),
            publish=(f"sim://{self.site}/publish",),
        )
        self.world.checkers.booted(self)
        self.world.network.started(self.site)
        self.put("begin", begin)

    def kill(self) -> None:
        """End the process as kill -9, or a power cut, does."""
        self.replica = None
        self.run += 1
        self.paused = self._stalled = False
        self._turn = self._wake = None
        self.inbox.clear()
        self.waiting.clear()
        self.readers.clear()
        self.disk.crash()
        self.world.checkers.killed(self)
        self.world.network.died(self.site)

    def pause(self) -> None:
        """Stop the process as SIGSTOP does: the inbox fills, timers are late, a flush goes on."""
        self.paused = True

    def resume(self) -> None:
        """Go on where the process, or a write to its disk, was stopped."""
        self.paused = False
        if self._stalled:
            self._stalled = False
            self._go_on(self.run)
        else:
            self._start_turn()

    # The inbox.

    def put(self, kind: str, value: Any) -> None:
        """Put something into the inbox of a running process and see to it that a turn comes."""
        self.inbox.append((kind, value))
        if self._turn is None and not self.paused:
            if self.lazy_ns and len(self.inbox) == 1:
                self.world.after(self._rng.randrange(self.lazy_ns), self._wake_up, self.run)
            elif not self.lazy_ns:
                self._start_turn()

    def _wake_up(self, run: int) -> None:
        if run == self.run:
            self._start_turn()

    def _start_turn(self) -> None:
        if self._turn is None and not self.paused and self.replica is not None:
            self._turn = self._take_turn(self.replica)
            self._go_on(self.run)

    def _go_on(self, run: int) -> None:
        """Carry the turn on to its next disk write, or to its end."""
        if run != self.run or self._turn is None:
            return
        if self.paused:
            self._stalled = True
            return
        write = next(self._turn, None)
        if write is not None:
            if self.disk.held:
                self._stalled = True
            else:
                self.world.after(write, self._go_on, run)
            return
        self._turn = None
        self.world.checkers.turned(self)
        if self.inbox:
            self.world.after(0, self._wake_up, run)
        self._arm()

    def _arm(self) -> None:
        """See to it that a turn comes when the next timer is due."""
        due = self.process.deadline
        if due is None:
            return
        when = max(self.clock.when(due), self.world.now + 1)
        if self._wake is None or when < self._wake:
            self._wake = when
            self.world.at(when, self._timer, self.run, when)

    def _timer(self, run: int, when: Nanoseconds) -> None:
        if run == self.run and when == self._wake:
            self._wake = None
            self._start_turn()

    # One turn of the engine.

    def _take_turn(self, replica: Replica) -> Iterator[Nanoseconds]:
        log, disk = self.disk.log, self.disk
        replica.state.wall_ms = self.now // 1_000_000
        for _ in range(min(len(self.inbox), INBOX_TURN)):
            kind, value = self.inbox.popleft()
            self._feed(replica, kind, value)
        due = replica.deadline
        if due is not None and due <= self.now:
            replica.tick(self.now, not self.inbox)
        sends: list[Message] = []
        events: list[Event] = []
        while True:
            effects = replica.take()
            sends += effects.sends
            events += effects.events
            if effects.meta is not None:
                disk.writing = effects.meta
                yield disk.speed.draw(disk.rng)
                disk.save(effects.meta)
                self.world.checkers.saved(self)
            self._send(effects.early)
            if log.dirty:
                yield disk.speed.draw(disk.rng)
                log.flush()
                self.world.checkers.flushed(self)
                replica.persisted(self.now)
            elif effects.meta is None:
                break
        self._send(sends)
        self._apply(replica)
        self._answer(replica)
        for event in events:
            self.world.happened(self, event)

    def _feed(self, replica: Replica, kind: str, value: Any) -> None:
        now = self.now
        if kind == "message":
            replica.receive(now, value)
        elif kind == "connected":
            replica.connected(now, value)
        elif kind == "disconnected":
            replica.disconnected(now, value)
        elif kind == "submit":
            self._submit(replica, value)
        elif kind == "read":
            if replica.read_index(now, value):
                self.readers[value] = self.world.checkers.acknowledged_end
        else:
            value(replica, now)

    def _submit(self, replica: Replica, payload: bytes) -> None:
        try:
            position = replica.submit(self.now, payload)
        except NotMasterError:
            return
        self.waiting.append(Submitted(position.lsn, position.gen, payload))

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            self.world.send(self, message)

    def _apply(self, replica: Replica) -> None:
        """Bring the store up to perm, unless this turn is to lag behind."""
        store = self.disk.store
        applied = store.applied.tip.lsn
        if applied == replica.perm or (self.lag and self._rng.random() < self.lag):
            return
        store.apply(self.disk.log.read(applied + 1, replica.perm, APPLY_BYTES))
        replica.set_applied(store.applied.tip.lsn)
        self.world.checkers.applied(self)
        if self.trims:
            self.disk.log.trim(min(replica.keep, store.covered))

    def _answer(self, replica: Replica) -> None:
        """Tell the writers whose record is permanent, and the readers up to where to read."""
        waiting = self.waiting
        while waiting and waiting[0].lsn <= replica.perm:
            done = waiting.popleft()
            record = self.disk.record(done.lsn)
            if record is not None and record.gen == done.gen:
                self.world.checkers.acknowledged(self, done)
        for number, lsn in replica.reads_confirmed():
            self.world.checkers.read(self, self.readers.pop(number), lsn)

    # What the log reports.

    def appended(self, record: Record) -> None:
        self.world.checkers.appended(self, record)

    def cutting(self, lsn: Lsn) -> None:
        self.world.checkers.cutting(self, lsn)
