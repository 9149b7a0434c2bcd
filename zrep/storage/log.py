"""The replicated log on disk: one sequence of records over a directory of segment files.

Decides when a segment ends, what one flush writes, what opening makes of a crash, and what is damage.
What is not flushed stays in memory: a flush cuts first, then writes everything appended in one piece
and flushes once. The bytes of a file are the business of `segment` and `frames`.

    flushed    1 ──────────────── kept ─ ─ written      what the files hold
    in memory                       └──────────── tip   cut to `kept` and appended since
"""

import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from zrep.errors import DamagedLogError, DiskFullError, StorageError, invariant
from zrep.ids import Lsn
from zrep.options import MIB
from zrep.records import Record, Tip
from zrep.storage import frames
from zrep.storage.files import DISK_FULL, SUSPECT, suspect, sync_directory
from zrep.storage.segment import LOST_TRUST, Segment

_logger = logging.getLogger("zrep.storage")


class SegmentedLog:
    """A `ports.Log`. One thread uses it: the engine's."""

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = 64 * MIB,
        floor: Lsn = 0,
        restart: Tip = Tip(),  # noqa: B008 - immutable
        cache_bytes: int = 16 * MIB,
    ) -> None:
        """Open the log that `create` made; what stands in it afterwards is durable.

        `floor` is an LSN that was durable once, by what the caller knows otherwise (the store's applied LSN).
        With `restart`, a log that ends below it lets go of its records and continues after it.
        Raises DamagedLogError when the log cannot vouch for all it ever held, StorageError when it cannot be read.
        """
        self.directory = directory
        self._segment_bytes = segment_bytes
        self.sync = True
        self._cache_bytes = cache_bytes
        self._failure: StorageError | None = None
        with self._fatal("open"):
            self._segments = self._recover(floor, restart)
        self.tip = self._segments[-1].tip
        self.durable = self._written = self.tip.lsn
        self._recent: dict[Lsn, Record] = {}
        """The newest records, without a gap: all that the files do not hold, and a cache of those they do."""
        self._recent_bytes = 0
        self.dirty = False

    @classmethod
    def create(cls, directory: Path, base: Tip = Tip(), segment_bytes: int = 64 * MIB) -> None:  # noqa: B008
        """Make an empty log that continues after `base`, in a directory that has none."""
        Segment.create(directory, base, segment_bytes)
        sync_directory(directory)

    @property
    def first(self) -> Lsn:
        return self._segments[0].base.lsn + 1

    @property
    def nbytes(self) -> int:
        """Bytes that the log's files occupy."""
        return sum(segment.nbytes for segment in self._segments)

    def append(self, record: Record) -> None:
        self._usable()
        invariant(record.lsn == self.tip.lsn + 1, "the log has no gaps", tip=self.tip, gen=record.gen, lsn=record.lsn)
        self.tip = Tip(record.gen, record.lsn, record.chain)
        self._recent[record.lsn] = record
        self._recent_bytes += len(record.raw)
        self.dirty = True

    def cut(self, lsn: Lsn) -> None:
        self._usable()
        if lsn >= self.tip.lsn:
            return
        invariant(lsn >= self.first - 1, "a cut stays within the retained log", lsn=lsn, first=self.first)
        with self._fatal("read"):
            tip = self._tip_at(lsn)
        for gone in range(self.tip.lsn, max(lsn, self.tip.lsn - len(self._recent)), -1):
            self._recent_bytes -= len(self._recent.pop(gone).raw)
        self.tip = tip
        self.durable = min(self.durable, lsn)
        self.dirty = self.durable < self.tip.lsn or self.durable < self._written

    def chain(self, lsn: Lsn) -> int | None:
        if lsn in self._recent:
            return self._recent[lsn].chain
        if not self.first - 1 <= lsn <= self.tip.lsn:
            return None
        with self._fatal("read"):
            return self._segment_of(lsn).chain(lsn)

    def read(self, first: Lsn, last: Lsn, limit_bytes: int) -> Sequence[Record]:
        self._usable()
        if first == last and first in self._recent:
            return [self._recent[first]]
        last = min(last, self.tip.lsn)
        records: list[Record] = []
        while self.first <= first <= last and (limit_bytes > 0 or not records):
            part = self._read_part(first, last, limit_bytes)
            nbytes = sum(len(record.raw) for record in part)
            if nbytes > limit_bytes and records:
                break
            records += part
            first += len(part)
            limit_bytes -= nbytes
        return records

    def flush(self) -> None:
        """Make everything buffered durable, by one write and one flush.

        Raises DiskFullError when there is no room: what is buffered stays buffered, to be flushed later or
        cut. Any other failure is final (R3): every later call raises it again.
        """
        self._usable()
        try:
            if self._written > self.durable:
                self._cut_files()
            if self.durable < self.tip.lsn:
                self._write([self._recent[lsn] for lsn in range(self.durable + 1, self.tip.lsn + 1)])
                self._written = self.durable = self.tip.lsn
        except OSError as error:
            raise self._failed("write", error) from error
        self.dirty = False
        if self._recent_bytes > self._cache_bytes:
            self._forget()

    def trim(self, lsn: Lsn, retain_bytes: int = 0) -> None:
        self._usable()
        lsn = min(lsn, self.durable + 1)
        with self._fatal("trim"):
            spare = [segment for segment, after in pairwise(self._segments) if after.base.lsn < lsn]
            nbytes = sum(segment.nbytes for segment in spare)
            # Oldest first, each name durable: a crash in between leaves no hole.
            for segment in spare:
                nbytes -= segment.nbytes
                if nbytes < retain_bytes:
                    break
                segment.remove()
                del self._segments[0]
        self._forget()

    def close(self) -> None:
        """Close the files. What was not flushed is lost."""
        for segment in self._segments:
            segment.close()

    def _tip_at(self, lsn: Lsn) -> Tip:
        segment = self._segment_of(lsn)
        if lsn == segment.base.lsn:
            return segment.base
        record = self._recent[lsn] if lsn in self._recent else segment.read(lsn, lsn, 0)[0]
        return Tip(record.gen, record.lsn, record.chain)

    def _segment_of(self, lsn: Lsn) -> Segment:
        """Return the segment that holds `lsn`, indexed; the first one for the LSN before it."""
        place = max(bisect_right(self._segments, lsn - 1, key=lambda segment: segment.base.lsn) - 1, 0)
        segment = self._segments[place]
        if place + 1 < len(self._segments) and segment.tip == segment.base:
            self._check_whole(segment, self._segments[place + 1], contents=False)
        return segment

    def _read_part(self, first: Lsn, last: Lsn, limit_bytes: int) -> list[Record]:
        """Return some of the records, at least one: those in memory, or those in one segment."""
        if first not in self._recent:
            with self._fatal("read"):
                segment = self._segment_of(first)
                oldest = self.tip.lsn - len(self._recent) + 1
                return segment.read(first, min(last, segment.tip.lsn, oldest - 1), limit_bytes)
        part = [self._recent[first]]
        nbytes = len(part[0].raw)
        for lsn in range(first + 1, last + 1):
            record = self._recent[lsn]
            nbytes += len(record.raw)
            if nbytes > limit_bytes:
                break
            part.append(record)
        return part

    def _cut_files(self) -> None:
        # Newest first, each name durable: a crash in between leaves a shorter old tail, never a hole.
        while len(self._segments) > 1 and self._segments[-1].base.lsn >= self.durable:
            self._segments.pop().remove()
        self._segments[-1].cut(self._tip_at(self.durable), self._segment_bytes)
        self._written = self.durable

    def _write(self, records: Sequence[Record]) -> None:
        active = self._segments[-1]
        nbytes = 0
        for record in records:
            nbytes += len(record.raw) + frames.OVERHEAD
        if active.tip != active.base and active.end + nbytes > self._segment_bytes:
            active = self._begin_segment(active)
        try:
            active.append(records, self.durable, ahead=self.sync)
        except OSError as error:
            if error.errno in DISK_FULL:
                active.erase(0)
            self._refuse(error)
        if self.sync:
            active.flush()

    def _begin_segment(self, last: Segment) -> Segment:
        last.flush()  # where no commit does, a crash could take the end of this one and leave the next: a hole
        try:
            fresh = Segment.create(self.directory, last.tip, self._segment_bytes)
        except OSError as error:
            self._refuse(error)
        sync_directory(self.directory)
        last.close()
        self._segments.append(fresh)
        return fresh

    def _refuse(self, error: OSError) -> NoReturn:
        """Raise what it means: a disk without space, where nothing was flushed yet, is not a disk that fails."""
        if error.errno not in DISK_FULL:
            raise error
        raise DiskFullError(f"no space for the log in {self.directory}, nothing was lost: free some") from error

    def _forget(self) -> None:
        """Keep the newest `cache_bytes` in memory, and everything that is not flushed."""
        lsn = self.tip.lsn - len(self._recent) + 1
        while lsn <= self.durable and (self._recent_bytes > self._cache_bytes or lsn < self.first):
            self._recent_bytes -= len(self._recent.pop(lsn).raw)
            lsn += 1

    def _recover(self, floor: Lsn, restart: Tip) -> list[Segment]:
        """Open the segments, and make what the last one holds whole, flushed and trusted."""
        for leftover in self.directory.glob("*.tmp"):
            leftover.unlink()
        segments = [Segment.open(path) for path in sorted(self.directory.glob("*.log"))]
        if not segments:
            if restart.lsn:
                return self._restart(segments, restart)
            raise DamagedLogError(f"{self.directory} holds no log any more: {LOST_TRUST}", floor)
        last = segments[-1]
        mark = self.directory / SUSPECT
        if mark.exists():
            for older, newer in pairwise(segments):
                self._check_whole(older, newer, contents=True)
        last.index(contents=True)
        rest = last.rest()
        floor = max(floor, last.base.lsn, frames.floor_within(rest, last.end))
        if last.tip.lsn < floor or (rest and not frames.is_torn(rest, last.end)):
            raise DamagedLogError(f"{last.path} is damaged behind LSN {last.tip.lsn}: {LOST_TRUST}", last.tip.lsn + 1)
        if rest:
            last.erase(self._segment_bytes)
        if mark.exists():
            # After a failed flush the file's pages may look clean and never have reached the disk (R3).
            last.copy(self._segment_bytes)
            mark.unlink()
            sync_directory(self.directory)
        elif last.tip.lsn > last.floor:
            # Records above the last known floor may be in the page cache only, and that even after an error
            # that the process before this one did not live to see: written again, the flush covers them.
            last.rewrite(last.floor + 1)
            last.flush()
        return segments if last.tip.lsn >= restart.lsn else self._restart(segments, restart)

    def _restart(self, segments: Sequence[Segment], base: Tip) -> list[Segment]:
        """Begin again after `base`. A crash in between leaves a shorter log, or none: to be restarted, too."""
        end = segments[-1].tip.lsn if segments else 0
        _logger.warning("the log begins again path=%s end=%d..%d", self.directory, end, base.lsn)
        for segment in reversed(segments):
            segment.remove()
        fresh = Segment.create(self.directory, base, self._segment_bytes)
        sync_directory(self.directory)
        return [fresh]

    def _check_whole(self, segment: Segment, newer: Segment, *, contents: bool) -> None:
        """Index a segment that must reach up to the next one."""
        segment.index(contents=contents)
        if segment.tip != newer.base:
            lsn = segment.tip.lsn + 1
            raise DamagedLogError(f"{segment.path} is damaged at LSN {lsn}: {LOST_TRUST}", lsn)

    def _usable(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _fatal(self, what: str) -> Iterator[None]:
        """Turn an OSError into the StorageError that ends this log's use; damage ends it, too."""
        try:
            yield
        except DamagedLogError as error:
            self._distrust(error)
            raise
        except OSError as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: OSError) -> StorageError:
        failure = StorageError(f"cannot {what} the log in {self.directory}: {error}; the site must stop")
        self._distrust(failure)
        return failure

    def _distrust(self, failure: StorageError) -> None:
        """Let no call succeed any more, and have the next start read everything."""
        self._failure = failure
        suspect(self.directory)


def flush_newest(directory: Path) -> None:
    """Make durable what any process has written to the log in `directory`; on any thread.

    What is older is durable: a segment is flushed before the next one begins.
    """
    path = max(directory.glob("*.log"), default=None)
    if path is None:
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # cut meanwhile: all of it was above what is permanent
    try:
        os.fdatasync(fd)
    except OSError:
        suspect(directory)
        raise
    finally:
        os.close(fd)
