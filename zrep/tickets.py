"""One caller's wait for one transaction, and who of the callers is on the way back.

A thread that was answered often writes again, as soon as it gets to run. With many of them the answers go
out faster than the threads can run: a group sealed meanwhile would hold a few and let the rest wait for its
flight. So those who are *returning* are waited for: who comes first need not wake the engine, the last one
does. No timer forms a group; there is one only for a thread that does not get to run.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from zrep.commit import CommitResult
from zrep.ids import Nanoseconds
from zrep.options import MILLISECOND, AckPolicy
from zrep.threads import check_may_wait, may_wait

if TYPE_CHECKING:
    from zrep.inqueue import Inqueue

PATIENCE_MS = 5
"""So long a group waits for who was answered: one switch interval of Python's."""

_logger = logging.getLogger("zrep.tickets")

Answer: TypeAlias = Callable[[CommitResult | None, Exception | None], None]
"""What is called with the outcome: a result, or an error."""


class Ticket:
    """A wait for one transaction. The engine says what became of it, once; on its own thread, unless it has stopped."""

    __slots__ = ("deadline", "inqueue", "nbytes", "policy", "verdict", "wrote")

    def __init__(self, policy: AckPolicy, deadline: Nanoseconds) -> None:
        self.policy = policy
        self.deadline = deadline
        self.wrote = True
        """Whether it has anything in the record; a transaction that only read still waits for what it read."""
        self.verdict: Exception | None = None
        """What to raise once what it rests on is permanent: a conflict, say."""
        self.inqueue: Inqueue | None = None
        self.nbytes = 0
        """What the write takes of the inqueue, until it is told."""

    def resolve(self, result: CommitResult) -> None:
        """Tell the result; or the verdict instead, now that what it rests on is permanent."""
        if (inqueue := self.inqueue) is not None:
            self.inqueue = None
            inqueue.leave(self.nbytes)
        self._tell(None if self.verdict is not None else result, self.verdict)

    def reject(self, error: Exception) -> None:
        if (inqueue := self.inqueue) is not None:
            self.inqueue = None
            inqueue.leave(self.nbytes)
        self._tell(None, error)

    def _tell(self, result: CommitResult | None, error: Exception | None) -> None:
        raise NotImplementedError


class Callback(Ticket):
    """One that calls `answer`."""

    __slots__ = ("_answer",)

    def __init__(self, policy: AckPolicy, deadline: Nanoseconds, answer: Answer) -> None:
        super().__init__(policy, deadline)
        self._answer = answer

    def _tell(self, result: CommitResult | None, error: Exception | None) -> None:
        self._answer(result, error)


class Outcome(Future[CommitResult]):
    """A future that becomes one when somebody looks at it before its result is there; few do, and none is cheaper.

    The engine tells it, and its callbacks run on the engine's thread: there nothing may wait, and nothing that
    a callback raises, SystemExit included, goes further than the log.
    """

    _looked_at: dict[str, Any] | None = None
    """What a future has at first, once somebody looked."""
    _answer: CommitResult | None = None
    """The result, before anybody may have it."""
    told: CommitResult | None = None
    """The same, afterwards; not that of one that was cancelled."""
    behind: Callable[[], None] | None = None
    """Raises lmdb.Error where to wait would be for ever, see `Writers.obstacle`."""

    def __init__(self) -> None:
        """Nothing yet: what `Future` makes, half of what a write costs its caller, is for `__getattr__` to make."""

    def __getattr__(self, name: str) -> Any:
        """Become a future. No lock: who comes second, from a signal's handler even, finds or does the same.

        Either this sees the answer, or `tell` sees that somebody looks.
        """
        own = vars(self)
        for attribute, value in own.setdefault("_looked_at", vars(Future())).items():
            own.setdefault(attribute, value)
        if self._answer is not None:
            with suppress(InvalidStateError):
                self.set_result(self._answer)
        return object.__getattribute__(self, name)

    def tell(self, result: CommitResult) -> None:
        """Set the result. Raises InvalidStateError for one that was cancelled."""
        self._answer = result
        if self._looked_at is not None:
            try:
                self.set_result(result)
            except InvalidStateError:
                if self.cancelled():
                    raise
        self.told = result

    def result(self, timeout: float | None = None) -> CommitResult:
        if self.told is not None:
            return self.told
        try:
            self._check_may_wait(timeout)
            return super().result(timeout)
        finally:
            del self  # or an error's traceback holds the future, which holds the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._check_may_wait(timeout)
        return super().exception(timeout)

    def _check_may_wait(self, timeout: float | None) -> None:
        if timeout == 0 or (self.behind is None and may_wait()) or self.done():
            return
        check_may_wait()
        if self.behind is not None:
            self.behind()

    def add_done_callback(self, fn: Callable[[Future[CommitResult]], Any]) -> None:
        def call(future: Future[CommitResult]) -> None:
            try:
                fn(future)
            except BaseException as error:
                if isinstance(error, Exception) or may_wait():
                    raise
                _logger.exception("a callback raised what would end its thread future=%r", future)

        super().add_done_callback(call)


class Awaited(Ticket):
    """One whose caller has a future. A cancelled one has lost its caller, not its commit."""

    __slots__ = ("future",)

    def __init__(self, policy: AckPolicy, deadline: Nanoseconds) -> None:
        super().__init__(policy, deadline)
        self.future = Outcome()

    def _tell(self, result: CommitResult | None, error: Exception | None) -> None:
        try:
            if error is not None:
                self.future.set_exception(error)
            elif result is not None:
                self.future.tell(result)
        except InvalidStateError:
            self.future.set_running_or_notify_cancel()


class Wait(Ticket):
    """One whose caller blocks."""

    __slots__ = ("_done", "_error", "_result", "_returning", "wakes")

    def __init__(self, policy: AckPolicy, deadline: Nanoseconds, returning: "Returning") -> None:
        super().__init__(policy, deadline)
        self._result: CommitResult | None = None
        self._error: Exception | None = None
        self._returning = returning
        self.wakes: Wait | None = None
        """Whose thread this one's wakes as it comes back, see `Returning`."""
        self._done = threading.Lock()
        self._done.acquire()

    def result(self) -> CommitResult:
        """Block until the engine has decided; it does so by `deadline`."""
        try:
            self._done.acquire()
        finally:
            self._returning.back(self)
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _tell(self, result: CommitResult | None, error: Exception | None) -> None:
        self._result, self._error = result, error
        self._returning.add(self)

    def wake(self) -> None:
        """Let its thread run; once more is nothing."""
        try:
            self._done.release()
        except RuntimeError:
            return


class Returning(set[Wait]):
    """Who was answered and has not run since. A wait is added before its thread is woken.

    They are woken in a chain, each by the one before as soon as it runs: Python lets only one run anyway, and
    who is woken earlier goes back to sleep before Python's lock. Where the chain breaks, `watch` goes on.
    """

    def __init__(self, complete: Callable[[], None]) -> None:
        """`complete` is called when nobody is waited for any more, mostly by the last one back, on its thread."""
        super().__init__()
        self.deadline: Nanoseconds | None = None
        """When who is still away is waited for no longer."""
        self._complete = complete
        self._first: Wait | None = None
        """Who was answered since the last `wake`: the beginning of a chain, and its end."""
        self._last: Wait | None = None
        self._closed = False

    def add(self, wait: Wait) -> None:
        """It was answered."""
        set.add(self, wait)
        if self._closed:
            wait.wake()
        elif self._last is None:
            self._first = self._last = wait
        else:
            self._last.wakes = wait
            self._last = wait

    def wake(self) -> None:
        """Wake who was answered. The engine's, as soon as it has answered many, and by the end of each turn."""
        first, self._first, self._last = self._first, None, None
        if first is not None:
            first.wake()

    def back(self, wait: Wait) -> None:
        """Its thread runs."""
        if wait.wakes is not None:
            wait.wakes.wake()
        self.discard(wait)
        if not self:
            self._complete()

    def watch(self, now: Nanoseconds) -> None:
        """Forget who does not come back, and go on without him. The engine's, at the end of each turn."""
        if self._first is not None:
            self.wake()
        if not self:
            self.deadline = None
        elif self.deadline is None:
            self.deadline = now + PATIENCE_MS * MILLISECOND
        elif now >= self.deadline:
            self._wake_all()
            self.clear()
            self.deadline = None
            self._complete()

    def close(self) -> None:
        """Wake everybody, and from now on at once, whichever thread answers: the engine's ends."""
        self._closed = True
        self._wake_all()

    def _wake_all(self) -> None:
        for wait in list(self):
            wait.wake()
