"""A copy of the user's databases as a plain LMDB environment, which py-lmdb and every LMDB tool can open.

The main database is LMDB's main one again, named databases are named ones, and nothing of zrep's is in it.
"""

from pathlib import Path
from typing import Any

import lmdb

from zrep.storage.catalogue import DUPSORT, flag_bits
from zrep.storage.reader import StoreReader
from zrep.storage.store import ENGINE, Store


def export(store: Store | StoreReader, directory: Path, txn: "lmdb.Transaction[Any] | None" = None) -> None:
    """Write the databases as `txn`, or the newest prefix, has them into `directory`, empty and existing.

    Raises lmdb.Error, also when the main database has a key that is a database's name.
    """
    if txn is None:
        with store.begin() as newest:
            _export(store, directory, newest)
    else:
        _export(store, directory, txn)


def _export(store: Store | StoreReader, directory: Path, txn: "lmdb.Transaction[Any]") -> None:
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
    dupsort = bool(flag_bits(flags) & DUPSORT)
    database = target.open_db(name, **flags) if name is not None else target.open_db()
    with target.begin(write=True) as writing, txn.cursor(source) as reading, writing.cursor(database) as cursor:
        cursor.putmulti(reading, append=not dupsort)
