"""Write transactions, in py-lmdb's shape. Read transactions are lmdb's own: no wrapper, no overhead.

A write transaction is a child of the engine's group transaction (`storage.group`). It runs on the thread
that began it, holds the one place for a writer until it ends, and becomes visible when its record is
permanent; `commit` waits for that, as the ack policy says.
"""

from abc import ABCMeta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import lmdb

from zrep.commit import CommitResult
from zrep.cursor import Buffer, Cursor
from zrep.options import AckPolicy
from zrep.storage.child import Child
from zrep.storage.failures import invalid_parameter
from zrep.tickets import Ticket

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zrep.environment import Environment


class Transaction(metaclass=ABCMeta):  # noqa: B024 - so that lmdb's own transactions are instances, too
    """A write transaction: every method of lmdb.Transaction, same arguments and results.

    `Transaction(env, …)` without `write=True` returns a plain lmdb.Transaction. Leaving a `with` block
    commits, an exception in it aborts; one that is dropped aborts. When mastership is lost, or it is open
    for longer than `write_txn_timeout_ms`, its next operation raises NotAppliedError: run it again.
    """

    def __new__(
        cls,
        env: "Environment",
        db: "lmdb._Database | None" = None,
        parent: "Transaction | None" = None,
        write: bool = False,
        buffers: bool = False,
        timeout_ms: int | None = None,
    ) -> Any:
        if write:
            return super().__new__(cls)
        return env.begin(db, parent, False, buffers)

    def __init__(
        self,
        env: "Environment",
        db: "lmdb._Database | None" = None,
        parent: "Transaction | None" = None,
        write: bool = False,
        buffers: bool = False,
        timeout_ms: int | None = None,
    ) -> None:
        self.engine = env.engine
        self._parent = parent
        self.child: Child
        """What the group knows of this transaction."""
        if parent is not None:
            self.child = parent.child.nest(buffers)
        else:
            try:
                self.child = self.engine.writers.enter(timeout_ms).begin(buffers)
            except BaseException as error:
                self.engine.writers.give_back(error)
                raise
        self._db = env.main if db is None else db

    def __enter__(self) -> "Transaction":
        if not self.child.open:
            with self.child.lock:
                self.child.refuse()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child = self.child
        if kind is not None:
            child.abort()
        elif child.open or child.revoked is not None:
            self.commit()

    def __del__(self) -> None:
        child = getattr(self, "child", None)
        if child is not None:
            child.abort()

    # Its end.

    def commit(self, acks: AckPolicy | None = None, timeout_ms: int | None = None) -> CommitResult:
        """Commit, and wait as the ack policy says; see `CommitResult`.

        Raises PermFailedError when the policy is not met in time, NotAppliedError when it provably did not
        happen, UnknownOutcomeError when that is not known, TxnTooLargeError, and LMDB's errors.
        """
        if self._parent is not None:
            self.child.merge()
            return CommitResult(None, False, (), self.engine.replica.config.durability)
        wait = self.engine.wait(acks, timeout_ms)
        self._commit(wait)
        return wait.result()

    def commit_async(self, acks: AckPolicy | None = None, timeout_ms: int | None = None) -> "Future[CommitResult]":
        """Commit as `commit` does, and return a future of its result.

        Raises lmdb.InvalidParameterError for a nested transaction, which has nothing to wait for.
        """
        if self._parent is not None:
            raise invalid_parameter("a nested transaction has nothing to wait for: use commit()")
        ticket = self.engine.awaited(acks, timeout_ms)
        self._commit(ticket)
        return ticket.future

    def _commit(self, ticket: Ticket) -> None:
        ticket.wrote = bool(self.child.ops)
        self.child.merge(waiter=ticket)

    def abort(self) -> None:
        """Undo everything. Does nothing when it has ended."""
        self.child.abort()

    # Data.

    def get(self, key: Buffer, default: Any = None, db: "lmdb._Database | None" = None) -> Any:
        """Return the first value of `key`, or `default`."""
        child = self.child
        with child.lock:
            txn = child.txn or child.look()
            db = self._db if db is None else db
            child.name(db)
            return txn.get(key, default, db)

    def put(
        self,
        key: Buffer,
        value: Buffer,
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
        db: "lmdb._Database | None" = None,
    ) -> bool:
        """Store a pair; return False if it was there and is not to be replaced."""
        return self.child.put(self._db if db is None else db, key, value, dupdata, overwrite, append)

    def delete(self, key: Buffer, value: Buffer = b"", db: "lmdb._Database | None" = None) -> bool:
        """Delete a key, or in a dupsort database one duplicate; return whether it was there."""
        return self.child.delete(self._db if db is None else db, key, value)

    def pop(self, key: Buffer, db: "lmdb._Database | None" = None) -> bytes | None:
        """Delete a key and return the value it had."""
        with self.cursor(db) as cursor:
            return cursor.pop(key)

    def replace(self, key: Buffer, value: Buffer, db: "lmdb._Database | None" = None) -> bytes | None:
        """Store a pair and return the value that it replaces."""
        with self.cursor(db) as cursor:
            return cursor.replace(key, value)

    def cursor(self, db: "lmdb._Database | None" = None) -> Cursor:
        """Return a cursor on `db`."""
        cursor: Cursor = Cursor(self._db if db is None else db, self)
        return cursor

    def drop(self, db: "lmdb._Database", delete: bool = True) -> None:
        """Empty a database, and with `delete` forget its name; its handle and cursors are not valid any more then."""
        self.child.drop(db, delete)

    def stat(self, db: "lmdb._Database | None" = None) -> dict[str, int]:
        """Return the database's statistics, as lmdb does."""
        child = self.child
        with child.lock:
            txn = child.txn or child.look()
            db = self._db if db is None else db
            child.name(db)
            return dict(txn.stat(db))  # type: ignore[arg-type]

    def id(self) -> int:
        """Return LMDB's own number of the transaction; the transactions of a group have the same."""
        with self.child.lock:
            return (self.child.txn or self.child.look()).id()


Transaction.register(lmdb.Transaction)
