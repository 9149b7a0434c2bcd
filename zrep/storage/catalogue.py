"""Which LMDB database each of the user's databases lives in.

A user database lives in a *slot*: an LMDB database `__zrep.<n>` that was created beforehand, with the
same flags, and stays open as long as the environment. The catalogue, a mapping name → slot kept in
`__zrep.dbs`, is all that creating or deleting a user database changes. Why not one LMDB database per name:

1. A handle that LMDB opens in a transaction dies with it, and its number is given to the next one: an
   application that kept the handle would silently read another database.
2. A handle opened by a reader while a write transaction holds a new database fails that transaction's
   commit, and `open_db` without a transaction blocks the whole process while one is open.

With slots nothing is opened while a write transaction lives, and creating a database can be undone like any
other write. The names in LMDB's main database are ours alone, so that a user's name can be anything.
"""

import struct
from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import lmdb

from zrep.storage.failures import databases_full, not_found

REVERSE_KEY, DUPSORT, INTEGER_KEY, DUPFIXED, INTEGER_DUP = 0x02, 0x04, 0x08, 0x10, 0x20
"""LMDB's own bits, as CREATE_DB records carry them."""

DATABASES = 200
"""Most user databases of an environment: the same at every site, so that what one creates all can."""
SLOTS = 252
"""Most slots; with LMDB's main database and ours this is what `max_dbs` 256 allows."""
SPARES = {0: 8, DUPSORT: 4}
"""How many unused slots are kept ready, by flags; one of the other kinds."""

_BITS = {
    "reverse_key": REVERSE_KEY,
    "dupsort": DUPSORT,
    "integerkey": INTEGER_KEY,
    "integerdup": INTEGER_DUP,
    "dupfixed": DUPFIXED,
}
BOOKKEEPING, INDEX, MAIN = b"__zrep", b"__zrep.dbs", b"__zrep.main"
"""The LMDB databases that are no slots: see `store`."""
_PREFIX = b"__zrep."
_NUMBER = struct.Struct("<I")


def flag_bits(given: Mapping[str, object]) -> int:
    """Return LMDB's flags for `open_db`'s keyword arguments, those that others imply included."""
    flags = sum(bit for name, bit in _BITS.items() if given.get(name))
    if flags & INTEGER_DUP:
        flags |= DUPFIXED
    if flags & DUPFIXED:
        flags |= DUPSORT
    return flags


def slot_name(number: int) -> bytes:
    """Return the name of a slot's LMDB database."""
    return _PREFIX + b"%d" % number


def slot_number(name: bytes) -> int | None:
    """Return the number of the slot that an LMDB database is, None if it is another one."""
    digits = name.removeprefix(_PREFIX)
    return int(digits) if digits != name and digits.isdigit() else None


def read_index(txn: "lmdb.Transaction[Any]", index: "lmdb._Database") -> dict[bytes, int]:
    """Return the number of each user database's slot, by its name."""
    with txn.cursor(index) as cursor:
        return {bytes(name): _NUMBER.unpack(number)[0] for name, number in cursor}


KINDS = tuple(sorted({flag_bits({name: bool(bits & bit) for name, bit in _BITS.items()}) for bits in range(64)}))
"""Every combination of flags that a database can have."""


class Catalogue:
    """The user's databases at one moment. A value: a change makes a new one, an abort forgets it."""

    __slots__ = ("handles", "names", "plain")

    def __init__(self, handles: Mapping[bytes | None, "lmdb._Database"]) -> None:
        self.handles = MappingProxyType(dict(handles))
        """By name; None is the main database."""
        self.plain = {name: handle for name, handle in handles.items() if not flag_bits(handle.flags())}
        """Those whose keys are bytes, in order, with one value each."""
        self.names = {id(handle): name for name, handle in handles.items()}
        """By handle's identity: LMDB's handles live as long as the environment, and cannot be hashed safely."""

    def handle(self, name: bytes | None) -> "lmdb._Database":
        """Return the handle of a database. Raises lmdb.NotFoundError."""
        try:
            return self.handles[name]
        except KeyError:
            raise not_found(name) from None

    def with_database(self, name: bytes, handle: "lmdb._Database") -> "Catalogue":
        return Catalogue({**self.handles, name: handle})

    def without(self, name: bytes) -> "Catalogue":
        return Catalogue({other: handle for other, handle in self.handles.items() if other != name})


class Slots:
    """The LMDB databases of one environment, and which of them are free.

    A slot that a deleted database leaves is used again last, so that an old handle sees nothing for as
    long as possible.
    """

    def __init__(self, env: lmdb.Environment, txn: "lmdb.Transaction") -> None:
        """Open everything there is. `txn` writes, and is the only transaction at this moment."""
        self.env = env
        self.root = env.open_db(None, txn=txn)
        self.index = env.open_db(INDEX, txn=txn)
        self.main = env.open_db(MAIN, txn=txn)
        self._handles: dict[int, lmdb._Database] = {}
        self._numbers: dict[int, int] = {}
        self._flags: dict[int, int] = {}
        self._order: deque[int] = deque()
        with txn.cursor(self.root) as cursor:
            names = [bytes(name) for name in cursor.iternext(values=False)]
        for name in names:
            number = slot_number(name)
            if number is not None:
                self._add(number, env.open_db(name, txn=txn, create=False))

    def load(self, txn: "lmdb.Transaction") -> Catalogue:
        """Return the catalogue as `txn` sees it."""
        handles: dict[bytes | None, lmdb._Database] = {None: self.main}
        handles.update((name, self._handles[number]) for name, number in read_index(txn, self.index).items())
        return Catalogue(handles)

    def assign(self, txn: "lmdb.Transaction", catalogue: Catalogue, name: bytes, handle: "lmdb._Database") -> Catalogue:
        """Let a free slot be the database `name`."""
        if len(catalogue.handles) > DATABASES:
            raise databases_full(f"an environment has at most {DATABASES} databases, drop some first")
        txn.put(name, _NUMBER.pack(self._numbers[id(handle)]), db=self.index)
        return catalogue.with_database(name, handle)

    def release(self, txn: "lmdb.Transaction", catalogue: Catalogue, name: bytes) -> Catalogue:
        """Empty the database `name` and give its slot back, to be used after all others."""
        handle = catalogue.handles[name]
        txn.drop(handle, delete=False)
        txn.delete(name, db=self.index)
        self._order.remove(self._numbers[id(handle)])
        self._order.append(self._numbers[id(handle)])
        return catalogue.without(name)

    def free(
        self, flags: int, catalogue: Catalogue, name: bytes, like: Catalogue | None = None
    ) -> "lmdb._Database | None":
        """Return a slot for the database `name` with these flags that `catalogue` does not use.

        With `like` the one that it has there, if it can be; never one that another has there.
        """
        wanted = like.handles.get(name) if like is not None else None
        first = (self._numbers[id(wanted)],) if id(wanted) in self._numbers else ()
        for number in (*first, *self._order):
            handle = self._handles[number]
            is_others = like is not None and like.names.get(id(handle), name) != name
            if self._flags[number] == flags and id(handle) not in catalogue.names and not is_others:
                return handle
        return None

    def missing(self, catalogue: Catalogue) -> list[int]:
        """Return the flags of the slots to create in order to have spares again."""
        free = [self._flags[number] for number, handle in self._handles.items() if id(handle) not in catalogue.names]
        wanted = [flags for flags in KINDS for _ in range(SPARES.get(flags, 1) - free.count(flags))]
        return wanted[: SLOTS - len(self._handles)]

    def create(self, txn: "lmdb.Transaction", flags: int) -> int:
        """Create a slot in a top-level `txn` and return its number. Call `forget` if that does not commit."""
        if len(self._handles) >= SLOTS:
            raise databases_full(f"all {SLOTS} slots of the environment are in use")
        number = next(number for number in range(1, SLOTS + 1) if number not in self._handles)
        arguments = {name: bool(flags & bit) for name, bit in _BITS.items()}
        self._add(number, self.env.open_db(slot_name(number), txn=txn, **arguments))
        return number

    def handle(self, number: int) -> "lmdb._Database":
        return self._handles[number]

    def forget(self, numbers: Iterable[int]) -> None:
        """Unlearn slots whose transaction was aborted: LMDB has closed them."""
        for number in numbers:
            del self._numbers[id(self._handles.pop(number))], self._flags[number]
            self._order.remove(number)

    def _add(self, number: int, handle: "lmdb._Database") -> None:
        self._handles[number] = handle
        self._numbers[id(handle)] = number
        self._flags[number] = flag_bits(handle.flags())
        self._order.append(number)
