"""Cursors that outlive what they stand on: nothing is captured of them that another site would not perform alike."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

import zrep
from tests.environment.conftest import MAP_BYTES
from zrep.options import Options
from zrep.storage.store import Store


@pytest.fixture(autouse=True)
def the_log_says_the_same(env: zrep.Environment, tmp_path: Path) -> Iterator[None]:
    """Build a second store from the log, when the test is done: as another site would."""
    yield
    replayed = Store(tmp_path / "replayed", Options(map_bytes=MAP_BYTES))
    log = env.engine.log
    replayed.apply(env.engine.call(lambda: log.read(1, log.tip.lsn, 1 << 30)))
    assert replayed.digest() == env.engine.call(env.engine.store.digest)
    replayed.close()


USES: tuple[Callable[[Any], Any], ...] = (
    lambda cursor: cursor.key(),
    lambda cursor: cursor.first(),
    lambda cursor: list(cursor),
    lambda cursor: cursor.put(b"k", b"v"),
    lambda cursor: cursor.putmulti([(b"k", b"v")]),
    lambda cursor: cursor.delete(),
    lambda cursor: cursor.pop(b"k"),
    lambda cursor: cursor.replace(b"k", b"v"),
    lambda cursor: cursor.replace(b"k", b"v" * 512),
)


@pytest.mark.parametrize("how", ["dropped", "in a nested one", "made again", "made again in a nested one"])
def test_a_cursor_ends_with_its_database(env: zrep.Environment, how: str) -> None:
    for number, use in enumerate(USES):
        name = b"%d" % number
        db = env.open_db(name, dupsort=True)
        with env.begin(write=True) as txn:
            txn.put(b"k", b"1", db=db)
            cursor = txn.cursor(db)
            assert cursor.first()
            items = iter(cursor)
            inner = env.begin(write=True, parent=txn) if "nested" in how else txn
            inner.drop(db)
            if "again" in how:
                env.open_db(name, txn=inner, dupsort=True)
            if inner is not txn:
                inner.commit()
            for attempt in (use, lambda _, items=items: next(items)):
                with pytest.raises(lmdb.InvalidParameterError, match="the cursor is closed, its database was dropped"):
                    attempt(cursor)
            cursor.close()
            txn.put(name, b"1")
        assert env.get(name) == b"1"


def test_a_cursor_lives_on_when_the_drop_is_undone(env: zrep.Environment) -> None:
    db, other = env.open_db(b"d"), env.open_db(b"other")
    with env.begin(write=True) as txn:
        cursor = txn.cursor(db)
        nested = env.begin(write=True, parent=txn)
        nested.drop(db)
        nested.abort()
        assert cursor.put(b"k", b"1")
        txn.drop(other)
        assert cursor.put(b"l", b"1")
    assert env.get(b"l", db=db) == b"1"


def test_a_closed_cursor_has_replaced_nothing(env: zrep.Environment) -> None:
    db = env.open_db(b"d", dupsort=True)
    with env.begin(write=True) as txn:
        cursor = txn.cursor(db)
        cursor.close()
        with pytest.raises(lmdb.Error, match="closed"):
            cursor.replace(b"k", b"v")
        assert txn.commit().token is None


@pytest.mark.parametrize("all_of_them", [False, True], ids=["one", "all"])
@pytest.mark.parametrize("others", [1, 200], ids=["in the page", "in a tree of its own"])
@pytest.mark.parametrize("kind", [{"dupsort": True}, {"dupfixed": True}], ids=["dupsort", "dupfixed"])
def test_a_cursor_deletes_one_of_the_values_that_came_after_it(
    env: zrep.Environment, kind: dict[str, Any], others: int, all_of_them: bool
) -> None:
    """lmdb's own deletes all of them here, or none, and counts them wrongly."""
    db = env.open_db(b"d", **kind)
    added = [b"%0100d" % (number + 1) for number in range(others)]
    with env.begin(write=True, db=db) as txn:
        txn.put(b"k", b"0" * 100)
        cursor = txn.cursor()
        assert cursor.first()
        for value in added:
            txn.put(b"k", value)
        assert cursor.delete(dupdata=all_of_them)
        left = [] if all_of_them else added
        assert list(txn.cursor().iternext(keys=False)) == left
        assert txn.stat()["entries"] == len(left)


@pytest.mark.parametrize("commit", [False, True], ids=["abort", "commit"])
def test_a_cursor_waits_for_the_end_of_a_nested_transaction(env: zrep.Environment, commit: bool) -> None:
    """lmdb's own would work in the nested one."""
    db = env.open_db(b"d", dupsort=True)
    with env.begin(write=True, db=db) as txn:
        txn.put(b"k", b"1")
        cursor = txn.cursor()
        assert cursor.first()
        items = iter(cursor)
        nested = env.begin(write=True, parent=txn, db=db)
        inner = nested.cursor()
        innermost = env.begin(write=True, parent=nested)
        attempts: tuple[Callable[[], Any], ...] = (
            *(partial(use, outer) for use in USES for outer in (cursor, inner)),
            lambda: next(items),
            lambda: txn.cursor(),
            lambda: txn.get(b"k"),
            lambda: txn.put(b"k", b"2"),
            lambda: txn.drop(db),
        )
        for attempt in attempts:
            with pytest.raises(lmdb.BadTxnError, match="MDB_BAD_TXN: Transaction must abort, has a child, or is inv"):
                attempt()
        innermost.abort()
        if commit:
            nested.commit()
        else:
            nested.abort()
        assert cursor.put(b"k", b"2")
        assert list(txn.cursor()) == [(b"k", b"1"), (b"k", b"2")]
    with env.begin(db=db) as reader:
        assert reader.stat(db)["entries"] == 2


def test_what_putmulti_refuses_is_what_lmdb_refuses(env: zrep.Environment) -> None:
    txn = env.begin(write=True)
    cursor = txn.cursor()
    pairs: list[Any] = [(b"k", None), (None, b"v")]
    for pair in pairs:
        with pytest.raises(TypeError, match="a bytes-like object is required, not 'NoneType'"):
            cursor.putmulti([pair])
    closed = txn.cursor()
    closed.close()
    refused: list[Any] = [[], [5]]
    for items in refused:
        with pytest.raises(lmdb.Error, match="closed"):
            closed.putmulti(items)
    assert cursor.putmulti([]) == (0, 0)
    txn.abort()
    for items in refused:
        with pytest.raises(lmdb.Error, match="closed"):
            cursor.putmulti(items)


def test_no_key_is_refused_as_lmdb_does(env: zrep.Environment) -> None:
    nothing: Any = None
    db = env.open_db(b"d", dupsort=True)
    with env.begin(write=True, db=db) as txn:
        for use in (txn.replace, txn.cursor().replace):
            with pytest.raises(lmdb.BadValsizeError):
                use(nothing, b"v")


def test_an_iterator_goes_on_when_its_cursor_has_moved(env: zrep.Environment) -> None:
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1")
        txn.put(b"b", b"2")
        cursor = txn.cursor()
        items = iter(cursor)
        assert list(items) == [(b"a", b"1"), (b"b", b"2")]
        assert list(items) == []
        assert cursor.first()
        assert list(items) == [(b"b", b"2")]
