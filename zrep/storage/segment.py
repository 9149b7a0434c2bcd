"""One segment file of the log, and the index of what it holds.

    segment = header  frame…  zeros             preallocated; some behind the last frame are written, too
    header  = magic format first-lsn prev-gen prev-chain crc

A file comes into being whole (temporary file, flush, rename, flush of the directory), grows at its end
and is cut by size; nothing in it is overwritten with anything else. Frames are the business of
`frames`, what to do about damage that of `log`.
"""

import errno
import os
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import IO

from zrep.codec import decode_record
from zrep.errors import DamagedLogError, ProtocolError, StorageError
from zrep.ids import Lsn
from zrep.records import HEADER as RECORD
from zrep.records import Record, Tip, next_chain
from zrep.storage import frames
from zrep.storage.files import DISK_FULL, read_at, sync_directory, write_at

FORMAT = 1
"""Goes up with every change to the frames, and with every new kind of record."""

LOST_TRUST = "this disk lost what it held once, so the site must join its group anew (R4)"

_CANNOT_PREALLOCATE = DISK_FULL | {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

_MAGIC = b"ZREPLOG\0"
_HEADER = Struct("<8sIQQI")
_CRC = Struct("<I")
_FIRST_FRAME = _HEADER.size + _CRC.size
_CHUNK = 1 << 20
AHEAD = 256 << 10
"""So many zeros are written behind a frame that reaches what was never written: preallocated blocks are real only then.

To make one real is a change of the file system's own records, which a flush waits for: it costs as much again.
"""
SMALL = AHEAD // 4
"""Larger writes gain nothing: they wait for their bytes."""


class Segment:
    """The records from `base.lsn + 1` to `tip.lsn`, in one file."""

    __slots__ = ("_chains", "_fd", "_offsets", "_real", "_size", "base", "end", "floor", "path", "tip")

    def __init__(self, path: Path, base: Tip) -> None:
        self.path = path
        self.base = base
        """The record before the first: what a trimmed log still knows of it."""
        self.tip = base
        self.end = _FIRST_FRAME
        """Offset behind the last whole frame."""
        self.floor = base.lsn
        """The highest floor of a whole frame. All before a segment is durable when it is begun."""
        self._real = 0
        """Up to here everything was written since the file was opened, zeros or not."""
        self._size = 0
        """The file's, when it was opened to write: zeros go ahead within it."""
        self._offsets = array("Q")
        self._chains = array("I")
        self._fd: int | None = None

    @classmethod
    def create(cls, directory: Path, base: Tip, nbytes: int, content: bytes = b"") -> "Segment":
        """Make the file that continues after `base`, or replace it; `sync_directory` makes its name durable."""
        path = directory / f"{base.lsn + 1:020d}.log"
        temporary = path.with_suffix(".tmp")
        header = _HEADER.pack(_MAGIC, FORMAT, base.lsn + 1, base.gen, base.chain)
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                write_at(fd, header + _CRC.pack(zlib.crc32(header)) + content, 0)
                _preallocate(fd, nbytes)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return cls(path, base)

    @classmethod
    def open(cls, path: Path) -> "Segment":
        """Read the file's header. Raises DamagedLogError; StorageError for a format of another zrep."""
        first = int(path.stem) if path.stem.isdigit() else 0
        with path.open("rb") as file:
            header = file.read(_FIRST_FRAME)
        if len(header) == _FIRST_FRAME and zlib.crc32(header[: -_CRC.size]) == _CRC.unpack(header[-_CRC.size :])[0]:
            magic, version, lsn, gen, chain = _HEADER.unpack_from(header)
            if magic == _MAGIC and version != FORMAT:
                raise StorageError(
                    f"{path} has log format {version} and this zrep reads format {FORMAT}: "
                    "open the home with the zrep that wrote it, or a newer one"
                )
            if magic == _MAGIC and lsn == first:
                return cls(path, Tip(gen, lsn - 1, chain))
        raise DamagedLogError(f"{path} does not begin like a log segment: {LOST_TRUST}", first)

    def index(self, *, contents: bool) -> None:
        """Find the frames, up to the first that is not whole; with `contents`, check each record's CRC.

        Without, the chain is still followed from record to record, and `read` checks what it reads.
        """
        self._rewind(self.base)
        with self.path.open("rb", buffering=_CHUNK) as file:
            file.seek(self.end)
            while self._take(file, contents=contents):
                pass

    def _take(self, file: IO[bytes], *, contents: bool) -> bool:
        head = frames.parse_head(file.read(frames.HEAD_SIZE), self.end)
        if head is None:
            return False
        raw = file.read(head.length if contents else RECORD.size)
        tip = _successor(self.tip, raw)
        if tip is None or (contents and _decode(raw, head.length) is None):
            return False
        # A record that its CRC and chain vouch for needs no foot: the foot only shows where a write ended.
        self._note(tip, head.length, head.floor)
        file.seek(self.end)
        return True

    def read(self, first: Lsn, last: Lsn, limit_bytes: int) -> list[Record]:
        """Return records first..last, checked, at least one and at most `limit_bytes` in all."""
        begin = first - self.base.lsn - 1
        start = self._offsets[begin]
        ends = self._offsets[begin + 1 : last - self.base.lsn + 1]
        if last == self.tip.lsn:
            ends.append(self.end)
        del ends[max(bisect_right(ends, start + limit_bytes), 1) :]
        with self._readable() as fd:
            data = read_at(fd, ends[-1] - start, start)
        records = []
        at = frames.HEAD_SIZE
        for index, end in enumerate(ends, begin):
            length = end - start - frames.FOOT_SIZE - at
            record = _decode(data[at : at + length], length)
            lsn = self.base.lsn + index + 1
            if record is None or record.lsn != lsn or record.chain != self._chains[index]:
                raise DamagedLogError(f"{self.path} holds a broken record at LSN {lsn}: {LOST_TRUST}", lsn)
            records.append(record)
            at += length + frames.OVERHEAD
        return records

    def chain(self, lsn: Lsn) -> int:
        return self._chains[lsn - self.base.lsn - 1] if lsn > self.base.lsn else self.base.chain

    def rest(self) -> bytes:
        """Return what stands behind the last whole frame, without the zeros at the end of the file."""
        with self._readable() as fd:
            start = os.fstat(fd).st_size
            while start > self.end:
                size = min(_CHUNK, start - self.end)
                start -= size
                chunk = read_at(fd, size, start)
                if chunk != bytes(len(chunk)):
                    return read_at(fd, start + len(chunk.rstrip(b"\0")) - self.end, self.end)
        return b""

    def append(self, records: Sequence[Record], floor: Lsn, *, ahead: bool) -> None:
        """Write the records behind the last, in one piece; `flush` makes them durable.

        `ahead`: zeros go behind small ones, so that later flushes meet real blocks.
        """
        fd = self._writable()
        data = frames.encode(records, self.end, floor)
        end = self.end + len(data)
        if end > self._real:
            if ahead and len(data) <= SMALL and end < self._size:
                data += bytes(min(AHEAD, self._size - end))
            self._real = self.end + len(data)
        write_at(fd, data, self.end)
        for record in records:
            self._note(Tip(record.gen, record.lsn, record.chain), len(record.raw), floor)

    def rewrite(self, first: Lsn) -> None:
        """Write the records from `first` on once more, where they stand."""
        records = self.read(first, self.tip.lsn, self.end)
        offset = self._offsets[first - self.base.lsn - 1]
        write_at(self._writable(), frames.encode(records, offset, first - 1), offset)

    def copy(self, nbytes: int) -> None:
        """Move the frames into a new file under the same name."""
        self.close()
        with self._readable() as fd:
            content = read_at(fd, self.end - _FIRST_FRAME, _FIRST_FRAME)
        Segment.create(self.path.parent, self.base, nbytes, content)

    def cut(self, tip: Tip, nbytes: int) -> None:
        """Remove every record above `tip`, durably."""
        self._rewind(tip)
        self.erase(nbytes)

    def erase(self, nbytes: int) -> None:
        """Turn what stands behind the last record into zeros, durably, and preallocate to `nbytes`.

        The new size is flushed before anything is written behind it: otherwise a crash could bring old
        frames back above new ones, and a write would no longer go to zeros only.
        """
        fd = self._writable()
        os.ftruncate(fd, self.end)
        os.fsync(fd)
        _preallocate(fd, nbytes)
        self.close()  # what is real there, and how large it is, is another matter now

    def flush(self) -> None:
        os.fdatasync(self._writable())

    @property
    def nbytes(self) -> int:
        """How large the file is."""
        return self.path.stat().st_size

    def remove(self) -> None:
        """Delete the file, durably."""
        self.close()
        os.unlink(self.path)
        sync_directory(self.path.parent)

    def close(self) -> None:
        fd, self._fd = self._fd, None  # first: who is interrupted, and closes again, must not close another's
        if fd is not None:
            os.close(fd)

    def _note(self, tip: Tip, length: int, floor: Lsn) -> None:
        self._offsets.append(self.end)
        self._chains.append(tip.chain)
        self.tip = tip
        self.end += length + frames.OVERHEAD
        self.floor = max(self.floor, floor)

    def _rewind(self, tip: Tip) -> None:
        count = tip.lsn - self.base.lsn
        if count < len(self._offsets):
            self.end = self._offsets[count]
            del self._offsets[count:]
            del self._chains[count:]
        self.tip = tip
        self.floor = min(self.floor, tip.lsn)

    def _writable(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            self._size, self._real = os.fstat(self._fd).st_size, 0
        return self._fd

    @contextmanager
    def _readable(self) -> Iterator[int]:
        if self._fd is not None:
            yield self._fd
            return
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def _successor(tip: Tip, raw: bytes) -> Tip | None:
    """Return the tip after the record that `raw` begins with, when it follows `tip` (R14)."""
    if len(raw) < RECORD.size:
        return None
    lsn, gen, prev_gen, _, _, chain, crc = RECORD.unpack_from(raw)
    if lsn != tip.lsn + 1 or prev_gen != tip.gen or gen < tip.gen or chain != next_chain(tip.chain, crc):
        return None
    return Tip(gen, lsn, chain)


def _decode(raw: bytes, length: int) -> Record | None:
    if len(raw) != length:
        return None
    try:
        return decode_record(raw)
    except ProtocolError:
        return None


def _preallocate(fd: int, nbytes: int) -> None:
    """Reserve blocks up to `nbytes`, so that a flush has no metadata to write; do without where refused."""
    size = os.fstat(fd).st_size
    if size >= nbytes:
        return
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except OSError as error:
        if error.errno not in _CANNOT_PREALLOCATE:
            raise
        os.ftruncate(fd, size)
