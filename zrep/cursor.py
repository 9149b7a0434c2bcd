"""Cursors of write transactions, in py-lmdb's shape (a read transaction's cursor is lmdb's own).

Moving and reading are lmdb's, under the transaction's lock. What changes data is captured by its effect:
LMDB is asked, and what it did is noted as an operation that replays to the same bytes.
"""

from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

import lmdb

from zrep.records import Op
from zrep.storage.catalogue import DUPSORT, flag_bits
from zrep.storage.child import Capturing, as_bytes
from zrep.storage.failures import has_nested, invalid_parameter, lmdb_error

if TYPE_CHECKING:
    from zrep.transaction import Transaction

Buffer: TypeAlias = bytes | bytearray | memoryview
Step: TypeAlias = Callable[["lmdb.Cursor[Any]"], bool]


class Cursor(metaclass=ABCMeta):  # noqa: B024 - so that lmdb's own cursors are instances, too
    """Navigates a database within a write transaction: every method of lmdb.Cursor, same arguments and results.

    `Cursor(db, txn)` with a read transaction returns lmdb's own cursor.
    """

    def __new__(cls, db: "lmdb._Database", txn: "Transaction | lmdb.Transaction[Any]") -> Any:
        if isinstance(txn, lmdb.Transaction):
            return lmdb.Cursor(db, txn)
        return super().__new__(cls)

    def __init__(self, db: "lmdb._Database", txn: "Transaction") -> None:
        self._child = child = txn.child
        with child.lock:
            inner = child.txn or child.look()
            self._name = child.name(db)
            self._catalogue = child.catalogue
            self._cursor: lmdb.Cursor[Any] = inner.cursor(db)
        self.db = db
        self.txn = txn
        self._dupsort = bool(flag_bits(db.flags()) & DUPSORT)
        self._sought: object = None

    def _live(self) -> "lmdb.Cursor[Any]":
        """Return lmdb's cursor, under the lock; raise why it cannot be used any more."""
        child = self._child
        if child.txn is None or child.inner is not None or child.catalogue is not self._catalogue:
            self._check()
        return self._cursor

    def _check(self) -> None:
        """Raise what the transaction was revoked with, that one nested in it is open, or that the database is gone.

        LMDB would go on: in the nested transaction, of which it would not be captured, or in a slot that is
        nobody's or another's, which no site could perform.
        """
        child = self._child
        if child.txn is None:
            child.refuse()
        if child.inner is not None:
            raise has_nested("mdb_cursor_get")
        if child.catalogue.handles.get(self._name) is not self.db:
            raise invalid_parameter("the cursor is closed, its database was dropped")
        self._catalogue = child.catalogue

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cursor; it cannot be used any more."""
        with self._child.lock:
            self._cursor.close()

    # Reading.

    def key(self) -> Any:
        """Return the current key."""
        with self._child.lock:
            return self._live().key()

    def value(self) -> Any:
        """Return the current value."""
        with self._child.lock:
            return self._live().value()

    def item(self) -> tuple[Any, Any]:
        """Return the current pair."""
        with self._child.lock:
            return self._live().item()

    def get(self, key: Buffer, default: Any = None) -> Any:
        """Move to `key` and return its value, or `default`."""
        with self._child.lock:
            return self._live().get(key, default)

    def getmulti(
        self,
        keys: Iterable[Buffer],
        dupdata: bool = False,
        dupfixed_bytes: int | None = None,
        keyfixed: bool = False,
        values: bool = True,
    ) -> Any:
        """Return what is found for `keys`, as lmdb.Cursor.getmulti does."""
        with self._child.lock:
            getmulti: Any = self._live().getmulti
            return getmulti(keys, dupdata, dupfixed_bytes, keyfixed, values)

    def count(self) -> int:
        """Return how many duplicates the current key has."""
        with self._child.lock:
            return self._live().count()

    # Moving.

    def _move(self, step: Step) -> bool:
        with self._child.lock:
            return step(self._live())

    def first(self) -> bool:
        return self._move(lmdb.Cursor.first)

    def first_dup(self) -> bool:
        return self._move(lmdb.Cursor.first_dup)

    def last(self) -> bool:
        return self._move(lmdb.Cursor.last)

    def last_dup(self) -> bool:
        return self._move(lmdb.Cursor.last_dup)

    def next(self) -> bool:
        return self._move(lmdb.Cursor.next)

    def next_dup(self) -> bool:
        return self._move(lmdb.Cursor.next_dup)

    def next_nodup(self) -> bool:
        return self._move(lmdb.Cursor.next_nodup)

    def prev(self) -> bool:
        return self._move(lmdb.Cursor.prev)

    def prev_dup(self) -> bool:
        return self._move(lmdb.Cursor.prev_dup)

    def prev_nodup(self) -> bool:
        return self._move(lmdb.Cursor.prev_nodup)

    def set_key(self, key: Buffer, /) -> bool:
        """Move to `key` exactly."""
        with self._child.lock:
            return self._live().set_key(key)

    def set_key_dup(self, key: Buffer, value: Buffer) -> bool:
        """Move to the pair exactly."""
        with self._child.lock:
            self._sought = (key, value)  # lmdb's cursor points into these until it moves again
            return self._live().set_key_dup(key, value)

    def set_range(self, key: Buffer, /) -> bool:
        """Move to the first key that is not less than `key`."""
        with self._child.lock:
            return self._live().set_range(key)

    def set_range_dup(self, key: Buffer, value: Buffer) -> bool:
        """Move to the first duplicate of `key` that is not less than `value`."""
        with self._child.lock:
            return self._live().set_range_dup(key, value)

    # Iterating. Where an iterator starts is decided when it is made, as in lmdb.

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self.iternext()

    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[Any]:
        return self._iterate("iternext", keys, values)

    def iternext_dup(self, keys: bool = False, values: bool = True) -> Iterator[Any]:
        return self._iterate("iternext_dup", keys, values)

    def iternext_nodup(self, keys: bool = True, values: bool = False) -> Iterator[Any]:
        return self._iterate("iternext_nodup", keys, values)

    def iterprev(self, keys: bool = True, values: bool = True) -> Iterator[Any]:
        return self._iterate("iterprev", keys, values)

    def iterprev_dup(self, keys: bool = False, values: bool = True) -> Iterator[Any]:
        return self._iterate("iterprev_dup", keys, values)

    def iterprev_nodup(self, keys: bool = True, values: bool = False) -> Iterator[Any]:
        return self._iterate("iterprev_nodup", keys, values)

    def _iter_from(self, k: Buffer, reverse: bool) -> Iterator[tuple[Any, Any]]:
        return self._iterate("_iter_from", k, reverse)

    def _iterate(self, method: str, *args: Any) -> Iterator[Any]:
        with self._child.lock:
            items: Iterator[Any] = getattr(self._live(), method)(*args)
        # lmdb's iterator goes on when its cursor has moved since the end, and so does a map; a generator does not.
        return map(self._next_of, repeat(items))

    def _next_of(self, items: Iterator[Any]) -> Any:
        with self._child.lock:
            self._live()
            return next(items)

    # Writing.

    def put(
        self, key: Buffer, value: Buffer, dupdata: bool = True, overwrite: bool = True, append: bool = False
    ) -> bool:
        """Store a pair and move to it, as lmdb.Cursor.put does."""
        child = self._child
        with child.lock, Capturing(child):
            stored = self._live().put(key, value, dupdata, overwrite, append)
            if stored:
                child.note_put(self._name, key, value)
            return stored

    def putmulti(
        self,
        items: Iterable[tuple[Buffer, Buffer]],
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
    ) -> tuple[int, int]:
        """Store pairs; return how many were consumed and how many of them stored."""
        consumed = added = 0
        child, name = self._child, self._name
        capturing = Capturing(child)
        with child.lock:
            self._live().putmulti(())  # raises if it is closed, before the items are looked at
            for item in items:
                if type(item) is not tuple or len(item) != 2:
                    raise TypeError("putmulti() elements must be 2-tuples")
                key, value = item
                if key is None or value is None:
                    raise TypeError("a bytes-like object is required, not 'NoneType'")
                with capturing:
                    try:
                        stored = self._live().put(key, value, dupdata, overwrite, append)
                    except lmdb.Error as error:
                        if getattr(error, "what", "") != "mdb_put":
                            raise
                        what = f"mdb_cursor_put() element #{consumed}"
                        raise lmdb_error(type(error), what, error.code, error.reason) from None
                    if stored:
                        child.note_put(name, key, value)
                        added += 1
                consumed += 1
        return consumed, added

    def delete(self, dupdata: bool = False) -> bool:
        """Delete the current element, with `dupdata` all duplicates of its key, and move to the next one."""
        with self._child.lock, Capturing(self._child):
            cursor = self._live()
            current = next(cursor.iternext_dup(True, True), None)  # unlike item(), tells whether it stands anywhere
            if current is None:
                return False
            key, value = as_bytes(current[0]), as_bytes(current[1])
            # In a dupsort database lmdb's cursor may not know that its key has got more values since it moved there.
            # It would then delete all of them instead of the one, and count them wrongly: so it moves there again.
            if not key or (self._dupsort and not self.set_key_dup(key, value)):  # another cursor has deleted it
                reason = "No matching key/data pair found"
                raise lmdb_error(lmdb.NotFoundError, "mdb_cursor_del: MDB_NOTFOUND", -30798, reason)
            deleted = cursor.delete(dupdata)
            if deleted:
                self._note_deleted(key, None if dupdata else value)
            return deleted

    def pop(self, key: Buffer) -> bytes | None:
        """Delete a key, in a dupsort database its first duplicate, and return the value it had."""
        with self._child.lock, Capturing(self._child):
            old: bytes | None = self._live().pop(key)
            if old is not None:
                self._note_deleted(as_bytes(key), old)
            return old

    def replace(self, key: Buffer, value: Buffer) -> bytes | None:
        """Store a pair in place of all there is under `key`, and return the first value that was there."""
        with self._child.lock, Capturing(self._child):
            cursor = self._live()
            try:
                old: bytes | None = cursor.replace(key, value)
            except lmdb.BadValsizeError:  # with any other error nothing was removed, or nothing will be committed
                self._note_half_replaced(key)
                raise
            if old is not None and self._dupsort:
                self._note_deleted(as_bytes(key), None)
            self._child.note_put(self._name, key, value)
            return old

    def _note_half_replaced(self, key: Buffer) -> None:
        """In a dupsort database lmdb removes the old duplicates before it finds that the new one is not valid."""
        if self._dupsort and self._child.txn is not None and key:
            try:
                gone = self._child.txn.get(key, db=self.db) is None
            except lmdb.Error:
                return  # nothing of this transaction will be committed
            if gone:
                self._note_deleted(as_bytes(key), None)

    def _note_deleted(self, key: bytes, value: bytes | None) -> None:
        """Capture a deletion: of one duplicate, or with no value of all there is under the key."""
        if self._dupsort and value is not None:
            self._child.note(Op.DELETE_DUP, self._name, key, value)
        else:
            self._child.note(Op.DELETE, self._name, key)


Cursor.register(lmdb.Cursor)
