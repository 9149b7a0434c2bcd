"""The LMDB environment of a site: the image of a permanent prefix of its log (`zrep.ports.Store`).

    __zrep        bookkeeping: which prefix this is, gen history, configuration, sessions
    __zrep.dbs    the catalogue: user database → slot
    __zrep.main   the user's main database
    __zrep.<n>    slots, see `catalogue`

It can always be thrown away and rebuilt from a snapshot and the log. No commit flushes it: after a crash
of the operating system it is what its last checkpoint says (`checkpoint`), and the log replays the rest.
How transactions change it is `image`'s business.
"""

import errno
import hashlib
import logging
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from zrep import codec
from zrep.errors import JOIN_ANEW, DiskFullError, ProtocolError, StorageError, ZrepError
from zrep.ids import Nanoseconds
from zrep.options import MIB, Options
from zrep.ports import Applied
from zrep.records import Record, Txn
from zrep.storage import checkpoint
from zrep.storage.catalogue import BOOKKEEPING, Catalogue, Slots, flag_bits
from zrep.storage.checkpoint import Checkpoints, DamagedStoreError
from zrep.storage.files import SUSPECT, suspect, sync_directory
from zrep.storage.image import APPLIED, Image

MAX_DBS = 256
"""LMDB copies one entry per possible database into every transaction: 1024 nearly doubles a read's begin."""
_LENGTH = struct.Struct("<I")
_LOW_SPACE = 1 * MIB
_APPLY_BYTES = 16 * MIB
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.NotFoundError, lmdb.BadTxnError)
"""How LMDB says, while the store is opened, that its pages are not what was written."""
_DAMAGE_MET = (lmdb.CorruptedError, lmdb.PageNotFoundError)
"""How it says so later; the others may mean something else then."""
_REFUSALS = (lmdb.InvalidError, lmdb.VersionMismatchError)
"""How LMDB refuses one of its two files; it does not say which."""
_T = TypeVar("_T")
_logger = logging.getLogger("zrep.storage")
ENGINE: dict[str, Any] = {"lib_version": 0} if int(lmdb.__version__.split(".")[0]) >= 3 else {}
"""py-lmdb 3 bundles two engines; ours is LMDB 0.9, whatever the environment variables say."""


class Store:
    """The store of one site. All methods but `begin` and `handle` belong to the engine's thread."""

    def __init__(self, path: Path, options: Options, *, log: Path | None = None) -> None:
        """Open the store in the directory `path`, creating it there; one that lost what was flushed is empty again.

        `log` is where its records are from: flushed there before they are durable here.
        """
        self.path = path
        self._map_limit = options.map_bytes
        self.sessions_until_ms = 0
        """No session has to be forgotten before a record of that time; perhaps not then, either."""
        self.outgrown = False
        """Whether a transaction found the map full; it grows before the next one begins."""
        self._stocked: Catalogue | None = None
        try:
            self._load(options, log)
        except DamagedStoreError as error:
            _set_aside(path, error)
            self._load(options, log)

    def _load(self, options: Options, log: Path | None) -> None:
        """Open what is there, or an empty store. Raises DamagedStoreError when that cannot be believed."""
        if (self.path / SUSPECT).exists():
            raise DamagedStoreError(f"{self.path} was found damaged while it was in use")
        restored = checkpoint.recover(self.path) if self.path.exists() else None
        if not self.path.exists():
            try:
                _create(self.path, options)
            except (OSError, lmdb.Error) as error:
                raise StorageError(f"cannot create {self.path}: {error}; correct that and start again") from error
        self.env = _open(self.path, options)
        try:
            self.env.reader_check()
            with self._believing():
                self.bookkeeping = self.env.open_db(BOOKKEEPING, create=False)  # writes nothing
                with self.env.begin() as txn:
                    written = txn.get(APPLIED, db=self.bookkeeping)
            self.applied = self._decode(written) if written is not None else Applied()
            if restored not in (None, self.applied.tip):
                raise StorageError(f"{self.path} does not stand where its checkpoint says: {JOIN_ANEW}")
            self.checkpoints = Checkpoints(self.path, self.env, log=log)
        except BaseException:
            self.env.close()
            raise
        try:
            with self._believing():
                with self.begin_write() as txn:
                    self.slots = Slots(self.env, txn)
                    self.main = self.slots.main
                    self.catalogue = self.slots.load(txn)
                self._refill()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _believing(self) -> Iterator[None]:
        """Raise DamagedStoreError for damage that LMDB finds, else what an error of LMDB means for the site."""
        try:
            yield
        except _DAMAGE as error:
            raise DamagedStoreError(f"{self.path} is damaged: {error}") from error
        except lmdb.Error as error:
            raise self.meaning(error) from error

    def _decode(self, written: bytes) -> Applied:
        try:
            return codec.decode_applied(written)
        except ProtocolError as error:
            raise StorageError(f"{self.path} cannot be used: {error}") from None

    def close(self) -> None:
        """Take the last checkpoint and close LMDB; nothing in a forked child, where all of it is the parent's."""
        if not self.checkpoints.inherited:
            self.checkpoints.close(self.applied.tip)
            self.env.close()

    def apply(self, records: Sequence[Record], like: Catalogue | None = None) -> None:
        """Add the records after `applied`, all permanent; a great many of them in several transactions.

        `like` is what the databases were when these ran first, if they did here.
        Raises DiskFullError, and StorageError for what stops the site; `applied` says what is in the store then.
        """
        start, nbytes = 0, 0
        for index, record in enumerate(records):
            nbytes += len(record.raw)
            if nbytes >= _APPLY_BYTES or index == len(records) - 1:
                self._growing(partial(self._apply, records[start : index + 1], like))
                start, nbytes = index + 1, 0

    def _apply(self, records: Sequence[Record], like: Catalogue | None) -> None:
        self._image(records, (), like).commit()

    def image(self, tail: Sequence[Record] = (), txns: Sequence[Txn] = (), like: Catalogue | None = None) -> Image:
        """Begin the write transaction of a group: it builds on `tail`, the records after `applied`, and has `txns`.

        `like` is what their databases were when they ran first.
        """
        if self.outgrown:
            self.grow()
        self.refill()
        return self._growing(partial(self._image, tail, txns, like))

    def _growing(self, work: Callable[[], _T]) -> _T:
        """Do `work`, a write transaction that ends itself when it fails, with a larger map if this one is full."""
        while True:
            try:
                return work()
            except lmdb.MapFullError:
                with self.translating():
                    self.grow()
            except lmdb.Error as error:
                raise self.meaning(error) from error

    def _image(self, records: Sequence[Record], txns: Sequence[Txn] = (), like: Catalogue | None = None) -> Image:
        image = Image(self, like)
        try:
            for record in records:
                image.replay(record)
            for txn in txns:
                image.perform(txn.ops)
        except BaseException:
            image.abort()
            raise
        return image

    def became(self, image: Image, nbytes: int) -> None:
        """Note what an image's commit has made of the store, and about how much it wrote."""
        reconfigured = image.applied.config is not self.applied.config
        self.applied, self.catalogue = image.applied, image.catalogue
        self.sessions_until_ms = image.sessions_until_ms
        self.checkpoints.wrote(nbytes)
        if reconfigured:
            # opening asks the store, before it has the log, who votes and whether the log was flushed;
            # until the disk has the answer, every flush is a real one
            self.checkpoints.hasten()

    def checkpoint(self, now: Nanoseconds, collect: Callable[[], None]) -> None:
        """Start a checkpoint if one is due. `collect` has the engine call `checkpoints.collect`, from any thread."""
        self.checkpoints.tick(now, self.applied.tip, collect)

    def refill(self) -> None:
        """Create the spare slots that are missing; no transaction writes at this moment."""
        if self._stocked is not self.catalogue:
            with self.translating():
                self._refill()

    def _refill(self) -> None:
        created: list[int] = []
        try:
            with self.begin_write() as txn:
                created.extend(self.slots.create(txn, flags) for flags in self.slots.missing(self.catalogue))
        except BaseException:
            self.slots.forget(created)
            raise
        self._stocked = self.catalogue

    def grow(self) -> None:
        """Double the map. Open read transactions end by this: their next use raises lmdb.Error."""
        size = self.env.info()["map_size"]
        if size * 2 > max(self._map_limit, 1 << 46):
            raise StorageError(f"{self.path} has filled the largest map there is, {size} bytes: delete some data")
        self.checkpoints.unpin()
        self.env.set_mapsize(size * 2)
        self.outgrown = False

    def begin(self) -> "lmdb.Transaction":
        """Return a read transaction on the newest permanent prefix that is applied."""
        return self.env.begin(db=self.main)

    def begin_write(self, db: "lmdb._Database | None" = None) -> "lmdb.Transaction":
        """Begin the write transaction; what the disk can be brought back to is safe from it."""
        self.checkpoints.ensure(self.applied.tip)
        return self.env.begin(db=db, write=True)

    def nest(self, parent: "lmdb.Transaction", buffers: bool) -> "lmdb.Transaction":
        """Begin a write transaction inside another one, on any thread."""
        begin: Any = self.env.begin
        nested: lmdb.Transaction = begin(self.main, parent, True, buffers)
        return nested

    def load(self, txn: "lmdb.Transaction[Any]") -> Catalogue:
        """Return the catalogue as `txn` sees it."""
        return self.slots.load(txn)

    def handle(self, name: bytes | None) -> "lmdb._Database":
        """Return the handle of a user database. Raises lmdb.NotFoundError."""
        return self.catalogue.handle(name)

    def digest(self) -> str:
        """Return a hash over all user databases. Equal applied LSNs have equal digests (I17)."""
        total = hashlib.blake2b(digest_size=16)
        with self.env.begin() as txn:
            handles = dict(self.slots.load(txn).handles)
            for name in sorted(handles, key=lambda name: (name is not None, name)):
                total.update(repr((name, flag_bits(handles[name].flags()))).encode())
                with txn.cursor(handles[name]) as cursor:
                    for key, value in cursor:
                        total.update(_LENGTH.pack(len(key)) + key + _LENGTH.pack(len(value)) + value)
        return total.hexdigest()

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Raise what an error of LMDB means for the site."""
        try:
            yield
        except lmdb.Error as error:
            raise self.meaning(error) from error

    def meaning(self, error: lmdb.Error) -> ZrepError:
        """Return what an error of LMDB means for the site. A full disk is not a failing one."""
        if isinstance(error, ZrepError):
            return error
        if isinstance(error, _DAMAGE_MET):
            suspect(self.path)
            return StorageError(f"{self.path} is damaged: {error}; start the site again, the log builds it again")
        space = os.statvfs(self.path)
        low = space.f_bavail * space.f_frsize < _LOW_SPACE
        if isinstance(error, lmdb.DiskError) or (low and error.code == errno.EIO):
            return DiskFullError(f"no space left for {self.path} ({error}), nothing was lost: free some")
        return StorageError(f"writing {self.path} failed: {error}; check the disk, start the site again")


def _set_aside(path: Path, error: DamagedStoreError) -> None:
    """Put a store that cannot be brought back where a person can look at it."""
    _logger.error("store set aside, the log builds it again reason=%s", error)
    aside = path.with_name(path.name + ".damaged")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    except OSError as problem:
        raise StorageError(f"cannot set {path} aside: {problem}; remove it and start again") from problem


def _open(path: Path, options: Options) -> lmdb.Environment:
    """Open LMDB with the largest map that the system grants."""
    size = options.map_bytes
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=size,
                max_dbs=MAX_DBS,
                max_readers=options.max_readers + checkpoint.PINS,
                max_spare_txns=1,
                sync=False,
                mode=0o700,
                **ENGINE,
            )
        except (lmdb.MemoryError, lmdb.InvalidParameterError) as error:
            size //= 2
            if size < MIB:
                raise StorageError(f"no address space for the map of {path}: {error}") from None
        except _REFUSALS as error:
            _check_data_file(path)
            raise StorageError(
                f"{path} cannot be opened: {error}; its lock.mdb is damaged or of another LMDB: stop the programs "
                f"that read the store and start again"
            ) from None
        except (OSError, lmdb.Error) as error:
            raise StorageError(f"{path} cannot be opened: {error}") from None


def _check_data_file(path: Path) -> None:
    """Raise DamagedStoreError if LMDB refuses the data file alone."""
    try:
        lmdb.open(str(path), readonly=True, lock=False, create=False, **ENGINE).close()
    except _REFUSALS as error:
        raise DamagedStoreError(str(error)) from None


def _create(path: Path, options: Options) -> None:
    """Create an empty environment beside its place, then move it there: a crash leaves all or nothing."""
    fresh = path.with_name(path.name + ".new")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.forget(path)
    env = _open(fresh, options)
    with env.begin(write=True) as txn:
        Slots(env, txn)
        env.open_db(BOOKKEEPING, txn=txn)
    env.sync(True)
    env.close()
    fresh.rename(path)
    for directory in (path, path.parent):
        sync_directory(directory)
