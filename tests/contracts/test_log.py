"""What the machine may rely on in any log, on disk or in memory."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.records import chain_of
from tests.sim.memory import MemoryLog
from zrep.errors import InvariantError
from zrep.ports import Log
from zrep.records import Record, Tip
from zrep.storage.log import SegmentedLog

SEGMENT = 4096


class Disk(ABC):
    """A place for one log; `restart` is a kill -9 and the next start."""

    @abstractmethod
    def create(self, base: Tip) -> Log: ...

    @abstractmethod
    def restart(self, log: Log) -> Log: ...


class InMemory(Disk):
    def create(self, base: Tip) -> Log:
        return MemoryLog(base)

    def restart(self, log: Log) -> Log:
        assert isinstance(log, MemoryLog)
        return log.crash()


class InFiles(Disk):
    def __init__(self, directory: Path, cache_bytes: int) -> None:
        self.directory = directory
        self.cache_bytes = cache_bytes
        self.opened: list[SegmentedLog] = []

    def open(self) -> Log:
        log = SegmentedLog(self.directory, segment_bytes=SEGMENT, cache_bytes=self.cache_bytes)
        self.opened.append(log)
        return log

    def create(self, base: Tip) -> Log:
        SegmentedLog.create(self.directory, base, SEGMENT)
        return self.open()

    def restart(self, log: Log) -> Log:
        return self.open()


@pytest.fixture(params=["memory", "disk", "disk without cache"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "memory":
        yield InMemory()
        return
    files = InFiles(tmp_path, 1 << 20 if request.param == "disk" else 0)
    yield files
    for log in files.opened:
        log.close()


def fill(log: Log, count: int, gen: int = 1, size: int = 40) -> list[Record]:
    records = chain_of(log.tip, count, gen, size)
    for record in records:
        log.append(record)
    return records


def everything(log: Log) -> list[Record]:
    return list(log.read(log.first, log.tip.lsn, 1 << 30))


def test_a_new_log_is_empty(disk: Disk) -> None:
    log = disk.create(Tip())
    assert (log.first, log.tip, log.durable, log.dirty) == (1, Tip(), 0, False)
    assert everything(log) == []
    assert log.chain(0) == 0
    assert log.chain(1) is None


def test_a_log_can_continue_after_a_snapshot(disk: Disk) -> None:
    base = Tip(7, 100, 12345)
    log = disk.create(base)
    assert (log.first, log.tip, log.durable) == (101, base, 100)
    records = fill(log, 3, gen=8)
    log.flush()
    log = disk.restart(log)
    assert everything(log) == records
    assert [log.chain(lsn) for lsn in (99, 100, 101)] == [None, 12345, records[0].chain]


def test_what_is_appended_is_readable_before_it_is_durable(disk: Disk) -> None:
    log = disk.create(Tip())
    records = fill(log, 3)
    assert everything(log) == records
    assert (log.durable, log.dirty, log.tip.lsn) == (0, True, 3)
    log.flush()
    assert everything(log) == records
    assert (log.durable, log.dirty, log.tip.lsn) == (3, False, 3)


def test_a_restart_keeps_what_was_flushed_and_only_that(disk: Disk) -> None:
    log = disk.create(Tip())
    kept = fill(log, 5)
    log.flush()
    fill(log, 5)
    log = disk.restart(log)
    assert everything(log) == kept
    assert (log.durable, log.dirty) == (5, False)


def test_read_obeys_its_bounds(disk: Disk) -> None:
    log = disk.create(Tip())
    records = fill(log, 50, size=300)
    log.flush()
    fill(log, 2)
    size = len(records[0].raw)
    for first, last, limit, expected in [
        (1, 50, 1 << 30, records),
        (20, 29, 1 << 30, records[19:29]),
        (20, 29, 0, records[19:20]),
        (20, 29, size * 3, records[19:22]),
        (20, 29, size * 3 + size // 2, records[19:22]),
        (5, 45, size * 35 + 1, records[4:39]),
        (50, 50, 1, records[49:]),
        (53, 60, 1 << 30, []),
        (0, 10, 1 << 30, []),
        (9, 8, 1 << 30, []),
    ]:
        assert list(log.read(first, last, limit)) == expected


def test_a_cut_is_buffered_like_an_append(disk: Disk) -> None:
    log = disk.create(Tip())
    records = fill(log, 10)
    log.flush()
    log.cut(6)
    assert (log.tip.lsn, log.tip.chain, log.durable, log.dirty) == (6, records[5].chain, 6, True)
    assert everything(log) == records[:6]
    assert log.chain(7) is None
    assert everything(disk.restart(log)) == records


def test_a_flushed_cut_stays(disk: Disk) -> None:
    log = disk.create(Tip())
    records = fill(log, 10)
    log.flush()
    log.cut(6)
    log.flush()
    assert (log.durable, log.dirty) == (6, False)
    assert everything(disk.restart(log)) == records[:6]


def test_new_records_replace_the_cut_ones(disk: Disk) -> None:
    log = disk.create(Tip())
    records = fill(log, 40, size=300)
    log.flush()
    log.cut(11)
    fresh = fill(log, 2, gen=2, size=300)
    assert (log.tip.gen, log.durable) == (2, 11)
    log.cut(12)
    fresh[1:] = fill(log, 30, gen=3, size=300)
    assert everything(log) == records[:11] + fresh
    log.flush()
    assert everything(disk.restart(log)) == records[:11] + fresh


def test_a_cut_above_the_end_changes_nothing(disk: Disk) -> None:
    log = disk.create(Tip())
    records = fill(log, 3)
    log.flush()
    log.cut(9)
    assert not log.dirty
    assert everything(log) == records


def test_a_cut_of_the_whole_log_keeps_its_base(disk: Disk) -> None:
    base = Tip(2, 10, 99)
    log = disk.create(base)
    fill(log, 60, gen=2, size=300)
    log.flush()
    log.cut(10)
    log.flush()
    assert (log.tip, log.first) == (base, 11)
    log = disk.restart(log)
    assert (log.tip, log.first) == (base, 11)
    fill(log, 3, gen=2)
    with pytest.raises(InvariantError, match="within the retained log"):
        log.cut(9)


def test_trimming_keeps_the_chain_below_the_first(disk: Disk) -> None:
    log = disk.create(Tip())
    records = []
    for _ in range(12):
        records += fill(log, 5, size=300)
        log.flush()
    log.trim(30)
    assert 1 < log.first <= 30
    assert log.tip.lsn == 60
    first = log.first
    for image in (log, disk.restart(log)):
        assert image.first == first
        assert everything(image) == records[first - 1 :]
        assert image.chain(first - 1) == records[first - 2].chain
        assert image.chain(first - 2) is None
        assert list(image.read(first - 1, 60, 1 << 30)) == []


def test_trimming_retains_so_many_bytes(disk: Disk) -> None:
    log = disk.create(Tip())
    for _ in range(12):
        fill(log, 5, size=300)
        log.flush()
    log.trim(60, 1 << 20)
    assert log.first == 1
    log.trim(60, 2 * SEGMENT)
    retained = log.first
    assert retained > 1
    assert sum(len(record.raw) for record in everything(log) if record.lsn < 60) >= SEGMENT
    log.trim(60)
    assert retained < log.first <= 60


def test_trimming_never_takes_what_is_not_durable(disk: Disk) -> None:
    log = disk.create(Tip())
    fill(log, 5)
    log.flush()
    pending = fill(log, 5)
    log.trim(100)
    assert log.tip.lsn == 10
    assert everything(log)[-5:] == pending


@pytest.mark.parametrize("seed", range(25))
def test_random_histories(disk: Disk, seed: int) -> None:
    """The log against a plain list, with restarts, cuts and trims in any order."""
    rng = random.Random(seed)
    log = disk.create(Tip())
    model: list[Record] = []
    flushed: list[Record] = []
    gen = 1
    for _ in range(60):
        match rng.randrange(8):
            case 0 | 1 | 2:
                model += fill(log, rng.randint(1, 8), gen, rng.choice([0, 10, 400, 1500]))
            case 3:
                if model:
                    log.cut(rng.randint(model[0].lsn - 1, model[-1].lsn))
                    del model[log.tip.lsn - model[0].lsn + 1 :]
                gen += 1
            case 4 | 5:
                log.flush()
                flushed = list(model)
            case 6 if model == flushed:
                log.trim(rng.randint(0, log.tip.lsn + 2))
                model = [record for record in model if record.lsn >= log.first]
                flushed = list(model)
            case 7 if rng.random() < 0.5:
                log = disk.restart(log)
                model = list(flushed)
        assert log.tip.lsn - log.first + 1 == len(model)
        if model:
            first = rng.choice(model).lsn
            limit = rng.choice([1, 500, 5000, 1 << 20])
            part = list(log.read(first, log.tip.lsn, limit))
            index = first - model[0].lsn
            assert part == model[index : index + len(part)]
            assert part
            assert log.chain(first) == model[index].chain
    assert everything(log) == model


@pytest.mark.parametrize("seed", range(50))
def test_a_crash_in_memory_leaves_what_a_disk_may(seed: int) -> None:
    """What was flushed and not cut since is there; above it a prefix of the old or of the new, never both."""
    rng = random.Random(seed)
    log = MemoryLog()
    old = fill(log, rng.randint(0, 8))
    log.flush()
    kept = rng.randint(0, len(old))
    log.cut(kept)
    new = old[:kept] + fill(log, rng.randint(0, 8), gen=2)
    found = everything(log.crash(rng))
    assert len(found) >= kept
    assert found in (old[: len(found)], new[: len(found)])
