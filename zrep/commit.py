"""What a write is and what became of it: `Batch`, `CommitToken`, `CommitResult`."""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from zrep.errors import OptionError
from zrep.ids import Gen, Lsn, Position, SiteId

OP_BYTES = 24
"""What an operation costs in a record besides its key and value, about."""
_TOKEN = struct.Struct("<BQQ")
_TOKEN_VERSION = 1


class CommitToken(NamedTuple):
    """Names one commit for ever: the record it is in, and the master that sealed it.

    Hand it to another site's `begin(token=)` to read your own write there, or to `txn_applied` to ask
    what became of it. Berkeley DB: DB_TXN_TOKEN.
    """

    gen: Gen
    lsn: Lsn
    site: SiteId

    @property
    def position(self) -> Position:
        return Position(self.gen, self.lsn)

    def __bytes__(self) -> bytes:
        return _TOKEN.pack(_TOKEN_VERSION, self.gen, self.lsn) + self.site.encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> "CommitToken":
        """Return the token that `bytes(token)` wrote. Raises OptionError for anything else."""
        try:
            version, gen, lsn = _TOKEN.unpack_from(raw)
            site = SiteId(bytes(raw[_TOKEN.size :]).decode("ascii"))
        except (struct.error, UnicodeDecodeError, TypeError):
            version, gen, lsn, site = 0, 0, 0, SiteId("")
        if version != _TOKEN_VERSION or not 1 <= len(site) <= 32:
            raise OptionError("these bytes are not a commit token: use bytes(token) of a CommitResult")
        return cls(gen, lsn, site)


class CommitResult(NamedTuple):
    """What a commit achieved when it returned."""

    token: CommitToken | None
    """None for a transaction that changed nothing, and for a nested one: what it did is in the outermost one's."""
    perm: bool
    """Whether it is permanent: held by a majority of the voters, never rolled back."""
    acked: tuple[SiteId, ...]
    """The sites that were known to hold it durably, this master included."""
    durable: str
    """What "hold" means in this group: "sync", or "process" (survives kill -9, not an OS crash)."""


class Batch:
    """Writes that happen together or not at all, in order, at whichever site is master.

    `db` names a database, which must exist; None is the main one. Reusable, not thread-safe: what is
    written is what it holds at the call, whatever is added while that is on its way.
    """

    __slots__ = ("_shared", "nbytes", "ops")

    PUT, DELETE, DELETE_RANGE, EXPECT, CREATE = 1, 2, 3, 4, 5

    def __init__(self) -> None:
        self.ops: list[list[Any]] = []
        """(code, db, key, value, key, value, …): one for all that follow one another and differ only in those."""
        self.nbytes = 0
        """What it takes of a record, about: the bytes of keys and values, and `OP_BYTES` for each operation."""
        self._shared = False
        """Whether a copy has the same `ops`: they are copied before more is added, which is seldom done."""

    def put(self, key: bytes, value: bytes, db: bytes | None = None) -> "Batch":
        """Store a pair, replacing the value if the key is there."""
        return self.add(self.PUT, db, key, value)

    def delete(self, key: bytes, db: bytes | None = None) -> "Batch":
        """Remove a key, if it is there."""
        return self.add(self.DELETE, db, key, None)

    def delete_range(self, start: bytes, stop: bytes | None, db: bytes | None = None) -> "Batch":
        """Remove every key from `start` up to, not including, `stop`; None: to the end."""
        return self.add(self.DELETE_RANGE, db, start, stop)

    def expect(self, key: bytes, value: bytes | None, db: bytes | None = None) -> "Batch":
        """Apply the batch only if the key's value is `value` here (None: absent); else ConflictError."""
        return self.add(self.EXPECT, db, key, value)

    def create(self, db: bytes, flags: int = 0) -> "Batch":
        """Create a database, if it does not exist, with LMDB's `flags`; what follows may use it."""
        return self.add(self.CREATE, db, b"", flags.to_bytes(4, "big"))

    def add(self, code: int, db: bytes | None, key: bytes, value: bytes | None) -> "Batch":
        """Add an operation, as iterating tells it. Raises TypeError for what is no bytes."""
        if type(key) is not bytes:
            key = _copied("key", key)
        if type(value) is not bytes and (value is not None or code == self.PUT):
            value = _copied("value", value)
        if db is not None and type(db) is not bytes:
            db = _copied("db", db)
        if self._shared:
            self.ops, self._shared = [op[:] for op in self.ops], False
        self.nbytes += len(key) + OP_BYTES if value is None else len(key) + len(value) + OP_BYTES
        ops = self.ops
        if ops and ops[-1][0] == code and ops[-1][1] == db:
            ops[-1] += (key, value)
        else:
            ops.append([code, db, key, value])
        return self

    def copy(self) -> "Batch":
        """Return another one with the same operations; what is added to the one is not in the other."""
        other = object.__new__(Batch)
        other.ops, other.nbytes = self.ops, self.nbytes
        self._shared = other._shared = True
        return other

    def __iter__(self) -> Iterator[tuple[int, bytes | None, bytes, bytes | None]]:
        """Return the single operations, in order: code, db, key, value."""
        for code, db, *operands in self.ops:
            for key, value in zip(operands[::2], operands[1::2], strict=True):
                yield code, db, key, value

    def __len__(self) -> int:
        return sum(len(op) // 2 - 1 for op in self.ops)


def _copied(what: str, given: object) -> bytes:
    if not isinstance(given, (bytes, bytearray, memoryview)):
        raise TypeError(f"{what} must be bytes, not {type(given).__name__}")
    return bytes(given)
