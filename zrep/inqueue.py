"""How much may wait to be written (Berkeley DB: the Replication Manager's incoming queue and its limit).

Batches are queued for the engine, which may be slower than whoever brings them, and without a majority does
not move at all. So what is queued and not answered has a limit in bytes. An application's thread that brings
more waits, as at a full pipe; another site and a foreign program are told to ask again. Once full, it is full
until a part of it is gone, so that nobody is let in one by one.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from zrep.errors import NotAppliedError
from zrep.ids import Nanoseconds
from zrep.threads import may_wait
from zrep.tickets import Ticket

WRITE_BYTES = 1024
"""What a queued write takes besides its keys and values: the batch, its ticket and the future, about."""
ROOM = 0.85
"""The part of the limit below which there is room again."""
COME_BACK = "too many writes are queued here: ask again in a moment"


class Inqueue:
    """The bytes of all writes that entered and have not been answered. `filled` is called when they reach the limit.

    A signal's handler or the collector may run anywhere in here, and write, or stop the site. So no lock is
    held while somebody waits, and who makes room takes none.
    """

    def __init__(self, limit: int, filled: Callable[[], None]) -> None:
        self.full = False
        """Whether whoever comes has to wait."""
        self._limit: float = limit
        self._filled = filled
        self._lock = threading.RLock()
        self._entered = 0
        self._left = 0
        """Changed by the engine's thread only, until the site has stopped."""
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def nbytes(self) -> int:
        """How much is in it."""
        return self._entered - self._left

    def enter(self, ticket: Ticket, nbytes: int) -> bool:
        """Take room for a write until its ticket is told; return False if there is none.

        An engine's thread always gets in: it makes the room.
        """
        if self.full and may_wait():
            return False
        with self._lock:
            ticket.inqueue, ticket.nbytes = self, nbytes + WRITE_BYTES
            self._entered += ticket.nbytes
        if not self.full and self._entered - self._left >= self._limit:
            self.full = True
            self._let_in_if_room()  # who left just before did not see that it is full
            if self.full:
                self._filled()
        return True

    def await_room(self, ticket: Ticket) -> None:
        """Wait until there may be room. Raises NotAppliedError at the ticket's deadline."""
        turn = threading.Lock()
        turn.acquire()
        self.call_when_room(turn.release)
        left = seconds_until(ticket.deadline)
        if left <= 0 or not turn.acquire(timeout=left):
            with suppress(ValueError):
                self._waiting.remove(turn.release)
            raise self.too_late()

    def call_when_room(self, call: Callable[[], None]) -> None:
        """Have `call` called, once, on any thread, as soon as there is room."""
        self._waiting.append(call)
        if not self.full:
            self._let_in()

    def too_late(self) -> NotAppliedError:
        """Return what to tell who has waited for room in vain."""
        return NotAppliedError(
            f"{self.nbytes} bytes of writes are queued here, as much as inqueue_bytes lets in, and this one did not "
            f"happen: run it again when they are done, or see `zrep status` if no majority of the sites answers"
        )

    def retract(self, ticket: Ticket) -> None:
        """Give back what was taken for a write that was not queued after all; on the thread that brought it."""
        with self._lock:
            if ticket.inqueue is self:
                ticket.inqueue = None
                self._entered -= ticket.nbytes
        if self.full:
            self._let_in_if_room()

    def leave(self, nbytes: int) -> None:
        """Give room back. The engine's."""
        self._left += nbytes
        if self.full:
            self._let_in_if_room()

    def close(self) -> None:
        """Nothing leaves any more, the site stops: let everybody in, to be told so. The engine's, as its last."""
        self._limit = math.inf
        self._let_in()

    def _let_in_if_room(self) -> None:
        if self.nbytes < self._limit * ROOM:
            self._let_in()

    def _let_in(self) -> None:
        self.full = False
        with suppress(IndexError):
            while True:
                self._waiting.popleft()()


def seconds_until(deadline: Nanoseconds) -> float:
    """Return how long that is from now, as waiting takes it."""
    return (deadline - time.monotonic_ns()) / 1e9
