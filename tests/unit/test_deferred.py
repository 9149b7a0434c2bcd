"""Deferred puts: what is captured and not performed yet is never missed, whoever looks, and whatever fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lmdb
import pytest

from tests.unit.test_group import Bench, bench, put
from tests.unit.test_store import OPTIONS, contents
from zrep.commit import OP_BYTES, Batch
from zrep.errors import ConflictError, NotAppliedError, TxnTooLargeError
from zrep.options import KIB, MIB
from zrep.records import Op
from zrep.storage.catalogue import DUPSORT
from zrep.storage.child import Child
from zrep.storage.group import Group
from zrep.storage.store import Store

__all__ = ["bench"]


def committed(group: Group, *pairs: tuple[bytes, bytes], name: bytes | None = None) -> Child:
    child = group.begin()
    for key, value in pairs:
        put(child, key, value, name)
    child.merge()
    return child


def test_nobody_asks_lmdb_for_what_nobody_looks_at(bench: Bench) -> None:
    group = bench.group()
    child = committed(group, (b"a", b"1"), (b"b", b"2"))
    group.run_batch(Batch().put(b"c", b"3"))
    assert child.nested is None
    group.seal()
    before = group.unperformed
    group.perform()
    assert (before, group.unperformed) == (True, False)
    group.abort()


@pytest.mark.parametrize("early", [True, False], ids=["while the record is on its way", "at the commit"])
def test_it_is_there_when_the_group_is(bench: Bench, early: bool) -> None:
    group = bench.group()
    committed(group, (b"a", b"1"), (b"b", b"1"))
    group.run_batch(Batch().put(b"b", b"2").put(b"c", b"2"))
    committed(group, (b"c", b"3"))
    if early:
        group.perform()
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]


def test_who_looks_sees_everything_before_and_its_own(bench: Bench) -> None:
    group = bench.group()
    committed(group, (b"a", b"1"), (b"b", b"1"))
    child = group.begin()
    put(child, b"b", b"2")
    put(child, b"c", b"2")
    txn = child.look()
    assert [txn.get(key) for key in (b"a", b"b", b"c")] == [b"1", b"2", b"2"]
    put(child, b"c", b"3")
    child.merge()
    committed(group, (b"a", b"4"))
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"4"), (b"b", b"2"), (b"c", b"3")]


def test_who_looks_and_aborts_undoes_only_its_own(bench: Bench) -> None:
    group = bench.group()
    committed(group, (b"a", b"1"))
    for _ in range(2):
        child = group.begin()
        put(child, b"a", b"2")
        assert child.look().get(b"a") == b"2"
        child.abort()
    child = group.begin()
    assert child.look().get(b"a") == b"1"
    child.merge()
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"1")]


def test_deletes_and_puts_of_a_batch_keep_their_order(bench: Bench) -> None:
    group = bench.group()
    committed(group, (b"a", b"1"))
    group.run_batch(Batch().put(b"b", b"1").delete(b"a").delete(b"b").put(b"a", b"2").delete(b"none"))
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"2")]


def test_a_batch_stays_what_it_was_and_can_be_run_again(bench: Bench) -> None:
    batch = Batch().put(b"a", b"1").put(b"b", b"1").delete(b"b").delete(b"c").put(b"c", b"1")
    before = list(batch)
    group = bench.group()
    for _ in range(2):
        group.run_batch(batch)
        committed(group, (b"d", b"1"))
    bench.finish(group)
    assert (list(batch), len(batch), batch.nbytes) == (before, 5, 8 + 5 * OP_BYTES)
    assert contents(bench.store) == [(b"a", b"1"), (b"c", b"1"), (b"d", b"1")]


def test_a_put_without_a_value_is_no_put() -> None:
    nothing: Any = None
    batch = Batch()
    with pytest.raises(TypeError, match="value must be bytes, not NoneType"):
        batch.put(b"k", nothing)
    with pytest.raises(TypeError, match="value must be bytes, not NoneType"):
        batch.add(Batch.PUT, None, b"k", None)
    assert (list(batch), batch.nbytes) == ([], 0)


def test_a_database_is_dropped_and_made_after_what_was_deferred_in_it(bench: Bench, tmp_path: Path) -> None:
    bench.store.apply([bench.script.commit((Op.CREATE_DB, b"d", 0))])
    group = bench.group()
    committed(group, (b"k", b"1"), name=b"d")
    child = group.begin()
    child.drop(child.catalogue.handles[b"d"], delete=True)
    child.create(b"d", 0)
    put(child, b"new", b"2", b"d")
    child.merge()
    committed(group, (b"newer", b"3"), name=b"d")
    bench.finish(group)
    assert contents(bench.store, b"d") == [(b"new", b"2"), (b"newer", b"3")]
    replayed = Store(tmp_path / "replayed", OPTIONS)
    replayed.apply(bench.script.records)
    assert replayed.digest() == bench.store.digest()
    replayed.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda child, db: child.put(db, b"k", b"v", True, False, False),
        lambda child, db: child.put(db, b"k", b"v", True, True, True),
        lambda child, db: child.put(db, memoryview(b"k"), b"v", True, True, False),
        lambda child, db: child.put(db, b"k", bytearray(b"v"), True, True, False),
        lambda child, db: child.put(db, b"k", bytes(65 * KIB), True, True, False),
        lambda child, db: child.put(child.catalogue.handles[b"dups"], b"k", b"v", True, True, False),
    ],
    ids=["keep", "append", "view of a key", "view of a value", "large", "duplicates"],
)
def test_lmdb_is_asked_where_it_has_something_to_say(
    bench: Bench, ask: Callable[[Child, "lmdb._Database"], bool]
) -> None:
    bench.store.apply([bench.script.commit((Op.CREATE_DB, b"dups", DUPSORT))])
    child = bench.group().begin()
    assert ask(child, child.catalogue.handles[None])
    assert child.nested
    child.abort()


@pytest.mark.parametrize("key", [b"", bytes(512)], ids=["empty", "long"])
def test_a_key_that_lmdb_refuses_is_refused_at_once(bench: Bench, key: bytes) -> None:
    group = bench.group()
    child = group.begin()
    put(child, b"a", b"1")
    with pytest.raises(lmdb.BadValsizeError):
        put(child, key, b"v")
    child.abort()
    group.abort()


def test_a_transaction_that_is_revoked_before_it_looked_merges_nothing(bench: Bench) -> None:
    group = bench.group()
    child = group.begin()
    put(child, b"a", b"1")
    assert group.doom(NotAppliedError("mastership was lost"))
    for use in (child.look, child.merge, lambda: put(child, b"b", b"2")):
        with pytest.raises(NotAppliedError):
            use()
    assert group.seal() is None
    group.abort()


def test_what_no_record_holds_is_refused(bench: Bench) -> None:
    group = bench.group(record_bytes=32 * KIB)
    child = group.begin()
    put(child, b"a", bytes(40_000))
    assert child.nested is None
    with pytest.raises(TxnTooLargeError):
        child.merge()
    assert len(group.txns) == 0
    group.abort()


def nearly_full(bench: Bench, group: Group) -> None:
    """Leave deferred so much that the map is too small for it."""
    for number in range(2 * OPTIONS.map_bytes // (50 * KIB)):
        committed(group, (b"%d" % number, bytes(50 * KIB)))


def test_a_map_that_is_too_small_grows_under_what_was_deferred(bench: Bench) -> None:
    group = bench.group(record_bytes=512 * MIB)
    nearly_full(bench, group)
    size = bench.store.env.info()["map_size"]
    written = len(group.txns)
    bench.finish(group)
    assert bench.store.env.info()["map_size"] > size
    assert len(contents(bench.store)) == written


def test_who_looks_into_a_map_that_is_too_small_is_told_as_by_lmdb_and_the_others_stay(bench: Bench) -> None:
    group = bench.group(record_bytes=512 * MIB)
    nearly_full(bench, group)
    merged = len(group.txns)
    child = group.begin()
    put(child, b"mine", b"1")
    with pytest.raises(lmdb.MapFullError):
        child.look()
    child.abort()
    assert group.full
    bench.finish(group)
    assert len(contents(bench.store)) == merged
    assert (b"mine", b"1") not in contents(bench.store)


def test_who_is_interrupted_between_lmdb_and_the_record_leaves_nothing(bench: Bench) -> None:
    """Ctrl-C just after the nested commit: the program may live on, and the sites must not differ."""
    group = bench.group()
    committed(group, (b"a", b"1"))
    child = group.begin()
    put(child, b"b", b"2")
    txn = child.look()

    class Interrupted:
        def get(self, *arguments: Any, **named: Any) -> None:
            pass

        def commit(self) -> None:
            txn.commit()
            raise KeyboardInterrupt

        def abort(self) -> None:
            txn.abort()

    child.nested = cast("lmdb.Transaction", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        child.merge()
    assert group.torn
    assert group.full, "nobody else is to see it"
    committed(group, (b"c", b"3"))
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"1"), (b"c", b"3")]


def test_a_group_made_anew_has_its_databases_where_their_handles_are(bench: Bench) -> None:
    """An aborted drop leaves the slot last in line, and another one would be the first for the same name."""
    group = bench.group()
    child = group.begin()
    handle = child.create(b"d", 0)
    put(child, b"k", b"1", b"d")
    child.merge()
    dropping = group.begin()
    dropping.drop(handle, delete=True)
    dropping.abort()
    group.torn = True
    group.perform()
    child = group.begin()
    assert child.name(handle) == b"d"
    child.abort()
    bench.finish(group)
    assert bench.store.catalogue.handles[b"d"] is handle
    assert contents(bench.store, b"d") == [(b"k", b"1")]


@pytest.mark.parametrize("when", ["in the group", "at its commit"])
def test_a_group_made_anew_exchanges_no_databases(bench: Bench, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """One that is dropped in the group must not take another's slot when all of it runs again."""
    group = bench.group()
    handles: dict[bytes, Any] = {}
    for names in (b"xy", b"z"):
        child = group.begin()
        if names == b"z":
            child.drop(handles[b"x"], delete=True)
            child.merge()
            child = group.begin()
        for name in (names[at : at + 1] for at in range(len(names))):
            handles[name] = child.create(name, 0)
            put(child, b"k", name, name)
        child.merge()
    if when == "in the group":
        group.torn = True
        group.perform()
    else:

        def full() -> None:
            raise lmdb.MapFullError("full")

        monkeypatch.setattr(group._image, "commit", full)
    bench.finish(group)
    assert all(bench.store.catalogue.handles[name] is handles[name] for name in (b"y", b"z"))
    assert [contents(bench.store, name) for name in (b"y", b"z")] == [[(b"k", b"y")], [(b"k", b"z")]]


def test_a_conflict_does_not_perform_what_was_deferred_again(bench: Bench) -> None:
    group = bench.group()
    committed(group, (b"a", b"1"))
    with pytest.raises(ConflictError):
        group.run_batch(Batch().expect(b"a", b"2"))
    group.seal()
    assert not group.unperformed
    group.abort()
