"""The log's files: what a crash may leave of a write, what damage looks like, what a failing disk ends in."""

import errno
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.records import chain_of
from zrep.errors import DamagedLogError, DiskFullError, StorageError
from zrep.ids import Lsn
from zrep.records import Kind, Record, Tip, make_record
from zrep.storage.log import SegmentedLog, flush_newest
from zrep.storage.segment import AHEAD, SMALL

SEGMENT = 16 * 1024
SECTOR = 512


def open_log(directory: Path, floor: Lsn = 0, cache_bytes: int = 0) -> SegmentedLog:
    return SegmentedLog(directory, segment_bytes=SEGMENT, floor=floor, cache_bytes=cache_bytes)


def new_log(directory: Path) -> SegmentedLog:
    SegmentedLog.create(directory, segment_bytes=SEGMENT)
    return open_log(directory)


def flush(log: SegmentedLog, *sizes: int, gen: int = 1) -> list[Record]:
    """Append one record of each size as one group."""
    records = []
    for size in sizes:
        records += chain_of(log.tip, 1, gen, size)
        log.append(records[-1])
    log.flush()
    return records


def contents(log: SegmentedLog) -> list[Record]:
    return list(log.read(log.first, log.tip.lsn, 1 << 30))


def last_file(directory: Path) -> Path:
    return max(directory.glob("*.log"))


def reopened(directory: Path, floor: Lsn = 0) -> list[Record]:
    log = open_log(directory, floor)
    try:
        return contents(log)
    finally:
        log.close()


def damage_found(read: Callable[[], list[Record]], records: list[Record]) -> Lsn | None:
    """Return the LSN of the damage that reading runs into; None when it returns exactly `records`."""
    try:
        found = read()
    except DamagedLogError as error:
        return error.lsn
    assert found == records
    return None


class Written:
    """A log of three flushed records, and the bytes of one more group on top."""

    def __init__(self, directory: Path, *sizes: int) -> None:
        log = new_log(directory)
        self.directory = directory
        self.old = flush(log, 30, 700, 10)
        self.before = last_file(directory).read_bytes()
        self.new = flush(log, *sizes)
        log.close()
        self.after = last_file(directory).read_bytes()
        changed = [at for at in range(len(self.after)) if self.before[at] != self.after[at]]
        self.start, self.stop = changed[0], changed[-1] + 1

    def reopen(self, image: bytes | bytearray, floor: Lsn = 0) -> list[Record]:
        last_file(self.directory).write_bytes(image)
        return reopened(self.directory, floor)


def test_a_write_cut_short_at_any_byte_leaves_a_prefix(tmp_path: Path) -> None:
    written = Written(tmp_path, 5, 600, 0)
    allowed = [written.old + written.new[:count] for count in range(4)]
    found = set()
    for length in range(written.start, written.stop + 1):
        for file_size in (length, len(written.after)):
            image = (written.after[:length] + written.before[length:])[:file_size]
            records = written.reopen(image)
            assert records in allowed
            found.add(len(records))
    assert found == {3, 4, 5, 6}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 2500), min_size=1, max_size=4))
def test_sectors_that_never_arrived_leave_a_prefix(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int]
) -> None:
    written = Written(tmp_path_factory.mktemp("log"), *sizes)
    rng = random.Random(seed)
    image = bytearray(written.after)
    for at in range(written.start - written.start % SECTOR, written.stop, SECTOR):
        if rng.random() < 0.4:
            image[at : at + SECTOR] = written.before[at : at + SECTOR]
    records = written.reopen(image)
    assert records == (written.old + written.new)[: len(records)]
    assert len(records) >= 3


def test_a_torn_tail_is_zeros_again(tmp_path: Path) -> None:
    written = Written(tmp_path, 900)
    assert written.reopen(written.after[: written.stop - 300].ljust(len(written.after), b"\0")) == written.old
    assert last_file(tmp_path).read_bytes().rstrip(b"\0") == written.before.rstrip(b"\0")
    log = open_log(tmp_path)
    fresh = flush(log, 40)
    assert reopened(tmp_path) == written.old + fresh


def test_a_record_full_of_zeros_is_not_taken_for_a_blank_sector(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    log.append(make_record(Tip(), 1, 0, Kind.COMMIT, b"head" + bytes(3000) + b"tail"))
    log.flush()
    image = bytearray(last_file(tmp_path).read_bytes())
    image[image.index(b"tail")] ^= 1
    last_file(tmp_path).write_bytes(image)
    with pytest.raises(DamagedLogError):
        reopened(tmp_path)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """A bit flips anywhere in a stopped log: it opens unharmed or raises, it is never shorter or different."""
    log = new_log(tmp_path)
    records: list[Record] = []
    for sizes in [(10, 20), (700,), (0,), (1500, 3, 900), (60,)]:
        records += flush(log, *sizes)
    log.close()
    path = last_file(tmp_path)
    good = path.read_bytes()
    used = len(good.rstrip(b"\0"))
    rng = random.Random(1)
    damaged = 0
    for at in [*range(200), *(rng.randrange(used + 600) for _ in range(600)), *range(used - 150, used + 50)]:
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        damage = damage_found(partial(reopened, tmp_path), records)
        assert damage is None or 0 < damage <= len(records)
        damaged += damage is not None
    assert damaged > 500


def test_a_flipped_bit_in_an_older_segment_is_never_served(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    records: list[Record] = []
    while len(list(tmp_path.glob("*.log"))) < 3:
        records += flush(log, 300, 900)
    log.close()
    path = sorted(tmp_path.glob("*.log"))[1]
    good = path.read_bytes()
    first = int(path.stem)
    rng = random.Random(2)
    damaged = 0
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.randrange(50, len(good.rstrip(b"\0")))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        log = open_log(tmp_path)
        assert log.read(1, first - 1, 1 << 30) == records[: first - 1]
        damage = damage_found(partial(contents, log), records)
        assert damage is None or damage >= first
        damaged += damage is not None
        log.close()
        (tmp_path / "suspect").unlink(missing_ok=True)
    assert damaged > 150


def test_damage_that_a_read_finds_is_not_forgotten_by_a_restart(tmp_path: Path) -> None:
    """Else a site would come back as a voter that everybody trusts, with the broken segment (R4)."""
    log = new_log(tmp_path)
    while len(list(tmp_path.glob("*.log"))) < 3:
        flush(log, 300, 900)
    log.close()
    oldest = min(tmp_path.glob("*.log"))
    image = bytearray(oldest.read_bytes())
    image[500] ^= 1
    oldest.write_bytes(image)
    log = open_log(tmp_path)
    for use in (lambda: contents(log), lambda: contents(log), log.flush):
        with pytest.raises(DamagedLogError, match="must join its group anew"):
            use()
    log.close()
    for _ in range(2):
        with pytest.raises(DamagedLogError, match="must join its group anew"):
            open_log(tmp_path)


@pytest.mark.parametrize("harm", ["truncated", "hole", "deleted", "swapped"])
def test_an_end_below_the_durable_floor_is_damage(tmp_path: Path, harm: str) -> None:
    log = new_log(tmp_path)
    records: list[Record] = []
    for _ in range(20):
        records += flush(log, 1000)
    log.close()
    paths = sorted(tmp_path.glob("*.log"))
    assert len(paths) == 2
    image = paths[1].read_bytes()
    floor = 0
    match harm:
        case "truncated":
            paths[1].write_bytes(image[:1200])
            floor = len(records)
        case "hole":
            paths[1].write_bytes(image[:200] + bytes(400) + image[600:])
        case "deleted":
            paths[1].unlink()
            floor = len(records)
        case "swapped":
            paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(DamagedLogError, match="must join its group anew") as caught:
        open_log(tmp_path, floor)
    assert caught.value.lsn == {"truncated": 17, "hole": 16, "deleted": 16, "swapped": 16}[harm]


def test_a_missing_middle_segment_is_damage(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    while len(list(tmp_path.glob("*.log"))) < 3:
        flush(log, 2000)
    log.close()
    middle = sorted(tmp_path.glob("*.log"))[1]
    middle.unlink()
    log = open_log(tmp_path)
    with pytest.raises(DamagedLogError):
        log.read(int(middle.stem), log.tip.lsn, 1 << 20)


def test_a_newer_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("zrep.storage.segment.FORMAT", 2)
        new_log(tmp_path).close()
    with pytest.raises(StorageError, match="has log format 2 and this zrep reads format 1"):
        open_log(tmp_path)


def test_frames_after_a_cut_are_gone_from_the_file(tmp_path: Path) -> None:
    """Else a shorter new tail could be followed by old frames that still look valid."""
    log = new_log(tmp_path)
    records = flush(log, 100, 100, 100, 100)
    log.cut(2)
    fresh = flush(log, 100, gen=2)
    image = last_file(tmp_path).read_bytes()
    assert records[3].raw not in image
    assert len(image) == SEGMENT
    assert reopened(tmp_path) == records[:2] + fresh


def test_a_cut_reaches_back_over_segments(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    records: list[Record] = []
    while len(list(tmp_path.glob("*.log"))) < 4:
        records += flush(log, 2000)
    log.close()
    log = open_log(tmp_path)
    log.cut(3)
    log.flush()
    assert len(list(tmp_path.glob("*.log"))) == 1
    fresh = flush(log, 10, gen=4)
    assert contents(log) == reopened(tmp_path) == records[:3] + fresh


def failing(number: int, calls: list[str]) -> Callable[..., int]:
    def fail(*args: object) -> int:
        calls.append("called")
        raise OSError(number, os.strerror(number))

    return fail


def test_a_failed_flush_is_final_and_the_next_start_believes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(tmp_path)
    records: list[Record] = []
    while len(list(tmp_path.glob("*.log"))) < 2:
        records += flush(log, 2000)
    pending = chain_of(log.tip, 1)
    log.append(pending[0])
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO, calls))
        with pytest.raises(StorageError, match="the site must stop"):
            log.flush()
    for use in (log.flush, lambda: log.cut(1), lambda: log.append(pending[0]), lambda: log.read(1, 2, 3)):
        with pytest.raises(StorageError, match="the site must stop"):
            use()
    assert (log.durable, len(calls)) == (len(records), 1)
    log.close()
    inode = last_file(tmp_path).stat().st_ino
    assert reopened(tmp_path) == records + pending
    assert last_file(tmp_path).stat().st_ino != inode
    inode = last_file(tmp_path).stat().st_ino
    assert reopened(tmp_path) == records + pending
    assert last_file(tmp_path).stat().st_ino == inode


def test_after_a_failed_flush_every_retained_record_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = new_log(tmp_path)
    while len(list(tmp_path.glob("*.log"))) < 3:
        flush(log, 2000)
    log.append(chain_of(log.tip, 1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO, []))
        with pytest.raises(StorageError):
            log.flush()
    log.close()
    oldest = min(tmp_path.glob("*.log"))
    image = bytearray(oldest.read_bytes())
    image[500] ^= 1
    oldest.write_bytes(image)
    with pytest.raises(DamagedLogError):
        open_log(tmp_path)


def writes_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of all writes from now on."""
    sizes: list[int] = []
    pwrite = os.pwrite

    def watched(fd: int, data: bytes, offset: int) -> int:
        sizes.append(len(data))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", watched)
    return sizes


def test_zeros_are_written_ahead_so_that_most_flushes_meet_real_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SegmentedLog.create(tmp_path, segment_bytes=4 * AHEAD)
    log = SegmentedLog(tmp_path, segment_bytes=4 * AHEAD)
    sizes = writes_of(monkeypatch)
    while log.nbytes == 4 * AHEAD:
        flush(log, 1000)
    ahead = [size for size in sizes if size > AHEAD // 2]
    assert 3 <= len(ahead) <= 5
    assert sum(sizes) < 9 * AHEAD, "twice the log's size, and the first bytes of the next segment"
    sizes.clear()
    flush(log, SMALL)
    assert max(sizes) < 2 * SMALL, "large ones bring no zeros"


def test_nothing_is_written_ahead_of_a_log_that_is_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = new_log(tmp_path)
    log.sync = False
    sizes = writes_of(monkeypatch)
    flush(log, 1000)
    assert max(sizes) < 2000


def test_without_sync_nothing_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SegmentedLog.create(tmp_path, segment_bytes=SEGMENT)
    log = SegmentedLog(tmp_path, segment_bytes=SEGMENT)
    log.sync = False
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO, []))
        records = flush(log, 10, 20)
    log.close()
    assert log.durable == 2
    assert reopened(tmp_path) == records


def test_a_segment_is_flushed_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could take its end and leave the next: a hole in the log."""
    log = new_log(tmp_path)
    log.sync = False
    first = last_file(tmp_path)
    flushed: list[bytes] = []
    flush_file = os.fdatasync

    def watched(fd: int) -> None:
        flush_file(fd)
        flushed.append(first.read_bytes())

    monkeypatch.setattr(os, "fdatasync", watched)
    while last_file(tmp_path) == first:
        flush(log, 1000)
    log.close()
    assert flushed == [first.read_bytes()]


def test_the_newest_segment_is_flushed_from_outside_or_suspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush_newest(tmp_path)  # no log yet
    log = new_log(tmp_path)
    log.sync = False
    records = flush(log, 10)
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO, calls))
        with pytest.raises(OSError, match="Input/output error"):
            flush_newest(tmp_path)
    assert calls == ["called"]
    log.close()
    inode = last_file(tmp_path).stat().st_ino
    assert reopened(tmp_path) == records
    assert last_file(tmp_path).stat().st_ino != inode


@pytest.mark.parametrize("call", ["pwrite", "rename"])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    log = new_log(tmp_path)
    records = flush(log, 6000, 6000)
    pending = chain_of(log.tip, 1, size=6000 if call == "rename" else 600)
    log.append(pending[0])
    write = os.pwrite

    def write_half(fd: int, data: bytes, offset: int) -> int:
        if len(data) < 400:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) // 2], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, write_half if call == "pwrite" else failing(errno.ENOSPC, []))
        for _ in range(2):
            with pytest.raises(DiskFullError, match="nothing was lost"):
                log.flush()
    assert (log.durable, log.dirty) == (2, True)
    assert list(tmp_path.glob("*.tmp")) == []
    assert reopened(tmp_path) == records
    log.flush()
    assert contents(log) == reopened(tmp_path) == records + pending


def test_the_live_tail_is_served_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SegmentedLog.create(tmp_path, segment_bytes=SEGMENT)
    log = open_log(tmp_path, cache_bytes=1000)
    records = flush(log, *[100] * 30)
    calls: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(errno.EIO, calls))
        assert list(log.read(25, 30, 1 << 20)) == records[24:]
        assert calls == []
    assert contents(log) == records
