"""Plain LMDB environments, as py-lmdb and every LMDB tool have them: written by `copy`, read, and adopted.

In one, the main database is LMDB's main one and holds the names of the others among its keys. `zrep.open`
makes the home's first content of one that it finds in the directory:

    data.mdb, lock.mdb  ─►  adopting/  ─► its pairs are written, and permanent ─►  adopted/, which may be deleted

A crash in between leaves `adopting`, and the next open does it again: the same pairs once more.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from zrep.errors import StorageError
from zrep.options import MIB
from zrep.ports import Applied
from zrep.storage.catalogue import DUPSORT, Catalogue, flag_bits
from zrep.storage.reader import StoreReader
from zrep.storage.store import ENGINE, Store

_FILES = ("data.mdb", "lock.mdb")
_MAX_DBS = 1024
_PORTION_PAIRS = 1000
_PORTION_BYTES = 1 * MIB


class Database(NamedTuple):
    """A database of a plain environment."""

    name: bytes | None
    flags: Any
    """As `open_db` takes them."""
    pairs: Iterator[tuple[bytes, bytes]]


class PlainReader:
    """A plain environment, read-only; as `StoreReader` is for a home."""

    def __init__(self, path: Path) -> None:
        try:
            self.env = lmdb.open(str(path), readonly=True, max_dbs=_MAX_DBS, create=False)
        except lmdb.Error as error:
            raise StorageError(f"{path} cannot be read: {error}") from None
        self.main = self.env.open_db()
        self.catalogue = Catalogue({None: self.main, **{name: self.env.open_db(name) for name in self.env.dbs()}})

    @property
    def store(self) -> "PlainReader":
        return self

    def load(self, txn: "lmdb.Transaction[Any]") -> Catalogue:
        return self.catalogue

    @property
    def applied(self) -> Applied:
        return Applied()

    def handle(self, name: bytes | None) -> "lmdb._Database":
        return self.catalogue.handle(name)

    def databases(self) -> Iterator[Database]:
        """Return every database with its pairs, in order; those of the main one without the others' names."""
        with self.env.begin() as txn:
            for name, handle in self.catalogue.handles.items():
                pairs = iter(txn.cursor(handle))
                if name is None:
                    pairs = (pair for pair in pairs if pair[0] not in self.catalogue.handles)
                yield Database(name, handle.flags(), pairs)

    def close(self) -> None:
        self.env.close()


def portions(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Cut pairs into lists of which each fits a transaction."""
    portion: list[tuple[bytes, bytes]] = []
    nbytes = 0
    for key, value in pairs:
        portion.append((key, value))
        nbytes += len(key) + len(value)
        if nbytes >= _PORTION_BYTES or len(portion) >= _PORTION_PAIRS:
            yield portion
            portion, nbytes = [], 0
    if portion:
        yield portion


def is_plain(path: Path) -> bool:
    """Whether the directory holds a plain environment and no home."""
    return (path / _FILES[0]).is_file() and not (path / "site.meta").exists()


def put_aside(path: Path) -> Path | None:
    """Make room for a home where a plain environment is; return where it is to be adopted from, if there is one."""
    adopting = path / "adopting"
    if is_plain(path):
        adopting.mkdir(exist_ok=True)
        for name in reversed(_FILES):
            if (path / name).exists():
                (path / name).rename(adopting / name)
    return adopting if adopting.exists() else None


def adopted(adopting: Path) -> None:
    """Note that everything in it is permanent in the home."""
    adopting.rename(adopting.with_name("adopted"))


def export(store: Store | StoreReader | PlainReader, directory: Path, txn: "lmdb.Transaction[Any] | None") -> None:
    """Write the databases as `txn`, or the newest prefix, has them into `directory`, empty and existing.

    Raises lmdb.Error, also when the main database has a key that is a database's name.
    """
    if txn is None:
        with store.env.begin() as newest:
            _export(store, directory, newest)
    else:
        _export(store, directory, txn)


def _export(store: Store | StoreReader | PlainReader, directory: Path, txn: "lmdb.Transaction[Any]") -> None:
    handles = store.load(txn).handles
    size = store.env.info()["map_size"]
    target = lmdb.open(str(directory), map_size=size, max_dbs=len(handles), create=False, sync=False, **ENGINE)
    try:
        for name, source in handles.items():
            _copy_database(txn, source, target, name)
        target.sync(True)
    finally:
        target.close()


def _copy_database(
    txn: "lmdb.Transaction[Any]", source: "lmdb._Database", target: lmdb.Environment, name: bytes | None
) -> None:
    flags = source.flags()
    database = target.open_db(name, **flags) if name is not None else target.open_db()
    with target.begin(write=True) as writing, txn.cursor(source) as reading, writing.cursor(database) as cursor:
        cursor.putmulti(reading, append=not flag_bits(flags) & DUPSORT)
