"""The admission table: who may take which message, at which gen; and what may leave, the one exit.

A message passes three gates before its handler sees it:

1. `sender`: votes and HIGHER count only from voters of our own configuration (R4, R10);
2. `role`: what only a master, or only a client, can use;
3. `gate`: FENCED refuses what is below our promise and answers HIGHER (R7); CURRENT takes only our own
   gen. Egens and gens absurdly far ahead are refused (a peer's bug must not exhaust the numbers).

What is not in the table is an error by construction.
"""

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple

from zrep.errors import invariant
from zrep.ids import Gen, Lsn
from zrep.messages import Higher, Message, Type, Vote1, Vote2

if TYPE_CHECKING:
    from zrep.replica.state import State


class Role(Enum):
    """A site's part in replication (Berkeley DB: DB_REP_MASTER, DB_REP_CLIENT)."""

    CLIENT = "client"
    MASTER = "master"


class ResultCode(IntEnum):
    """What `receive` tells the application; Berkeley DB's names for rep_process_message's results."""

    SUCCESS = 0
    DUPMASTER = 1
    HOLDELECTION = 2
    IGNORE = 3
    ISPERM = 4
    NOTPERM = 5
    NEWSITE = 6
    JOIN_FAILURE = 7
    WOULDROLLBACK = 8


class Result(NamedTuple):
    """Result of processing one message."""

    code: ResultCode
    lsn: Lsn | None = None
    data: bytes | None = None


SUCCESS = Result(ResultCode.SUCCESS)
IGNORE = Result(ResultCode.IGNORE)
HOLDELECTION = Result(ResultCode.HOLDELECTION)
DUPMASTER = Result(ResultCode.DUPMASTER)


class Gate(Enum):
    """Which gens pass."""

    ANY = 0
    FENCED = 1
    CURRENT = 2


class Rule(NamedTuple):
    """How one type is admitted."""

    gate: Gate
    role: Role | None = None
    from_voter: bool = False


RULES: dict[Type, Rule] = {
    Type.NEWCLIENT: Rule(Gate.ANY),
    Type.NEWSITE: Rule(Gate.ANY),
    Type.NEWMASTER: Rule(Gate.FENCED),
    Type.MASTER_IS: Rule(Gate.ANY, Role.CLIENT),
    Type.MASTER_REQ: Rule(Gate.ANY),
    Type.HEARTBEAT: Rule(Gate.FENCED),
    Type.ACK: Rule(Gate.CURRENT, Role.MASTER),
    Type.LOG: Rule(Gate.ANY, Role.CLIENT),
    Type.LOG_REQ: Rule(Gate.ANY),
    Type.REREQUEST: Rule(Gate.CURRENT, Role.CLIENT),
    Type.SYNC_REQ: Rule(Gate.ANY),
    Type.SYNC: Rule(Gate.CURRENT, Role.CLIENT),
    Type.VOTE1: Rule(Gate.ANY),
    Type.VOTE2: Rule(Gate.ANY, Role.CLIENT, from_voter=True),
    Type.HIGHER: Rule(Gate.ANY, from_voter=True),
    Type.JOIN: Rule(Gate.ANY),
    Type.JOIN_REPLY: Rule(Gate.ANY, Role.CLIENT),
    Type.RECONFIG: Rule(Gate.ANY),
    Type.RECONFIG_REPLY: Rule(Gate.ANY),
    Type.FORWARD: Rule(Gate.ANY),
    Type.FORWARD_REPLY: Rule(Gate.ANY),
    Type.READ_REQ: Rule(Gate.ANY),
    Type.READ: Rule(Gate.ANY),
}
"""LOG has gates of its own, in `following`: a pull's records are of no gen we follow (R13)."""

MAX_GEN_JUMP = 1 << 40
"""Larger than what any site reaches by campaigning alone, a second each; small enough to be jumped 2^23 times."""


def claimed_gen(message: Message) -> Gen:
    """Return the highest gen or egen a message speaks of."""
    fields = message.fields
    if isinstance(fields, (Vote1, Vote2)):
        return max(message.gen, fields.egen)
    if isinstance(fields, Higher):
        return max(message.gen, fields.promise)
    return message.gen


def check_leaving(state: "State", message: Message) -> None:
    """Stop the site rather than let a message leave that a promise forbids.

    Cheap, and on in production: every message passes here, whatever handler made it.
    """
    kind, fields, gen = message.type, message.fields, message.gen
    invariant(message.to != state.site, "no message to oneself", type=kind)
    invariant(gen <= state.meta.promise, "I6: no gen above the promise leaves", gen=gen, promise=state.meta.promise)
    if kind is Type.ACK:
        invariant(gen == state.gen == state.meta.promise, "I7: acks are for the promised gen", gen=gen, own=state.gen)
        invariant(message.lsn <= state.log.durable, "I7: what is acknowledged is durable", lsn=message.lsn)
    elif kind is Type.VOTE2:
        invariant(
            (fields.egen, fields.candidate) == (state.meta.promise, state.meta.vote),
            "R8: the vote that leaves is the durable one",
            vote=fields,
            meta=state.meta,
        )
    elif kind in (Type.NEWMASTER, Type.HEARTBEAT) or (kind is Type.LOG and message.to is None):
        invariant(state.role is Role.MASTER and gen == state.gen, "only the master of a gen speaks for it", type=kind)
