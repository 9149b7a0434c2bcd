"""The group transaction: the writes that will become permanent together.

A master keeps one LMDB write transaction open, P. Each of the users' write transactions is a *child* of it:
it sees all before it, and its operations are captured as it runs. The group is

    open        children run, one at a time, on the application's threads
    in flight   sealed: its payload is in the log, no child can begin
    ended       committed when its record is permanent, or aborted

so nothing that might be rolled back ever enters a committed LMDB transaction. Puts that need no answer
are *deferred*: captured only, and performed in P when somebody looks, or by the engine after the seal, all
at once, while the record is on its way. Aborting P while a thread is
inside a child would crash the process, and touching P while a child lives is an error: so the engine
touches P only when no child is open, and each operation of a child runs under a short lock and first sees
whether it was revoked. LMDB wants P begun, committed and aborted by one thread, the engine's; nested
transactions may run on any.
"""

import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import lmdb

from zrep import codec
from zrep.commit import Batch
from zrep.errors import NotAppliedError, TxnTooLargeError, ZrepError, invariant
from zrep.options import MIB
from zrep.records import Kind, Op, Record, Txn, note
from zrep.storage import sessions
from zrep.storage.child import KEY_BYTES, Child
from zrep.storage.image import put_pairs
from zrep.storage.sessions import Answer, Verdict
from zrep.storage.store import Store

FULL_BYTES = 16 * MIB
"""A group of more captured bytes takes no further child: a record stays within half a record of its limit."""
FULL_PAGES = 8000
"""The same for pages that may be dirty: LMDB's limit is 131 072, but a huge commit blocks the engine."""
_PAGE = 4096
_RAN = Answer(Verdict.RUN)


class Phase(Enum):
    OPEN = "open"
    IN_FLIGHT = "in flight"
    ENDED = "ended"


class Group:
    """One group transaction. Made, sealed and ended by the engine's thread."""

    def __init__(
        self, store: Store, record_bytes: int, leave: Callable[..., None], tail: Sequence[Record] = ()
    ) -> None:
        """Begin P, and perform in it `tail`, the log's records after `store.applied`, not permanent yet.

        `leave` is `Writers.leave`: called with the child that `begin` made, when it has ended.
        """
        self.store = store
        self.phase = Phase.OPEN
        self.lock = threading.RLock()
        """Held around each operation of a child. Reentrant: the collector may end a forgotten child inside one."""
        self.txns: list[Txn] = []
        """What it holds, in order. What is in here will be in the record, and nothing else."""
        self._performed = 0
        """How many of these P holds; the others are puts that nobody has looked at."""
        self.waiters: list[Any] = []
        """Who waits for it; those whose transactions wrote nothing, too."""
        self.torn = False
        """Whether P may hold what was not captured: somebody was interrupted between the one and the other."""
        self.child: Child | None = None
        self.tail = tuple(tail)
        self.out_of_slots = False
        """Whether a child found no slot for a new database: the next group has some."""
        self._leave = leave
        self._image = store.image(tail)
        self.record_bytes = record_bytes
        self._full_bytes = min(FULL_BYTES, record_bytes // 2)
        self._nbytes = 0
        self._npages = 0
        self._seq_by_session: dict[str, int] = {}

    @property
    def full(self) -> bool:
        if self._nbytes >= self._full_bytes or self._npages >= FULL_PAGES or self.torn or self.store.outgrown:
            return True
        return self.out_of_slots and bool(self.txns)

    @property
    def unfit(self) -> bool:
        """Whether P is to be made anew before anybody enters: it is torn, or the map is too small for the next one.

        What a group holds already is sealed first, and the map grows before the one after it.
        """
        return self.torn or (self.store.outgrown and not self.txns)

    @property
    def unperformed(self) -> bool:
        """Whether `perform` has something to do, and this is the moment.

        P lacks puts and the record is on its way; or P is unfit, and nobody is in or can enter before.
        `commit` performs in any case.
        """
        if self.phase is Phase.IN_FLIGHT:
            return self._performed < len(self.txns)
        return self.unfit and self.child is None

    def begin(self, buffers: bool = False) -> Child:
        """Begin a child. The caller is the writer (`Writers`), on any thread, and is not any more if this fails.

        Raises NotAppliedError when the group was lost since the caller entered it.
        """
        try:
            with self.lock:
                if self.phase is Phase.ENDED:
                    raise NotAppliedError("this site has just stopped being master: begin the transaction again")
                return self._begin(buffers, self._leave)
        except BaseException:
            self.child = None
            self._leave()
            raise

    def _begin(self, buffers: bool, leave: Callable[[Child], None]) -> Child:
        invariant(self.phase is Phase.OPEN and self.child is None, "one child at a time, in an open group")
        self.child = Child(self, None, None, self._image.catalogue, buffers, leave)
        return self.child

    def forget(self, child: Child) -> None:
        """The child is gone, and nobody has to be let in."""
        self.child = None

    def look(self, child: Child) -> "lmdb.Transaction":
        """Begin LMDB's transaction of `child`, with everything before it and what it has deferred itself.

        Raises lmdb.MapFullError; then it has not begun. Called by the child, under the lock.
        """
        txn = self.store.nest(self._image.txn, child.buffers)
        try:
            self._put(txn, [*self.txns[self._performed :], Txn(child.ops)])
        except BaseException as error:
            self.store.outgrown |= isinstance(error, lmdb.MapFullError)
            txn.abort()
            raise
        return txn

    def _put(self, txn: "lmdb.Transaction", txns: Sequence[Txn]) -> None:
        """Perform deferred puts, in as few calls as possible."""
        handles = self._image.catalogue.plain
        for joined in _joined(txns):
            for _, name, *pairs in joined.ops:
                put_pairs(txn, handles[name], pairs)

    def perform(self) -> None:
        """Let P hold exactly what was captured. The engine's; no child is open."""
        if self.unfit:
            self._remake()
        try:
            self._perform_deferred()
        except lmdb.Error:
            self._remake()

    def _perform_deferred(self) -> None:
        if self._performed < len(self.txns):
            self._put(self._image.txn, self.txns[self._performed :])
            self._performed = len(self.txns)

    def _remake(self) -> None:
        """Make P anew from what was captured: a full map or disk has refused it halfway, or it is unfit."""
        self.torn = False
        self._image.abort()
        self._image = self.store.image(self.tail, self.txns, self._image.catalogue)
        self._performed = len(self.txns)

    def check(self, session: str, seq: int) -> Answer:
        """Tell whether request `seq` of `session` may run (R25). No child is open."""
        last = self._seq_by_session.get(session)
        if last is not None:
            return sessions.judge(seq, last, None)
        return sessions.check(self._image.txn, self.store.bookkeeping, session, seq)

    def run_batch(self, batch: Batch, session: str = "", seq: int = 0) -> Answer:
        """Run `batch`, unless its session says that it did already. The engine is the writer, and leaves.

        The batch is the group's from now on: nobody adds to it.

        Raises ConflictError, TxnTooLargeError and LMDB's errors; nothing has happened then.
        """
        if session:
            answer = self.check(session, seq)
            if answer.verdict is not Verdict.RUN:
                return answer
        if self._run_plainly(batch, session, seq):
            return _RAN
        self.perform()
        child = self._begin(False, self.forget)
        try:
            for op in batch:
                child.run(*op)
            child.merge(session, seq)
        except BaseException:
            child.abort()
            raise
        return _RAN

    def _run_plainly(self, batch: Batch, session: str, seq: int) -> bool:
        """Run puts, deferred, and deletes in P itself; False for a batch that needs a child, to undo half of it."""
        invariant(self.phase is Phase.OPEN and self.child is None, "one writer at a time, in an open group")
        handles = self._image.catalogue.plain
        deletes = False
        for run in batch.ops:
            if run[0] > Batch.DELETE or run[1] not in handles:
                return False
            for key in run[2::2]:
                if not 0 < len(key) <= KEY_BYTES:
                    return False
            deletes |= run[0] == Batch.DELETE
        if batch.nbytes > self.record_bytes:
            self.check_size(batch.nbytes)
        if not deletes:
            self._keep(batch.ops, batch.nbytes, session, seq)
            return True
        ops: list[list[Any]] = []
        try:
            self._perform_deferred()
            for code, name, *operands in batch.ops:
                if code == Batch.PUT:
                    put_pairs(self._image.txn, handles[name], operands)
                    note(ops, Op.PUT, name, *operands)
                    continue
                for key in operands[::2]:
                    if self._image.txn.delete(key, db=handles[name]):
                        note(ops, Op.DELETE, name, key)
        except lmdb.Error as error:
            self.store.outgrown |= isinstance(error, lmdb.MapFullError)
            self._remake()
            return False
        self._keep(ops, batch.nbytes, session, seq)
        self._performed = len(self.txns)
        return True

    def seal(self) -> bytes | None:
        """End the open phase; return what the group's record carries, None if nothing was written.

        No child is open, and `Writers` lets none in any more.
        """
        invariant(self.phase is Phase.OPEN and self.child is None, "only an open group without a child is sealed")
        self.phase = Phase.IN_FLIGHT
        performed, deferred = _joined(self.txns[: self._performed]), _joined(self.txns[self._performed :])
        self.txns, self._performed = [*performed, *deferred], len(performed)
        return codec.encode_txns(self.txns) if self.txns else None

    def commit(self, records: Sequence[Record]) -> None:
        """Make the group visible: `records` follow the store's applied LSN, or the tail, and all are permanent.

        They are the group's own COMMIT record, if it was sealed with one, and REIGN and CONFIG records.
        Raises DiskFullError, and StorageError for what stops the site.
        """
        invariant(self.child is None and self.phase is not Phase.ENDED, "a group is committed without a child, once")
        own = [record for record in records if record.kind == Kind.COMMIT]
        invariant(len(own) == bool(self.txns), "a group is committed with its own record", own=len(own))
        self.perform()
        self.phase = Phase.ENDED
        try:
            for record in records:
                self._image.advance(record, self.txns if record.kind == Kind.COMMIT else ())
            self._image.commit()
        except lmdb.MapFullError:
            self._image.abort()
            with self.store.translating():
                self.store.grow()
            self.store.apply((*self.tail, *records), self._image.catalogue)
        except lmdb.Error as error:
            raise self.store.meaning(error) from error

    def abort(self) -> None:
        """Forget everything. No child is open: see `doom`."""
        invariant(self.child is None, "a group is aborted without a child")
        if self.phase is not Phase.ENDED:
            self.phase = Phase.ENDED
            self._image.abort()

    def doom(self, error: ZrepError, *, now: bool = False) -> bool:
        """Revoke the open child, if there is one: what it does next raises `error`. Return whether it is gone.

        A child that runs no operation at this moment is ended here, unless it gave out views of LMDB's
        memory, which would point nowhere; `now` ends even that one. A running one ends itself.
        """
        child = self.child
        if child is None:
            return True
        child.revoke(error)
        if (now or not (child.buffers and child.nested)) and self.lock.acquire(blocking=False):
            try:
                child.abort()
            finally:
                self.lock.release()
        return self.child is None

    def lose(self, error: ZrepError) -> bool:
        """Doom the child and abort; return False while a thread is in the group, then do it again."""
        if not self.doom(error) or not self.lock.acquire(blocking=False):
            return False
        try:
            if self.child is None:
                self.abort()
        finally:
            self.lock.release()
        return self.phase is Phase.ENDED

    def stop(self, error: ZrepError | None) -> None:
        """Abort whatever is going on, however long an operation of the child takes: the site stops.

        What the child does next raises `error`, or with None what LMDB raises after a close.
        """
        if (child := self.child) is not None and error is not None:
            child.revoke(error)
        with self.lock:
            if self.child is not None:
                self.child.abort()
            self.abort()

    def take(self, child: Child, session: str, seq: int) -> None:
        """Keep what a finished child did. Called by the child, under the lock."""
        self._keep(child.ops, child.nbytes, session, seq)
        if child.nested is not None:
            self._image.catalogue = child.catalogue
            self._performed = len(self.txns)

    def _keep(self, ops: list[list[Any]], nbytes: int, session: str, seq: int) -> None:
        if not ops:
            return
        self._nbytes += nbytes
        self._npages += nbytes // _PAGE + sum(map(len, ops)) // 2
        if session:
            self._seq_by_session[session] = seq
        self.txns.append(Txn(ops, session, seq))

    def check_size(self, nbytes: int) -> None:
        """Raise TxnTooLargeError for a transaction that no record can hold."""
        if nbytes > self.record_bytes:
            raise TxnTooLargeError(
                f"the transaction has {nbytes} bytes and a record holds {self.record_bytes}: "
                f"nothing was applied, split it (option record_bytes)"
            )


def _joined(txns: Sequence[Txn]) -> Sequence[Txn]:
    """Return the same, but one for all that follow one another and need no session: flat is what costs least."""
    if len(txns) < 2:
        return txns
    result: list[Txn] = []
    for txn in txns:
        if txn.session or not result or result[-1].session:
            result.append(Txn([], txn.session, txn.seq))
        for op in txn.ops:
            note(result[-1].ops, *op)
    return result
