"""What the log holds: records, the reigns they belong to, and the configurations they may carry.

A *record* is one group commit. Its identity is (gen, lsn). Its `chain` is a checksum over its own and
every earlier record's content, so two logs that agree on (lsn, chain) agree on all before.

    raw = header ‖ payload       header = lsn gen prev_gen time_ms kind chain crc

`crc` covers the record without its chain; `chain` is the CRC of that `crc` over the previous chain.
The same bytes stand in the log and travel in LOG messages; nothing is encoded twice.
"""

import struct
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

from zrep.ids import Gen, Lsn, Position, SiteId

HEADER = struct.Struct("<QQQQBII")
CONTENT = struct.Struct("<QQQQB")
"""What of the header the CRC covers."""
_CHAINED = struct.Struct("<II")
_CRC = struct.Struct("<I")


class Kind(IntEnum):
    """What a record's payload is."""

    REIGN = 1
    """The no-op that opens a master's reign and carries earlier records to permanence (R16)."""
    CONFIG = 2
    """A configuration, in force when appended (R20)."""
    COMMIT = 3
    """The transactions of one group commit."""


class Record(NamedTuple):
    """One record of the log. Build with `make_record`; from bytes only through the codec."""

    lsn: Lsn
    gen: Gen
    prev_gen: Gen
    time_ms: int
    kind: Kind
    chain: int
    raw: bytes

    @property
    def position(self) -> Position:
        return Position(self.gen, self.lsn)

    @property
    def payload(self) -> bytes:
        return self.raw[HEADER.size :]


class Tip(NamedTuple):
    """The end of a log: its last position and the chain there."""

    gen: Gen = 0
    lsn: Lsn = 0
    chain: int = 0

    @property
    def position(self) -> Position:
        return Position(self.gen, self.lsn)


def content_crc(head: bytes, payload: bytes) -> int:
    """Return the CRC of a record whose header begins with `head`, up to its kind."""
    return zlib.crc32(payload, zlib.crc32(head))


def next_chain(prev_chain: int, crc: int) -> int:
    return zlib.crc32(_CRC.pack(crc), prev_chain)


def make_record(tip: Tip, gen: Gen, time_ms: int, kind: Kind, payload: bytes) -> Record:
    """Build the record that follows `tip`."""
    lsn = tip.lsn + 1
    head = CONTENT.pack(lsn, gen, tip.gen, time_ms, kind)
    crc = content_crc(head, payload)
    chain = next_chain(tip.chain, crc)
    raw = b"".join((head, _CHAINED.pack(chain, crc), payload))
    return Record(lsn, gen, tip.gen, time_ms, kind, chain, raw)


def follows(tip: Tip, record: Record) -> bool:
    """Tell whether `record` is a successor of `tip`: next LSN, matching prev gen, matching chain (R14)."""
    if record.lsn != tip.lsn + 1 or record.prev_gen != tip.gen or record.gen < tip.gen:
        return False
    (crc,) = _CRC.unpack_from(record.raw, HEADER.size - _CRC.size)
    return record.chain == next_chain(tip.chain, crc)


class Reign(NamedTuple):
    """A master's reign: from `first` on, records are of `gen`, until the next reign begins."""

    gen: Gen
    site: SiteId
    first: Lsn


class History:
    """The gen history: every reign that a log has records of, oldest first.

    Each reign begins with its reign record, so the history alone tells the gen of any LSN.
    """

    __slots__ = ("reigns",)

    def __init__(self, reigns: tuple[Reign, ...] = ()) -> None:
        self.reigns = reigns

    def gen_at(self, lsn: Lsn) -> Gen:
        """Return the gen of the record at `lsn`; 0 before the first."""
        if self.reigns and lsn >= self.reigns[-1].first:
            return self.reigns[-1].gen
        index = bisect_right(self.reigns, lsn, key=lambda reign: reign.first)
        return self.reigns[index - 1].gen if index else 0

    def begin(self, reign: Reign) -> None:
        self.reigns = (*self.reigns, reign)

    def cut(self, lsn: Lsn) -> None:
        """Forget the reigns that began above `lsn`."""
        while self.reigns and self.reigns[-1].first > lsn:
            self.reigns = self.reigns[:-1]

    def since(self, lsn: Lsn, limit: int) -> tuple[Reign, ...]:
        """Return the reign that holds `lsn` and the later ones, at most the newest `limit`."""
        index = bisect_right(self.reigns, lsn, key=lambda reign: reign.first)
        return self.reigns[max(index - 1, len(self.reigns) - limit, 0) :]


class MemberRole(IntEnum):
    """A member's part in the group."""

    LEARNER = 0
    """Full copy, not yet counting."""
    VOTER = 1
    """Counts in quorums."""
    VIEW = 2
    """A copy that never counts."""


class Member(NamedTuple):
    """A site as the replicated configuration lists it."""

    site: SiteId
    role: MemberRole = MemberRole.VOTER
    priority: int = 100
    """0: votes and acks but is never master."""
    endpoints: tuple[str, ...] = ()
    """Where its ROUTER is reached, in order of preference."""
    publish: tuple[str, ...] = ()
    """Where its XPUB is reached."""
    wanted: MemberRole = MemberRole.VOTER
    """What a learner asked to become."""


class _Config(NamedTuple):
    members: tuple[Member, ...] = ()
    durability: str = "sync"
    removed: tuple[SiteId, ...] = ()


class Config(_Config):
    """Who is in the group. Quorums are counted over the *site ids* listed here as voters (R4, R10)."""

    @cached_property
    def voters(self) -> tuple[SiteId, ...]:
        return tuple(member.site for member in self.members if member.role == MemberRole.VOTER)

    @property
    def sync(self) -> bool:
        """Whether every member flushes before it acknowledges."""
        return self.durability == "sync"

    def member(self, site: SiteId | None) -> Member | None:
        return next((member for member in self.members if member.site == site), None)

    def is_voter(self, site: SiteId) -> bool:
        return site in self.voters

    def with_member(self, new: Member) -> "Config":
        """Return this configuration with one member added, or replaced if its site is listed."""
        others = tuple(member for member in self.members if member.site != new.site)
        return self._replace(members=tuple(sorted((*others, new))))

    def without(self, site: SiteId) -> "Config":
        """Return this configuration with one site removed and remembered as removed."""
        return self._replace(
            members=tuple(member for member in self.members if member.site != site),
            removed=(*self.removed, site)[-64:],
        )


class Op(IntEnum):
    """A logical operation of a transaction, as captured and replayed. Codes are frozen."""

    PUT = 1
    """(PUT, db, key, value, …): store pairs; in a dupsort database add duplicates. `db` None is the main one."""
    DELETE = 2
    """(DELETE, db, key, …): remove keys, and all their duplicates."""
    DELETE_DUP = 3
    """(DELETE_DUP, db, key, value, …): remove single duplicates."""
    CLEAR = 4
    """(CLEAR, db): empty the database."""
    CREATE_DB = 5
    """(CREATE_DB, db, flags): create a named database."""
    DELETE_DB = 6
    """(DELETE_DB, db): empty the database and forget its name."""


REPEATED = frozenset({Op.PUT, Op.DELETE, Op.DELETE_DUP})
"""What is said once for all that follow one another in one database: long flat operations cost least."""


class Txn(NamedTuple):
    """Transactions of a group commit: one of a session (R25), or with `session` empty any number of local ones."""

    ops: Any
    """A sequence of operations; lists where more may be added."""
    session: str = ""
    seq: int = 0


def note(ops: list[list[Any]], code: Op, db: bytes | None, *operands: Any) -> None:
    """Append an operation; one that only goes on with the last is added to it."""
    if ops and code in REPEATED:
        last = ops[-1]
        if last[0] == code and last[1] == db:
            last += operands
            return
    ops.append([code, db, *operands])


def join(ops: list[list[Any]], more: Sequence[list[Any]]) -> None:
    """Append operations to others, as if they had been noted there."""
    if ops and more and more[0][0] in REPEATED and more[0][:2] == ops[-1][:2]:
        ops[-1] += more[0][2:]
        more = more[1:]
    ops += more
