"""Who was answered is waited for: the last one back completes the round, and nobody is waited for long."""

import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

import zrep
from zrep.commit import Batch, CommitResult
from zrep.errors import NotAppliedError
from zrep.options import MILLISECOND, AckPolicy
from zrep.tickets import PATIENCE_MS, Awaited, Callback, Returning, Ticket, Wait

RESULT = CommitResult(None, True, (), "sync")
DEADLINE_S = 20.0


class Rounds:
    """Counts how often everybody was back."""

    def __init__(self) -> None:
        self.completed = 0
        self.returning = Returning(self.complete)

    def complete(self) -> None:
        self.completed += 1

    def wait(self) -> Wait:
        return Wait(AckPolicy.QUORUM, 0, self.returning)


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


def test_the_last_one_back_completes_the_round(rounds: Rounds) -> None:
    waits = [rounds.wait() for _ in range(3)]
    for wait in waits:
        wait.resolve(RESULT)
    rounds.returning.wake()
    for wait in waits:
        assert rounds.returning
        assert rounds.completed == 0
        assert wait.result() == RESULT
    assert not rounds.returning
    assert rounds.completed == 1


def test_who_comes_back_wakes_the_next(rounds: Rounds) -> None:
    first, second, third = waits = [rounds.wait() for _ in range(3)]
    with futures.ThreadPoolExecutor(2) as pool:
        for wait in waits:
            wait.resolve(RESULT)
        others = [pool.submit(wait.result) for wait in (second, third)]
        rounds.returning.wake()
        assert not futures.wait(others, 0.05).done
        first.result()
        assert not futures.wait(others, DEADLINE_S).not_done


def test_who_is_interrupted_in_the_chain_does_not_end_it(rounds: Rounds) -> None:
    first, second = waits = [rounds.wait() for _ in range(2)]
    for wait in waits:
        wait.resolve(RESULT)
    rounds.returning.wake()
    for now in (1, 1 + PATIENCE_MS * MILLISECOND):
        rounds.returning.watch(now)
    assert second.result() == first.result() == RESULT, "the second is woken without the first"


def test_after_the_engines_end_everybody_is_woken_at_once(rounds: Rounds) -> None:
    before, *after = (rounds.wait() for _ in range(3))
    for wait in (rounds.wait(), before):
        wait.resolve(RESULT)
    rounds.returning.close()
    for wait in after:
        wait.resolve(RESULT)
    assert {wait.result() for wait in (before, *after)} == {RESULT}


def test_an_error_is_an_answer(rounds: Rounds) -> None:
    wait = rounds.wait()
    wait.reject(NotAppliedError("it did not happen"))
    rounds.returning.wake()
    with pytest.raises(NotAppliedError):
        wait.result()
    assert not rounds.returning


def test_a_verdict_is_told_instead_of_the_result(rounds: Rounds) -> None:
    wait = rounds.wait()
    wait.verdict = NotAppliedError("it is not as expected")
    wait.resolve(RESULT)
    rounds.returning.wake()
    with pytest.raises(NotAppliedError, match="as expected"):
        wait.result()


def test_who_does_not_block_is_not_waited_for(rounds: Rounds) -> None:
    told: list[object] = []
    ticket: Ticket = Callback(AckPolicy.QUORUM, 0, lambda *outcome: told.append(outcome))
    ticket.resolve(RESULT)
    assert told == [(RESULT, None)]
    assert not rounds.returning


def test_a_cancelled_future_ends_whoever_waits_for_it() -> None:
    kept, cancelled = (Awaited(AckPolicy.QUORUM, 0) for _ in range(2))
    assert cancelled.future.cancel()
    for ticket in (kept, cancelled):
        ticket.resolve(RESULT)
    assert kept.future.result() == RESULT
    assert not futures.wait((cancelled.future,), DEADLINE_S).not_done


def test_a_future_tells_its_result_to_whoever_asks_before_and_after() -> None:
    ticket = Awaited(AckPolicy.QUORUM, 0)
    with pytest.raises(futures.TimeoutError):
        ticket.future.result(timeout=0)
    with futures.ThreadPoolExecutor(1) as pool:
        before = pool.submit(ticket.future.result, DEADLINE_S)
        ticket.resolve(RESULT)
        assert before.result(DEADLINE_S) is ticket.future.result(timeout=0) is RESULT


def test_a_future_that_nobody_looked_at_is_one_all_the_same() -> None:
    ticket = Awaited(AckPolicy.QUORUM, 0)
    ticket.resolve(RESULT)
    future, seen = ticket.future, list[futures.Future[CommitResult]]()
    future.add_done_callback(seen.append)
    assert (future.done(), future.cancelled(), future.cancel(), future.exception()) == (True, False, False, None)
    assert (seen, futures.wait((future,)).done, "finished" in repr(future)) == ([future], {future}, True)
    assert not hasattr(future, "nothing")


def test_who_looks_within_a_look_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal's handler may."""
    future, cancelled = Awaited(AckPolicy.QUORUM, 0).future, list[bool]()

    class Interrupted(futures.Future[CommitResult]):
        def __init__(self) -> None:
            monkeypatch.undo()
            cancelled.append(future.cancel())
            super().__init__()

    monkeypatch.setattr("zrep.tickets.Future", Interrupted)
    assert (future.done(), future.cancelled(), cancelled) == (True, True, [True])


def test_futures_may_be_looked_at_while_they_are_told() -> None:
    """Whoever looks at the very moment has the result, too, and does not wait for ever."""
    tickets = [Awaited(AckPolicy.QUORUM, 0) for _ in range(2000)]

    def look(number: int) -> int:
        held = 0
        for ticket in tickets:
            held += ticket.future.result(DEADLINE_S) is RESULT if number else not ticket.future.cancelled()
        return held

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with futures.ThreadPoolExecutor(3) as pool:
            looks = [pool.submit(look, number) for number in range(3)]
            for ticket in tickets:
                ticket.resolve(RESULT)
            assert [each.result(DEADLINE_S) for each in looks] == [len(tickets)] * 3
    finally:
        sys.setswitchinterval(interval)


def test_a_future_whose_error_was_raised_is_gone_with_its_last_user() -> None:
    """Not only when the collector runs: the error's traceback must not hold it."""
    ticket = Awaited(AckPolicy.QUORUM, 0)
    gone = weakref.ref(ticket.future)
    ticket.reject(NotAppliedError("it did not happen"))
    with pytest.raises(NotAppliedError) as caught:
        ticket.future.result()
    del ticket, caught
    assert gone() is None


def test_a_future_that_was_cancelled_tells_so_whatever_became_of_the_write() -> None:
    ticket = Awaited(AckPolicy.QUORUM, 0)
    assert ticket.future.cancel()
    ticket.resolve(RESULT)
    with pytest.raises(futures.CancelledError):
        ticket.future.result(timeout=0)


def test_who_does_not_come_back_is_forgotten(rounds: Rounds) -> None:
    returning, patience = rounds.returning, PATIENCE_MS * MILLISECOND
    rounds.wait().resolve(RESULT)
    seen = []
    for now in (1, patience, 1 + patience):
        returning.watch(now)
        seen.append((bool(returning), returning.deadline))
    assert seen == [(True, 1 + patience), (True, 1 + patience), (False, None)]
    assert rounds.completed == 1, "who wrote meanwhile has woken nobody"


def test_the_patience_begins_anew_with_the_next_round(rounds: Rounds) -> None:
    first = rounds.wait()
    first.resolve(RESULT)
    rounds.returning.watch(1)
    first.result()
    rounds.returning.watch(2)
    assert rounds.returning.deadline is None
    rounds.wait().resolve(RESULT)
    rounds.returning.watch(3)
    assert rounds.returning.deadline == 3 + PATIENCE_MS * MILLISECOND


@pytest.fixture
def env(tmp_path: Path) -> Iterator[zrep.Environment]:
    env = zrep.open(tmp_path / "home")
    yield env
    env.close()


def test_one_who_never_comes_back_holds_up_nobody_for_long(env: zrep.Environment) -> None:
    """Its answer is there, nobody fetches it; without patience the next write would wait for it for ever."""
    forgotten = env.engine.wait(None, None)
    env.engine.submit(Batch().put(b"a", b"1"), forgotten)
    done = threading.Event()

    def write() -> None:
        env.put(b"b", b"2")
        done.set()

    while env.get(b"a") is None:
        pass
    threading.Thread(target=write, daemon=True).start()
    assert done.wait(DEADLINE_S)
    assert env.get(b"b") == b"2"
