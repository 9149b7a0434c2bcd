"""How much may wait to be written (Berkeley DB: the Replication Manager's incoming queue and its limit).

Batches are queued for the engine, which may be slower than whoever brings them, and without a majority does
not move at all. So what is queued and not answered has a limit in bytes. An application's thread that brings
more waits, as at a full pipe; another site and a foreign program are told to ask again. Once full, it is full
until a part of it is gone, so that nobody is let in one by one.
"""

import math
import threading
import time
from collections.abc import Callable

from zrep.errors import NotAppliedError
from zrep.tickets import Ticket

WRITE_BYTES = 1024
"""What a queued write takes besides its keys and values: the batch, its ticket and the future, about."""
ROOM = 0.85
"""The part of the limit below which there is room again."""
COME_BACK = "too many writes are queued here: ask again in a moment"


class Inqueue:
    """The bytes of all writes that entered and have not been answered. `full` is called when that reaches the limit."""

    def __init__(self, limit: int, full: Callable[[], None]) -> None:
        self.full = False
        """Whether who comes waits."""
        self._limit: float = limit
        self._tell_full = full
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._entered = 0
        self._left = 0
        """Changed by the engine's thread only: leaving takes no lock."""
        self._engine: int | None = None

    @property
    def nbytes(self) -> int:
        """How much is in it."""
        return self._entered - self._left

    def serve(self) -> None:
        """This thread is the engine's, which makes room: it never waits for it."""
        self._engine = threading.get_ident()

    def enter(self, ticket: Ticket, nbytes: int) -> None:
        """Take room for a write until its ticket is told, and wait for it until the ticket's deadline.

        Raises NotAppliedError after that.
        """
        with self._lock:
            if self.full and threading.get_ident() != self._engine:
                self._await_room(ticket)
            filled = self._take(ticket, nbytes)
        if filled:
            self._tell_full()

    def enter_at_once(self, ticket: Ticket, nbytes: int) -> bool:
        """As `enter`, but return False instead of waiting."""
        with self._lock:
            if self.full:
                return False
            filled = self._take(ticket, nbytes)
        if filled:
            self._tell_full()
        return True

    def _await_room(self, ticket: Ticket) -> None:
        while self.full:
            left = ticket.deadline - time.monotonic_ns()
            if left <= 0:
                raise NotAppliedError(
                    f"{self.nbytes} bytes of writes are waiting here, more than inqueue_bytes, and this one did not "
                    f"happen: run it again when they are done, or see `zrep status` if no majority of the sites answers"
                )
            self._room.wait(left / 1e9)

    def _take(self, ticket: Ticket, nbytes: int) -> bool:
        """Count a write in; True if this has filled the queue."""
        ticket.inqueue, ticket.nbytes = self, nbytes + WRITE_BYTES
        self._entered += ticket.nbytes
        if self.full or self.nbytes < self._limit:
            return False
        self.full = True
        if self.nbytes < self._limit * ROOM:  # who left since then did not see that it is full
            self.full = False
        return self.full

    def leave(self, nbytes: int) -> None:
        """Give room back. The engine's."""
        self._left += nbytes
        if self.full and self.nbytes < self._limit * ROOM:
            self._let_in()

    def close(self) -> None:
        """Nothing leaves any more, the site stops: let everybody in, to be told so."""
        self._limit = math.inf
        self._let_in()

    def _let_in(self) -> None:
        with self._lock:
            self.full = False
            self._room.notify_all()
