"""LMDB's writer lock, as a replicated environment has it: who may write into the open group, and when.

Writers enter one at a time, and only while a group is open. Between a group's seal and its end they wait
here, and so the flight of one group gathers the next; no timer does. The last writer to leave wakes the
engine: as long as somebody waits to enter, sealing would only make the group smaller.
"""

import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import lmdb

from zrep.errors import NoMasterError, ZrepError
from zrep.storage.failures import lmdb_error

if TYPE_CHECKING:
    from zrep.storage.group import Group


class Writers:
    """The queue in front of the group. `wake` is called, on any thread, when the engine has something to do."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.waiting = 0
        self._wake = wake
        self._changed = threading.Condition()
        self._group: Group | None = None
        self._refusal: Callable[[], ZrepError] | None = None
        self._holder: int | None = None
        self._engine_waits = False

    def enter(self, timeout_ms: int | None = None) -> "Group":
        """Wait for an open group with no writer in it, and become its writer. Call `leave` afterwards.

        Raises what `refuse` was given, NoMasterError after the timeout, and lmdb.Error when this thread
        is the writer already: as in LMDB it would wait for itself.
        """
        with self._changed:
            self.check_thread()
            if not self._admits():
                self._wait(timeout_ms)
            if self._refusal is not None:
                raise self._refusal()
            assert self._group is not None
            self._holder = threading.get_ident()
            return self._group

    def check_thread(self) -> None:
        """Raise lmdb.Error when this thread is the writer, and so cannot wait for one to end."""
        if self._holder == threading.get_ident():
            raise lmdb_error(
                lmdb.Error,
                "Attempt to start a write transaction while another write transaction is active on the same thread. "
                "This would deadlock.",
                errno.EBUSY,
            )

    def _admits(self) -> bool:
        """Whether there is an answer for who wants to enter."""
        group = self._group
        open_ = group is not None and self._holder is None and not self._engine_waits and not group.full
        return open_ or self._refusal is not None

    def _wait(self, timeout_ms: int | None) -> None:
        self.waiting += 1
        try:
            answered = self._changed.wait_for(self._admits, None if timeout_ms is None else timeout_ms / 1000)
        finally:
            self.waiting -= 1
        if not answered:
            if self._idle():
                self._wake()
            raise NoMasterError(
                f"no write transaction could begin within {timeout_ms} ms: another one is open for so long, "
                f"or no majority of the sites answers; see `zrep status`"
            )

    def leave(self) -> None:
        """End being the writer."""
        with self._changed:
            self._holder = None
            if self._group is None or self._engine_waits or not self.waiting or self._group.full:
                self._wake()
            else:
                self._changed.notify()

    def _idle(self) -> bool:
        """Whether nobody stands between the group and its seal."""
        group = self._group
        return self._holder is None and group is not None and group.merged > 0 and (not self.waiting or group.full)

    # What follows is the engine's.

    def admit(self, group: "Group") -> None:
        """Let writers into `group`, which is open, from now on."""
        with self._changed:
            self._group, self._refusal, self._engine_waits = group, None, False
            self._changed.notify()

    def hold(self) -> None:
        """Let nobody in any more: who comes waits. Who is in stays in."""
        with self._changed:
            self._group, self._refusal, self._engine_waits = None, None, False

    def refuse(self, refusal: Callable[[], ZrepError]) -> None:
        """Raise `refusal()` for who waits and who comes."""
        with self._changed:
            self._group, self._refusal, self._engine_waits = None, refusal, False
            self._changed.notify_all()

    def enter_at_once(self) -> "Group | None":
        """Become the writer if nobody is; otherwise be woken when the writer leaves, before anybody else."""
        with self._changed:
            self._engine_waits = False
            if self._group is None or self._group.full:
                return None
            if self._holder is not None:
                self._engine_waits = True
                return None
            self._holder = threading.get_ident()
            return self._group

    def leave_at_once(self) -> None:
        """As `leave`, for who needs no wake-up: the engine itself."""
        with self._changed:
            self._holder = None
            self._changed.notify()

    def take(self) -> "Group | None":
        """Return the group if it should be sealed now, and let nobody in any more."""
        with self._changed:
            if not self._idle():
                return None
            group, self._group = self._group, None
            return group

    @property
    def busy(self) -> bool:
        """Whether a writer is in."""
        return self._holder is not None
