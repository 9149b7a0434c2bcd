"""What the machine may rely on in any store, in LMDB or in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.sim.memory import MemoryStore
from zrep import codec, ports
from zrep.errors import InvariantError
from zrep.ids import SiteId
from zrep.options import MIB, Options
from zrep.ports import Applied
from zrep.records import Config, Kind, Member, Op, Record, Reign, Tip, Txn, make_record
from zrep.storage.store import Store

SITES = (SiteId("a" * 32), SiteId("b" * 32))
CONFIG = Config((Member(SITES[0]), Member(SITES[1])))
OPTIONS = Options(map_bytes=16 * MIB)


class Place(Protocol):
    """Where one store is; `open` is the first start, and each one after a kill -9."""

    def open(self) -> ports.Store: ...


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def open(self) -> ports.Store:
        self.store = self.store.crash()
        return self.store


class InLmdb:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: Store | None = None

    def open(self) -> ports.Store:
        self.close()
        self.store = Store(self.path, OPTIONS)
        return self.store

    def close(self) -> None:
        if self.store is not None:
            self.store.close()


@pytest.fixture(params=["memory", "lmdb"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "memory":
        yield InMemory()
        return
    lmdb = InLmdb(tmp_path / "data")
    yield lmdb
    lmdb.close()


def log() -> list[Record]:
    """Return two reigns, a configuration and two commits."""
    records: list[Record] = []
    tip = Tip()
    for gen, kind, payload in [
        (1, Kind.REIGN, codec.encode_reign(SITES[0])),
        (1, Kind.CONFIG, codec.encode_config(CONFIG)),
        (1, Kind.COMMIT, codec.encode_txns([Txn(((Op.PUT, None, b"k", b"1"),))])),
        (4, Kind.REIGN, codec.encode_reign(SITES[1])),
        (4, Kind.COMMIT, codec.encode_txns([Txn(((Op.PUT, None, b"k", b"2"),))])),
    ]:
        record = make_record(tip, gen, 0, kind, payload)
        tip = Tip(record.gen, record.lsn, record.chain)
        records.append(record)
    return records


def facts(applied: Applied) -> tuple[Tip, tuple[Reign, ...], Config]:
    return applied.tip, applied.history.reigns, applied.config


def test_a_new_store_is_the_empty_prefix(place: Place) -> None:
    assert facts(place.open().applied) == (Tip(), (), Config())


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 1, 1, 1), (2, 0, 3)])
def test_it_says_which_prefix_it_is(place: Place, sizes: tuple[int, ...]) -> None:
    store = place.open()
    records = log()
    end = 0
    for size in sizes:
        store.apply(records[end : end + size])
        end += size
        last = records[end - 1]
        assert store.applied.tip == Tip(last.gen, last.lsn, last.chain)
    expected = (Tip(4, 5, records[-1].chain), (Reign(1, SITES[0], 1), Reign(4, SITES[1], 4)), CONFIG)
    assert facts(store.applied) == expected
    assert facts(place.open().applied) == expected


def test_what_was_applied_before_is_not_changed_by_more(place: Place) -> None:
    """The machine may keep an `applied` that it was given."""
    store = place.open()
    records = log()
    store.apply(records[:3])
    before = store.applied
    seen = facts(before)
    store.apply(records[3:])
    assert facts(before) == seen


@pytest.mark.parametrize("wrong", [(0, 1), (2, 3), (4, 5)], ids=["again", "a gap", "a bigger gap"])
def test_it_takes_only_what_follows(place: Place, wrong: tuple[int, int]) -> None:
    store = place.open()
    records = log()
    store.apply(records[:1])
    seen = facts(store.applied)
    with pytest.raises(InvariantError):
        store.apply(records[wrong[0] : wrong[1]])
    assert facts(store.applied) == seen
    store.apply(records[1:])
    assert store.applied.tip.lsn == 5
