"""The environment in py-lmdb's shape: `zrep.open`, transactions, databases, and the writes that are forwarded.

It holds nothing itself: reads go straight to LMDB, writes to the engine. What differs from py-lmdb is in
docs/lmdb-differences.md, with the reasons.
"""

import asyncio
import ctypes
import errno
import os
import random
import shutil
import tempfile
import time
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
from zrep.opening import Opened
from zrep.options import AckPolicy, Options
from zrep.replica.replica import Replica
from zrep.solo import Solo
from zrep.storage.catalogue import flag_bits
from zrep.storage.failures import databases_full, lmdb_error, not_found
from zrep.storage.plain import PlainReader, adopted, export, is_plain, portions, put_aside
from zrep.storage.reader import StoreReader
from zrep.storage.store import Store
from zrep.transaction import Transaction

OPEN_TIMEOUT_MS = 10_000
CREATE_ATTEMPTS = 50
_DATABASE_FLAGS = ("reverse_key", "dupsort", "integerkey", "integerdup", "dupfixed")
_environments: "weakref.WeakSet[Environment]" = weakref.WeakSet()


def open(
    path: str | bytes | os.PathLike[str],
    map_size: int = 10485760,
    subdir: bool = True,
    readonly: bool = False,
    metasync: bool = True,
    sync: bool = True,
    map_async: bool = False,
    mode: int = 0o755,
    create: bool = True,
    readahead: bool = True,
    writemap: bool = False,
    meminit: bool = True,
    max_readers: int = 126,
    max_dbs: int | None = None,
    max_spare_txns: int = 0,
    lock: bool = True,
    lib_version: int | None = None,
    *,
    options: Options | None = None,
    **zrep_options: Any,
) -> "Environment":
    """Open the home at `path` as a group of one, creating it; arguments as lmdb.open's, and zrep's own.

    A plain LMDB environment in the directory becomes the home's first content (`storage.plain`).

    `options` or single options as keywords (`ack_timeout_ms=500`) come before `ZREP_…` variables. Of lmdb's,
    `map_size` and `max_readers` are hints, `max_dbs` limits this environment's handles (None: no limit),
    `sync=False` founds a group with durability "process", and tuning of LMDB's files has no effect. The
    home of a site with more than one voter is refused: start the `Site`. Raises OptionError for what
    cannot be, HomeInUseError, StorageError.
    """
    asked: dict[str, Any] = {
        "subdir": subdir,
        "readonly": readonly,
        "metasync": metasync,
        "sync": sync,
        "map_async": map_async,
        "readahead": readahead,
        "writemap": writemap,
        "meminit": meminit,
        "lock": lock,
        "map_size": map_size,
        "max_dbs": max_dbs,
    }
    numbers = {"map_size": map_size, "max_readers": max_readers, "max_dbs": max_dbs, "lib_version": lib_version}
    for name, number in numbers.items():
        if number is not None and number < 0:
            raise OverflowError(f"{name} must be >= 0")
    _refuse_the_impossible(asked, lib_version)
    if max_readers == 0:
        raise lmdb_error(lmdb.InvalidParameterError, "mdb_env_set_maxreaders", errno.EINVAL)
    settings = dict(zrep_options)
    settings.setdefault("max_readers", max(max_readers, Options().max_readers))
    if not sync:
        settings.setdefault("durability", "process")
    options = Options.from_mapping(settings, "open", options or Options.from_environ())
    shown = os.fsdecode(path)
    _check_path(shown, create=create and not readonly)
    if readonly:
        return _open_read_only(shown, asked)
    adopting = put_aside(Path(shown))
    env = _open(shown, options, asked)
    if adopting is not None:
        _adopt(env, adopting)
    return env


def _open(path: str, options: Options, asked: dict[str, Any]) -> "Environment":
    opened = Opened(path, options)
    try:
        env = Environment(_engine(opened), opened, path, owned=True)
    except BaseException:
        opened.close()
        raise
    env.asked = asked
    try:
        env.await_writable(OPEN_TIMEOUT_MS)
    except BaseException:
        env.close()
        raise
    return env


def _adopt(env: "Environment", adopting: Path) -> None:
    """Write the pairs of a plain LMDB environment; a crash on the way leaves it to be done again."""
    plain = PlainReader(adopting)
    try:
        for name, flags, pairs in plain.databases():
            db = env.main if name is None else env.open_db(name, **flags)
            for portion in portions(pairs):
                with env.begin(write=True, db=db) as txn, txn.cursor() as cursor:
                    cursor.putmulti(portion)
    except BaseException:
        env.close()
        raise
    finally:
        plain.close()
    adopted(adopting)


def _open_read_only(path: str, asked: dict[str, Any]) -> "Environment":
    """Open the home's store beside, or without, the process that writes it."""
    reason = "Cannot start write transaction with read-only environment."
    engine = _Absent(lambda: lmdb_error(lmdb.ReadonlyError, reason, errno.EACCES))
    reader = PlainReader(Path(path)) if is_plain(Path(path)) else StoreReader(Path(path))
    env = Environment(engine, reader, path, owned=True)  # type: ignore[arg-type]
    env.asked, env.readonly = asked, True
    return env


def _refuse_the_impossible(asked: Mapping[str, Any], lib_version: int | None) -> None:
    if not asked["subdir"]:
        raise OptionError("subdir=False is not possible: a home is a directory, with a log beside the data")
    if asked["writemap"]:
        raise OptionError("writemap=True is not possible: writes that may still be rolled back must not reach the map")
    if not asked["lock"]:
        raise OptionError("lock=False is not possible: the engine and other processes share the data by LMDB's locks")
    if lib_version:
        raise OptionError(f"lib_version={lib_version} is not possible: every site uses LMDB 0.9, lib_version=0")


def _check_path(path: str, create: bool) -> None:
    """Fail as lmdb does where there is no directory to open, or none to create it in."""
    if create and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not create and not os.path.isdir(path):
        raise lmdb_error(lmdb.Error, path, errno.ENOENT)


def _engine(opened: Opened) -> Engine:
    """Start the engine of a group of one."""
    opened.found(time.time_ns())
    replica = Replica(
        meta=opened.meta,
        incarnation=opened.home.incarnation,
        log=opened.log,
        applied=opened.store.applied,
        options=opened.options,
        rng=random.SystemRandom(),
        now=time.monotonic_ns(),
    )
    if len(replica.config.members) > 1:
        raise OptionError(f"{opened.home.path} belongs to a group of several sites: start it as a Site")
    engine = Engine(
        replica=replica,
        log=opened.log,
        metafile=opened.home.metafile,
        store=opened.store,
        transport=Solo(),
        options=opened.options,
        name=opened.home.path.name,
        on_event=lambda event: None,
    )
    engine.start()
    return engine


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
        self._writer: weakref.ref[Transaction] | None = None
        self._closed = False
        _environments.add(self)

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.__dict__.get("_owned") and not self._closed:
            self.close()

    def close(self) -> None:
        """Stop, flush and close; what is open ends. Of a Site: stop the site instead. Idempotent."""
        if not self._owned:
            raise ZrepError("this environment belongs to a Site: stop the site")
        if not self._closed:
            self._closed = True
            if not self.readonly:
                self.engine.stop()
            self._opened.close()

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
        *,
        token: CommitToken | None = None,
        linearizable: bool = False,
        timeout_ms: int | None = None,
    ) -> Any:
        """Begin a transaction: with `write` a `Transaction`, otherwise a plain lmdb.Transaction.

        A read sees the newest permanent prefix that this site has. `token` first waits until that commit is
        in it, `linearizable` until everything acknowledged anywhere before this call is. A write waits, as
        on LMDB's writer lock, for its turn. `timeout_ms` limits the wait: NoMasterError; NotMasterError at
        a client site.
        """
        if not (write or parent or token or linearizable):
            return self._begin_read(db or self.main, None, False, buffers)
        if token is not None:
            self.engine.wait_applied(token.position, self._timeout(timeout_ms))
        if linearizable:
            lsn = self.engine.read_index(self._timeout(timeout_ms))
            self.engine.wait_applied(Position(0, lsn), self._timeout(timeout_ms))
        if write:
            if parent is not None:
                self._check_parent(parent)
            return Transaction(self, db, parent, True, buffers, timeout_ms)
        if parent is not None:
            self._check_parent(parent)
            reason = "Read-only child transactions require the LMDB 1.0 engine."
            raise lmdb_error(lmdb.InvalidParameterError, reason, errno.EINVAL)
        return self._begin_read(db or self.main, None, False, buffers)

    def _timeout(self, timeout_ms: int | None) -> int:
        return self.engine.options.ack_timeout_ms if timeout_ms is None else timeout_ms

    def _check_parent(self, parent: object) -> None:
        if isinstance(parent, lmdb.Transaction):
            reason = "Read-only transactions cannot be nested."
        elif not isinstance(parent, Transaction):
            raise TypeError("parent must be a transaction")
        elif parent.engine is not self.engine:
            reason = "Parent transaction belongs to another environment."
        else:
            return
        raise lmdb_error(lmdb.InvalidParameterError, reason, errno.EINVAL)

    def writing(self, txn: Transaction) -> None:
        """Remember the one write transaction that may be open, for the sake of a fork."""
        self._writer = weakref.ref(txn)

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
        self._check_limit(bytes(key))
        handle = self._open_db(bytes(key), txn, flag_bits(flags), create)
        self._names.add(bytes(key))
        return handle

    def _open_db(self, name: bytes, txn: Any, flags: int, create: bool) -> "lmdb._Database":
        handle = self._catalogue(txn).get(name)
        if handle is not None:
            return handle
        if not create:
            raise not_found(name)
        if self.readonly or isinstance(txn, lmdb.Transaction):
            raise lmdb_error(lmdb.ReadonlyError, "mdb_dbi_open", errno.EACCES)
        if txn is not None:
            return self._create_in(txn, name, flags)
        self.engine.writers.check_thread()
        result = self._create(name, flags)
        if result.token is not None:
            self.engine.wait_applied(result.token.position, self._timeout(None))
        return self._store.handle(name)

    def _create_in(self, txn: Transaction, name: bytes, flags: int) -> "lmdb._Database":
        return txn.child.create(name, flags)

    def _create(self, name: bytes, flags: int) -> CommitResult:
        """Create a database through the master. A group has only so many spare slots; the next one has more."""
        for _ in range(CREATE_ATTEMPTS):
            with suppress(lmdb.DbsFullError):
                return self.write(Batch().create(name, flags))
        return self.write(Batch().create(name, flags))

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
        return txn.child.catalogue.handles

    def dbs(self, txn: "Transaction | lmdb.Transaction[Any] | None" = None) -> list[bytes]:
        """Return the names of the named databases, in order."""
        self._lmdb.max_key_size()  # raises when closed
        return sorted(name for name in self._catalogue(txn) if name is not None)

    # Writes that run at the master, wherever it is.

    def write(self, batch: Batch, acks: AckPolicy | None = None, timeout_ms: int | None = None) -> CommitResult:
        """Apply `batch` at the master, whole or not at all, and wait as the ack policy says.

        Raises ConflictError when an `expect` failed, and what `Transaction.commit` raises.
        """
        ticket = self.engine.ticket(acks, timeout_ms)
        self.engine.submit(batch, ticket)
        return ticket.wait()

    def submit(
        self, batch: Batch, acks: AckPolicy | None = None, timeout_ms: int | None = None
    ) -> "Future[CommitResult]":
        """As `write`, without waiting. Cancelling the future does not undo the write."""
        return self.engine.submit_future(batch, acks, timeout_ms)

    async def awrite(self, batch: Batch, acks: AckPolicy | None = None, timeout_ms: int | None = None) -> CommitResult:
        """As `write`, for asyncio."""
        return await asyncio.wrap_future(self.submit(batch, acks, timeout_ms))

    def put(self, key: bytes, value: bytes, db: "lmdb._Database | bytes | None" = None) -> CommitResult:
        """Store one pair, at the master."""
        return self.write(Batch().put(key, value, self._name(db)))

    def delete(self, key: bytes, db: "lmdb._Database | bytes | None" = None) -> CommitResult:
        """Delete one key, at the master."""
        return self.write(Batch().delete(key, self._name(db)))

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

    def txn_applied(self, token: CommitToken, timeout_ms: int = 0) -> str:
        """Tell what became of a commit: "applied", "rolled_back", or "pending" after `timeout_ms`.

        Berkeley DB: DB_ENV->txn_applied.
        """
        if timeout_ms and self._store.applied.tip.lsn < token.lsn:
            try:
                self.engine.wait_applied(token.position, timeout_ms)
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
        txn = self._writer() if self._writer is not None else None
        if txn is not None:
            txn.child.abandon(ForkError(_FORKED))
        # lmdb's destructor would wait for a write transaction whose thread exists only in the parent.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._lmdb))
        self._closed = True
        self.engine = self._lmdb = self._store = absent = _Absent(lambda: ForkError(_FORKED))  # type: ignore[assignment]
        self._begin_read = lambda *args: absent.begin


_FORKED = "the environment was opened before a fork and is the parent's: fork before opening, or spawn the process"


class _Absent:
    """Stands for an engine or a store that is not there: any use raises the reason."""

    def __init__(self, reason: Callable[[], Exception]) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise self._reason()


def _after_fork() -> None:
    for env in list(_environments):
        env.forked()


os.register_at_fork(after_in_child=_after_fork)
