"""A home's store as another process sees it: read-only, while the site may be running or not.

LMDB's readers need nobody: they see the newest permanent prefix that the site has applied, and go on when
the site process dies.
"""

from pathlib import Path
from typing import Any

import lmdb

from zrep import codec
from zrep.errors import OptionError, StorageError
from zrep.ports import Applied
from zrep.storage import checkpoint
from zrep.storage.catalogue import BOOKKEEPING, INDEX, MAIN, Catalogue, read_index, slot_name, slot_number
from zrep.storage.failures import missing
from zrep.storage.image import APPLIED
from zrep.storage.meta import DiskMeta
from zrep.storage.store import ENGINE, MAX_DBS


class StoreReader:
    """The store of the home at `path`. What is asked of it is answered as of now; any thread."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises OptionError where no home is, lmdb.Error where nothing is, and StorageError."""
        if not path.is_dir():
            raise missing(str(path))
        meta = DiskMeta(path / "site.meta").load()
        if meta is None:
            raise OptionError(f"{path} is not a zrep home: open it without readonly to make it one")
        data = path / f"state-{meta.state}" / "data"
        snapshot = checkpoint.load(checkpoint.path_of(data))
        if not checkpoint.believed(snapshot):
            raise StorageError(f"{path} was open when the operating system stopped: start its site once, then read it")
        try:
            checkpoint.is_complete(data / "data.mdb", snapshot)  # raises; without the newest pages it may be well
            self.env = lmdb.open(str(data), readonly=True, max_dbs=MAX_DBS, create=False, **ENGINE)
            self.main = self.env.open_db(MAIN, create=False)
            self._bookkeeping = self.env.open_db(BOOKKEEPING, create=False)
            self._index = self.env.open_db(INDEX, create=False)
        except (OSError, lmdb.Error) as error:
            raise StorageError(f"{data} cannot be read: {error}") from None
        self._handles: dict[int, lmdb._Database] = {}
        self._open_slots()

    def _open_slots(self) -> None:
        """Open the slots that appeared; transactions that began before cannot use them."""
        with self.env.begin() as txn, txn.cursor() as cursor:
            numbers = [slot_number(bytes(name)) for name in cursor.iternext(values=False)]
        for number in numbers:
            if number is not None and number not in self._handles:
                self._handles[number] = self.env.open_db(slot_name(number), create=False)

    @property
    def applied(self) -> Applied:
        """Which prefix of the log it is."""
        with self.env.begin(self._bookkeeping) as txn:
            written = txn.get(APPLIED)
        return Applied() if written is None else codec.decode_applied(written)

    @property
    def catalogue(self) -> Catalogue:
        """The user's databases."""
        with self.env.begin() as txn:
            return self.load(txn)

    def load(self, txn: "lmdb.Transaction[Any]") -> Catalogue:
        """Return the catalogue as `txn` sees it."""
        numbers = read_index(txn, self._index)
        if not self._handles.keys() >= set(numbers.values()):
            self._open_slots()
        handles: dict[bytes | None, lmdb._Database] = {None: self.main}
        handles.update((name, self._handles[number]) for name, number in numbers.items())
        return Catalogue(handles)

    def handle(self, name: bytes | None) -> "lmdb._Database":
        """Return the handle of a user database. Raises lmdb.NotFoundError."""
        return self.catalogue.handle(name)

    @property
    def store(self) -> "StoreReader":
        """Itself: an opened home has a store, and this is all that is open."""
        return self

    def begin(self) -> "lmdb.Transaction[bytes]":
        """Return a read transaction on the newest permanent prefix that is applied."""
        return self.env.begin(self.main)

    def close(self) -> None:
        self.env.close()
