"""What is permanent, as the disks tell it: nothing here trusts a site's opinion.

It decides from durable facts alone which records a majority holds for good. What sites say and do is held
against it by the checkers.
"""

from typing import TYPE_CHECKING, NoReturn

from zrep.ids import Gen, Lsn, SiteId, majority
from zrep.records import Kind, Record

if TYPE_CHECKING:
    from tests.sim.host import Host


class Violation(AssertionError):
    """A promise was broken; the message says which and by whom."""


def violated(promise: str, /, **facts: object) -> NoReturn:
    raise Violation(f"{promise} ({' '.join(f'{name}={value!r}' for name, value in facts.items())})")


class Truth:
    """The one sequence of permanent records, from the durable facts alone.

    A record of gen G is permanent once a majority of the voters has had it on disk while the promise on
    the same disk was G: such a voter refuses everything older, and votes for nobody who lacks it.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.gens: list[Gen] = []
        """By which gen's master each record became permanent: its own, or a later one."""
        self.lsn_by_payload: dict[bytes, Lsn] = {}
        self._held: dict[Gen, dict[SiteId, Lsn]] = {}

    @property
    def end(self) -> Lsn:
        return len(self.records)

    def chain(self, lsn: Lsn) -> int:
        return self.records[lsn - 1].chain if lsn else 0

    def hold(self, site: SiteId, last: Record) -> None:
        """Take in that a disk holds `last`, of the promised gen."""
        held = self._held.setdefault(last.gen, {})
        held[site] = max(last.lsn, held.get(site, 0))

    def grow(self, host: "Host", gen: Gen, voters: tuple[SiteId, ...], most: Lsn | None = None) -> bool:
        """Tell whether more of `gen` is permanent than before, up to `most`; it is in the log of `host`."""
        held = self._held.get(gen, {})
        counted = sorted(held.get(site, 0) for site in voters)
        permanent = counted[len(counted) - majority(len(counted))] if counted else 0
        permanent = min(permanent, host.disk.log.durable if most is None else most)
        if permanent <= self.end:
            return False
        self._extend(host, gen, permanent)
        return True

    def _extend(self, host: "Host", gen: Gen, lsn: Lsn) -> None:
        log = host.disk.log
        if log.chain(self.end) != self.chain(self.end):
            violated("I3: there is one true sequence", site=host.site, lsn=self.end)
        while self.end < lsn:
            for record in log.read(self.end + 1, lsn, 1 << 20):
                self.records.append(record)
                self.gens.append(gen)
                if record.kind is Kind.COMMIT:
                    if record.payload in self.lsn_by_payload:
                        violated("I11: a request takes effect once", payload=record.payload, lsn=record.lsn)
                    self.lsn_by_payload[record.payload] = record.lsn
