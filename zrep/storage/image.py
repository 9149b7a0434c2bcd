"""A write transaction on the store that carries it from one prefix of the log to a longer one.

Everything that changes the store goes through an `Image`: applying permanent records at a client, and
the group transaction at a master. Its commit writes which prefix the store now is, in the same LMDB
transaction, so a store always says so truthfully. What the records mean is decided here, once.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import lmdb

from zrep import codec
from zrep.errors import invariant
from zrep.ports import Applied
from zrep.records import History, Kind, Op, Record, Reign, Tip, Txn
from zrep.storage import sessions
from zrep.storage.catalogue import Catalogue

if TYPE_CHECKING:
    from zrep.storage.store import Store

APPLIED = b"applied"
_PAGE = 4096
_PAGES = 5
"""What a commit of one operation writes, about; each further one adds a page, and its bytes."""


class Image:
    """The store's next state. One at a time, used by the thread that began it."""

    def __init__(self, store: "Store", like: Catalogue | None = None) -> None:
        """`like`: new databases get the slots that they have there, because somebody holds their handles."""
        self.store = store
        self._like = like
        self.applied = store.applied
        self.catalogue = store.catalogue
        self.sessions_until_ms = store.sessions_until_ms
        self._created: list[int] = []
        self._nbytes = _PAGES * _PAGE
        self.txn: lmdb.Transaction = store.begin_write(store.main)

    def replay(self, record: Record) -> None:
        """Perform what the record says and advance to it."""
        txns = codec.decode_txns(record.payload) if record.kind == Kind.COMMIT else []
        for txn in txns:
            self.perform(txn.ops)
        self.advance(record, txns)

    def advance(self, record: Record, txns: Sequence[Txn] = ()) -> None:
        """Step over `record`, whose transactions have been performed already."""
        tip, history, config = self.applied
        invariant(record.lsn == tip.lsn + 1, "records are applied in order", lsn=record.lsn, applied=tip.lsn)
        if record.kind == Kind.REIGN:
            history = History(history.reigns)
            history.begin(Reign(record.gen, codec.decode_reign(record.payload), record.lsn))
        elif record.kind == Kind.CONFIG:
            config = codec.decode_config(record.payload)
        else:
            self._note_sessions(record, txns)
        self.applied = Applied(Tip(record.gen, record.lsn, record.chain), history, config)
        self._nbytes += len(record.raw)
        for txn in txns:
            for op in txn.ops:
                self._nbytes += _PAGE * len(op) // 2

    def _note_sessions(self, record: Record, txns: Sequence[Txn]) -> None:
        for txn in txns:
            if txn.session:
                sessions.note(self.txn, self.store.bookkeeping, txn.session, txn.seq, record)
                self.sessions_until_ms = min(self.sessions_until_ms, record.time_ms + sessions.KEPT_MS)
        if record.time_ms > self.sessions_until_ms:
            self.sessions_until_ms = sessions.expire(self.txn, self.store.bookkeeping, record.time_ms)

    def perform(self, ops: Iterable[Sequence[Any]]) -> None:
        """Replay captured operations."""
        txn = self.txn
        for code, name, *operands in ops:
            if code == Op.CREATE_DB:
                self._create(name, operands[0])
                continue
            invariant(name in self.catalogue.handles, "a record names only databases that exist", db=name)
            handle = self.catalogue.handles[name]
            if code == Op.PUT:
                put_pairs(txn, handle, operands)
            elif code == Op.DELETE:
                for key in operands:
                    txn.delete(key, db=handle)
            elif code == Op.DELETE_DUP:
                for key, value in _pairs(operands):
                    txn.delete(key, value, db=handle)
            elif code == Op.CLEAR:
                txn.drop(handle, delete=False)
            else:
                self.catalogue = self.store.slots.release(txn, self.catalogue, name)

    def _create(self, name: bytes, flags: int) -> None:
        slots = self.store.slots
        handle = slots.free(flags, self.catalogue, name, self._like)
        if handle is None:
            self._created.append(slots.create(self.txn, flags))
            handle = slots.handle(self._created[-1])
        self.catalogue = slots.assign(self.txn, self.catalogue, name, handle)

    def commit(self) -> None:
        """Make it the store. LMDB's errors pass through; the transaction has ended then, too."""
        try:
            self.txn.put(APPLIED, codec.encode_applied(self.applied), db=self.store.bookkeeping)
            self.txn.commit()
        except lmdb.Error:
            self.abort()
            raise
        self.store.became(self, self._nbytes)

    def abort(self) -> None:
        """Forget it: the store stays what it was."""
        self.txn.abort()
        self.store.slots.forget(self._created)
        self._created.clear()


def put_pairs(txn: lmdb.Transaction, handle: "lmdb._Database", operands: Sequence[Any]) -> None:
    """Store the pairs of a PUT operation."""
    if len(operands) == 2:
        txn.put(operands[0], operands[1], db=handle)
    else:
        with txn.cursor(handle) as cursor:
            cursor.putmulti(_pairs(operands))


def _pairs(operands: Sequence[Any]) -> "zip[tuple[Any, Any]]":
    return zip(operands[::2], operands[1::2], strict=True)
