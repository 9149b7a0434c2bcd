"""A master's writes: the group transaction from its opening to its end (docs/architecture.md).

    open ─► children run: application threads through `writers`, queued batches by the engine
         ─► seal: nobody waits to write, or is on the way back; one record ─► permanent ─► commit: visible

What is sealed is the log's; who waits for it is `commits`' business. All of it is the engine's thread's.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from zrep.commit import Batch
from zrep.commits import Commits
from zrep.errors import DiskFullError, NotAppliedError, StorageError, UnknownOutcomeError, ZrepError
from zrep.ids import Gen, Lsn, Nanoseconds, Position
from zrep.options import MILLISECOND, Options
from zrep.ports import Log
from zrep.records import Record
from zrep.replica.replica import Replica, Role
from zrep.storage.group import Group, Phase
from zrep.storage.sessions import Verdict
from zrep.storage.store import Store
from zrep.storage.writers import Writers
from zrep.tickets import Returning, Ticket

APPLY_BYTES = 4 << 20
"""Records read and applied at a time at most."""
LATE_MS = 20
"""So late at most is somebody told that his time is up; a timer for each write would cost as much as the write."""
REFUSED = 256
"""Most refusals that are remembered: a repeat of a request that was refused must not succeed."""


class Write(NamedTuple):
    """A batch for the master to run, from this site, another one, or a foreign client."""

    batch: Batch
    ticket: Ticket
    session: str = ""
    seq: int = 0


class Writing:
    """The open group, what is queued for it, and who waits for it."""

    def __init__(
        self,
        *,
        replica: Replica,
        log: Log,
        store: Store,
        commits: Commits,
        returning: Returning,
        options: Options,
        wake: Callable[[], None],
    ) -> None:
        self.writers = Writers(wake)
        self._replica = replica
        self._log = log
        self._store = store
        self._commits = commits
        self._returning = returning
        self._options = options
        self._queue: deque[Write] = deque()
        self._group: Group | None = None
        self._gen: Gen = 0
        """The reign in which the group was opened."""
        self._tail_end: Lsn = 0
        """The last LSN that the group was begun with: the log's end then, permanent or not."""
        self._covers: Lsn = 0
        """The last LSN that the group holds: that of its own record, once it is sealed."""
        self.expire_at: Nanoseconds = 0
        """When `expire` has something to do, as long as something `waits`."""
        self._revoke_at: Nanoseconds = 0
        self._revoking: Any = None
        self._refused: dict[tuple[str, int], Exception] = {}

    @property
    def can_run(self) -> bool:
        """Whether something is queued that could run now."""
        group = self._group
        return bool(self._queue) and group is not None and group.phase is Phase.OPEN and not self.writers.busy

    @property
    def can_advance(self) -> bool:
        """Whether there is something to run, to seal or to end; also when only a writer that is in stands before it."""
        group, state = self._group, self._replica.state
        reigns = state.role is Role.MASTER
        if group is None or not reigns or self._gen != state.gen:
            return reigns or group is not None
        if group.phase is Phase.OPEN and (group.txns or self._queue or group.waiters):
            return True
        return group.unperformed

    @property
    def unfit(self) -> bool:
        """Whether nobody can enter before `advance` has looked after the group."""
        group = self._group
        return group is not None and group.unfit

    @property
    def waits(self) -> bool:
        """Whether something is queued, or waits for the open group."""
        return bool(self._queue or (self._group is not None and self._group.waiters))

    @property
    def deadlines(self) -> list[Nanoseconds]:
        """When something here is to be given up, or looked at."""
        return [self.expire_at, self._revoke_at] if self.waits else [self._revoke_at]

    def add(self, writes: Iterable[Write]) -> None:
        """Queue batches."""
        self._queue += writes

    def take_queue(self) -> deque[Write]:
        """Hand out what has not run: this site is not master any more."""
        queue, self._queue = self._queue, deque()
        return queue

    # The life of a group.

    def advance(self, now: Nanoseconds, refusal: Callable[[], ZrepError]) -> None:
        """Move the group on as far as it goes; `refusal` is what writers are told at a client site."""
        state = self._replica.state
        if self._group is not None and (state.role is not Role.MASTER or self._gen != state.gen):
            self._lose_group(refusal)
            if self._group is not None:
                return  # a thread is in it: again when it is out
        if self._group is None and state.role is Role.CLIENT:
            self._apply(state.perm)
        elif state.role is Role.MASTER:
            self._end_group()
            if self._group is None:
                self._open_group()
                self._commits.settle(self._store.applied.tip.lsn)  # who is told so may write at once
            elif self._group.unperformed:
                self._perform(self._group)
            self._run_queue(now)
            self._seal(now)

    def _apply(self, perm: Lsn) -> None:
        """Bring the store up to `perm`: only what is permanent is ever committed to it (R17)."""
        store = self._store
        if store.applied.tip.lsn >= perm:
            return
        while (first := store.applied.tip.lsn + 1) <= perm:
            store.apply(self._log.read(first, perm, APPLY_BYTES))
        self._replica.set_applied(store.applied.tip.lsn)

    def _open_group(self) -> None:
        """Begin a group that builds on the whole log, permanent or not."""
        self._apply(self._replica.perm)
        tail = self._read_log(self._store.applied.tip.lsn + 1, self._log.tip.lsn)
        group = Group(self._store, self._options.record_bytes, self.writers.leave, tail)
        self._group, self._gen = group, self._replica.gen
        self._tail_end = self._covers = self._log.tip.lsn
        self.writers.admit(group)

    def _perform(self, group: Group) -> None:
        if group.phase is Phase.IN_FLIGHT:
            group.perform()
            return
        self.writers.hold()  # nobody enters before it is made anew
        group.perform()
        self.writers.admit(group)

    def _read_log(self, first: Lsn, last: Lsn) -> list[Record]:
        records: list[Record] = []
        while first <= last:
            records += self._log.read(first, last, APPLY_BYTES)
            first = records[-1].lsn + 1
        return records

    def _end_group(self) -> None:
        """Commit the group if all it holds is permanent: it was sealed, or it holds nothing of its own."""
        group, perm = self._group, self._replica.state.perm
        if group is None or perm < self._covers or perm == self._store.applied.tip.lsn:
            return
        if group.phase is Phase.OPEN:
            self.writers.hold()
            if group.txns or self.writers.busy or group.waiters:
                self.writers.admit(group)
                return
            group.seal()
            self._covers = perm
        group.commit(self._read_log(self._tail_end + 1, self._covers))
        self._group = None
        self._replica.set_applied(self._store.applied.tip.lsn)

    def _seal(self, now: Nanoseconds) -> None:
        """Seal the group when its writers are done and nobody is on the way to it, and send its record on the way."""
        group = self._group
        if group is None or group.phase is not Phase.OPEN or not (group.txns or group.waiters):
            return
        if self._returning and not group.full:
            return
        if self.writers.take() is None:
            if group.waiters and not group.txns:
                self._answer_readers()
            return
        payload = group.seal()
        assert payload is not None
        position = self._replica.submit(now, payload)
        self._covers = position.lsn
        self._commits.sealed(position, _taken(group), self._store.applied.tip.lsn)

    def _answer_readers(self) -> None:
        """Writers that wrote nothing wait only for what they read: the tail under the group."""
        group = self.writers.enter_at_once(claim=False)  # so that nobody merges meanwhile and is told the same
        if group is None:
            return
        if not group.txns:
            position = Position(self._replica.gen_at(self._covers), self._covers)
            self._commits.sealed(position, _taken(group), self._store.applied.tip.lsn)
        self.writers.leave()

    def _lose_group(self, refusal: Callable[[], ZrepError]) -> None:
        """Mastership is lost: whoever writes is told at its next operation; nothing of it was sealed."""
        group = self._group
        assert group is not None
        self.writers.refuse(refusal)
        error = NotAppliedError("this site is not master any more and the transaction did not happen: run it again")
        if not group.lose(error):
            return
        self._group = None
        self._refused.clear()  # what they saw may never have been permanent, and their callers were not told
        for ticket in _taken(group):
            ticket.reject(error)
        self._returning.wake()

    # The queue of batches.

    def _run_queue(self, now: Nanoseconds) -> None:
        """Run queued batches in the group, unless an application's writer is in."""
        if not self._queue:
            if self.writers.claimed:
                self.writers.unclaim()
            return
        if self._group is None or self._group.phase is not Phase.OPEN:
            return
        group = self.writers.enter_at_once()
        if group is None:
            return
        while self._queue and not group.full:
            write = self._queue.popleft()
            if write.ticket.deadline > now:
                self._run(group, write)
            else:
                write.ticket.reject(_waited_too_long())
        self.writers.leave_at_once()

    def _run(self, group: Group, write: Write) -> None:
        batch, ticket, session, seq = write
        held = len(group.txns)
        try:
            if session and (session, seq) in self._refused:
                raise self._refused[session, seq]
            answer = group.run_batch(batch, session, seq)
        except (StorageError, DiskFullError) as error:
            ticket.reject(error)
            raise  # it is the site's misfortune, not the batch's
        except Exception as error:
            # What it saw may rest on records that are not permanent: it is told when they are.
            ticket.verdict, ticket.wrote = error, False
            group.waiters.append(ticket)
            if session:
                self._remember_refusal((session, seq), error)
            return
        if answer.verdict is Verdict.UNKNOWN:
            ticket.reject(UnknownOutcomeError("this session is not remembered: the write may have happened"))
        elif answer.position is not None:
            self._commits.sealed(answer.position, [ticket], self._store.applied.tip.lsn)
        else:
            ticket.wrote = answer.verdict is Verdict.DONE or len(group.txns) > held
            group.waiters.append(ticket)

    def _remember_refusal(self, name: tuple[str, int], error: Exception) -> None:
        """A second copy of the request is refused, too, whatever has changed: the caller may know already."""
        self._refused[name] = error
        while len(self._refused) > REFUSED:
            del self._refused[next(iter(self._refused))]

    # Patience.

    def expire(self, now: Nanoseconds) -> None:
        """Tell who waits for a group that cannot move on, because of another's transaction or a missing majority."""
        if now < self.expire_at:
            return
        self.expire_at = now + LATE_MS * MILLISECOND
        for write in [write for write in self._queue if write.ticket.deadline <= now]:
            self._queue.remove(write)
            write.ticket.reject(_waited_too_long())
        if not self._queue:
            self.writers.unclaim()
        waiters = self._group.waiters if self._group is not None else []
        for ticket in [ticket for ticket in waiters if ticket.deadline <= now]:
            waiters.remove(ticket)  # in place: whoever leaves the group adds himself
            ticket.reject(
                UnknownOutcomeError("another write transaction is open for too long: this one may still happen")
            )
        self._returning.wake()

    def revoke_forgotten(self, now: Nanoseconds) -> None:
        """A write transaction must not stop the group for ever (write_txn_timeout_ms, and up to a quarter more)."""
        child = self._group.child if self._group is not None else None
        holder = child or self.writers.holder
        if holder is None or holder != self._revoking:
            self._revoking = holder
            patience = self._options.write_txn_timeout_ms * MILLISECOND
            self._revoke_at = now + (patience // 4 if holder is None else patience)
        elif now >= self._revoke_at and child is None:
            self.writers.leave()  # in the place of a thread that was interrupted on its way in or out
        elif now >= self._revoke_at and self._group is not None:
            limit = self._options.write_txn_timeout_ms
            self._group.doom(
                NotAppliedError(f"the write transaction was open for more than {limit} ms and was ended: run it again"),
                now=True,
            )

    def stop(self, failure: ZrepError, failed: bool) -> None:
        """The site stops: end the group and tell everybody who waits here."""
        gone = NotAppliedError("the site stopped, the transaction did not happen")
        self.writers.refuse(lambda: failure)
        if self._group is not None:
            self._group.stop(gone if failed else None)
            for ticket in _taken(self._group):
                ticket.reject(gone)
        for write in self._queue:
            write.ticket.reject(failure)


def _taken(group: Group) -> list[Ticket]:
    """Take over who waits for the group."""
    waiters, group.waiters = group.waiters, []
    return waiters


def _waited_too_long() -> NotAppliedError:
    return NotAppliedError("the write waited too long and did not happen: run it again")
