"""Reads that wait: for the LSN that holds all that was acknowledged before they asked (R23), and for its data.

At the master a read-index round tells the LSN. At a client the master is asked, again and again under the same
number, so that a late answer counts as well as a prompt one: each is of a round that began after the reader.
"""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from zrep.errors import NoMasterError
from zrep.ids import Gen, Lsn, Nanoseconds, SiteId
from zrep.messages import Message, Read, ReadReq, Status
from zrep.options import MILLISECOND, Options
from zrep.replica.replica import Replica, Role
from zrep.replica.timers import Backoff


@dataclass(slots=True)
class Reader:
    """A reader of this site that waits."""

    deadline: Nanoseconds
    lsn: "Future[Lsn]"
    backoff: Backoff
    due: Nanoseconds = 0
    asked: Gen = 0
    """Of which reign of our own its round is; a second one would only begin it anew."""


class Served(NamedTuple):
    """A round for another site's reader."""

    deadline: Nanoseconds
    site: SiteId
    request: int


class AppliedWait(NamedTuple):
    """A reader that waits until the store has applied up to `lsn`."""

    lsn: Lsn
    deadline: Nanoseconds
    done: "Future[None]"


class AppliedWaits(list[AppliedWait]):
    """Those readers. Used by the engine's thread only."""

    @property
    def deadline(self) -> Nanoseconds | None:
        return min((wait.deadline for wait in self), default=None)

    def settle(self, applied: Lsn) -> None:
        """Answer who waits for no more than that."""
        for wait in [wait for wait in self if wait.lsn <= applied]:
            self.remove(wait)
            wait.done.set_result(None)

    def tick(self, now: Nanoseconds) -> None:
        """Give up what is too late."""
        for wait in [wait for wait in self if wait.deadline <= now]:
            self.remove(wait)
            late = f"record {wait.lsn} was not applied here in time: see `zrep status` for the lag"
            wait.done.set_exception(NoMasterError(late))

    def abandon(self, error: Exception) -> None:
        """The site stops."""
        for wait in self:
            wait.done.set_exception(error)
        self.clear()


class Reads:
    """The readers and rounds that wait. Used by the engine's thread only."""

    def __init__(self, replica: Replica, options: Options, number: int) -> None:
        """`number` is the first request's: one that no earlier run of this site has used."""
        self._replica = replica
        self._options = options
        self._number = number
        self._readers: dict[int, Reader] = {}
        self._served: dict[int, Served] = {}

    def __len__(self) -> int:
        return len(self._readers) + len(self._served)

    @property
    def deadline(self) -> Nanoseconds | None:
        readers = (min(reader.due, reader.deadline) for reader in self._readers.values())
        return min((*readers, *(round.deadline for round in self._served.values())), default=None)

    def begin(self, deadline: Nanoseconds, lsn: "Future[Lsn]", now: Nanoseconds) -> None:
        """Answer `lsn` by the deadline, with NoMasterError if need be."""
        options = self._options
        backoff = Backoff(options.request_min_ms * MILLISECOND, options.request_max_ms * MILLISECOND)
        self._number += 1
        self._readers[self._number] = reader = Reader(deadline, lsn, backoff)
        self._ask(self._number, reader, now)

    def _ask(self, number: int, reader: Reader, now: Nanoseconds) -> None:
        replica = self._replica
        if replica.role is Role.MASTER:
            if reader.asked != replica.gen and replica.read_index(now, number):
                reader.asked = replica.gen
        elif replica.master is not None:
            replica.send(replica.master, ReadReq(number))
        reader.due = now + reader.backoff.pause()

    def serve(self, message: Message, fields: ReadReq, now: Nanoseconds) -> None:
        """Begin a round for another site."""
        self._number += 1
        if self._replica.read_index(now, self._number):
            deadline = now + self._options.quorum_timeout_ms * MILLISECOND
            self._served[self._number] = Served(deadline, message.sender, fields.request)
        else:
            self._replica.send(message.sender, Read(fields.request, Status.BUSY))

    def on_answer(self, message: Message, fields: Read) -> None:
        """Take the master's answer."""
        if fields.status is Status.OK and message.sender == self._replica.master:
            self._confirmed(fields.request, message.lsn)

    def settle(self) -> None:
        """Answer the rounds that are confirmed."""
        for number, lsn in self._replica.reads_confirmed():
            served = self._served.pop(number, None)
            if served is not None:
                self._replica.send(served.site, Read(served.request, Status.OK), lsn=lsn)
            else:
                self._confirmed(number, lsn)

    def _confirmed(self, number: int, lsn: Lsn) -> None:
        reader = self._readers.pop(number, None)
        if reader is not None:
            reader.lsn.set_result(lsn)

    def tick(self, now: Nanoseconds) -> None:
        """Ask again what is due; give up what is too late."""
        for number, served in list(self._served.items()):
            if served.deadline <= now:
                del self._served[number]
        for number, reader in list(self._readers.items()):
            if reader.deadline <= now:
                del self._readers[number]
                reader.lsn.set_exception(NoMasterError("no master confirmed the read in time: see `zrep status`"))
            elif reader.due <= now:
                self._ask(number, reader, now)

    def abandon(self, error: Exception) -> None:
        """The site stops."""
        for reader in self._readers.values():
            reader.lsn.set_exception(error)
        self._readers.clear()
