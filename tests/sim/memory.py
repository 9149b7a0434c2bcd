"""The log, the store and the meta file over memory, with what a crash does to a disk.

The simulator runs sites on these. What `flush` returned for is kept by a crash; of what was buffered
since, a random prefix is. That is everything the disk promises, so the same contract tests run on the
disk's implementations and on these. Record objects are shared between images, never copied.
"""

import random
import zlib
from collections import deque
from collections.abc import Iterable, Sequence

from zrep.codec import decode_config, decode_reign
from zrep.errors import invariant
from zrep.ids import Lsn
from zrep.ports import Applied, Meta
from zrep.records import History, Kind, Record, Reign, Tip, follows


class MemoryLog:
    """A `ports.Log`. `MemoryLog(base)` is empty and continues after `base`; `records` are flushed already."""

    __slots__ = ("_base", "_kept", "_lost", "_records", "_tip", "sync")

    def __init__(self, base: Tip = Tip(), records: Iterable[Record] = ()) -> None:  # noqa: B008 - immutable
        self.sync = True
        """Not looked at: what a crash of the system does to unflushed records is not simulated."""
        self._base = base
        """The record before `first`: its gen and chain outlive trimming."""
        self._records = list(records)
        self._tip = _tip(base, self._records)
        self._kept = self._tip.lsn
        """What is flushed and was not cut since: equal in the disk's image and in this one."""
        self._lost: list[Record] = []
        """The disk's image above `_kept`: flushed once, cut since."""

    @property
    def first(self) -> Lsn:
        return self._base.lsn + 1

    @property
    def tip(self) -> Tip:
        return self._tip

    @property
    def durable(self) -> Lsn:
        return self._kept

    @property
    def dirty(self) -> bool:
        return self._kept != self._tip.lsn or bool(self._lost)

    def append(self, record: Record) -> None:
        self._records.append(record)
        self._tip = Tip(record.gen, record.lsn, record.chain)

    def cut(self, lsn: Lsn) -> None:
        base = self._base.lsn
        invariant(lsn >= base, "a cut stays within the retained log", lsn=lsn, first=base + 1)
        if lsn < self._kept:
            self._lost[:0] = self._records[lsn - base : self._kept - base]
            self._kept = lsn
        del self._records[lsn - base :]
        self._tip = _tip(self._base, self._records)

    def chain(self, lsn: Lsn) -> int | None:
        index = lsn - self._base.lsn
        if index == 0:
            return self._base.chain
        return self._records[index - 1].chain if 0 < index <= len(self._records) else None

    def read(self, first: Lsn, last: Lsn, limit_bytes: int) -> Sequence[Record]:
        base = self._base.lsn
        if first <= base:
            return ()
        chosen: list[Record] = []
        for record in self._records[first - base - 1 : max(last - base, 0)]:
            limit_bytes -= len(record.raw)
            if limit_bytes < 0 and chosen:
                break
            chosen.append(record)
        return chosen

    def flush(self) -> None:
        self._kept = self._tip.lsn
        self._lost = []

    def trim(self, lsn: Lsn, retain_bytes: int = 0) -> None:
        count = min(lsn - 1, self._kept) - self._base.lsn
        while count > 0 and retain_bytes > 0:
            count -= 1
            retain_bytes -= len(self._records[count].raw)
        if count > 0:
            last = self._records[count - 1]
            self._base = Tip(last.gen, last.lsn, last.chain)
            del self._records[:count]

    def crash(self, rng: random.Random | None = None) -> "MemoryLog":
        """Return the log that the next start finds: what was flushed and, with `rng`, some of what was not.

        A prefix of the buffered records may have reached the disk, and a cut may have happened, not
        happened, or stopped in between; never a hole, never an old record above a new one.
        """
        common = self._records[: self._kept - self._base.lsn]
        if rng is None:
            return MemoryLog(self._base, common + self._lost)
        if self._lost and rng.random() < 0.5:
            return MemoryLog(self._base, common + self._lost[: rng.randint(0, len(self._lost))])
        fresh = self._records[len(common) :]
        return MemoryLog(self._base, common + fresh[: rng.randint(0, len(fresh))])


class MemoryMeta:
    """A `ports.MetaFile`: what was saved last is what a crash leaves."""

    __slots__ = ("saved",)

    def __init__(self, saved: Meta | None = None) -> None:
        self.saved = saved

    def load(self) -> Meta | None:
        return self.saved

    def save(self, meta: Meta) -> None:
        self.saved = meta


class MemoryStore:
    """A `ports.Store` that keeps every applied record and a digest over all of them.

    Each `apply` is atomic. A crash of the operating system may undo the newest few, as LMDB without
    `metasync` may; the log replays them.
    """

    __slots__ = ("_earlier", "applied", "digest", "records")

    UNDOABLE = 3

    def __init__(self, applied: Applied = Applied(), digest: int = 0) -> None:  # noqa: B008 - immutable
        self.applied = applied
        self.digest = digest
        self.records: dict[Lsn, Record] = {}
        self._earlier: deque[tuple[Applied, int]] = deque(maxlen=self.UNDOABLE)

    @property
    def covered(self) -> Lsn:
        """The LSN that any crash leaves applied: the log may be trimmed up to here (R19)."""
        return self._earlier[0][0].tip.lsn if self._earlier else self.applied.tip.lsn

    def apply(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self._earlier.append((self.applied, self.digest))
        tip, history, config = self.applied
        digest = self.digest
        for record in records:
            invariant(follows(tip, record), "the store applies the log without a gap", tip=tip, record=record.position)
            if record.kind == Kind.CONFIG:
                config = decode_config(record.payload)
            elif record.kind == Kind.REIGN:
                site = decode_reign(record.payload)
                history = History((*history.reigns, Reign(record.gen, site, record.lsn)))
            digest = zlib.crc32(record.raw, digest)
            tip = Tip(record.gen, record.lsn, record.chain)
            self.records[record.lsn] = record
        self.applied = Applied(tip, history, config)
        self.digest = digest

    def crash(self, rng: random.Random | None = None) -> "MemoryStore":
        """Return the store that the next start finds; with `rng`, the newest applies may be undone."""
        images = [*self._earlier, (self.applied, self.digest)]
        applied, digest = images[-1] if rng is None else rng.choice(images)
        after = MemoryStore(applied, digest)
        after.records = {lsn: record for lsn, record in self.records.items() if lsn <= applied.tip.lsn}
        return after


def _tip(base: Tip, records: Sequence[Record]) -> Tip:
    if not records:
        return base
    last = records[-1]
    return Tip(last.gen, last.lsn, last.chain)
