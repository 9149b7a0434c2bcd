"""The LMDB environment of a site: the image of a permanent prefix of its log (`zrep.ports.Store`).

    __zrep        bookkeeping: which prefix this is, gen history, configuration, sessions
    __zrep.dbs    the catalogue: user database → slot
    __zrep.main   the user's main database
    __zrep.<n>    slots, see `catalogue`

It can always be thrown away and rebuilt from a snapshot and the log. It is flushed once per commit and
without LMDB's second flush for the meta page (`metasync=False`): an operating system's crash may undo its
last commits, never corrupt it, and the log replays them. How transactions change it is `image`'s business.
"""

import errno
import hashlib
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
from zrep.errors import DiskFullError, ProtocolError, StorageError, ZrepError
from zrep.options import MIB, Options
from zrep.ports import Applied
from zrep.records import Record
from zrep.storage.catalogue import Catalogue, Slots, flag_bits
from zrep.storage.failures import not_found
from zrep.storage.files import sync_directory
from zrep.storage.image import APPLIED, Image

MAX_DBS = 256
"""LMDB copies one entry per possible database into every transaction: 1024 nearly doubles a read's begin."""
_LENGTH = struct.Struct("<I")
_LOW_SPACE = 1 * MIB
_APPLY_BYTES = 16 * MIB
_T = TypeVar("_T")
_ENGINE: dict[str, Any] = {"lib_version": 0} if int(lmdb.__version__.split(".")[0]) >= 3 else {}
"""py-lmdb 3 bundles two engines; ours is LMDB 0.9, whatever the environment variables say."""


class Store:
    """The store of one site. All methods but `begin` and `handle` belong to the engine's thread."""

    def __init__(self, path: Path, options: Options, *, sync: bool = True) -> None:
        """Open the store in the directory `path`, creating it there. `sync=False`: never flush."""
        self.path = path
        self._map_limit = options.map_bytes
        if not path.exists():
            try:
                _create(path, options)
            except (OSError, lmdb.Error) as error:
                raise StorageError(f"cannot create {path}: {error}; correct that and start again") from error
        self.env = _open(path, options, sync)
        self.env.reader_check()
        with self.translating(), self.env.begin(write=True) as txn:
            self.slots = Slots(self.env, txn)
            self.main = self.slots.main
            self.bookkeeping = self.env.open_db(b"__zrep", txn=txn)
            self.catalogue = self.slots.load(txn)
            written = txn.get(APPLIED, db=self.bookkeeping)
        self.applied = self._decode(written) if written is not None else Applied()
        self.outgrown = False
        """Whether a transaction found the map full; it grows before the next group."""
        self._stocked: Catalogue | None = None
        self.refill()

    def _decode(self, written: bytes) -> Applied:
        try:
            return codec.decode_applied(written)
        except ProtocolError as error:
            raise StorageError(f"{self.path} cannot be used: {error}") from None

    def close(self) -> None:
        self.env.close()

    def apply(self, records: Sequence[Record]) -> None:
        """Add the records after `applied`, all permanent; a great many of them in several transactions.

        Raises DiskFullError, and StorageError for what stops the site; `applied` says what is in the store then.
        """
        start, nbytes = 0, 0
        for index, record in enumerate(records):
            nbytes += len(record.raw)
            if nbytes >= _APPLY_BYTES or index == len(records) - 1:
                self._growing(partial(self._apply, records[start : index + 1]))
                start, nbytes = index + 1, 0

    def _apply(self, records: Sequence[Record]) -> None:
        self._image(records).commit()

    def image(self, tail: Sequence[Record] = ()) -> Image:
        """Begin the write transaction of a group that builds on `tail`, the records after `applied`."""
        if self.outgrown:
            self.grow()
        self.refill()
        return self._growing(partial(self._image, tail))

    def _growing(self, work: Callable[[], _T]) -> _T:
        """Do `work`, a write transaction that ends itself when it fails, with a larger map if this one is full."""
        with self.translating():
            while True:
                try:
                    return work()
                except lmdb.MapFullError:
                    self.grow()

    def _image(self, records: Sequence[Record]) -> Image:
        image = Image(self)
        try:
            for record in records:
                image.replay(record)
        except BaseException:
            image.abort()
            raise
        return image

    def became(self, applied: Applied, catalogue: Catalogue) -> None:
        """Note what an image's commit has made of the store."""
        self.applied, self.catalogue = applied, catalogue

    def refill(self) -> None:
        """Create the spare slots that are missing; no transaction writes at this moment."""
        if self._stocked is self.catalogue:
            return
        created: list[int] = []
        try:
            with self.translating(), self.env.begin(write=True) as txn:
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
        self.env.set_mapsize(size * 2)
        self.outgrown = False

    def begin(self) -> "lmdb.Transaction":
        """Return a read transaction on the newest permanent prefix that is applied."""
        return self.env.begin(db=self.main)

    def nest(self, parent: "lmdb.Transaction", buffers: bool) -> "lmdb.Transaction":
        """Begin a write transaction inside another one, on any thread."""
        begin: Any = self.env.begin
        nested: lmdb.Transaction = begin(self.main, parent, True, buffers)
        return nested

    def handle(self, name: bytes | None) -> "lmdb._Database":
        """Return the handle of a user database. Raises lmdb.NotFoundError."""
        try:
            return self.catalogue.handles[name]
        except KeyError:
            raise not_found(name) from None

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
        """Raise what an error of LMDB means for the site. A full disk is not a failing one (F24)."""
        try:
            yield
        except ZrepError:
            raise
        except lmdb.Error as error:
            space = os.statvfs(self.path)
            low = space.f_bavail * space.f_frsize < _LOW_SPACE
            if isinstance(error, lmdb.DiskError) or (low and error.code == errno.EIO):
                raise DiskFullError(f"no space left for {self.path}: free some, writes then go on ({error})") from error
            raise StorageError(f"writing {self.path} failed: {error}; check the disk, start the site again") from error


def _open(path: Path, options: Options, sync: bool) -> lmdb.Environment:
    """Open LMDB with the largest map that the system grants."""
    size = options.map_bytes
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=size,
                max_dbs=MAX_DBS,
                max_readers=options.max_readers,
                metasync=False,
                sync=sync,
                mode=0o700,
                **_ENGINE,
            )
        except (lmdb.MemoryError, lmdb.InvalidParameterError) as error:
            size //= 2
            if size < MIB:
                raise StorageError(f"no address space for the map of {path}: {error}") from None
        except (OSError, lmdb.Error) as error:
            raise StorageError(f"{path} cannot be opened: {error}") from None


def _create(path: Path, options: Options) -> None:
    """Create an empty environment beside its place, then move it there: a crash leaves all or nothing (F2)."""
    fresh = path.with_name(path.name + ".new")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    env = _open(fresh, options, sync=True)
    with env.begin(write=True) as txn:
        Slots(env, txn)
        env.open_db(b"__zrep", txn=txn)
    env.sync(True)
    env.close()
    fresh.rename(path)
    for directory in (path, path.parent):
        sync_directory(directory)
