"""The environment's own promises: what py-lmdb has, what zrep adds, and what cannot be."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import lmdb
import pytest

import zrep
from tests.environment.conftest import MAP_BYTES
from zrep.options import KIB, MIB
from zrep.storage import child
from zrep.storage.group import Group
from zrep.storage.writers import Writers

DEADLINE_S = 10


def reopened(home: Path, **options: Any) -> zrep.Environment:
    return zrep.open(home, map_bytes=MAP_BYTES, **options)


def contents(env: zrep.Environment, db: Any = None) -> list[tuple[bytes, bytes]]:
    with env.begin(db=db) as txn:
        return list(txn.cursor())


def test_a_commit_is_visible_when_it_returns_and_says_what_it_achieved(env: zrep.Environment) -> None:
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1")
        assert contents(env) == []
        result = txn.commit()
    assert contents(env) == [(b"a", b"1")]
    assert result.perm
    assert result.acked == (result.token.site,)
    assert result.durable == "process"
    assert env.txn_applied(result.token) == "applied"


def test_an_exception_in_the_block_aborts(env: zrep.Environment) -> None:
    def fails() -> None:
        with env.begin(write=True) as txn:
            txn.put(b"a", b"1")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fails()
    assert contents(env) == []


def test_a_transaction_that_is_dropped_lets_the_next_one_in(env: zrep.Environment) -> None:
    txn = env.begin(write=True)
    txn.put(b"a", b"1")
    del txn
    gc.collect()
    with env.begin(write=True, timeout_ms=1000) as txn:
        assert txn.get(b"a") is None


@pytest.mark.parametrize("where", [(Writers, "enter"), (Group, "begin")], ids=["as it enters", "as it begins"])
def test_who_is_interrupted_before_the_first_operation_lets_the_next_one_in(
    env: zrep.Environment, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    """Ctrl-C between getting the writer's place and having a transaction that could be aborted."""
    method = getattr(*where)

    def interrupted(*arguments: object) -> NoReturn:
        method(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.begin(write=True)
    with env.begin(write=True, timeout_ms=10_000) as txn:
        txn.put(b"k", b"v")
        with pytest.raises(lmdb.Error, match="another write transaction is active"):
            env.begin(write=True)
        txn.put(b"l", b"v")
    assert env.get(b"l") == b"v"


def _cursor_on_a(txn: zrep.Transaction) -> zrep.Cursor:
    cursor = txn.cursor()
    cursor.set_key(b"a")
    return cursor


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda env, txn: txn.put(b"b", b"2"), id="put"),
        pytest.param(lambda env, txn: txn.delete(b"a"), id="delete"),
        pytest.param(lambda env, txn: txn.drop(env.main, delete=False), id="drop"),
        pytest.param(lambda env, txn: env.open_db(b"new", txn), id="open_db"),
        pytest.param(lambda env, txn: txn.cursor().put(b"b", b"2"), id="cursor put"),
        pytest.param(lambda env, txn: txn.cursor().putmulti([(b"b", b"2"), (b"c", b"3")]), id="putmulti"),
        pytest.param(lambda env, txn: _cursor_on_a(txn).delete(), id="cursor delete"),
        pytest.param(lambda env, txn: txn.cursor().pop(b"a"), id="pop"),
        pytest.param(lambda env, txn: txn.cursor().replace(b"a", b"2"), id="replace"),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError, TimeoutError])
def test_who_is_interrupted_within_an_operation_cannot_commit(
    env: zrep.Environment,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    change: Callable[[zrep.Environment, Any], object],
) -> None:
    """Ctrl-C, or what a signal's handler raises, after LMDB has done what the record would not say."""
    env.put(b"a", b"1")

    def interrupted(*arguments: object) -> NoReturn:
        raise error

    with env.begin(write=True) as txn:
        assert txn.get(b"a") == b"1"
        with monkeypatch.context() as patch:
            patch.setattr(child, "note", interrupted)
            with pytest.raises(error):
                change(env, txn)
        with pytest.raises(zrep.NotAppliedError, match="interrupted"):
            txn.commit()
    with env.begin(write=True, timeout_ms=10_000) as txn:
        txn.put(b"z", b"26")
    assert contents(env) == [(b"a", b"1"), (b"z", b"26")]
    assert env.dbs() == []


def test_what_an_interrupted_commit_left_is_seen_by_nobody(env: zrep.Environment) -> None:
    """Ctrl-C between LMDB's commit of the first transaction of a group and its capture."""
    txn = env.begin(write=True)
    txn.put(b"a", b"1")
    real = txn.child.look()

    class Interrupted:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def commit(self) -> NoReturn:
            real.commit()
            raise KeyboardInterrupt

    txn.child.nested = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        txn.commit()
    with env.begin(write=True, timeout_ms=10_000) as txn:
        assert txn.get(b"a") is None
        txn.put(b"b", b"2")
    assert contents(env) == [(b"b", b"2")]


@pytest.mark.parametrize("kept", [False, True], ids=["before it is captured", "after"])
@pytest.mark.parametrize("looks", [False, True], ids=["only puts", "looks"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_who_is_interrupted_as_it_merges_lets_the_next_one_in(
    env: zrep.Environment, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], looks: bool, kept: bool
) -> None:
    """What was captured happens, with the next one; what was not does not."""
    take = Group.take

    def interrupted(group: Group, *arguments: Any) -> NoReturn:
        if kept:
            take(group, *arguments)
        raise error

    txn = env.begin(write=True)
    txn.put(b"a", b"1")
    assert txn.get(b"a") == b"1" if looks else True
    with monkeypatch.context() as patch:
        patch.setattr(Group, "take", interrupted)
        with pytest.raises(error):
            txn.commit()
    with env.begin(write=True, timeout_ms=10_000) as txn:
        assert txn.get(b"a") == (b"1" if kept else None)
        txn.put(b"b", b"2")
    assert contents(env) == [(b"a", b"1")] * kept + [(b"b", b"2")]


def test_who_is_interrupted_as_it_leaves_is_out_when_it_is_forgotten(
    env: zrep.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(child: child.Child) -> NoReturn:
        raise KeyboardInterrupt

    txn = env.begin(write=True)
    txn.put(b"a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(child.Child, "_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            txn.commit()
    del txn
    gc.collect()
    with env.begin(write=True, timeout_ms=10_000) as txn:
        assert txn.get(b"a") == b"1"


def test_a_place_whose_thread_was_lost_is_free_again_in_time(home: Path) -> None:
    """Interrupted on its way in, it has no transaction that could be revoked."""
    with zrep.open(home, map_bytes=MAP_BYTES, write_txn_timeout_ms=20) as env:
        lost = threading.Thread(target=env.engine.writers.enter)
        lost.start()
        lost.join()
        with env.begin(write=True, timeout_ms=10_000) as txn:
            txn.put(b"a", b"1")


def test_nobody_enters_while_a_torn_group_is_made_anew(env: zrep.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = threading.Event()
    seen: list[bool] = []
    writers: list[threading.Thread] = []
    image = env.engine.store.image

    def write() -> None:
        with env.begin(write=True) as txn:
            entered.set()
            txn.get(b"a")

    def watched(*arguments: Any) -> Any:
        if not writers:
            writers.append(threading.Thread(target=write))
            writers[0].start()
            seen.append(entered.wait(0.05))
        return image(*arguments)

    txn = env.begin(write=True)
    txn.put(b"a", b"1")
    txn.child.group.torn = True
    monkeypatch.setattr(env.engine.store, "image", watched)
    txn.abort()
    assert entered.wait(DEADLINE_S)
    writers[0].join(DEADLINE_S)
    assert seen == [False]


def test_an_interrupted_nested_commit_cannot_be_built_upon(
    env: zrep.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    outer = env.begin(write=True)
    inner = env.begin(write=True, parent=outer)
    inner.put(b"a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(child, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            inner.commit()
    with pytest.raises(zrep.NotAppliedError, match="interrupted"):
        outer.commit()
    assert contents(env) == []


def test_a_nested_transaction_that_is_interrupted_may_be_given_up(
    env: zrep.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    with env.begin(write=True) as outer:
        outer.put(b"a", b"1")
        inner = env.begin(write=True, parent=outer)
        with monkeypatch.context() as patch:
            patch.setattr(child, "note", interrupted)
            with pytest.raises(KeyboardInterrupt):
                inner.put(b"b", b"2")
        inner.abort()
    assert contents(env) == [(b"a", b"1")]


def test_what_the_callers_pairs_raise_tears_nothing(env: zrep.Environment) -> None:
    def pairs() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", b"1"
        raise asyncio.CancelledError

    with env.begin(write=True) as txn, txn.cursor() as cursor, pytest.raises(asyncio.CancelledError):
        cursor.putmulti(pairs())
    assert contents(env) == [(b"a", b"1")]


def test_a_writer_that_wrote_nothing_holds_nobody_up(env: zrep.Environment) -> None:
    """The engine, which has an answer for it, must not stand between the next two."""
    inside, go_on, entered = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        with env.begin(write=True) as txn:
            inside.set()
            assert go_on.wait(DEADLINE_S)
            txn.put(b"a", b"1")

    def write_next() -> None:
        with env.begin(write=True):
            entered.set()

    def line_up(function: Callable[[], None]) -> None:
        threading.Thread(target=function, daemon=True).start()
        while not env.engine.writers.waiting:
            entered.wait(0.001)

    empty = env.begin(write=True)
    line_up(write)
    answer = empty.commit_async()
    assert inside.wait(DEADLINE_S)
    env.engine.call(lambda: None)  # a turn: it looks whether it can answer
    line_up(write_next)
    go_on.set()
    assert entered.wait(DEADLINE_S)
    assert answer.result(DEADLINE_S).token is None


def test_a_put_that_is_given_up_holds_nobody_up(env: zrep.Environment) -> None:
    """The engine was the next to enter, and has nothing to do there any more."""
    entered = threading.Event()

    def write() -> None:
        with env.begin(write=True):
            entered.set()

    txn = env.begin(write=True)
    putting = env.submit(zrep.Batch().put(b"a", b"1"), timeout_ms=20)
    wait([putting], DEADLINE_S)
    with pytest.raises(zrep.NotAppliedError):
        putting.result(DEADLINE_S)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    while not env.engine.writers.waiting:
        writer.join(0.001)
    txn.abort()
    assert entered.wait(DEADLINE_S)


def test_a_batch_that_stops_the_site_is_told_so(env: zrep.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> NoReturn:
        raise zrep.DiskFullError("no space left")

    monkeypatch.setattr(Group, "run_batch", fails)
    with pytest.raises(zrep.DiskFullError):
        env.submit(zrep.Batch().put(b"a", b"1")).result(DEADLINE_S)


def test_what_exceeds_a_group_goes_on_at_once(home: Path) -> None:
    """Not at the next heartbeat, which is a minute away."""
    options: dict[str, Any] = {"record_bytes": 64 * KIB, "heartbeat_ms": 60_000, "quorum_timeout_ms": 600_000}
    with zrep.open(home, map_bytes=MAP_BYTES, **options) as env:
        batches = [zrep.Batch().put(b"%d" % number, bytes(40 * KIB)) for number in range(6)]
        futures = [env.submit(batch, timeout_ms=30_000) for batch in batches]
        assert all(future.result(DEADLINE_S / 2).perm for future in futures)


def test_a_transaction_that_wrote_nothing_has_no_token(env: zrep.Environment) -> None:
    txn = env.begin(write=True)
    result = txn.commit()
    assert (result.token, result.perm) == (None, True)


def test_reads_are_lmdbs_own_transactions(env: zrep.Environment) -> None:
    txn: Any = env.begin()
    reads: list[object] = [txn, zrep.Transaction(env)]
    kinds: tuple[type, ...] = (zrep.Transaction,)
    assert [type(read) for read in reads] == [lmdb.Transaction] * 2
    cursor: object = zrep.Cursor(env.main, txn)
    assert type(cursor) is lmdb.Cursor
    assert isinstance(txn, kinds)


def test_write_transactions_and_cursors_can_be_made_by_class(env: zrep.Environment) -> None:
    with zrep.Transaction(env, write=True) as txn:
        cursor = zrep.Cursor(env.main, txn)
        assert cursor.put(b"a", b"1")
        assert cursor.item() == (b"a", b"1")
    assert contents(env) == [(b"a", b"1")]


def test_everything_is_there_after_a_restart(home: Path) -> None:
    with reopened(home) as env:
        dups = env.open_db(b"dups", dupsort=True)
        with env.begin(write=True, db=dups) as txn:
            txn.put(b"k", b"2")
            txn.put(b"k", b"1")
    with reopened(home) as env:
        assert env.dbs() == [b"dups"]
        dups = env.open_db(b"dups")
        assert dups.flags()["dupsort"]
        assert contents(env, dups) == [(b"k", b"1"), (b"k", b"2")]


def test_names_of_databases_never_show_as_keys_and_may_be_anything(env: zrep.Environment) -> None:
    names = [b"__zrep", b"__zrep.main", b"__zrep.1", b"a\0b", b"a\0c", b"x" * 511]
    for name in names:
        env.put(name, b"a key of the same name")
        env.put(b"k", name, db=env.open_db(name))
    assert sorted(key for key, _ in contents(env)) == sorted(names)
    assert all(env.get(b"k", db=name) == name for name in names)
    for wrong in (b"", b"x" * 512):
        with pytest.raises(lmdb.BadValsizeError):
            env.open_db(wrong)


def test_a_database_created_in_a_transaction_lives_and_dies_with_it(env: zrep.Environment) -> None:
    with env.begin(write=True) as txn:
        db = env.open_db(b"kept", txn=txn)
        txn.put(b"k", b"v", db=db)
        assert env.dbs(txn) == [b"kept"]
        assert env.dbs() == []
    assert contents(env, db) == [(b"k", b"v")]
    txn = env.begin(write=True)
    env.open_db(b"gone", txn=txn)
    txn.abort()
    with pytest.raises(lmdb.NotFoundError):
        env.open_db(b"gone", create=False)


@pytest.mark.parametrize("name", [5, [], "d"])
def test_a_name_that_is_no_bytes_names_no_database(env: zrep.Environment, name: Any) -> None:
    with pytest.raises(TypeError):
        env.open_db(name)
    assert env.dbs() == []


def test_databases_are_opened_in_a_transaction_that_can_be_used(env: zrep.Environment, tmp_path: Path) -> None:
    env.open_db(b"d")
    with reopened(tmp_path / "other") as other, other.begin(write=True) as txn:
        for name in (b"d", b"new"):
            with pytest.raises(lmdb.InvalidParameterError, match="belongs to another environment"):
                env.open_db(name, txn=txn)
    with env.begin(write=True) as txn:
        nested = env.begin(write=True, parent=txn)
        for name in (b"d", b"new"):
            with pytest.raises(lmdb.BadTxnError):
                env.open_db(name, txn=txn)
        nested.abort()
        assert env.open_db(b"d", txn=txn) is env.open_db(b"d")
    for name in (b"d", b"new"):
        with pytest.raises(lmdb.Error, match="closed"):
            env.open_db(name, txn=txn)


def test_a_dropped_database_is_gone_and_can_be_created_with_other_flags(env: zrep.Environment) -> None:
    db = env.open_db(b"d")
    with env.begin(write=True, db=db) as txn:
        txn.put(b"k", b"v")
        cursor = txn.cursor()
        txn.drop(db)
        with pytest.raises(lmdb.Error, match="closed"):
            cursor.first()
        with pytest.raises(lmdb.InvalidParameterError):
            txn.put(b"k", b"v")
    assert env.dbs() == []
    db = env.open_db(b"d", dupsort=True)
    assert db.flags()["dupsort"]
    assert contents(env, db) == []


def test_many_databases_at_once_from_many_threads(env: zrep.Environment) -> None:
    in_threads([partial(env.open_db, b"db%d" % number) for number in range(30)])
    assert len(env.dbs()) == 30


def test_max_dbs_limits_the_handles(home: Path) -> None:
    with reopened(home, max_dbs=1) as env:
        assert env.open_db(b"one") is env.open_db(b"one")
        with pytest.raises(lmdb.DbsFullError, match="max_dbs"):
            env.open_db(b"two")


def test_open_db_without_txn_inside_the_threads_own_transaction_says_so(env: zrep.Environment) -> None:
    env.open_db(b"there")
    with env.begin(write=True):
        assert env.open_db(b"there") is not None
        with pytest.raises(lmdb.Error, match="deadlock"):
            env.open_db(b"new")


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda env: env.put(b"a", b"1"), id="put"),
        pytest.param(lambda env: env.delete(b"a"), id="delete"),
        pytest.param(lambda env: env.write(zrep.Batch().put(b"a", b"1")), id="write"),
        pytest.param(lambda env: env.submit(zrep.Batch().put(b"k", b"1")).result(DEADLINE_S), id="submit and result"),
        pytest.param(lambda env: env.submit(zrep.Batch().put(b"k", b"1")).exception(), id="submit and exception"),
    ],
)
def test_what_would_wait_for_the_threads_own_transaction_says_so(
    env: zrep.Environment, use: Callable[[zrep.Environment], object]
) -> None:
    with env.begin(write=True) as txn:
        txn.put(b"b", b"2")
        with pytest.raises(lmdb.Error, match="deadlock"):
            use(env)
    assert env.get(b"a") is None
    assert env.get(b"b") == b"2"


def test_what_does_not_wait_comes_after_the_threads_own_transaction(env: zrep.Environment) -> None:
    batch = zrep.Batch().expect(b"a", b"1").put(b"a", b"2")

    async def both() -> None:
        with env.begin(write=True) as txn:
            txn.put(b"a", b"1")
            submitted = env.submit(batch)
            awaited = asyncio.ensure_future(env.awrite(zrep.Batch().put(b"b", b"2")))
            await asyncio.sleep(0)
            with ThreadPoolExecutor(1) as pool:
                elsewhere = pool.submit(submitted.result, DEADLINE_S)
                txn.commit()
                elsewhere.result(DEADLINE_S)
        with env.begin(write=True):
            assert submitted.result(DEADLINE_S).perm
        assert (await awaited).perm

    asyncio.run(both())
    assert contents(env) == [(b"a", b"2"), (b"b", b"2")]


def test_writers_wait_for_one_another_and_go_in_groups(env: zrep.Environment) -> None:
    def writer(number: int) -> None:
        for turn in range(20):
            with env.begin(write=True) as txn:
                txn.put(b"%d" % number, b"%d" % turn)
                total = int(txn.get(b"total", b"0")) + 1
                txn.put(b"total", b"%d" % total)

    in_threads([partial(writer, number) for number in range(8)])
    assert env.get(b"total") == b"160"


def in_threads(works: list[Callable[[], Any]]) -> None:
    failures: list[BaseException] = []

    def guarded(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_commits_can_be_waited_for_later(env: zrep.Environment) -> None:
    txn = env.begin(write=True)
    txn.put(b"a", b"1")
    future = txn.commit_async()
    token = future.result(DEADLINE_S).token
    assert token is not None
    with env.begin(token=token) as reading:
        assert reading.get(b"a") == b"1"
    with env.begin(linearizable=True) as reading:
        assert reading.get(b"a") == b"1"


def test_a_nested_transaction_cannot_be_waited_for(env: zrep.Environment) -> None:
    """It is as permanent as the one outside, which may still be aborted."""
    with env.begin(write=True) as txn:
        with env.begin(write=True, parent=txn) as inner:
            inner.put(b"a", b"1")
            with pytest.raises(zrep.InvalidParameterError, match=r"use commit\(\)"):
                inner.commit_async()
        assert txn.get(b"a") == b"1"


def test_one_line_forms_and_batches(env: zrep.Environment) -> None:
    quotes = env.open_db(b"quotes")
    env.put(b"IBM", b"142.30", db=quotes)
    assert env.get(b"IBM", db=b"quotes") == env.get(b"IBM", db=quotes) == b"142.30"
    batch = zrep.Batch().expect(b"IBM", b"142.30", db=b"quotes").put(b"IBM", b"143", db=b"quotes").put(b"n", b"1")
    token = env.write(batch).token
    assert token is not None
    with pytest.raises(zrep.ConflictError) as conflict:
        env.write(batch)
    assert (conflict.value.key, conflict.value.found) == (b"IBM", b"143")
    assert env.submit(zrep.Batch().delete(b"n")).result(DEADLINE_S).perm
    env.delete(b"IBM", db=b"quotes")
    assert env.get(b"IBM", db=quotes) is None
    assert env.get(b"n") is None


def test_what_is_added_to_a_batch_after_its_submission_is_of_the_next_one(env: zrep.Environment) -> None:
    batch = zrep.Batch().put(b"a", b"1")
    with env.begin(write=True):
        first = env.submit(batch)
        batch.put(b"b", b"2").put(b"k" * 512, b"v")
        assert contents(env) == []
    first.result(DEADLINE_S)
    assert contents(env) == [(b"a", b"1")]
    with pytest.raises(lmdb.BadValsizeError):
        env.write(batch)
    assert (list(batch.copy()), batch.copy().nbytes) == (list(batch), batch.nbytes)


def test_batches_can_be_awaited(env: zrep.Environment) -> None:
    async def both() -> list[zrep.CommitResult]:
        return await asyncio.gather(*(env.awrite(zrep.Batch().put(b"%d" % n, b"")) for n in range(2)))

    assert all(result.perm for result in asyncio.run(both()))
    assert len(contents(env)) == 2


def test_what_became_of_a_commit_that_never_was(env: zrep.Environment) -> None:
    token = env.put(b"a", b"1").token
    assert token is not None
    assert env.txn_applied(token._replace(gen=token.gen + 1)) == "rolled_back"
    assert env.txn_applied(token._replace(lsn=token.lsn + 100), timeout_ms=1) == "pending"
    with pytest.raises(zrep.OptionError, match="there is no token"):
        env.txn_applied(None)
    with pytest.raises(zrep.NoMasterError):
        env.begin(token=token._replace(lsn=token.lsn + 100), timeout_ms=1)


def test_a_forgotten_transaction_is_revoked(home: Path) -> None:
    with reopened(home, write_txn_timeout_ms=50) as env:
        txn = env.begin(write=True, buffers=True)
        txn.put(b"a", b"1")
        in_threads([lambda: env.put(b"b", b"2")])
        for _ in range(2):
            with pytest.raises(zrep.NotAppliedError, match="50 ms"):
                txn.put(b"c", b"3")
        with pytest.raises(zrep.NotAppliedError), txn:
            pass
        assert contents(env) == [(b"b", b"2")]


def test_a_transaction_larger_than_a_record_is_refused(home: Path) -> None:
    with reopened(home, record_bytes=64 * 1024) as env:
        with pytest.raises(zrep.TxnTooLargeError, match="split it"), env.begin(write=True) as txn:
            txn.put(b"a", bytes(100_000))
        env.put(b"b", b"2")
        assert contents(env) == [(b"b", b"2")]


@pytest.mark.parametrize(
    "write",
    [
        lambda txn, key, value: txn.get(key) or txn.put(key, value),
        lambda txn, key, value: txn.put(key, value, append=True),
        lambda txn, key, value: txn.replace(key, value),
        lambda txn, key, value: txn.cursor().put(key, value),
        lambda txn, key, value: txn.cursor().putmulti([(key, value)]),
    ],
    ids=["get and put", "put", "replace", "cursor.put", "putmulti"],
)
def test_a_full_map_grows_though_nobody_else_writes(
    tmp_path: Path, write: Callable[[zrep.Transaction, bytes, bytes], object]
) -> None:
    with zrep.open(tmp_path / "home", map_bytes=MIB, durability="process") as env:
        for number in range(8):
            failures = 0
            while True:
                try:
                    with env.begin(write=True) as txn:
                        for part in range(8):
                            write(txn, b"%d/%d" % (number, part), bytes(40 * KIB))
                    break
                except lmdb.MapFullError:
                    failures += 1
                    assert failures <= 2, "the map is not growing"
        assert env.stat()["entries"] == 64


def test_a_batch_that_reads_grows_a_full_map_too(tmp_path: Path) -> None:
    with zrep.open(tmp_path / "home", map_bytes=MIB, durability="process") as env:
        for number in range(40):
            batch = zrep.Batch().expect(b"%d" % number, None).put(b"%d" % number, bytes(256 * KIB))
            try:
                env.write(batch)
            except lmdb.MapFullError:
                env.write(batch)
        assert env.stat()["entries"] == 40


def test_closing_ends_what_is_open_and_can_be_repeated(home: Path) -> None:
    env = reopened(home)
    reading, writing = env.begin(), env.begin(write=True)
    writing.put(b"a", b"1")
    env.close()
    env.close()
    uses: list[Callable[[], object]] = [
        lambda: reading.get(b"a"), lambda: writing.put(b"a", b"2"), writing.commit, env.begin, env.dbs, env.path,
        lambda: env.begin(write=True), lambda: env.open_db(b"d"), lambda: env.put(b"a", b"1"), env.stat,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(lmdb.Error):
            use()
    writing.abort()
    with reopened(home) as env:
        assert contents(env) == []


def test_an_environment_that_is_forgotten_is_closed(home: Path) -> None:
    env = reopened(home)
    forgotten = weakref.ref(env)
    del env
    gc.collect()
    assert forgotten() is None
    reopened(home).close()


def test_a_home_is_opened_once_in_a_process(env: zrep.Environment, home: Path) -> None:
    with pytest.raises(zrep.HomeInUseError, match="this process"):
        reopened(home)


def test_a_read_only_environment_sees_what_is_there_and_writes_nothing(home: Path) -> None:
    with reopened(home) as env:
        env.put(b"k", b"v", db=env.open_db(b"d"))
    with reopened(home, readonly=True) as env:
        assert env.dbs() == [b"d"]
        assert contents(env, env.open_db(b"d")) == [(b"k", b"v")]
        assert env.get(b"k", db=b"d") == b"v"
        assert env.flags()["readonly"]
        writes: list[Callable[[], object]] = [
            lambda: env.begin(write=True), lambda: env.open_db(b"e"), lambda: env.put(b"k", b"w"),
        ]  # fmt: skip
        for write in writes:
            with pytest.raises(lmdb.ReadonlyError):
                write()


READER = """
import sys, zrep
with zrep.open(sys.argv[1], readonly=True) as reader:
    print(reader.get(b"k"), flush=True)
    sys.stdin.readline()
    print(reader.get(b"k"), reader.get(b"k", db=b"late19"), flush=True)
"""


def test_a_reader_in_another_process_follows_the_writer(env: zrep.Environment, home: Path) -> None:
    env.put(b"k", b"1")
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "b'1'\n"
        env.put(b"k", b"2")
        for number in range(20):
            env.put(b"k", b"there", db=env.open_db(b"late%d" % number))
        assert reader.communicate("\n")[0] == "b'2' b'there'\n"


def test_a_forked_child_is_told_and_harms_nobody(env: zrep.Environment) -> None:
    txn = env.begin(write=True)
    txn.put(b"a", b"1")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for use in (env.begin, lambda: env.put(b"a", b"2"), lambda: txn.put(b"a", b"2"), txn.commit):
                with pytest.raises(zrep.ForkError, match="before a fork"):
                    use()
            txn.abort()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    txn.commit()
    assert contents(env) == [(b"a", b"1")]


def test_a_copy_is_a_plain_lmdb_environment(env: zrep.Environment, tmp_path: Path) -> None:
    dups = env.open_db(b"dups", dupsort=True)
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1")
        txn.put(b"k", b"1", db=dups)
        txn.put(b"k", b"2", db=dups)
    snapshot = env.begin()
    env.put(b"b", b"2")
    (tmp_path / "copy").mkdir()
    env.copy(str(tmp_path / "copy"), compact=True, txn=snapshot)
    with (tmp_path / "file.mdb").open("wb") as file:
        env.copyfd(file.fileno())
    with lmdb.open(str(tmp_path / "copy"), max_dbs=1) as copy, copy.begin() as txn:
        assert txn.get(b"a") == b"1"
        assert txn.get(b"b") is None
        db = copy.open_db(b"dups", txn=txn, create=False)
        assert db.flags()["dupsort"]
        assert list(txn.cursor(db)) == [(b"k", b"1"), (b"k", b"2")]
    with lmdb.open(str(tmp_path / "file.mdb"), subdir=False) as copy, copy.begin() as txn:
        assert txn.get(b"b") == b"2"
    with pytest.raises(TypeError, match="compact=True"):
        env.copy(str(tmp_path / "other"), txn=snapshot)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"writemap": True}, "writemap"),
        ({"lock": False}, "lock"),
        ({"subdir": False}, "subdir"),
        ({"lib_version": 1}, "lib_version"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"ack_timeout_ms": 0}, "ack_timeout_ms"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(home: Path, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(zrep.OptionError, match=reason):
        zrep.open(home, **arguments)
    assert not home.exists()


def test_facts_are_told_as_lmdb_tells_them(env: zrep.Environment, home: Path) -> None:
    env.put(b"a", b"1")
    assert env.stat()["entries"] == 1
    assert env.info()["map_size"] == 10485760
    env.set_mapsize(1 << 30)
    assert env.info()["map_size"] == 1 << 30
    assert env.path() == str(home)
    assert env.max_key_size() == 511
    assert env.max_readers() >= 1024
    assert env.lib_version()[:2] == (0, 9)
    assert env.flags() == {
        "subdir": True, "readonly": False, "metasync": True, "sync": True, "map_async": False,
        "readahead": True, "writemap": False, "meminit": True, "lock": True,
    }  # fmt: skip
    assert isinstance(env.readers(), str)
    assert env.reader_check() == 0
    env.sync(True)


def plain_environment(path: Path, pairs: int) -> None:
    path.mkdir()
    with lmdb.open(str(path), max_dbs=4, map_size=MAP_BYTES, lib_version=0) as plain:
        dups = plain.open_db(b"dups", dupsort=True)
        with plain.begin(write=True) as txn:
            for number in range(pairs):
                txn.put(b"%06d" % number, b"v" * 100)
            txn.put(b"k", b"1", db=dups)
            txn.put(b"k", b"2", db=dups)


def test_a_plain_lmdb_environment_becomes_a_home(home: Path) -> None:
    plain_environment(home, 2500)
    with reopened(home, readonly=True) as env:
        assert env.get(b"000001") == b"v" * 100
        assert env.dbs() == [b"dups"]
    for _ in range(2):
        with reopened(home) as env:
            assert len(contents(env)) == 2500
            assert contents(env, env.open_db(b"dups", create=False)) == [(b"k", b"1"), (b"k", b"2")]
    assert not (home / "adopting").exists()
    assert (home / "adopted" / "data.mdb").exists()


def test_an_adoption_that_was_interrupted_is_done_again(home: Path) -> None:
    plain_environment(home, 10)
    with reopened(home) as env:
        env.delete(b"000003")
    (home / "adopted").rename(home / "adopting")
    with reopened(home) as env:
        assert len(contents(env)) == 10


def test_a_copy_is_opened_like_any_environment(env: zrep.Environment, tmp_path: Path) -> None:
    env.put(b"a", b"1")
    (tmp_path / "copy").mkdir()
    env.copy(str(tmp_path / "copy"))
    with reopened(tmp_path / "copy") as copy:
        assert contents(copy) == [(b"a", b"1")]
