"""The invariants of docs/protocol.md, checked from outside the sites after everything they do.

What sites claim, in public state, in messages and in answers, is held against their disks and against the
truth, which is what the disks of a majority hold. Every check looks at what has just changed.
"""

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from tests.sim.truth import Truth, violated
from zrep import codec
from zrep.events import Diverged, Event, JoinFailure, SiteWentBack
from zrep.ids import Egen, Gen, Incarnation, Lsn, Position, SiteId, majority
from zrep.messages import Flag, Message, Type
from zrep.records import Config, Kind, Record, follows
from zrep.replica.replica import Replica, Role

if TYPE_CHECKING:
    from tests.sim.host import Host, Submitted


class Seen:
    """What a site's process showed last."""

    __slots__ = ("configs", "gen", "perm", "promise")

    def __init__(self) -> None:
        self.perm: Lsn = 0
        self.gen: Gen = 0
        """The gen of its latest reign."""
        self.promise: Egen = 0
        self.configs: list[tuple[Lsn, Config]] = []
        """The configurations in its log, the one in force last."""


class Reign:
    """What the permanence of a gen's records is counted in."""

    __slots__ = ("promotion", "site", "voters", "withdrawn")

    def __init__(self, site: SiteId, voters: tuple[SiteId, ...]) -> None:
        self.site = site
        self.voters = voters
        """Of the newest configuration of this reign."""
        self.promotion: Lsn = 0
        """Where a sole voter promoted a second one: until that is permanent it may take it back (R20)."""
        self.withdrawn = False
        """It did, and left the gen: whatever the disks hold of it, nobody counts any more."""


class Checkers:
    """All checks of one world, and counts of the interesting things that happened in it."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self.truth = Truth()
        self.counts: Counter[str] = Counter()
        self.disks_forget = False
        """Somebody's disk lost what it had flushed: it may be accused (R5)."""
        self.acknowledged_end: Lsn = 0
        """The highest LSN that any writer was told is permanent."""
        self._seen: dict[SiteId, Seen] = {}
        self._chains: dict[Position, int] = {}
        self._masters: dict[Gen, tuple[SiteId, Incarnation]] = {}
        self._reigns: dict[Gen, Reign] = {}
        self._votes: dict[tuple[SiteId, Egen], SiteId] = {}
        self._counted: dict[tuple[SiteId, Egen], set[SiteId]] = {}
        self._proposed: dict[Egen, SiteId] = {}
        self._digests: dict[Lsn, int] = {}

    def add(self, host: "Host") -> None:
        self.hosts.append(host)
        self._seen[host.site] = Seen()
        for record in host.disk.log.read(1, host.disk.log.tip.lsn, 1 << 30):
            self._entered(host, record)
        self.flushed(host)

    def voters(self, site: SiteId) -> tuple[SiteId, ...]:
        """Return the voters of the configuration in force in a site's log."""
        configs = self._seen[site].configs
        return configs[-1][1].voters if configs else ()

    def _permanent(self, host: "Host", lsn: Lsn) -> bool:
        """Tell whether `lsn` is permanent. A master that says so settles what it might have withdrawn up to there."""
        reign = self._reigns.get(host.process.gen)
        if lsn > self.truth.end and reign is not None and reign.site == host.site:
            settled = lsn if lsn < reign.promotion else host.disk.log.durable
            self.truth.grow(host, host.process.gen, reign.voters, settled)
        return lsn <= self.truth.end

    # A process's life.

    def killed(self, host: "Host") -> None:
        """A crash may have taken records from the log, or given some back that were being cut."""
        log, applied = host.disk.log, host.disk.store.applied
        configs = [(applied.tip.lsn, applied.config)] if applied.config.members else []
        for record in log.read(applied.tip.lsn + 1, log.tip.lsn, 1 << 30):
            if record.kind is Kind.CONFIG:
                configs.append((record.lsn, codec.decode_config(record.payload)))
        self._seen[host.site].configs = configs

    def booted(self, host: "Host") -> None:
        seen = self._seen[host.site]
        seen.perm = host.process.perm
        seen.gen = 0
        if host.disk.saved.promise < seen.promise:
            violated("I6: the durable promise never decreases", site=host.site, promise=host.disk.saved.promise)
        self._perm(host, host.process)
        self._truth(host)

    def turned(self, host: "Host") -> None:
        """Check a site's public state after a turn."""
        replica, seen = host.process, self._seen[host.site]
        if replica.perm != seen.perm:
            if replica.perm < seen.perm:
                violated("I9: perm never decreases", site=host.site, perm=replica.perm, before=seen.perm)
            self._perm(host, replica)
            seen.perm = replica.perm
        if replica.role is Role.MASTER and replica.gen != seen.gen:
            seen.gen = replica.gen
            self._reign(host, replica)

    def _perm(self, host: "Host", replica: Replica) -> None:
        """I3, I9, I10, I12: perm is within the durable log, and that is the truth up to perm."""
        perm, log, truth = replica.perm, host.disk.log, self.truth
        if perm > log.durable:
            violated("I9: perm is durable", site=host.site, perm=perm, durable=log.durable)
        if not self._permanent(host, perm):
            violated("I10: what is permanent is durable at a majority", site=host.site, perm=perm, truth=truth.end)
        if log.chain(perm) != truth.chain(perm):
            violated("I3: every log up to its perm is the one true sequence", site=host.site, perm=perm)
        if replica.role is Role.MASTER and perm > self._seen[host.site].perm:
            record = host.disk.record(perm)
            if record is None or record.gen != replica.gen:
                violated("I12: permanence is counted on own-gen records", site=host.site, perm=perm, gen=replica.gen)

    def _reign(self, host: "Host", replica: Replica) -> None:
        """I1, I4: nobody else reigns in this gen, and nothing permanent is missing."""
        self._speaks_for(replica.gen, host.site, host.incarnation)
        if replica.gen > host.disk.saved.promise:
            violated("I6: a master's gen is promised", site=host.site, gen=replica.gen)
        self._contains_truth(host)
        self.counts["reigns"] += 1
        if any(other.reigns for other in self.hosts if other is not host):
            self.counts["two masters alive at once"] += 1

    def _speaks_for(self, gen: Gen, site: SiteId, incarnation: Incarnation) -> None:
        master = self._masters.setdefault(gen, (site, incarnation))
        if master != (site, incarnation):
            violated("I1: one master per gen", gen=gen, first=master[0], second=site)

    def _contains_truth(self, host: "Host") -> None:
        """A master's log contains what earlier gens made permanent, though a later one may reign already."""
        gen = host.process.gen
        lsn = bisect_left(self.truth.gens, gen)
        if host.disk.log.chain(lsn) != self.truth.chain(lsn):
            violated("I4: a new master's log contains all that is permanent", site=host.site, gen=gen, truth=lsn)

    # The log and the disk.

    def appended(self, host: "Host", record: Record) -> None:
        """R14, I5, I13, as a record enters a log; one of a gen that is not promised yet may vanish untold."""
        if not follows(host.disk.log.tip, record):
            violated("R14: a record follows the one before it", site=host.site, position=record.position)
        self._entered(host, record)

    def _entered(self, host: "Host", record: Record) -> None:
        promised = record.gen <= host.disk.saved.promise
        if promised and self._chains.setdefault(record.position, record.chain) != record.chain:
            violated("I5: equal (gen, lsn) means equal chain", site=host.site, position=record.position)
        if record.kind is Kind.REIGN:
            self._reigns.setdefault(record.gen, Reign(host.site, self.voters(host.site)))
        elif record.kind is Kind.CONFIG:
            self._config(host, record)

    def _config(self, host: "Host", record: Record) -> None:
        new = codec.decode_config(record.payload)
        configs = self._seen[host.site].configs
        if configs:
            before, old = configs[-1]
            changed = sorted(set(old.voters) ^ set(new.voters))
            if len(changed) > 1:
                violated("I13: consecutive configurations differ by one voter", site=host.site, changed=changed)
            if not self._permanent(host, before):
                violated("I13: one unpermanent configuration per log", site=host.site, first=before, second=record.lsn)
        configs.append((record.lsn, new))
        reign = self._reigns.get(record.gen)
        if reign is not None and reign.site == host.site:
            reign.promotion = record.lsn if reign.voters == (host.site,) != new.voters else 0
            reign.voters = new.voters

    def cutting(self, host: "Host", lsn: Lsn) -> None:
        """I8: no cut at or below perm; and nothing that is permanent, known to be so or not."""
        self.counts["tail cuts"] += 1
        replica, truth = host.replica, self.truth
        if replica is not None and lsn < replica.perm:
            violated("I8: no cut at or below perm", site=host.site, lsn=lsn, perm=replica.perm)
        founders = lsn == 0 and host.disk.log.tip.gen == 0  # of no reign, so of nobody's history: it comes back
        if lsn < truth.end and host.disk.log.chain(lsn + 1) == truth.chain(lsn + 1) and not founders:
            violated("I8: nothing permanent is cut", site=host.site, lsn=lsn, truth=truth.end)
        configs = self._seen[host.site].configs
        while configs and configs[-1][0] > lsn:
            configs.pop()

    def flushed(self, host: "Host") -> None:
        """A log was flushed: more may be permanent."""
        self._truth(host)

    def saved(self, host: "Host") -> None:
        """I2, I6, as a meta file is saved."""
        meta, seen = host.disk.saved, self._seen[host.site]
        if meta.promise < seen.promise:
            violated(
                "I6: the durable promise never decreases", site=host.site, promise=meta.promise, before=seen.promise
            )
        for gen, reign in self._reigns.items():
            if reign.site == host.site and gen < meta.promise and reign.promotion > self.truth.end:
                reign.withdrawn = True
        seen.promise = meta.promise
        if meta.vote:
            self._votes_for(host.site, meta.promise, meta.vote)
        self._truth(host)

    def _votes_for(self, site: SiteId, egen: Egen, candidate: SiteId) -> None:
        if self._votes.setdefault((site, egen), candidate) != candidate:
            violated("I2: one vote per egen", site=site, egen=egen, candidate=candidate)

    def _truth(self, host: "Host") -> None:
        """A disk changed: more may be permanent, and then every later master must have it."""
        last = host.disk.record(host.disk.log.durable)
        if last is None or last.gen not in self._reigns or last.gen != host.disk.saved.promise:
            return
        reign = self._reigns[last.gen]
        self.truth.hold(host.site, last)
        # Both disks may hold a promotion that the sole voter still takes back: it alone counts, if it says so.
        if reign.withdrawn or reign.promotion > self.truth.end:
            return
        if self.truth.grow(host, last.gen, reign.voters):
            for other in self.hosts:
                if other.reigns and other.process.gen > last.gen:
                    self._contains_truth(other)

    def applied(self, host: "Host") -> None:
        """I17: equal applied LSN, equal digest."""
        lsn, digest = host.disk.store.applied.tip.lsn, host.disk.store.digest
        if lsn > host.process.perm:
            violated("I17: only what is permanent is applied", site=host.site, applied=lsn, perm=host.process.perm)
        if self._digests.setdefault(lsn, digest) != digest:
            violated("I17: equal applied LSN, equal digest", site=host.site, applied=lsn)

    # What leaves a site, and what reaches it.

    def leaves(self, host: "Host", message: Message) -> None:
        """Check what a message claims against its sender's disk."""
        kind, fields, gen = message.type, message.fields, message.gen
        meta = host.disk.saved
        if gen > meta.promise:
            violated(
                "I6: no message leaves with a gen above the durable promise", message=message, promise=meta.promise
            )
        if kind is Type.ACK:
            if message.lsn > host.disk.log.durable or gen < meta.promise:
                violated("I7: an ack is durable and of the promised gen", message=message, meta=meta)
            self.counts["acks"] += 1
        elif kind is Type.VOTE2:
            if fields.egen > meta.promise or (fields.egen == meta.promise and fields.candidate != meta.vote):
                violated("R2: a vote is durable before it leaves", message=message, meta=meta)
            self._votes_for(host.site, fields.egen, fields.candidate)
        elif kind is Type.HEARTBEAT or kind is Type.NEWMASTER or (kind is Type.LOG and message.to is None):
            self._speaks_for(gen, message.sender, message.incarnation)
            if not self._permanent(host, fields.perm):
                violated("I10: what is called permanent is", message=message, truth=self.truth.end)
        elif kind is Type.LOG and message.flags & Flag.PULL:
            self.counts["pulls"] += 1
        elif kind is Type.HIGHER:
            self.counts["HIGHER answered"] += 1
            if fields.promise > meta.promise:
                violated("R2: a promise is durable before it is told", message=message, meta=meta)
        elif kind is Type.VOTE1:
            self.counts["pre-votes"] += 1
            if self._proposed.setdefault(fields.egen, message.sender) != message.sender:
                self.counts["contested elections"] += 1
        else:
            self.counts[kind.name] += 1

    def arrives(self, host: "Host", message: Message) -> None:
        """Count the wins that R6 voids: a majority's votes for an egen that is no longer promised."""
        if message.type is Type.VOTE2 and message.fields.candidate == host.site and host.replica is not None:
            egen = message.fields.egen
            votes = self._counted.setdefault((host.site, egen), set())
            votes.add(message.sender)
            saved = host.disk.saved
            own = saved.promise == egen and saved.vote == host.site
            if len(votes) + own == majority(len(self.voters(host.site))) and saved.promise > egen:
                self.counts["wins voided by R6"] += 1

    def happened(self, host: "Host", event: Event) -> None:
        """Count an event; some accuse a disk, or a log of being trimmed too far."""
        self.counts[event.name] += 1
        if not self.disks_forget and isinstance(event, Diverged | SiteWentBack | JoinFailure):
            violated("R4, R5: nobody is accused without cause", site=host.site, event=str(event))

    def acknowledged(self, host: "Host", done: "Submitted") -> None:
        """I11: what a writer was told is permanent is in the true sequence."""
        self.counts["acknowledged"] += 1
        if not self._permanent(host, done.lsn) or self.truth.lsn_by_payload.get(done.payload) != done.lsn:
            violated("I11: acknowledged means in the true sequence", site=host.site, record=done)
        self.acknowledged_end = max(self.acknowledged_end, done.lsn)

    def read(self, host: "Host", acknowledged: Lsn, lsn: Lsn) -> None:
        """I16: an authoritative read sees everything that was acknowledged before it began."""
        self.counts["authoritative reads"] += 1
        if lsn < acknowledged:
            violated("I16: an authoritative read is not stale", site=host.site, lsn=lsn, acknowledged=acknowledged)

    # The end.

    def sweep(self) -> None:
        """Check everything once more, from the beginning, on the disks as they are."""
        truth = self.truth
        for host in self.hosts:
            if host.replica is not None:
                self._perm(host, host.replica)
        if truth.end:
            holding = [host.site for host in self.hosts if self._holds(host)]
            voters = self._reigns[truth.gens[-1]].voters
            if len([site for site in voters if site in holding]) < majority(len(voters)):
                violated("I10: every permanent record is durable at a majority", holding=holding, truth=truth.end)

    def _holds(self, host: "Host") -> bool:
        log = host.disk.log
        return log.durable >= self.truth.end and log.chain(self.truth.end) == self.truth.chain(self.truth.end)
