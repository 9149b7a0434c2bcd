"""A simulated computer's disk: the memory twins of log, meta file and store, watched, and slow.

It decides what a crash leaves and how long a write takes. What may be written when is the host's part.
"""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from tests.sim.memory import MemoryLog, MemoryMeta, MemoryStore
from zrep.ids import Lsn, Nanoseconds
from zrep.options import MILLISECOND
from zrep.ports import Meta
from zrep.records import Record


class Watcher(Protocol):
    """Who wants to know what a site is about to do to its log."""

    def appended(self, record: Record) -> None: ...

    def cutting(self, lsn: Lsn) -> None: ...


class WatchedLog(MemoryLog):
    """A MemoryLog that reports every append and cut before it is done."""

    __slots__ = ("_watcher",)

    def __init__(self, log: MemoryLog, watcher: Watcher) -> None:
        super().__init__(log._base, log._records)
        self._watcher = watcher

    def append(self, record: Record) -> None:
        self._watcher.appended(record)
        super().append(record)

    def cut(self, lsn: Lsn) -> None:
        self._watcher.cutting(lsn)
        super().cut(lsn)


@dataclass(slots=True)
class Speed:
    """How long a flush takes."""

    flush_ns: Nanoseconds = MILLISECOND // 10
    jitter_ns: Nanoseconds = MILLISECOND // 5

    def draw(self, rng: Random) -> Nanoseconds:
        return self.flush_ns + int(rng.random() * self.jitter_ns)


class Disk:
    """What survives a crash of the process that writes to it."""

    def __init__(self, watcher: Watcher, meta: Meta, records: tuple[Record, ...], rng: Random) -> None:
        self.watcher = watcher
        self.rng = rng
        self.speed = Speed()
        self.log = WatchedLog(MemoryLog(records=records), watcher)
        self.meta = MemoryMeta(meta)
        self.store = MemoryStore()
        self.store.apply(records)
        self.tears = True
        """A crash keeps a random part of what was not flushed; otherwise none."""
        self.held = False
        """Writes do not end until somebody resumes the host."""
        self.writing: Meta | None = None
        """A meta file that is being written: after a crash it is either the old one or this."""

    @property
    def saved(self) -> Meta:
        """The meta that a crash now would leave."""
        meta = self.meta.load()
        assert meta is not None
        return meta

    def save(self, meta: Meta) -> None:
        self.meta.save(meta)
        self.writing = None

    def crash(self) -> None:
        """Leave what was flushed, and a random part of what was not."""
        rng = self.rng if self.tears else None
        if self.writing is not None and rng is not None and rng.random() < 0.5:
            self.meta.save(self.writing)
        self.writing = None
        self.log = WatchedLog(self.log.crash(rng), self.watcher)
        self.store = self.store.crash(rng)

    def lose(self, lsn: Lsn) -> None:
        """Forget what is above `lsn`, as a restored backup does."""
        records = self.log.read(self.log.first, lsn, 1 << 40)
        self.log = WatchedLog(MemoryLog(records=records), self.watcher)
        self.store = MemoryStore()
        self.store.apply(records)

    def record(self, lsn: Lsn) -> Record | None:
        """Return the record at `lsn`, buffered or flushed; None when there is none or it is trimmed."""
        return next(iter(self.log.read(lsn, lsn, 1)), None)
