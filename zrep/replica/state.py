"""What a site knows of itself: promise, gen, role, log, configuration, permanence; and the one exit.

The parts of the machine (`election`, `following`, `reign`, `membership`) share one `State`. It alone
changes the durable facts, and it alone makes messages; it decides nothing.
"""

from typing import TYPE_CHECKING, Any

from zrep import codec
from zrep.errors import invariant
from zrep.events import Event, SiteAdded, SiteRemoved, TailCut
from zrep.ids import Egen, Gen, Lsn, Nanoseconds, Position, SiteId
from zrep.messages import TYPE_OF, Flag, Message
from zrep.options import MILLISECOND, Options
from zrep.ports import Applied, Log, Meta, records_from
from zrep.records import Config, History, Kind, Record, Reign, make_record
from zrep.replica.clock import LogClock
from zrep.replica.effects import EARLY, Effects
from zrep.replica.rules import Role, check_leaving
from zrep.replica.timers import Timers

if TYPE_CHECKING:
    from random import Random

NOBODY = SiteId("")


class State:
    """The facts of one incarnation of one site."""

    def __init__(
        self,
        *,
        meta: Meta,
        incarnation: int,
        log: Log,
        applied: Applied,
        options: Options,
        rng: "Random",
        now: Nanoseconds,
        priority: int,
        endpoints: tuple[str, ...],
        publish: tuple[str, ...],
    ) -> None:
        self.meta = meta
        self.site = meta.site
        self.incarnation = incarnation
        self.log = log
        self.options = options
        self.rng = rng
        self.now = now
        self.wall_ms = 0
        """The wall clock, in ms since 1970, set by the driver with each turn; only the log's clock follows it."""
        self.priority = priority
        self.endpoints = endpoints
        self.publish = publish

        self.role = Role.CLIENT
        self.gen: Gen = 0
        """The gen of the master that we follow, or are; 0 before the first."""
        self.master: SiteId | None = None
        """The master of `gen`."""
        self.hears_master = False
        """Whether the master speaks to us, over unbroken sockets, within the election timeout (R11)."""
        self.synced = False
        """As a client: whether our log was found to be a prefix of the master's of `gen`."""
        self.established = False
        """Whether a master was seen since boot (flag GROUP_ESTD)."""
        self.muted = meta.doubtful
        """This site's word does not count: it lost trust, or speaks twice (R1, R4). No vote, no ack."""
        self.up: dict[SiteId, None] = {}
        """The connected sites, in the order they connected."""
        end = log.tip.lsn
        invariant(applied.tip.lsn <= end, "I9: perm is within the log", perm=applied.tip.lsn, end=end)
        self.perm: Lsn = applied.tip.lsn
        self.applied: Lsn = applied.tip.lsn
        self.history = History(applied.history.reigns)
        self._configs: list[tuple[Lsn, Config]] = [(0, applied.config)]
        self.config = applied.config
        """The configuration in force: the newest in the log (R20)."""
        self.clock = LogClock(now)
        self.timers = Timers()
        self.effects = Effects()
        self._replay_log()

    @property
    def position(self) -> Position:
        """The last record's position: what this site's log is worth in an election (R9)."""
        return self.log.tip.position

    @property
    def match(self) -> Lsn:
        """As a client: everything up to here is durable and verified against the master of `gen` (R15)."""
        return min(self.log.durable, self.log.tip.lsn) if self.synced else 0

    @property
    def config_lsn(self) -> Lsn:
        """Where the configuration in force was appended; 0 if it came with the store."""
        return self._configs[-1][0]

    @property
    def previous_config(self) -> Config | None:
        """What would be in force again if the newest configuration were cut."""
        return self._configs[-2][1] if len(self._configs) > 1 else None

    def ms(self, milliseconds: int) -> Nanoseconds:
        """Return the point in time that many milliseconds from now."""
        return self.now + milliseconds * MILLISECOND

    # The durable facts.

    def promise(self, egen: Egen, vote: SiteId = NOBODY) -> None:
        """Promise `egen`, with a vote or without; durable before anything that depends on it leaves (R2)."""
        before = self.meta
        invariant(egen >= before.promise, "I6: the promise never goes back", egen=egen, promise=before.promise)
        invariant(
            egen > before.promise or vote in (NOBODY, before.vote),
            "I2: one vote per egen",
            egen=egen,
            vote=vote,
            before=before.vote,
        )
        if egen > before.promise or vote:
            self.set_meta(before._replace(promise=egen, vote=vote))

    def set_meta(self, meta: Meta) -> None:
        self.meta = meta
        self.effects.meta, self.effects.any = meta, True

    def append_own(self, kind: Kind, payload: bytes) -> Record:
        """Append a record of this master's own gen."""
        invariant(self.role is Role.MASTER, "only a master makes records", role=self.role)
        record = make_record(self.log.tip, self.gen, self.clock.read(self.now, self.wall_ms), kind, payload)
        self.append(record)
        return record

    def append(self, record: Record) -> None:
        """Append a record that follows the tip, and take in what it says of reigns and members."""
        self.log.append(record)
        self.clock.hear(record.time_ms, self.now)
        self._take_in(record)

    def cut(self, lsn: Lsn) -> None:
        """Cut every record above `lsn` (R18)."""
        last = self.log.tip.lsn
        if lsn >= last:
            return
        invariant(lsn >= self.perm, "I8: no cut at or below perm", lsn=lsn, perm=self.perm)
        self.log.cut(lsn)
        self.history.cut(lsn)
        before = self.config
        while len(self._configs) > 1 and self._configs[-1][0] > lsn:
            self._configs.pop()
        self.config = self._configs[-1][1]
        self._tell_members(before, self.config)
        self.notify(TailCut(lsn + 1, last))

    def raise_perm(self, lsn: Lsn) -> bool:
        """Raise perm to `lsn` if that is higher; what was permanent stays permanent (R17)."""
        if lsn <= self.perm:
            return False
        invariant(lsn <= self.log.tip.lsn, "I9: perm is within the log", perm=lsn, end=self.log.tip.lsn)
        self.perm = lsn
        while len(self._configs) > 1 and self._configs[1][0] <= lsn:
            del self._configs[0]
        return True

    def _take_in(self, record: Record) -> None:
        if record.kind is Kind.REIGN:
            self.history.begin(Reign(record.gen, codec.decode_reign(record.payload), record.lsn))
        elif record.kind is Kind.CONFIG:
            before, self.config = self.config, codec.decode_config(record.payload)
            self._configs.append((record.lsn, self.config))
            self._tell_members(before, self.config)

    def _tell_members(self, before: Config, after: Config) -> None:
        was = {member.site: member.role for member in before.members}
        for member in after.members:
            if was.pop(member.site, None) != member.role:
                self.notify(SiteAdded(member.site, member.role.name.lower()))
        for site in was:
            self.notify(SiteRemoved(site))

    def _replay_log(self) -> None:
        """Take in the last record's time, and the reigns and configurations that the store does not cover."""
        for record in self.log.read(self.log.tip.lsn, self.log.tip.lsn, 0):
            self.clock.hear(record.time_ms, self.now)
        for record in records_from(self.log, self.perm + 1):
            self._take_in(record)
        self.effects = Effects()

    # The one exit.

    def send(
        self,
        to: SiteId | None,
        fields: Any,
        *,
        gen: Gen | None = None,
        lsn: Lsn = 0,
        flags: int = 0,
        records: tuple[Record, ...] = (),
        data: bytes = b"",
    ) -> None:
        """Send a message to one site, or broadcast it with `to=None`; its type decides when it leaves."""
        kind = TYPE_OF[type(fields)]
        if self.established:
            flags |= Flag.GROUP_ESTD
        message = Message(
            kind,
            self.meta.group,
            self.meta.site,
            self.incarnation,
            to,
            self.gen if gen is None else gen,
            lsn,
            flags,
            fields,
            records,
            data,
        )
        check_leaving(self, message)
        effects = self.effects
        effects.any = True
        if kind in EARLY and to is None:
            effects.early.append(message)
        else:
            effects.sends.append(message)

    def notify(self, event: Event) -> None:
        self.effects.any = True
        self.effects.events.append(event)
