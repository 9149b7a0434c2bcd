"""The small values everything else is written in: LSNs, gens, site ids, positions.

LSN, gen and egen are plain integers by another name, because they are compared and counted on every
line of the protocol; the identities, which are only ever passed on, are types of their own.
"""

from typing import NamedTuple, NewType, TypeAlias

VERSION = "0.1.0"
"""Which zrep this is."""

Lsn: TypeAlias = int
"""Position of a record in the log: 1 for the first, +1 per record; 0 is "before the first"."""

Gen: TypeAlias = int
"""The reign number of a master, on every message and every record; 0 is "no master yet"."""

Egen: TypeAlias = int
"""The reign an election is about; the winner's gen *is* that egen."""

Nanoseconds: TypeAlias = int
"""A point or a length of time on one site's monotonic clock."""

SiteId = NewType("SiteId", str)
"""Who a site is: minted with its home, 32 hexadecimal digits, never configured (R1)."""

GroupId = NewType("GroupId", str)
"""Which group a home belongs to; `NO_GROUP` until it has founded or joined one."""

Incarnation: TypeAlias = int
"""One run of one site: boot counter (high 32 bits) and a random nonce (low 32 bits) (R1)."""

Eid = NewType("Eid", int)
"""Small local number that names a peer to a transport (Berkeley DB: environment ID)."""

NO_GROUP = GroupId("")

DB_EID_BROADCAST = Eid(-1)
DB_EID_INVALID = Eid(-2)
DB_EID_MASTER = Eid(-3)
SELF_EID = Eid(-4)


class Position(NamedTuple):
    """The identity of a record. Positions order logs: the later one is the better log (R9)."""

    gen: Gen
    lsn: Lsn


def majority(nsites: int) -> int:
    """How many of `nsites` are more than half."""
    return nsites // 2 + 1


def short(site: SiteId | None) -> str:
    """Name a site for people: the first eight digits of its id."""
    return site[:8] if site else "-"
