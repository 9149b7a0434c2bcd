"""Opening a home: which log is believed, and what becomes of one that is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

import zrep
from tests.environment.conftest import MAP_BYTES
from tests.environment.power import Power
from tests.environment.sites import eventually
from zrep.errors import StorageError
from zrep.storage.log import SegmentedLog

SEGMENT = 64 * 1024


def opened(path: Path, durability: str = "process") -> zrep.Environment:
    return zrep.open(path, durability=durability, map_bytes=MAP_BYTES, segment_bytes=SEGMENT)


def written(path: Path, durability: str = "process") -> int:
    """Make a home with some records in it, closed; return the LSN that its store stands at."""
    with opened(path, durability) as env:
        for number in range(20):
            env.put(b"%d" % number, bytes(10_000))
        return env.engine.store.applied.tip.lsn


def shortened(path: Path) -> None:
    log = SegmentedLog(path / "state-1" / "log", segment_bytes=SEGMENT)
    log.cut(5)
    log.flush()
    log.close()


def check_it_goes_on(path: Path, applied: int) -> None:
    """What the store has is there, what is written is read, and both are after the next start."""
    for key in (b"a", b"b"):
        with opened(path) as env:
            assert env.engine.log.first == applied + 1
            assert env.get(b"19") == bytes(10_000)
            result = env.put(key, b"1")
            assert result.token is not None
            assert result.token.lsn > applied
            assert env.get(key) == b"1"
    with opened(path) as env:
        assert (env.get(b"a"), env.get(b"b")) == (b"1", b"1")


def missing(path: Path) -> None:
    """What a crash leaves in the middle of a restart of the log."""
    for segment in (path / "state-1" / "log").iterdir():
        segment.unlink()


@pytest.mark.parametrize("harm", [shortened, missing])
def test_a_log_that_nobody_flushes_begins_again_where_the_store_ends(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Else the next records get LSNs that the store has applied: acknowledged, and never read."""
    applied = written(tmp_path / "home")
    harm(tmp_path / "home")
    check_it_goes_on(tmp_path / "home", applied)


@pytest.mark.parametrize("harm", [shortened, missing])
def test_a_log_that_was_flushed_must_not_end_below_the_store(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    written(tmp_path / "home", "sync")
    harm(tmp_path / "home")
    with pytest.raises(StorageError, match="restore it from a backup"):
        opened(tmp_path / "home")


@pytest.mark.parametrize("end", ["checkpoint", "close"])
def test_no_power_cut_leaves_a_store_that_is_ahead_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    power = Power(monkeypatch)
    home, left = tmp_path / "home", tmp_path / "left"
    env = opened(home)
    engine = env.engine
    try:
        eventually(lambda: env.put(b"a", b"1") and not engine.log.sync, "the log is not flushed any more")
        for number in range(20):
            env.put(b"%d" % number, bytes(10_000))
        applied = engine.store.applied.tip.lsn
        if end == "checkpoint":
            engine.call(engine.store.checkpoints.hasten)
            eventually(lambda: engine.store.checkpoints.tip.lsn >= applied, "the store is durable")
            power.cut(home, left)
    finally:
        env.close()
    if end == "close":
        power.cut(home, left)
    power.reboot()
    with opened(left) as env:
        assert env.engine.log.first == 1, "nothing was missing"
        assert env.engine.log.tip.lsn > applied
        assert env.get(b"19") == bytes(10_000)
        env.put(b"b", b"2")
        assert env.get(b"b") == b"2"
