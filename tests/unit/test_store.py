"""The LMDB store: what records make of it, and that it always says which prefix of the log it is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import pytest

from zrep import codec
from zrep.errors import InvariantError, StorageError
from zrep.ids import Position, SiteId
from zrep.options import MIB, Options
from zrep.records import Config, Kind, Member, Op, Record, Reign, Tip, Txn, make_record
from zrep.storage import sessions
from zrep.storage.catalogue import DUPSORT, INTEGER_DUP, KINDS, flag_bits
from zrep.storage.sessions import Verdict
from zrep.storage.store import Store

SITE = SiteId("a" * 32)
OPTIONS = Options(map_bytes=64 * MIB)


class Script:
    """Builds a log of records."""

    def __init__(self) -> None:
        self.tip = Tip()
        self.records: list[Record] = []
        self.add(Kind.REIGN, codec.encode_reign(SITE))

    def add(self, kind: Kind, payload: bytes, time_ms: int = 1000) -> Record:
        record = make_record(self.tip, 1, time_ms, kind, payload)
        self.tip = Tip(1, record.lsn, record.chain)
        self.records.append(record)
        return record

    def commit(self, *ops: tuple[Any, ...], session: str = "", seq: int = 0, time_ms: int = 1000) -> Record:
        return self.add(Kind.COMMIT, codec.encode_txns([Txn(ops, session, seq)]), time_ms)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data", OPTIONS)
    yield store
    store.close()


def contents(store: Store, name: bytes | None = None) -> list[tuple[bytes, bytes]]:
    with store.begin() as txn:
        return [(bytes(key), bytes(value)) for key, value in txn.cursor(store.handle(name))]


def test_a_new_store_is_the_empty_prefix(store: Store) -> None:
    assert store.applied.tip == Tip()
    assert list(store.catalogue.handles) == [None]
    assert contents(store) == []


def test_records_are_applied_and_the_store_says_so_after_a_restart(store: Store, tmp_path: Path) -> None:
    script = Script()
    config = Config((Member(SITE),))
    script.add(Kind.CONFIG, codec.encode_config(config))
    script.commit((Op.PUT, None, b"k", b"v"), (Op.PUT, None, b"l", b"w"), (Op.DELETE, None, b"l"))
    store.apply(script.records)
    expected = store.applied
    assert (expected.tip, expected.config) == (script.tip, config)
    assert expected.history.reigns == (Reign(1, SITE, 1),)
    digest = store.digest()
    store.close()

    again = Store(tmp_path / "data", OPTIONS)
    assert contents(again) == [(b"k", b"v")]
    assert again.applied.tip == expected.tip
    assert again.applied.history.reigns == expected.history.reigns
    assert again.applied.config == config
    assert again.digest() == digest
    again.close()


def test_records_are_applied_only_in_order(store: Store) -> None:
    script = Script()
    script.commit((Op.PUT, None, b"k", b"v"))
    with pytest.raises(InvariantError):
        store.apply(script.records[1:])
    assert store.applied.tip == Tip()
    store.apply(script.records)
    assert contents(store) == [(b"k", b"v")]


def test_equal_logs_give_equal_contents_however_they_are_cut(tmp_path: Path) -> None:
    script = Script()
    script.commit((Op.CREATE_DB, b"dups", DUPSORT), (Op.PUT, b"dups", b"k", b"1"), (Op.PUT, b"dups", b"k", b"2"))
    script.commit((Op.DELETE_DUP, b"dups", b"k", b"1"), (Op.CREATE_DB, b"gone", 0), (Op.PUT, b"gone", b"x", b""))
    script.commit((Op.DELETE_DB, b"gone"), (Op.CREATE_DB, b"gone", DUPSORT), (Op.CLEAR, None))
    script.commit((Op.PUT, b"gone", b"y", b"1"), (Op.PUT, None, b"m", b""))
    digests = set()
    for step in (1, 2, 5):
        store = Store(tmp_path / str(step), OPTIONS)
        for first in range(0, 5, step):
            store.apply(script.records[first : first + step])
        assert contents(store, b"dups") == [(b"k", b"2")]
        assert contents(store, b"gone") == [(b"y", b"1")]
        digests.add(store.digest())
        store.close()
    assert len(digests) == 1


@pytest.mark.parametrize("flags", KINDS)
def test_a_database_has_the_flags_it_was_created_with(store: Store, flags: int) -> None:
    script = Script()
    for number in range(10):
        script.commit((Op.CREATE_DB, b"db%d" % number, flags))
    store.apply(script.records)
    handles = {store.handle(b"db%d" % number) for number in range(10)}
    assert len(handles) == 10
    assert {flag_bits(handle.flags()) for handle in handles} == {flags}


def test_flags_include_those_that_others_imply() -> None:
    assert flag_bits({"integerdup": True}) == INTEGER_DUP | 0x10 | DUPSORT
    assert len(KINDS) == 16


def test_databases_can_come_and_go_without_end(store: Store) -> None:
    script = Script()
    for number in range(400):
        name = b"scratch-%d" % number
        script.commit((Op.CREATE_DB, name, 0), (Op.PUT, name, b"k", b"%d" % number))
        script.commit((Op.DELETE_DB, name))
    store.apply(script.records)
    assert list(store.catalogue.handles) == [None]
    with pytest.raises(lmdb.NotFoundError, match="there is no database named"):
        store.handle(b"scratch-1")


def test_an_old_handle_sees_nothing_for_as_long_as_there_are_other_slots(store: Store) -> None:
    script = Script()
    script.commit((Op.CREATE_DB, b"a", 0), (Op.PUT, b"a", b"k", b"v"))
    store.apply(script.records)
    old = store.handle(b"a")
    script.commit((Op.DELETE_DB, b"a"))
    script.commit((Op.CREATE_DB, b"b", 0), (Op.PUT, b"b", b"k", b"other"))
    store.apply(script.records[2:])
    with store.begin() as txn:
        assert txn.get(b"k", db=old) is None
        assert txn.get(b"k", db=store.handle(b"b")) == b"other"


def test_a_crash_during_creation_leaves_nothing_half(tmp_path: Path) -> None:
    half = tmp_path / "data.new"
    half.mkdir()
    (half / "data.mdb").write_bytes(b"torn")
    store = Store(tmp_path / "data", OPTIONS)
    assert store.applied.tip.lsn == 0
    assert not half.exists()
    store.close()


def test_what_is_no_store_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "data.mdb").write_bytes(b"not LMDB" * 1000)
    store = Store(path, OPTIONS)
    assert store.applied.tip == Tip()
    assert (tmp_path / "data.damaged" / "data.mdb").exists()
    store.close()


def test_a_full_map_grows_and_nothing_is_lost(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", Options(map_bytes=1 * MIB))
    script = Script()
    value = bytes(200_000)
    for number in range(20):
        script.commit((Op.PUT, None, b"%d" % number, value))
    store.apply(script.records)
    assert store.applied.tip == script.tip
    assert len(contents(store)) == 20
    assert store.env.info()["map_size"] > 4_000_000
    store.close()


def check(store: Store, session: str, seq: int) -> sessions.Answer:
    with store.begin() as txn:
        return sessions.check(txn, store.bookkeeping, session, seq)


def test_a_request_runs_once_and_an_unknown_one_never(store: Store) -> None:
    script = Script()
    assert check(store, "s", 1).verdict is Verdict.RUN
    assert check(store, "s", 2).verdict is Verdict.UNKNOWN
    script.commit((Op.PUT, None, b"k", b"v"), session="s", seq=1)
    store.apply(script.records)
    assert check(store, "s", 1) == (Verdict.DONE, Position(1, 2))
    assert check(store, "s", 2).verdict is Verdict.RUN
    assert check(store, "s", 3).verdict is Verdict.UNKNOWN
    assert check(store, "s", 0).verdict is Verdict.UNKNOWN


def test_sessions_expire_by_the_records_own_time(store: Store) -> None:
    script = Script()
    put = (Op.PUT, None, b"k", b"v")
    script.commit(put, session="old", seq=1, time_ms=1000)
    script.commit(put, session="kept", seq=1, time_ms=1000)
    script.commit(put, session="kept", seq=2, time_ms=2000)
    script.commit(put, time_ms=1001 + sessions.KEPT_MS)
    store.apply(script.records)
    assert check(store, "old", 1).verdict is Verdict.RUN
    assert check(store, "kept", 2).verdict is Verdict.DONE
    assert keys_with(store, b"t") == 1


def keys_with(store: Store, prefix: bytes) -> int:
    with store.begin() as txn:
        return sum(bytes(key).startswith(prefix) for key, _ in txn.cursor(store.bookkeeping))


def test_a_store_that_cannot_be_read_as_ours_is_refused(store: Store, tmp_path: Path) -> None:
    with store.env.begin(write=True) as txn:
        txn.put(b"applied", b"\xc1", db=store.bookkeeping)
    store.close()
    with pytest.raises(StorageError, match="data cannot be used"):
        Store(tmp_path / "data", OPTIONS)


def test_records_with_no_meaning_here_change_nothing(store: Store) -> None:
    script = Script()
    script.commit((Op.PUT, b"nowhere", b"k", b"v"))
    before: Sequence[object] = store.applied
    with pytest.raises(InvariantError):
        store.apply(script.records)
    assert store.applied == before
