"""The group transaction: phases, children, captured operations, revocation; and who may write when."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from tests.unit.test_store import OPTIONS, Script, check, contents
from zrep import codec
from zrep.commit import Batch
from zrep.errors import (
    ConflictError,
    InvariantError,
    NoMasterError,
    NotAppliedError,
    NotMasterError,
    TxnTooLargeError,
)
from zrep.ids import Position
from zrep.options import KIB, MIB
from zrep.records import Kind, Op, Record
from zrep.storage import writers
from zrep.storage.catalogue import DUPSORT, INTEGER_KEY
from zrep.storage.child import Child
from zrep.storage.group import Group, Phase
from zrep.storage.sessions import Verdict
from zrep.storage.store import Store
from zrep.storage.writers import Writers

DEADLINE_S = 10


class Bench:
    """A store, its log, and groups on it; the test's thread is the engine's."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path, OPTIONS)
        self.script = Script()
        self.store.apply(self.script.records)
        self.wakes = 0
        self.writers = Writers(self.wake)

    def wake(self) -> None:
        self.wakes += 1

    def group(self, record_bytes: int = 32 * MIB, tail: tuple[Record, ...] = ()) -> Group:
        return Group(self.store, record_bytes, self.writers.leave, tail)

    def finish(self, group: Group) -> None:
        payload = group.seal()
        group.commit([self.script.add(Kind.COMMIT, payload)] if payload is not None else [])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "data")
    yield bench
    bench.store.close()


def put(child: Child, key: bytes, value: bytes, name: bytes | None = None) -> bool:
    return child.put(child.catalogue.handles[name], key, value, True, True, False)


def in_thread(work: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_nothing_is_visible_before_the_commit_and_everything_after(bench: Bench) -> None:
    group = bench.group()
    child = group.begin()
    put(child, b"a", b"1")
    child.merge()
    payload = group.seal()
    assert payload is not None
    assert [txn.ops for txn in codec.decode_txns(payload)] == [((Op.PUT, None, b"a", b"1"),)]
    assert contents(bench.store) == []
    record = bench.script.add(Kind.COMMIT, payload)
    group.commit([record])
    assert contents(bench.store) == [(b"a", b"1")]
    assert bench.store.applied.tip.lsn == record.lsn
    assert group.phase is Phase.ENDED


def test_children_run_on_any_thread_and_see_one_another(bench: Bench) -> None:
    group = bench.group()

    def first() -> None:
        child = group.begin()
        put(child, b"a", b"1")
        child.merge()

    def second() -> None:
        child = group.begin()
        assert child.look().get(b"a") == b"1"
        child.abort()

    in_thread(first)
    in_thread(second)
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"1")]


def test_an_aborted_child_leaves_nothing(bench: Bench) -> None:
    group = bench.group()
    child = group.begin()
    put(child, b"a", b"1")
    child.abort()
    assert len(group.txns) == 0
    assert group.seal() is None
    group.commit([])
    assert contents(bench.store) == []


def test_no_child_begins_after_the_seal(bench: Bench) -> None:
    group = bench.group()
    group.seal()
    with pytest.raises(InvariantError):
        group.begin()
    group.abort()
    group.abort()


def test_the_engine_never_touches_the_group_while_a_child_is_open(bench: Bench) -> None:
    group = bench.group()
    child = group.begin()
    for touch in (group.seal, group.abort, lambda: group.commit([])):
        with pytest.raises(InvariantError):
            touch()
    child.abort()
    group.abort()


def test_an_aborted_group_leaves_the_store_as_it_was(bench: Bench) -> None:
    digest = bench.store.digest()
    group = bench.group()
    child = group.begin()
    child.create(b"new", DUPSORT)
    put(child, b"k", b"v", b"new")
    child.merge()
    group.abort()
    assert bench.store.digest() == digest
    bench.finish(bench.group())


def test_a_tail_is_built_upon_and_becomes_visible_with_the_group(bench: Bench) -> None:
    tail = (bench.script.commit((Op.PUT, None, b"a", b"1"), session="s", seq=1),)
    group = bench.group(tail=tail)
    assert contents(bench.store) == []
    reign = bench.script.add(Kind.REIGN, codec.encode_reign(bench.store.applied.history.reigns[0].site))
    child = group.begin()
    assert child.look().get(b"a") == b"1"
    put(child, b"b", b"2")
    child.merge()
    payload = group.seal()
    assert payload is not None
    group.commit([reign, bench.script.add(Kind.COMMIT, payload)])
    assert contents(bench.store) == [(b"a", b"1"), (b"b", b"2")]
    assert check(bench.store, "s", 1).position == Position(1, 2)
    assert bench.store.applied.tip == bench.script.tip


def test_a_group_equals_its_own_replay(bench: Bench, tmp_path: Path) -> None:
    group = bench.group()
    child = group.begin()
    child.create(b"d", DUPSORT)
    put(child, b"k", b"1", b"d")
    put(child, b"k", b"2", b"d")
    child.delete(child.catalogue.handles[b"d"], b"k", b"1")
    put(child, b"x", b"y")
    child.merge("s", 1)
    bench.finish(group)
    replayed = Store(tmp_path / "replayed", OPTIONS)
    replayed.apply(bench.script.records)
    assert replayed.digest() == bench.store.digest()
    assert check(replayed, "s", 1) == check(bench.store, "s", 1)
    replayed.close()


def test_a_doomed_child_is_ended_at_once_when_it_is_idle(bench: Bench) -> None:
    group = bench.group()
    bench.writers.admit(group)
    child = bench.writers.enter().begin()
    put(child, b"a", b"1")
    assert group.doom(NotAppliedError("mastership was lost"))
    assert not bench.writers.busy
    group.abort()
    for _ in range(2):
        with pytest.raises(NotAppliedError, match="lost"):
            put(child, b"b", b"2")
    with pytest.raises(NotAppliedError):
        child.merge()
    child.abort()


def test_a_doomed_child_that_gave_out_views_ends_itself(bench: Bench) -> None:
    group = bench.group()
    child = group.begin(buffers=True)
    child.look()
    assert not group.doom(NotAppliedError("mastership was lost"))
    with pytest.raises(InvariantError):
        group.abort()
    with pytest.raises(NotAppliedError):
        put(child, b"a", b"1")
    group.abort()


def test_a_child_inside_an_operation_is_not_touched(bench: Bench) -> None:
    group = bench.group()
    child = group.begin()
    entered, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with child.lock:
            entered.set()
            go_on.wait(DEADLINE_S)
        with pytest.raises(NotAppliedError):
            put(child, b"a", b"1")

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(DEADLINE_S)
    assert not group.doom(NotAppliedError("mastership was lost"), now=True)
    go_on.set()
    thread.join(DEADLINE_S)
    assert group.doom(NotAppliedError("mastership was lost"))
    group.abort()


def test_a_nested_transaction_is_revoked_with_its_outer_one(bench: Bench) -> None:
    group = bench.group()
    outer = group.begin()
    inner = outer.nest(False)
    assert group.doom(NotAppliedError("mastership was lost"))
    for child in (inner, outer):
        with pytest.raises(NotAppliedError):
            put(child, b"a", b"1")
    group.abort()


def test_nested_transactions_merge_or_vanish(bench: Bench) -> None:
    group = bench.group()
    outer = group.begin()
    put(outer, b"a", b"1")
    with_outer = outer.nest(False)
    put(with_outer, b"b", b"2")
    with pytest.raises(lmdb.BadTxnError):
        put(outer, b"c", b"3")
    with_outer.merge()
    gone = outer.nest(False)
    put(gone, b"d", b"4")
    gone.abort()
    outer.merge()
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"1"), (b"b", b"2")]


def test_a_transaction_larger_than_a_record_is_refused_before_it_is_merged(bench: Bench) -> None:
    group = bench.group(record_bytes=64 * KIB)
    child = group.begin()
    put(child, b"a", bytes(100_000))
    with pytest.raises(TxnTooLargeError, match="split it"):
        child.merge()
    assert len(group.txns) == 0
    group.abort()


@pytest.mark.parametrize("nested", [False, True], ids=["outermost", "nested"])
def test_what_names_a_database_that_is_gone_cannot_be_merged(bench: Bench, nested: bool) -> None:
    """A bug somewhere: it costs a transaction, where a record that no site can perform would cost the group."""
    bench.store.apply([bench.script.commit((Op.CREATE_DB, b"d", 0))])
    group = bench.group()
    outer = group.begin()
    child = outer.nest(False) if nested else outer
    child.drop(child.catalogue.handles[b"d"], delete=True)
    child.create(b"e", 0)
    put(child, b"k", b"1", b"e")
    child.note(Op.DELETE, b"d", b"k")
    with pytest.raises(InvariantError, match="names only databases that exist"):
        child.merge()
    outer.abort()
    assert group.seal() is None
    group.abort()


def test_databases_that_come_and_go_in_one_transaction_can_be_merged(bench: Bench, tmp_path: Path) -> None:
    group = bench.group()
    outer = group.begin()
    child = outer.nest(False)
    put(child, b"k", b"1")
    for value in (b"1", b"2"):
        child.create(b"d", 0)
        put(child, b"k", value, b"d")
        if value == b"1":
            child.drop(child.catalogue.handles[b"d"], delete=True)
    child.merge()
    put(outer, b"l", b"3", b"d")
    outer.merge()
    bench.finish(group)
    assert contents(bench.store, b"d") == [(b"k", b"2"), (b"l", b"3")]
    replayed = Store(tmp_path / "replayed", OPTIONS)
    replayed.apply(bench.script.records)
    assert replayed.digest() == bench.store.digest()
    replayed.close()


def test_a_nested_transaction_that_no_record_holds_is_told_so_whatever_it_created(bench: Bench) -> None:
    group = bench.group(record_bytes=32 * KIB)
    outer = group.begin()
    child = outer.nest(False)
    child.create(b"d", 0)
    for number in range(9):
        put(child, b"%d" % number, bytes(4 * KIB), b"d")
    child.merge()
    with pytest.raises(TxnTooLargeError):
        outer.merge()
    group.abort()


def test_a_transaction_in_which_lmdb_failed_does_not_take_the_group_along(bench: Bench) -> None:
    group = bench.group(record_bytes=512 * MIB)
    good = group.begin()
    put(good, b"a", b"1")
    good.merge()
    bad = group.begin()
    with pytest.raises(lmdb.MapFullError):
        put(bad, b"b", bytes(100 * MIB))
    with pytest.raises(lmdb.BadTxnError):
        bad.merge()
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"1")]
    size = bench.store.env.info()["map_size"]
    bench.group().abort()
    assert bench.store.env.info()["map_size"] == 2 * size


def test_a_group_is_full_at_half_a_record(bench: Bench) -> None:
    group = bench.group(record_bytes=64 * KIB)
    child = group.begin()
    put(child, b"a", bytes(40_000))
    child.merge()
    assert group.full
    bench.writers.admit(group)
    with pytest.raises(NoMasterError):
        bench.writers.enter(timeout_ms=1)
    assert bench.writers.take() is group
    group.abort()


def run(group: Group, batch: Batch, session: str = "", seq: int = 0) -> Verdict:
    return group.run_batch(batch, session, seq).verdict


def test_a_batch_runs_whole_or_not_at_all(bench: Bench) -> None:
    group = bench.group()
    assert run(group, Batch().put(b"a", b"1").put(b"b", b"2").delete(b"b").expect(b"a", b"1")) is Verdict.RUN
    with pytest.raises(ConflictError) as conflict:
        group.run_batch(Batch().put(b"c", b"3").expect(b"a", None))
    assert (conflict.value.key, conflict.value.found) == (b"a", b"1")
    with pytest.raises(lmdb.NotFoundError, match="open_db"):
        group.run_batch(Batch().put(b"c", b"3", db=b"nowhere"))
    bench.finish(group)
    assert contents(bench.store) == [(b"a", b"1")]


def test_a_range_is_deleted_in_the_databases_own_order(bench: Bench) -> None:
    bench.store.apply([bench.script.commit((Op.CREATE_DB, b"ints", INTEGER_KEY), (Op.CREATE_DB, b"dups", DUPSORT))])
    group = bench.group()
    batch = Batch()
    numbers = [number.to_bytes(8, "little") for number in (1, 2, 255, 256, 257, 70_000)]
    for number in numbers:
        batch.put(number, b"", db=b"ints")
        batch.put(number, b"x", db=b"dups").put(number, b"y", db=b"dups")
    batch.delete_range(numbers[1], numbers[4], db=b"ints")
    batch.delete_range(b"", None, db=b"dups")
    run(group, batch)
    bench.finish(group)
    assert [key for key, _ in contents(bench.store, b"ints")] == [numbers[0], *numbers[4:]]
    assert contents(bench.store, b"dups") == []


def test_a_request_of_a_session_runs_once_within_and_across_groups(bench: Bench) -> None:
    group = bench.group()
    batch = Batch().put(b"a", b"1")
    assert run(group, batch, "s", 1) is Verdict.RUN
    assert group.run_batch(batch, "s", 1) == (Verdict.DONE, None)
    with pytest.raises(ConflictError):
        group.run_batch(Batch().expect(b"a", b"2"), "s", 2)
    assert run(group, Batch().put(b"a", b"3"), "s", 2) is Verdict.RUN
    bench.finish(group)
    group = bench.group()
    assert group.run_batch(batch, "s", 2) == (Verdict.DONE, Position(1, 2))
    assert run(group, batch, "s", 1) is Verdict.UNKNOWN
    assert run(group, batch, "t", 2) is Verdict.UNKNOWN
    group.abort()
    assert contents(bench.store) == [(b"a", b"3")]


def test_writers_wait_for_an_open_group_and_the_last_to_leave_wakes_the_engine(bench: Bench) -> None:
    done: list[int] = []

    def writer() -> None:
        group = bench.writers.enter(DEADLINE_S * 1000)
        child = group.begin()
        put(child, threading.current_thread().name.encode(), b"")
        child.merge()
        done.append(1)

    threads = [threading.Thread(target=writer) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert bench.writers.take() is None
    group = bench.group()
    bench.writers.admit(group)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(done) == len(group.txns) == 8
    assert bench.wakes >= 1
    assert bench.writers.take() is group
    assert bench.writers.take() is None
    bench.finish(group)
    assert len(contents(bench.store)) == 8


def test_a_thread_does_not_wait_for_itself(bench: Bench) -> None:
    group = bench.group()
    bench.writers.admit(group)
    child = bench.writers.enter().begin()
    with pytest.raises(lmdb.Error, match="deadlock"):
        bench.writers.enter()
    child.abort()
    group.abort()


def test_the_engine_gets_its_turn_before_those_who_wait(bench: Bench) -> None:
    group = bench.group()
    bench.writers.admit(group)
    child = bench.writers.enter().begin()
    assert bench.writers.enter_at_once() is None
    child.abort()
    assert bench.wakes == 1
    with pytest.raises(NoMasterError):
        bench.writers.enter(timeout_ms=1)
    assert bench.writers.enter_at_once() is group
    run(group, Batch().put(b"a", b"1"))
    bench.writers.leave()
    bench.finish(group)


def test_who_waits_is_told_when_there_is_no_longer_a_master_here(bench: Bench) -> None:
    started = threading.Event()

    def writer() -> None:
        started.set()
        with pytest.raises(NotMasterError, match="elsewhere"):
            bench.writers.enter(DEADLINE_S * 1000)

    def refuse() -> None:
        started.wait(DEADLINE_S)
        bench.writers.refuse(lambda: NotMasterError("the master is elsewhere"))

    refuser = threading.Thread(target=refuse)
    refuser.start()
    in_thread(writer)
    refuser.join(DEADLINE_S)
    with pytest.raises(NotMasterError):
        bench.writers.enter()


def test_who_gives_its_place_back_may_find_the_door_shut(bench: Bench) -> None:
    """Mastership is lost between an interrupt and what its handler does."""
    group = bench.group()
    bench.writers.admit(group)
    bench.writers.enter()
    bench.writers.refuse(lambda: NotMasterError("the master is elsewhere"))
    busy = bench.writers.busy
    bench.writers.give_back(KeyboardInterrupt())
    assert (busy, bench.writers.busy) == (True, False)
    group.abort()


def test_a_batch_creates_databases_once(bench: Bench) -> None:
    group = bench.group()
    for batch in (Batch().create(b"d", DUPSORT), Batch().create(b"d")):
        run(group, batch.put(b"k", b"v", db=b"d").put(b"k", b"w", db=b"d"))
    with pytest.raises(lmdb.InvalidParameterError):
        run(group, Batch().create(b"e", 0xFF))
    with pytest.raises(lmdb.BadValsizeError):
        run(group, Batch().create(b""))
    bench.finish(group)
    assert contents(bench.store, b"d") == [(b"k", b"v"), (b"k", b"w")]


def test_a_group_without_slots_left_makes_room_for_the_next(bench: Bench) -> None:
    group = bench.group()
    run(group, Batch().put(b"a", b"1"))
    batch = Batch()
    for number in range(9):
        batch.create(b"db%d" % number)
    with pytest.raises(lmdb.DbsFullError, match="without txn"):
        run(group, batch)
    assert group.full
    bench.finish(group)
    group = bench.group()
    for number in range(8):
        run(group, Batch().create(b"db%d" % number))
    bench.finish(group)
    run(group := bench.group(), batch)
    bench.finish(group)
    assert len(bench.store.catalogue.handles) == 10


def test_stopping_ends_a_child_whatever_it_does(bench: Bench) -> None:
    group = bench.group()
    child = group.begin(buffers=True)
    group.stop(NotAppliedError("the site stops"))
    with pytest.raises(NotAppliedError, match="stops"):
        put(child, b"a", b"1")


def test_who_waits_for_a_merged_child_is_known_before_the_child_is_gone(bench: Bench) -> None:
    group = bench.group()
    child = group.begin()
    put(child, b"a", b"1")

    class Waiters(list[object]):
        def append(self, waiter: object) -> None:
            super().append((waiter, group.child))

    group.waiters = Waiters()
    child.merge(waiter="a ticket")
    assert group.waiters == [("a ticket", child)]
    assert group.child is None
    bench.finish(group)


def test_a_forgotten_transaction_may_end_while_somebody_lines_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector runs whenever it likes, on any thread: also on one that is about to wait for its place."""
    group = bench.group()
    bench.writers.admit(group)
    forgotten: list[Child] = []
    in_thread(lambda: forgotten.append(bench.writers.enter().begin()))

    class Turn(writers._Turn):
        def __init__(self) -> None:
            forgotten.pop().abort()
            super().__init__()

    monkeypatch.setattr(writers, "_Turn", Turn)
    assert bench.writers.enter(timeout_ms=DEADLINE_S * 1000) is group
    bench.writers.leave()
    group.abort()
