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

if TYPE_CHECKING:
    from zrep.storage.store import Store

APPLIED = b"applied"
_PAGE = 4096
_PAGES = 5
"""What a commit of one operation writes, about; each further one adds a page, and its bytes."""


class Image:
    """The store's next state. One at a time, used by the thread that began it."""

    def __init__(self, store: "Store") -> None:
        self.store = store
        self.applied = store.applied
        self.catalogue = store.catalogue
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
        self._nbytes += len(record.raw) + _PAGE * sum(len(txn.ops) for txn in txns)

    def _note_sessions(self, record: Record, txns: Sequence[Txn]) -> None:
        for txn in txns:
            if txn.session:
                sessions.note(self.txn, self.store.bookkeeping, txn.session, txn.seq, record)
        sessions.expire(self.txn, self.store.bookkeeping, record.time_ms)

    def perform(self, ops: Iterable[tuple[Any, ...]]) -> None:
        """Replay captured operations."""
        txn, slots = self.txn, self.store.slots
        put, delete = txn.put, txn.delete
        handles = self.catalogue.handles
        for op in ops:
            code, name = op[0], op[1]
            if code == Op.CREATE_DB:
                self._create(name, op[2])
                handles = self.catalogue.handles
                continue
            invariant(name in handles, "a record names only databases that exist", db=name)
            handle = handles[name]
            if code == Op.PUT:
                put(op[2], op[3], db=handle)
            elif code == Op.DELETE:
                delete(op[2], db=handle)
            elif code == Op.DELETE_DUP:
                delete(op[2], op[3], db=handle)
            elif code == Op.CLEAR:
                txn.drop(handle, delete=False)
            else:
                self.catalogue = slots.release(txn, self.catalogue, name)
                handles = self.catalogue.handles

    def _create(self, name: bytes, flags: int) -> None:
        slots = self.store.slots
        handle = slots.free(flags, self.catalogue)
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
        self.store.became(self.applied, self.catalogue, self._nbytes)

    def abort(self) -> None:
        """Forget it: the store stays what it was."""
        self.txn.abort()
        self.store.slots.forget(self._created)
        self._created.clear()
