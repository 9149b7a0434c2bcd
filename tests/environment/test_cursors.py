"""Cursors that outlive what they stand on: nothing is captured of them that another site would not perform alike."""

from collections.abc import Callable, Iterator
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


USES: dict[str, Callable[[Any], Any]] = {
    "key": lambda cursor: cursor.key(),
    "first": lambda cursor: cursor.first(),
    "list": lambda cursor: list(cursor),
    "put": lambda cursor: cursor.put(b"k", b"v"),
    "putmulti": lambda cursor: cursor.putmulti([(b"k", b"v")]),
    "delete": lambda cursor: cursor.delete(),
    "pop": lambda cursor: cursor.pop(b"k"),
    "replace": lambda cursor: cursor.replace(b"k", b"v"),
    "replace, refused": lambda cursor: cursor.replace(b"k", b"v" * 512),
}


@pytest.mark.parametrize("how", ["dropped", "in a nested one", "made again", "made again in a nested one"])
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_cursor_ends_with_its_database(env: zrep.Environment, use: Callable[[Any], Any], how: str) -> None:
    db = env.open_db(b"d", dupsort=True)
    with env.begin(write=True) as txn:
        txn.put(b"k", b"1", db=db)
        cursor = txn.cursor(db)
        assert cursor.first()
        items = iter(cursor)
        if "nested" in how:
            with env.begin(write=True, parent=txn) as nested:
                nested.drop(db)
                if "again" in how:
                    env.open_db(b"d", txn=nested, dupsort=True)
        else:
            txn.drop(db)
            if "again" in how:
                env.open_db(b"d", txn=txn, dupsort=True)
        for attempt in (use, lambda _: next(items)):
            with pytest.raises(lmdb.InvalidParameterError, match="the cursor is closed, its database was dropped"):
                attempt(cursor)
        cursor.close()
        txn.put(b"a", b"1")
    assert env.get(b"a") == b"1"


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
    env: zrep.Environment, kind: dict[str, bool], others: int, all_of_them: bool
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
