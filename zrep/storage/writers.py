"""LMDB's writer lock, as a replicated environment has it: who may write into the open group, and when.

Writers enter one at a time, and only while a group is open. Between a group's seal and its end they wait
here, and so the flight of one group gathers the next; no timer does. Who leaves hands the place to the
first who waits; the last one wakes the engine: as long as somebody waits, sealing would only make the
group smaller.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import lmdb

from zrep.errors import NoMasterError, NotAppliedError, ZrepError
from zrep.storage.failures import lmdb_error
from zrep.threads import engines, refuse_to_wait

if TYPE_CHECKING:
    from zrep.storage.child import Child
    from zrep.storage.group import Group


class _Turn:
    """A thread that waits to enter."""

    __slots__ = ("called", "group", "refusal", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.called = threading.Lock()
        """Released when the thread is the writer of `group`, or `refusal` says why it will not be."""
        self.called.acquire()
        self.group: Group | None = None
        self.refusal: Callable[[], ZrepError] | None = None


class Writers:
    """The queue in front of the group. `wake` is called, on any thread, when the engine has something to do."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.RLock()
        """Reentrant: the collector may end a forgotten transaction, which then leaves, inside anything here."""
        self._turns: deque[_Turn] = deque()
        self._group: Group | None = None
        self._refusal: Callable[[], ZrepError] | None = None
        self._holder: int | None = None
        self._entered: Group | None = None
        """The group that the holder was let into."""
        self.claimed = False
        """Whether the engine is to be the next."""

    @property
    def waiting(self) -> int:
        """How many wait to enter."""
        return len(self._turns)

    def enter(self, timeout_ms: int | None = None) -> "Group":
        """Wait for an open group with no writer in it, and become its writer. Call `leave` afterwards.

        Raises what `refuse` was given, NoMasterError after the timeout, lmdb.Error when this thread is the
        writer already, as in LMDB it would wait for itself, and ZrepError on an engine's thread: so would that.
        """
        group = self._enter_or_line_up(None)
        if group is not None:
            return group
        turn = _Turn()  # outside the lock: the collector may run here, and end a forgotten transaction
        group = self._enter_or_line_up(turn)
        if group is not None:
            return group
        try:
            turn.called.acquire(timeout=-1 if timeout_ms is None else timeout_ms / 1000)
        except BaseException:
            if self._gives_up(turn) and turn.group is not None:
                self.leave()
            raise
        if turn.group is None and turn.refusal is None:
            self._gives_up(turn)
        if turn.refusal is not None:
            raise turn.refusal()
        if turn.group is None:
            raise NoMasterError(
                f"no write transaction could begin within {timeout_ms} ms: another one is open for so long, "
                f"or no majority of the sites answers; see `zrep status`"
            )
        return turn.group

    def _enter_or_line_up(self, turn: _Turn | None) -> "Group | None":
        """Become the writer if nobody is in the way; else wait in line from now on, given a turn."""
        thread = threading.get_ident()
        if thread in engines:
            refuse_to_wait()
        with self._lock:
            if self._holder is not None:
                self.check_thread()
            if self._refusal is not None:
                raise self._refusal()
            if self._is_free and not self._turns:
                self._holder, self._entered = thread, self._group
                return self._group
            if turn is not None:
                self._turns.append(turn)
                self._call_next()
            return None

    def check_thread(self) -> None:
        """Raise lmdb.Error when this thread is the writer, and so cannot wait for one to end."""
        if self._holder == threading.get_ident():
            raise lmdb_error(
                lmdb.Error,
                "Attempt to start a write transaction while another write transaction is active on the same thread. "
                "This would deadlock.",
                errno.EBUSY,
            )

    def obstacle(self) -> "Callable[[], None] | None":
        """Return what raises lmdb.Error, on this thread, as long as the transaction is open that it has open now.

        None if it has none. What is queued now comes after that: to wait for it in between would be for ever.
        """
        if self._holder != threading.get_ident() or self._entered is None:
            return None
        child = self._entered.child

        def check() -> None:
            if child is not None and child.open:
                self.check_thread()

        return check

    def _gives_up(self, turn: _Turn) -> bool:
        """Wait no more; tell whether it was called before."""
        with self._lock:
            if turn not in self._turns:
                return True
            self._turns.remove(turn)
            if self._is_idle:
                self._wake()
            return False

    def leave(self, child: "Child | None" = None) -> None:
        """End being the writer, and with it the child that was begun."""
        with self._lock:
            if child is not None:
                child.group.child = None
            self._holder = self._entered = None
            called = self._call_next()
        if not called:
            self._wake()

    def give_back(self, error: BaseException) -> None:
        """Leave, if this thread got the place and was interrupted by `error` before anybody had what it began."""
        with self._lock:
            if self._holder != threading.get_ident() or self._entered is None:
                return
            begun = self._entered.child
            if begun is None:
                self.leave()
        if begun is not None and not isinstance(error, lmdb.Error):  # which tells that it is another transaction's
            begun.revoke(NotAppliedError("the thread was interrupted as it began a write transaction: run it again"))
            begun.abort()

    def abandon(self, error: ZrepError) -> None:
        """Let whoever is in never touch LMDB again: the process was forked, and all of this is the parent's."""
        if self._entered is not None and self._entered.child is not None:
            self._entered.child.abandon(error)

    def _call_next(self) -> bool:
        """Make the first who waits the writer; False when nobody is to be."""
        if not (self._turns and self._is_free):
            return False
        turn = self._turns.popleft()
        self._holder, self._entered = turn.thread, self._group
        turn.group = self._group
        turn.called.release()
        return True

    @property
    def _is_free(self) -> bool:
        group = self._group
        return group is not None and self._holder is None and not self.claimed and not group.full

    @property
    def _is_idle(self) -> bool:
        """Whether nobody stands between the group and its seal."""
        group = self._group
        return self._holder is None and group is not None and bool(group.txns) and (not self._turns or group.full)

    # What follows is the engine's.

    def admit(self, group: "Group") -> None:
        """Let writers into `group`, which is open, from now on."""
        with self._lock:
            self._group, self._refusal, self.claimed = group, None, False
            self._call_next()

    def hold(self) -> None:
        """Let nobody in any more: who comes waits. Who is in stays in."""
        with self._lock:
            self._group, self._refusal, self.claimed = None, None, False

    def refuse(self, refusal: Callable[[], ZrepError]) -> None:
        """Raise `refusal()` for who waits and who comes."""
        with self._lock:
            self._group, self._refusal, self.claimed = None, refusal, False
            while self._turns:
                turn = self._turns.popleft()
                turn.refusal = refusal
                turn.called.release()

    def enter_at_once(self, *, claim: bool = True) -> "Group | None":
        """Become the writer if nobody is; otherwise be woken when the writer leaves.

        With `claim` nobody else enters before, until `enter_at_once` is called again, or `unclaim`.
        """
        with self._lock:
            self.claimed = False
            if self._group is None:
                return None
            if self._holder is not None:
                self.claimed = claim
                return None
            if self._group.full:
                return None
            self._holder = threading.get_ident()
            return self._group

    def unclaim(self) -> None:
        """The engine has nothing to run any more: whoever waits comes before it."""
        with self._lock:
            self.claimed = False
            self._call_next()

    def leave_at_once(self) -> None:
        """As `leave`, for who needs no wake-up: the engine itself."""
        with self._lock:
            self._holder = self._entered = None
            self._call_next()

    def take(self) -> "Group | None":
        """Return the group if it should be sealed now, and let nobody in any more."""
        with self._lock:
            if not self._is_idle:
                return None
            group, self._group = self._group, None
            return group

    @property
    def holder(self) -> int | None:
        """Whose thread is the writer."""
        return self._holder

    @property
    def busy(self) -> bool:
        """Whether a writer is in."""
        return self._holder is not None
