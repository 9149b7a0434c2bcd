"""The limit of what is queued: who waits, until when, and that nobody waits for nothing."""

import threading
import time
from typing import Any

import pytest

from zrep.errors import NotAppliedError
from zrep.inqueue import WRITE_BYTES, Inqueue
from zrep.options import AckPolicy
from zrep.threads import engines
from zrep.tickets import Callback, Ticket

DEADLINE_S = 10
LIMIT = 100_000
BIG = 32_000


def ticket(timeout_s: float = DEADLINE_S) -> Ticket:
    deadline = time.monotonic_ns() + int(timeout_s * 1e9)
    return Callback(AckPolicy.QUORUM, deadline, lambda result, error: None)


class Queue(Inqueue):
    """One that counts how often it was full, and is told of writes by hand."""

    def __init__(self) -> None:
        self.fills = 0
        super().__init__(LIMIT, self._filled)

    def _filled(self) -> None:
        self.fills += 1

    def put(self, nbytes: int = BIG) -> Ticket:
        entered = ticket()
        while not self.enter(entered, nbytes):
            self.await_room(entered)
        return entered


def told(*tickets: Ticket) -> None:
    for entered in tickets:
        entered.reject(NotAppliedError("done with"))


def test_who_brings_more_than_the_limit_waits_until_a_part_of_it_is_gone() -> None:
    queue = Queue()
    *big, small = [*(queue.put() for _ in range(3)), queue.put(1)]
    assert (queue.full, queue.fills) == (True, 1)
    entered = threading.Event()

    def write() -> None:
        queue.put()
        entered.set()

    waiting = threading.Thread(target=write)
    waiting.start()
    told(small)
    assert queue.full, "not the one that has just fitted in"
    assert not entered.wait(0.02)
    told(big[0])
    assert entered.wait(DEADLINE_S)
    waiting.join()
    assert (queue.full, queue.fills) == (False, 1)


def test_what_was_told_has_left_once() -> None:
    queue = Queue()
    entered = queue.put()
    assert queue.nbytes == BIG + WRITE_BYTES
    told(entered, entered)
    assert queue.nbytes == 0


def test_who_waits_too_long_has_written_nothing() -> None:
    queue = Queue()
    for _ in range(4):
        queue.put()
    nbytes = queue.nbytes
    with pytest.raises(NotAppliedError, match="inqueue_bytes"):
        queue.await_room(ticket(0.001))
    assert queue.nbytes == nbytes
    assert not queue.enter(ticket(), 1)


def test_who_makes_room_does_not_wait_for_it() -> None:
    """A future's callback runs on an engine's thread, and may write: at its own site, or at another of the process."""
    own, other = Queue(), Queue()

    def engine() -> None:
        engines.add(threading.get_ident())
        for queue in (own, other):
            for _ in range(5):
                queue.put()
        own.close()
        engines.discard(threading.get_ident())

    thread = threading.Thread(target=engine, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert [queue.nbytes for queue in (own, other)] == [5 * (BIG + WRITE_BYTES)] * 2
    assert [queue.fills for queue in (own, other)] == [1, 1]


def test_what_was_not_queued_after_all_is_given_back_once() -> None:
    queue = Queue()
    entered = queue.put()
    queue.retract(entered)
    queue.retract(entered)
    told(entered)
    assert queue.nbytes == 0


def test_a_handler_may_stop_the_site_while_somebody_enters() -> None:
    """It runs in the middle of `enter`, and waits for the engine, which must not wait for it."""

    class Interrupted(Queue):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_entered" and value:
                engine = threading.Thread(target=self.close, daemon=True)
                engine.start()
                engine.join(DEADLINE_S)
                assert not engine.is_alive()

    Interrupted().put()


def test_a_write_larger_than_the_limit_enters_alone() -> None:
    queue = Queue()
    queue.put(2 * LIMIT)
    assert queue.full


def test_nobody_waits_when_the_last_one_left_just_before_the_queue_was_full() -> None:
    class Late(Queue):
        """Whoever fills it is overtaken by the engine, which answers everything and sees no full queue."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "full" and value:
                told(*tickets)
            super().__setattr__(name, value)

    tickets: list[Ticket] = []
    queue = Late()
    for _ in range(3):
        tickets.append(queue.put())
    queue.put()
    assert not queue.full
    assert queue.fills == 0


def test_when_the_site_stops_everybody_is_let_in() -> None:
    queue = Queue()
    for _ in range(4):
        queue.put()
    threads = [threading.Thread(target=queue.put) for _ in range(4)]
    for thread in threads:
        thread.start()
    queue.close()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not queue.full
