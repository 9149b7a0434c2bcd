"""The environment in py-lmdb's shape: transactions, databases, and the writes that are forwarded.

It holds nothing itself: reads go straight to LMDB, writes to the engine. What differs from py-lmdb is in
docs/lmdb-differences.md, with the reasons.
"""

import asyncio
import ctypes
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import lmdb

from zrep.commit import Batch, CommitResult, CommitToken
from zrep.engine import Engine
from zrep.errors import ForkError, NoMasterError, OptionError, ZrepError
from zrep.ids import Position
from zrep.inqueue import seconds_until
from zrep.opening import Ending, Opened
from zrep.options import AckPolicy
from zrep.storage.catalogue import flag_bits
from zrep.storage.failures import databases_full, invalid_parameter, lmdb_error, not_found, read_only
from zrep.storage.plain import PlainReader, export
from zrep.storage.reader import StoreReader
from zrep.storage.store import Store
from zrep.threads import check_may_wait, may_wait
from zrep.tickets import Ticket
from zrep.transaction import Transaction

CREATE_ATTEMPTS = 50
_DATABASE_FLAGS = ("reverse_key", "dupsort", "integerkey", "integerdup", "dupfixed")
_environments: "weakref.WeakSet[Environment]" = weakref.WeakSet()


class Environment:
    """A replicated LMDB environment. `zrep.open` makes one; `Site.env` is one.

    Methods named as lmdb.Environment's take its arguments and return its results.
    """

    def __init__(
        self, engine: Engine, opened: "Opened | StoreReader | PlainReader", path: str | Path, *, owned: bool = False
    ) -> None:
        """Put a face on a running engine. `owned`: closing the environment stops the engine."""
        self.engine: Engine = engine
        self.asked: dict[str, Any] = {}
        """What `open` was asked for: what is only a hint here is told back by `info` and `flags`."""
        self.readonly = False
        self._opened = opened
        self._owned = owned
        self._path = os.fspath(path)
        self._store: Store | StoreReader | PlainReader = opened.store
        self._lmdb: lmdb.Environment = opened.store.env
        self._begin_read: Any = self._lmdb.begin
        self.main = opened.store.main
        self._names: set[bytes] = set()
        self._closed = False
        self._ending = Ending()
        self._forked = False
        _environments.add(self)

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.__dict__.get("_owned") and not self._closed:
            if may_wait():
                self.close()
            else:  # a callback was the last to know it
                threading.Thread(target=self.close, name="zrep-close").start()

    def close(self) -> None:
        """Stop, flush and close; what is open ends. Of a Site: stop the site instead. Idempotent.

        Who comes while another thread closes waits for it. After Ctrl-C in here call it again. Raises ZrepError
        in a future's callback, which runs on the thread that is to end.
        """
        if not self._owned:
            raise ZrepError("this environment belongs to a Site: stop the site")
        if self._closed:
            return
        if not self.readonly:
            check_may_wait()
        self._ending.run(self._close)

    def _close(self) -> None:
        if not self._closed:
            if not self.readonly:
                self.engine.stop()
            self._opened.close()
            self._closed = True

    def await_writable(self, timeout_ms: int) -> None:
        """Block until this site is master and what its log says is visible."""
        self.engine.writers.enter(timeout_ms)
        self.engine.writers.leave()

    # Transactions.

    def begin(
        self,
        db: "lmdb._Database | None" = None,
        parent: Transaction | None = None,
        write: bool = False,
        buffers: bool = False,
        token: CommitToken | None = None,  # from here on by name; to demand that would cost a read 4 %
        linearizable: bool = False,
        timeout_ms: int | None = None,
    ) -> Any:
        """Begin a transaction: with `write` a `Transaction`, otherwise a plain lmdb.Transaction.

        A read sees the newest permanent prefix that this site has. `token` first waits until that commit is
        in it, `linearizable` until everything acknowledged anywhere before this call is. A write waits, as
        on LMDB's writer lock, for its turn. `timeout_ms` limits the wait: NoMasterError; None is the option
        `ack_timeout_ms`, and for a write's turn no limit. NotMasterError for a write at a client site.
        """
        if not (write or parent or buffers or token or linearizable):
            return self._begin_read(db or self.main)
        if parent is not None:
            self._check_parent(parent)
            if not write:
                raise invalid_parameter("Read-only child transactions require the LMDB 1.0 engine.")
        if token is not None or linearizable:
            engine = self.engine
            deadline = engine.until(timeout_ms)
            if token is not None:
                engine.wait_applied(token.position, deadline)
            if linearizable:
                engine.wait_applied(Position(0, engine.read_index(deadline)), deadline)
        if write:
            return Transaction(self, db, parent, True, buffers, timeout_ms)
        return self._begin_read(db or self.main, None, False, buffers)

    def _check_parent(self, parent: object) -> None:
        if isinstance(parent, lmdb.Transaction):
            reason = "Read-only transactions cannot be nested."
        elif not isinstance(parent, Transaction):
            raise TypeError("parent must be a transaction")
        elif parent.engine is not self.engine:
            reason = "Parent transaction belongs to another environment."
        else:
            return
        raise invalid_parameter(reason)

    # Databases.

    def open_db(
        self,
        key: bytes | None = None,
        txn: "Transaction | lmdb.Transaction[Any] | None" = None,
        reverse_key: bool = False,
        dupsort: bool = False,
        create: bool = True,
        integerkey: bool = False,
        integerdup: bool = False,
        dupfixed: bool = False,
    ) -> "lmdb._Database":
        """Return a database's handle, creating it; the main one for None.

        A new database exists at every site; without `txn` this waits until it is permanent, also at a
        client site. With a write transaction it is created in it.
        """
        if isinstance(key, str):
            raise TypeError("Won't implicitly convert Unicode to bytes; use .encode()")
        flags = dict(zip(_DATABASE_FLAGS, (reverse_key, dupsort, integerkey, integerdup, dupfixed), strict=True))
        if key is None:
            if any(flags.values()):
                raise ValueError("May not set flags on the main database")
            return self.main
        name = bytes(memoryview(key))  # bytes() alone takes a number, too
        self._check_limit(name)
        handle = self._open_db(name, txn, flag_bits(flags), create)
        self._names.add(name)
        return handle

    def _open_db(self, name: bytes, txn: Any, flags: int, create: bool) -> "lmdb._Database":
        handle = self._catalogue(txn).get(name)
        if handle is not None:
            return handle
        if not create:
            raise not_found(name)
        if self.readonly or isinstance(txn, lmdb.Transaction):
            raise read_only("mdb_dbi_open")
        if txn is not None:
            return self._create_in(txn, name, flags)
        result = self._create(name, flags)
        if result.token is not None:
            self.engine.wait_applied(result.token.position, self.engine.until(None))
        return self._store.handle(name)

    def _create_in(self, txn: Transaction, name: bytes, flags: int) -> "lmdb._Database":
        return txn.child.create(name, flags)

    def _create(self, name: bytes, flags: int) -> CommitResult:
        """Create a database through the master. A group has only so many spare slots; the next one has more."""
        for _ in range(CREATE_ATTEMPTS):
            with suppress(lmdb.DbsFullError):
                return self._write(Batch().create(name, flags))
        return self._write(Batch().create(name, flags))

    def _check_limit(self, name: bytes) -> None:
        limit = self.asked.get("max_dbs")
        if limit is not None and name not in self._names and len(self._names) >= limit:
            raise databases_full("Please use a larger Environment(max_dbs=) parameter")

    def _catalogue(self, txn: Any) -> "Mapping[bytes | None, lmdb._Database]":
        """Return the databases as `txn` sees them."""
        if txn is None:
            return self._store.catalogue.handles
        if isinstance(txn, lmdb.Transaction):
            return self._store.load(txn).handles
        if not isinstance(txn, Transaction):
            raise TypeError("txn must be a transaction")
        if txn.engine is not self.engine:
            raise invalid_parameter("The transaction belongs to another environment.")
        return txn.child.databases().handles

    def dbs(self, txn: "Transaction | lmdb.Transaction[Any] | None" = None) -> list[bytes]:
        """Return the names of the named databases, in order."""
        self._lmdb.max_key_size()  # raises when closed
        return sorted(name for name in self._catalogue(txn) if name is not None)

    # Writes that run at the master, wherever it is.

    def write(self, batch: Batch, acks: AckPolicy | None = None, timeout_ms: int | None = None) -> CommitResult:
        """Apply `batch` at the master, whole or not at all, and wait as the ack policy says.

        Raises ConflictError when an `expect` failed, what `Transaction.commit` raises, and lmdb.Error when this
        thread has a write transaction open, which the batch would wait for.
        """
        return self._write(batch.copy(), acks, timeout_ms)

    def _write(self, batch: Batch, acks: AckPolicy | None = None, timeout_ms: int | None = None) -> CommitResult:
        """As `write`; the batch is the engine's from now on."""
        engine = self.engine
        engine.writers.check_thread()
        wait = engine.wait(acks, timeout_ms)
        engine.submit(batch, wait)
        return wait.result()

    def submit(
        self, batch: Batch, acks: AckPolicy | None = None, timeout_ms: int | None = None
    ) -> "Future[CommitResult]":
        """As `write`, without waiting for it. Cancelling the future does not undo the write.

        Does wait, as long as more than `inqueue_bytes` of writes are queued and not answered; NotAppliedError when
        that is so until the time is up. In this thread's own write transaction the write comes after it: to wait
        for the future there raises lmdb.Error.
        """
        engine = self.engine
        ticket = engine.awaited(acks, timeout_ms)
        if engine.writers.holder is not None:
            ticket.future.behind = engine.writers.obstacle()
        engine.submit(batch.copy(), ticket)
        return ticket.future

    async def awrite(self, batch: Batch, acks: AckPolicy | None = None, timeout_ms: int | None = None) -> CommitResult:
        """As `write`, for asyncio."""
        ticket, batch = self.engine.awaited(acks, timeout_ms), batch.copy()
        while not self.engine.submit_at_once(batch, ticket):
            await self._room(ticket)
        return await asyncio.wrap_future(ticket.future)

    async def _room(self, ticket: Ticket) -> None:
        """Wait until there may be room for more writes; the loop goes on."""
        inqueue, loop, room = self.engine.inqueue, asyncio.get_running_loop(), asyncio.Event()

        def call() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(room.set)

        inqueue.call_when_room(call)
        try:
            await asyncio.wait_for(room.wait(), seconds_until(ticket.deadline))
        except TimeoutError:
            raise inqueue.too_late() from None

    def put(self, key: bytes, value: bytes, db: "lmdb._Database | bytes | None" = None) -> CommitResult:
        """Store one pair, at the master."""
        return self._write(Batch().put(key, value, self._name(db)))

    def delete(self, key: bytes, db: "lmdb._Database | bytes | None" = None) -> CommitResult:
        """Delete one key, at the master."""
        return self._write(Batch().delete(key, self._name(db)))

    def get(self, key: bytes, db: "lmdb._Database | bytes | None" = None) -> bytes | None:
        """Return the value of one key at this site, or None."""
        handle = self._store.handle(db) if db is None or isinstance(db, bytes) else db
        with self._lmdb.begin(handle) as txn:
            return txn.get(key)

    def _name(self, db: "lmdb._Database | bytes | None") -> bytes | None:
        if db is None or isinstance(db, bytes):
            return db
        try:
            return self._store.catalogue.names[id(db)]
        except KeyError:
            raise OptionError("this handle is not one of this environment's databases: open_db returns one") from None

    def txn_applied(self, token: CommitToken | None, timeout_ms: int = 0) -> str:
        """Tell what became of a commit: "applied", "rolled_back", or "pending" after `timeout_ms`.

        Raises OptionError for no token. Berkeley DB: DB_ENV->txn_applied.
        """
        if token is None:
            raise OptionError("there is no token of that write: read what it would have changed")
        if timeout_ms and self._store.applied.tip.lsn < token.lsn:
            try:
                self.engine.wait_applied(token.position, self.engine.until(timeout_ms))
            except NoMasterError:
                return "pending"
        applied = self._store.applied
        if applied.tip.lsn < token.lsn:
            return "pending"
        return "applied" if applied.history.gen_at(token.lsn) == token.gen else "rolled_back"

    # What lmdb.Environment has besides.

    def path(self) -> str:
        """Return the path that the environment was opened with."""
        self._lmdb.max_key_size()  # raises when closed
        return self._path

    def stat(self) -> dict[str, int]:
        """Return statistics of the main database."""
        with self._lmdb.begin(self.main) as txn:
            return dict(txn.stat(self.main))  # type: ignore[arg-type]

    def info(self) -> dict[str, int]:
        """Return LMDB's facts; `map_size` is what was asked for, the map itself grows when it must."""
        facts: dict[str, int] = dict(self._lmdb.info())  # type: ignore[arg-type]
        facts["map_size"] = self.asked.get("map_size", facts["map_size"])
        return facts

    def flags(self) -> dict[str, bool]:
        """Return the flags, those that are hints here as they were given."""
        return {name: self.asked.get(name, value) for name, value in self._lmdb.flags().items()}

    def set_mapsize(self, map_size: int) -> None:
        """Note the size: a hint, the map grows by itself. Nothing is invalidated."""
        if map_size < 0:
            raise OverflowError("Integer argument must be >= 0")
        if not self.readonly and self.engine.writers.busy:
            raise lmdb_error(lmdb.Error, "Cannot set_mapsize while a write transaction is active")
        self._lmdb.max_key_size()  # raises when closed
        self.asked["map_size"] = map_size

    def max_key_size(self) -> int:
        """Return the longest key, and in a dupsort database the longest value, in bytes."""
        return self._lmdb.max_key_size()

    def max_readers(self) -> int:
        """Return how many read transactions can be open at a time, in all processes."""
        return self._lmdb.max_readers()

    def readers(self) -> str:
        """Describe the open read transactions."""
        return self._lmdb.readers()

    def reader_check(self) -> int:
        """Release the places of readers whose process died; return how many. The engine does it by itself."""
        return self._lmdb.reader_check()

    def lib_version(self) -> tuple[int, int, int]:
        """Return the version of the LMDB library in use."""
        return self._lmdb.lib_version()

    def sync(self, force: bool = False) -> None:
        """Flush the data file. Commits do not need it: the log is flushed before they return."""
        self._lmdb.sync(force)

    def copy(self, path: str | bytes, compact: bool = False, txn: "lmdb.Transaction[Any] | None" = None) -> None:
        """Copy the databases into a plain LMDB environment in the existing, empty directory `path`."""
        self._check_copy(compact, txn)
        export(self._store, Path(os.fsdecode(path)), txn)

    def copyfd(self, fd: int, compact: bool = False, txn: "lmdb.Transaction[Any] | None" = None) -> None:
        """As `copy`, writing the data file to a file descriptor."""
        self._check_copy(compact, txn)
        with tempfile.TemporaryDirectory(prefix="zrep-copy-") as directory:
            export(self._store, Path(directory), txn)
            with (Path(directory) / "data.mdb").open("rb") as source, os.fdopen(os.dup(fd), "wb") as target:
                shutil.copyfileobj(source, target)

    def _check_copy(self, compact: bool, txn: object) -> None:
        self._lmdb.max_key_size()  # raises when closed
        if txn is not None and not compact:
            raise TypeError("txn argument only compatible with compact=True")

    # A fork.

    def forked(self) -> None:
        """Become unusable: this process is a child, and everything here is its parent's."""
        if self._forked:  # it is the grandparent's
            return
        self._forked = True
        if not self.readonly:
            self.engine.writers.abandon(ForkError(_FORKED))
        # lmdb's destructor would wait for a write transaction whose thread exists only in the parent.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._lmdb))
        self._closed = True
        self.engine = self._lmdb = self._store = absent = Absent(lambda: ForkError(_FORKED))  # type: ignore[assignment]
        self._begin_read = lambda *args: absent.begin


_FORKED = "the environment was opened before a fork and is the parent's: fork before opening, or spawn the process"


class Absent:
    """Stands for an engine or a store that is not there: any use raises the reason."""

    def __init__(self, reason: Callable[[], Exception]) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise self._reason()


def _after_fork() -> None:
    for env in list(_environments):
        env.forked()


os.register_at_fork(after_in_child=_after_fork)
