"""One transaction of a group: a nested LMDB transaction and the operations it performed, as they will be replayed.

Whatever changes data is an operation here, and each is captured when it took effect, or certainly will, in a form
that replays to the same bytes on every site. User transactions, cursors and batches all come through here.

A put that replaces whatever is there has one outcome: LMDB need not be asked. So a transaction that begins
with such puts *defers* them, and LMDB's transaction begins when something looks; often nothing does.
"""

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import lmdb

from zrep.commit import OP_BYTES, Batch
from zrep.errors import ConflictError, NotAppliedError, ZrepError, invariant
from zrep.options import KIB
from zrep.records import Op, join, note
from zrep.storage.catalogue import DUPSORT, INTEGER_KEY, KINDS, REVERSE_KEY, Catalogue, flag_bits
from zrep.storage.failures import closed, databases_full, has_nested, invalid_parameter, not_found

if TYPE_CHECKING:
    from zrep.storage.group import Group
    from zrep.storage.store import Store

DEFERRED_BYTES = 64 * KIB
"""So much one transaction may leave to the engine, which performs it in one go; a batch is the engine's anyway."""
KEY_BYTES = 511
"""LMDB's limit."""
_UNKNOWN: Any = object()
_REFUSALS = (lmdb.Error, TypeError, ValueError, BufferError)
"""What LMDB raises, having changed nothing. All else comes where it likes: from a signal's handler, of a full stack."""


class Capturing:
    """Around what changes LMDB's transaction and is captured then: who is stopped in between leaves `into` torn.

    It is torn meanwhile, so that nothing has to run for it to be so: a RecursionError may come from here, too.
    And who finds the map full leaves the store outgrown.
    """

    __slots__ = ("_into", "_torn")

    def __init__(self, into: "Child | Group") -> None:
        self._into = into
        self._torn = into.torn

    def __enter__(self) -> None:
        self._into.torn = True

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._into.torn = self._torn
        elif issubclass(kind, _REFUSALS):
            self._into.torn = self._torn
            if issubclass(kind, lmdb.MapFullError):
                self._into.store.outgrown = True


class Child:
    """A transaction of a group, or one nested in such a transaction.

    Every use begins with `with child.lock: txn = child.txn or child.look()`: `txn` is the LMDB
    transaction, None while everything is deferred and when this has ended or was revoked.
    """

    _puts: list[Any] | None = None
    """The operation that the last deferred put went into, and its database: the next one may go there, too."""
    _puts_db: "lmdb._Database | None" = None

    def __init__(
        self,
        group: "Group",
        outer: "Child | None",
        txn: "lmdb.Transaction | None",
        catalogue: Catalogue,
        buffers: bool,
        leave: "Callable[[Child], None]",
    ) -> None:
        self.group = group
        self.lock = group.lock
        self.outer = outer
        self.inner: Child | None = None
        self.txn = txn
        self.torn = False
        """Whether its LMDB transaction may hold what was not captured: Ctrl-C, say, came between the two."""
        self.open = True
        """Whether it has neither ended nor was revoked."""
        self._ended = False
        self.catalogue = self._given = catalogue
        self.buffers = buffers
        self.ops: list[list[Any]] = []
        self.nbytes = 0
        self._limit = group.record_bytes
        self.nested = txn
        """LMDB's transaction, from the first look on; then it has performed all that was deferred before it."""
        self._leave = leave
        self._error: ZrepError | None = None

    @property
    def store(self) -> "Store":
        return self.group.store

    # Operations.

    def name(self, db: "lmdb._Database") -> bytes | None:
        """Return the name of a user database's handle; raise what LMDB raises for one that is not valid."""
        try:
            return self.catalogue.names[id(db)]
        except KeyError:
            (self.txn or self.look()).stat(db)  # raises for another environment's handle, and for no handle
            raise invalid_parameter("the database of this handle was dropped") from None

    def databases(self) -> Catalogue:
        """Return the databases as it sees them."""
        with self.lock:
            if not self.open:
                self.refuse()
            if self.inner is not None:
                raise has_nested("mdb_dbi_open")
            return self.catalogue

    def put(self, db: "lmdb._Database", key: Any, value: Any, dupdata: bool, overwrite: bool, append: bool) -> bool:
        """Store a pair, as lmdb.Transaction.put does."""
        with self.lock:
            if self.txn is None and self.open and overwrite and not append and self._defer(db, key, value):
                return True
            txn = self.txn or self.look()
            name = self.catalogue.names.get(id(db), _UNKNOWN)
            if name is _UNKNOWN:
                self.name(db)
            with Capturing(self):
                stored = txn.put(key, value, dupdata, overwrite, append, db)
                if stored:
                    self.note_put(name, key, value)
            return stored

    def _defer(self, db: "lmdb._Database", key: Any, value: Any) -> bool:
        """Capture a put without performing it, if LMDB would certainly do it; False if it is to be asked."""
        if type(key) is not bytes or type(value) is not bytes or not 0 < len(key) <= KEY_BYTES:
            return False
        nbytes = self.nbytes + len(key) + len(value)
        if nbytes > DEFERRED_BYTES:
            return False
        if self._puts is None or db is not self._puts_db:
            name = self.catalogue.names.get(id(db), _UNKNOWN)
            if name not in self.catalogue.plain:
                return False
            note(self.ops, Op.PUT, name, key, value)
            self._puts, self._puts_db = self.ops[-1], db
        else:
            self._puts += (key, value)
        self.nbytes = nbytes + OP_BYTES
        return True

    def look(self) -> "lmdb.Transaction":
        """Begin LMDB's transaction, and perform in it what was deferred; or raise why there cannot be one any more.

        Raises lmdb.MapFullError when the map is too small for that. Called under the lock.
        """
        if not self.open:
            self.refuse()
        self.nested = self.txn = txn = self.group.look(self)
        return txn

    def delete(self, db: "lmdb._Database", key: Any, value: Any = b"") -> bool:
        """Delete a key, or with a value one duplicate, as lmdb.Transaction.delete does."""
        with self.lock:
            txn = self.txn or self.look()
            name = self.name(db)
            with Capturing(self):
                deleted = txn.delete(key, value, db)
                if deleted and value and flag_bits(db.flags()) & DUPSORT:
                    self.note(Op.DELETE_DUP, name, as_bytes(key), as_bytes(value))
                elif deleted:
                    self.note(Op.DELETE, name, as_bytes(key))
            return deleted

    def drop(self, db: "lmdb._Database", delete: bool) -> None:
        """Empty a database; with `delete` also forget its name. The main one is only ever emptied, as in LMDB."""
        with self.lock, Capturing(self):
            txn = self.txn or self.look()
            name = self.name(db)
            if delete and name is not None:
                self.catalogue = self.store.slots.release(txn, self.catalogue, name)
                self.note(Op.DELETE_DB, name)
            else:
                txn.drop(db, delete=False)
                self.note(Op.CLEAR, name)

    def create(self, name: bytes, flags: int) -> "lmdb._Database":
        """Create a database, unless it exists, and return its handle. Raises lmdb.DbsFullError."""
        with self.lock, Capturing(self):
            txn = self.txn or self.look()
            existing = self.catalogue.handles.get(name)
            if existing is not None:
                return existing
            if flags not in KINDS:
                raise invalid_parameter(f"no database can have the flags {flags:#x}")
            slots = self.store.slots
            handle = slots.free(flags, self.catalogue, name)
            if handle is None:
                self.group.out_of_slots = True
                raise databases_full("too many of this kind are created in one transaction, call open_db without txn")
            self.catalogue = slots.assign(txn, self.catalogue, name, handle)
            note(self.ops, Op.CREATE_DB, name, flags)
            self.nbytes += OP_BYTES
            return handle

    def run(self, code: int, name: bytes | None, key: bytes, value: bytes | None) -> None:
        """Perform one operation of a batch. Raises ConflictError, and lmdb.NotFoundError for a missing database."""
        txn = self.txn or self.look()
        if code == Batch.CREATE:
            self.create(name or b"", int.from_bytes(value or b"", "big"))
            return
        db = self.catalogue.handles.get(name)
        if db is None:
            raise not_found(name)
        if code == Batch.PUT:
            self.put(db, key, value, True, True, False)
        elif code == Batch.DELETE:
            self.delete(db, key)
        elif code == Batch.DELETE_RANGE:
            self._delete_range(db, key, value)
        else:
            found = txn.get(key, db=db)
            if found != value:
                raise ConflictError(
                    f"the value of key {key!r} is not the expected one: nothing was applied, read again and retry",
                    key,
                    None if found is None else bytes(found),
                )

    def _delete_range(self, db: "lmdb._Database", start: bytes, stop: bytes | None) -> None:
        txn = self.txn or self.look()
        order = key_order(db)
        with Capturing(self), txn.cursor(db) as cursor:
            found = cursor.set_range(start)
            while found and (stop is None or order(cursor.key()) < order(stop)):
                key = bytes(cursor.key())
                found = cursor.delete(dupdata=True) and bool(cursor.key())
                self.note(Op.DELETE, self.name(db), key)

    def note_put(self, name: bytes | None, key: Any, value: Any) -> None:
        """Capture a pair that was stored. Called under the lock."""
        if type(key) is not bytes:
            key = as_bytes(key)
        if type(value) is not bytes:
            value = as_bytes(value)
        note(self.ops, Op.PUT, name, key, value)
        self.nbytes += len(key) + len(value) + OP_BYTES
        if self.nbytes > self._limit:
            self.ops.clear()  # it will be refused: do not gather without end until then

    def note(self, code: Op, name: bytes | None, *operands: bytes) -> None:
        """Capture another operation that took effect. Called under the lock."""
        note(self.ops, code, name, *operands)
        self.nbytes += sum(map(len, operands)) + OP_BYTES

    # Its life.

    def nest(self, buffers: bool) -> "Child":
        """Begin a transaction inside this one, which cannot be used until that one has ended."""
        with self.lock:
            txn = self.txn or self.look()
            nested = self.store.nest(txn, buffers)
            self.inner = Child(self.group, self, nested, self.catalogue, buffers, self._leave)
            return self.inner

    def merge(self, session: str = "", seq: int = 0, waiter: object = None) -> None:
        """Commit into the transaction outside. Raises TxnTooLargeError and LMDB's errors; it has ended then, too.

        `waiter` is who waits for the group from now on.
        """
        with self.lock:
            if not self.open:
                self.refuse()
            try:
                if self.torn:
                    raise NotAppliedError(
                        "an operation of this transaction was interrupted, so it cannot be committed and "
                        "did not happen: run it again"
                    )
                if self.inner is not None:
                    self.inner.abort()
                if self.outer is None and self.nbytes > self._limit:
                    self.group.check_size(self.nbytes)
                if self.nested is None:
                    self._hand_over(session, seq)
                else:
                    # One in which LMDB failed must be aborted: committing it would take P along.
                    self.nested.get(b"?", db=self.store.bookkeeping)
                    if self.catalogue is not self._given:
                        self._check_names()
                    with Capturing(self.outer or self.group):
                        self.nested.commit()
                        self._hand_over(session, seq)
                if waiter is not None:  # known before the engine can see that the child has ended
                    self.group.waiters.append(waiter)
                self._end()
            except BaseException:
                self.abort()
                raise

    def _check_names(self) -> None:
        """Let no operation out that names a database which is not there: every site would stop at the record.

        Where no database came or went this cannot be: a name is taken from the catalogue when it is noted.
        """
        if self.nbytes > self._limit:
            return  # it has not gathered all, and the outermost one is refused
        there = set(self._given.handles)
        for op in self.ops:
            code, name = op[:2]
            invariant(
                name in there or code == Op.CREATE_DB, "a transaction names only databases that exist", db=name, op=code
            )
            if code == Op.CREATE_DB:
                there.add(name)
            elif code == Op.DELETE_DB:
                there.remove(name)

    def _hand_over(self, session: str, seq: int) -> None:
        """Let what is outside have what was captured."""
        if self.outer is None:
            self.group.take(self, session, seq)
        else:
            join(self.outer.ops, self.ops)
            self.outer.nbytes += self.nbytes
            self.outer.catalogue = self.catalogue

    def abort(self) -> None:
        """Undo everything. Does nothing when it has ended, nor waits: the collector calls this anywhere."""
        if self._ended:
            return
        with self.lock:
            self.open, self.txn = False, None
            if self.inner is not None:
                self.inner.abort()
            if self.nested is not None:
                self.nested.abort()
            self._end()

    def _end(self) -> None:
        self.open, self.txn = False, None
        if self.outer is None:
            if self.group.child is self:
                self._leave(self)
        elif self.outer.inner is self:
            self.outer.inner = None
        self._ended = True  # last: who is interrupted before is ended by `abort`

    def revoke(self, error: ZrepError) -> None:
        """Let every further use, of nested transactions too, raise `error`. Any thread; ends nothing."""
        child: Child | None = self
        while child is not None:
            child._error, child.open, child.txn = error, False, None
            child = child.inner

    def abandon(self, error: ZrepError) -> None:
        """Revoke without ever touching LMDB again: the process was forked, and this is the parent's."""
        self.revoke(error)
        child: Child | None = self
        while child is not None:
            child.lock, child.nested, child._leave = threading.RLock(), None, child.group.forget
            child = child.inner

    def refuse(self) -> NoReturn:
        """Raise the reason why there is no transaction any more, having ended it if it was revoked."""
        self.abort()
        if self._error is not None:
            raise self._error
        raise closed()

    @property
    def revoked(self) -> ZrepError | None:
        return self._error


def as_bytes(value: Any) -> bytes:
    """Copy what LMDB accepted as a key or value; it takes None for nothing."""
    if type(value) is bytes:
        return value
    return b"" if value is None else bytes(value)


def key_order(db: "lmdb._Database") -> Callable[[Any], Any]:
    """Return the sort key by which LMDB orders the database's keys."""
    flags = flag_bits(db.flags())
    if flags & INTEGER_KEY:
        return lambda key: int.from_bytes(key, sys.byteorder)
    if flags & REVERSE_KEY:
        return lambda key: bytes(key)[::-1]
    return bytes
