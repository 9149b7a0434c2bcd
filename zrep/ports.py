"""What the pure machine asks of the log, the store and the meta file.

`storage/` implements these over the disk, the simulator over memory; one suite of contract tests runs
on both. Everything a port buffers reaches the disk only when the engine, or the simulated world, calls
`flush`: a step that raises has changed nothing that survives it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from zrep.ids import NO_GROUP, Egen, GroupId, Lsn, SiteId
from zrep.records import Config, History, Record, Tip

_SCAN_BYTES = 1 << 20


class Meta(NamedTuple):
    """The durable facts of a site besides its log and store. Saved whole, atomically, always flushed (R2)."""

    site: SiteId
    group: GroupId = NO_GROUP
    boots: int = 0
    """How often the home was started; the high half of the incarnation (R1)."""
    promise: Egen = 0
    """The highest egen promised: nothing of a lower gen is accepted any more (R7)."""
    vote: SiteId = SiteId("")
    """Who got this site's VOTE2 of egen `promise`; empty for nobody (R8)."""
    state: int = 1
    """Which `state-<k>` directory is current."""
    replaces: SiteId = SiteId("")
    """The site id that this home gave up when it lost trust; JOIN names it (R4)."""
    boot_id: str = ""
    """The operating system's boot at the last whole start; "process" durability does not survive another one."""
    doubtful: bool = False
    """This log was found to differ from what the group made permanent: the next start gives it up (R4)."""
    seeds: tuple[str, ...] = ()
    """Where this site asked to join: whom to ask until its own log says who the members are."""


class Applied(NamedTuple):
    """Which permanent prefix of the log a store is, and what the machine must know of that prefix."""

    tip: Tip = Tip()
    history: History = History()
    config: Config = Config()


class Log(Protocol):
    """The append-only log. LSNs `first`..`tip.lsn` can be read, buffered ones included."""

    sync: bool
    """Whether `flush` waits for the disk; if not, what was flushed survives the process only."""

    @property
    def first(self) -> Lsn:
        """LSN of the oldest retained record; `tip.lsn + 1` when there is none."""

    @property
    def tip(self) -> Tip:
        """The last record's gen, LSN and chain; what was trimmed counts."""

    @property
    def durable(self) -> Lsn:
        """The last LSN that is flushed."""

    @property
    def dirty(self) -> bool:
        """Whether `flush` has anything to do."""

    def append(self, record: Record) -> None:
        """Buffer the record after `tip`. The caller has checked that it follows (R14)."""

    def cut(self, lsn: Lsn) -> None:
        """Buffer the removal of every record above `lsn` (R18)."""

    def chain(self, lsn: Lsn) -> int | None:
        """Return the chain at `lsn` (`first - 1` included), or None when that was trimmed."""

    def read(self, first: Lsn, last: Lsn, limit_bytes: int) -> Sequence[Record]:
        """Return records `first`..`last` in order, at least one, at most `limit_bytes` of raw bytes.

        Empty when `first` is trimmed or above `tip`.
        """

    def flush(self) -> None:
        """Make everything buffered durable. An error here stops the site (R3)."""

    def trim(self, lsn: Lsn, retain_bytes: int = 0) -> None:
        """Let go of records below `lsn` but for their last `retain_bytes`, as far as whole segments allow (R19)."""


class MetaFile(Protocol):
    """The meta file."""

    def load(self) -> Meta | None:
        """Return what was saved last; None when nothing ever was."""

    def save(self, meta: Meta) -> None:
        """Replace what is saved, atomically and durably."""


class Store(Protocol):
    """The image of a permanent prefix of the log."""

    @property
    def applied(self) -> Applied:
        """Which prefix it is."""

    def apply(self, records: Sequence[Record]) -> None:
        """Add the records after `applied`, in one transaction, all permanent."""


def records_from(log: Log, first: Lsn) -> Iterator[Record]:
    """Yield the log's records from `first` on, a portion in memory at a time. Raises DamagedLogError."""
    while records := log.read(first, log.tip.lsn, _SCAN_BYTES):
        yield from records
        first = records[-1].lsn + 1
