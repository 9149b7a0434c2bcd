"""The engine between its callers: nobody waits for a wake-up that was lost, or for an engine that has gone."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import zrep
from zrep.commit import Batch, CommitResult
from zrep.errors import ConflictError, NotAppliedError, UnknownOutcomeError, ZrepError
from zrep.events import Event, Panic
from zrep.ids import Position

DEADLINE_S = 20.0


@pytest.fixture
def env(tmp_path: Path) -> Iterator[zrep.Environment]:
    env = zrep.open(tmp_path / "home")
    yield env
    env.close()


@pytest.fixture
def patient(env: zrep.Environment, monkeypatch: pytest.MonkeyPatch) -> zrep.Environment:
    """An environment whose engine sleeps until somebody wakes it: no timer hides a wake-up that was lost."""
    transport = env.engine.transport
    poll = transport.poll
    monkeypatch.setattr(transport, "poll", lambda timeout_ms: poll(None))
    env.engine.call(lambda: None)
    return env


def within_deadline(*works: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
        return [future.result(DEADLINE_S) for future in futures]


def for_ever(work: Callable[[], object]) -> None:
    while True:
        work()


def test_an_empty_commit_wakes_the_engine(patient: zrep.Environment) -> None:
    def work() -> None:
        for _ in range(50):
            with patient.begin(write=True) as txn:
                txn.get(b"a")

    within_deadline(work)


def test_many_writers_of_every_kind_wait_for_no_timer(patient: zrep.Environment) -> None:
    def commit() -> None:
        for number in range(100):
            with patient.begin(write=True) as txn:
                if number % 3:
                    txn.put(b"commit", b"%d" % number)

    def abort() -> None:
        for _ in range(100):
            patient.begin(write=True).abort()

    def put() -> None:
        for number in range(100):
            patient.put(b"put", b"%d" % number)

    within_deadline(commit, commit, abort, put, put)
    assert patient.get(b"commit") == b"98"


def test_a_closing_engine_answers_whoever_comes_late(tmp_path: Path) -> None:
    for _ in range(20):
        env = zrep.open(tmp_path / "home")
        begun = threading.Barrier(5)
        asks: list[Callable[[zrep.Environment], object]] = [
            lambda env: env.put(b"a", b"1"),
            lambda env: env.engine.wait_applied(Position(1, 1 << 40), env.engine.until(60_000)),
            lambda env: env.engine.read_index(env.engine.until(60_000)),
            lambda env: env.begin(write=True).commit(),
        ]

        def insist(
            ask: Callable[[zrep.Environment], object], env: zrep.Environment = env, begun: threading.Barrier = begun
        ) -> None:
            begun.wait(DEADLINE_S)
            with pytest.raises(zrep.Error):
                for_ever(lambda: ask(env))

        def close(env: zrep.Environment = env, begun: threading.Barrier = begun) -> None:
            begun.wait(DEADLINE_S)
            env.close()

        within_deadline(close, *(lambda ask=ask: insist(ask) for ask in asks))


def test_who_waits_behind_an_open_transaction_is_told_in_time(env: zrep.Environment) -> None:
    first, second = threading.Event(), threading.Event()

    def hold() -> None:
        with env.begin(write=True) as txn:
            first.set()
            assert second.wait(DEADLINE_S)
            txn.put(b"a", b"1")

    def behind() -> None:
        assert first.wait(DEADLINE_S)
        more_patient = env.submit(Batch().put(b"c", b"3"), timeout_ms=60_000)
        with pytest.raises(NotAppliedError, match="too long"):
            env.write(Batch().put(b"b", b"2"), timeout_ms=50)
        second.set()
        more_patient.result(DEADLINE_S)

    within_deadline(hold, behind)
    assert [env.get(key) for key in (b"a", b"b", b"c")] == [b"1", None, b"3"]


def test_a_commit_in_a_group_that_another_keeps_open_is_told_in_time(env: zrep.Environment) -> None:
    held, told, entering = threading.Event(), threading.Event(), threading.Event()

    def commit() -> None:
        txn = env.begin(write=True)
        txn.put(b"a", b"1")
        entering.set()
        while not env.engine.writers.waiting:
            pass
        with pytest.raises(UnknownOutcomeError, match="may still happen"):
            txn.commit(timeout_ms=50)
        told.set()

    def hold() -> None:
        assert entering.wait(DEADLINE_S)
        with env.begin(write=True):
            held.set()
            assert told.wait(DEADLINE_S)

    within_deadline(commit, hold)
    env.put(b"b", b"2")
    assert env.get(b"a") == b"1"


def test_a_request_that_was_refused_is_refused_again(env: zrep.Environment) -> None:
    """A late copy must not succeed: its caller may have been told already that nothing happened."""
    engine = env.engine

    def run(batch: Batch) -> object:
        wait = engine.wait(None, None)
        engine.call(lambda: engine.run(batch, "session", 1, wait))
        return wait.result()

    batch = Batch().expect(b"lock", b"free").put(b"lock", b"mine")
    with pytest.raises(ConflictError):
        run(batch)
    env.put(b"lock", b"free")
    with pytest.raises(ConflictError):
        run(batch)
    assert env.get(b"lock") == b"free"


def test_every_kind_of_caller_hears_of_a_conflict(tmp_path: Path) -> None:
    batch = Batch().expect(b"a", b"1").put(b"a", b"2")
    with zrep.Site(tmp_path / "home", bind="tcp://127.0.0.1:0", create=True) as site:
        with zrep.connect(site.address) as client:
            for write in (client.write, site.env.write, lambda batch: site.env.submit(batch).result(DEADLINE_S)):
                with pytest.raises(ConflictError):
                    write(batch)
        assert site.env.get(b"a") is None


def test_a_batch_that_wrote_nothing_does_not_use_up_its_number(tmp_path: Path) -> None:
    with zrep.Site(tmp_path / "home", bind="tcp://127.0.0.1:0", create=True) as site:
        with zrep.connect(site.address) as client:
            for number in range(3):
                client.write(Batch().expect(b"b", None))
                client.put(b"a", b"%d" % number)
        assert site.env.get(b"a") == b"2"


def test_an_engine_that_failed_says_so(env: zrep.Environment) -> None:
    def fail() -> None:
        raise AssertionError("planted")

    engine = env.engine
    engine._post(fail, lambda error: None)
    with pytest.raises(ZrepError, match="planted"):
        for_ever(lambda: env.put(b"a", b"1"))


# In a future's callback, on the engine's thread.


def held(env: zrep.Environment) -> threading.Event:
    """Hold the engine until the event is set."""
    go_on = threading.Event()

    def wait() -> None:
        assert go_on.wait(DEADLINE_S)

    env.engine._post(wait, lambda error: None)
    return go_on


def in_callback(env: zrep.Environment, work: Callable[["Future[CommitResult]"], object]) -> object:
    """Do `work` in the callback of a write that is told meanwhile; return what it returns or raises."""
    outcome: Future[object] = Future()

    def call(future: "Future[CommitResult]") -> None:
        try:
            outcome.set_result(work(future))
        except BaseException as error:
            outcome.set_exception(error)
            raise

    go_on = held(env)
    env.submit(Batch().put(b"k", b"v")).add_done_callback(call)
    go_on.set()
    return outcome.result(DEADLINE_S)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda env, future: env.put(b"a", b"1"), id="put"),
        pytest.param(lambda env, future: env.begin(write=True), id="begin"),
        pytest.param(lambda env, future: env.open_db(b"new"), id="open_db"),
        pytest.param(lambda env, future: env.begin(token=future.result().token), id="token"),
        pytest.param(lambda env, future: env.begin(linearizable=True), id="linearizable"),
        pytest.param(lambda env, future: env.submit(Batch().put(b"a", b"1")).result(), id="result"),
        pytest.param(lambda env, future: env.submit(Batch().put(b"a", b"1")).exception(), id="exception"),
        pytest.param(lambda env, future: env.close(), id="close"),
    ],
)
def test_what_would_wait_for_the_engine_on_its_own_thread_says_so(
    env: zrep.Environment, tmp_path: Path, use: Callable[[zrep.Environment, "Future[CommitResult]"], object]
) -> None:
    with pytest.raises(ZrepError, match="submit the write instead, or hand the call to another thread"):
        in_callback(env, lambda future: use(env, future))
    with zrep.open(tmp_path / "another") as another, pytest.raises(ZrepError, match="submit"):
        in_callback(env, lambda future: use(another, future))
    assert env.put(b"b", b"2").perm


def test_a_commit_on_the_engines_thread_says_so_and_can_still_be_made(env: zrep.Environment) -> None:
    future = env.submit(Batch().put(b"k", b"v"))
    future.result(DEADLINE_S)
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1")
        with pytest.raises(ZrepError, match="hand the call to another thread"):
            env.engine.call(txn.commit)
        assert txn.commit().perm


def test_a_callback_may_submit_and_read(env: zrep.Environment) -> None:
    def work(future: "Future[CommitResult]") -> object:
        assert future.exception() is None
        assert env.get(b"k") == b"v"
        return env.submit(Batch().put(b"a", future.result().durable.encode()))

    further: Any = in_callback(env, work)
    assert further.result(DEADLINE_S).perm
    assert env.get(b"a") == b"sync"


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_callback_raises_goes_no_further_than_the_log(
    env: zrep.Environment, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def fail(future: "Future[CommitResult]") -> None:
        raise error("planted")

    caplog.set_level(logging.ERROR)
    with pytest.raises(error, match="planted"):
        in_callback(env, fail)
    assert env.put(b"a", b"1").perm
    assert "planted" in caplog.text
    assert env.engine.failure is None


def test_an_environment_that_a_callback_forgets_last_is_closed(tmp_path: Path) -> None:
    known = [zrep.open(tmp_path / "home")]
    forgotten = threading.Event()

    def forget(future: "Future[CommitResult]") -> None:
        known.clear()
        gc.collect()
        forgotten.set()

    go_on = held(known[0])
    known[0].submit(Batch().put(b"k", b"v")).add_done_callback(forget)
    go_on.set()
    assert forgotten.wait(DEADLINE_S)
    for thread in threading.enumerate():
        if thread.name == "zrep-close":
            thread.join(DEADLINE_S)
    with zrep.open(tmp_path / "home") as env:
        assert env.get(b"k") == b"v"


@pytest.mark.parametrize("error", [AssertionError, SystemExit, KeyboardInterrupt])
def test_whatever_ends_the_engine_is_a_failure_and_an_event(tmp_path: Path, error: type[BaseException]) -> None:
    seen: list[Event] = []
    told = threading.Event()

    def note(event: Event) -> None:
        seen.append(event)
        told.set() if isinstance(event, Panic) else None

    def fail() -> None:
        raise error("planted")

    with zrep.Site(tmp_path / "home", bind="tcp://127.0.0.1:0", create=True) as site:
        site.on_event(note)
        engine = site.env.engine
        engine._post(fail, lambda error: None)
        assert told.wait(DEADLINE_S)
        with pytest.raises(ZrepError, match="planted"):
            for_ever(lambda: site.env.put(b"a", b"1"))
        assert engine.failure is not None
