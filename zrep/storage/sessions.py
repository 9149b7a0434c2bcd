"""Which request of a session was the last to take effect (R25), kept in the replicated state.

A session numbers its requests 1, 2, 3 …; the next number is used when the one before has taken effect,
and a request that conflicted or was not applied leaves its number to the next. So one entry per session
tells for every number whether it may run. Entries expire by the records' own times, which are the same
everywhere and never jump (`replica.clock`): every site forgets the same ones at the same record.

    s ‖ session            → seq, gen, lsn, time of the request
    t ‖ time ‖ session     → nothing: entries in the order in which they expire
"""

import struct
from enum import Enum
from typing import Any, NamedTuple

import lmdb

from zrep.ids import Position
from zrep.records import Record

KEPT_MS = 3_600_000
"""An entry lives for an hour of the log's clock: ten times as long as a request is sent again (`REPEATED_MS`)."""
NEVER = 1 << 64

_ENTRY = struct.Struct("<QQQQ")
_TIME = struct.Struct(">Q")


class Verdict(Enum):
    """What to do with a request."""

    RUN = "run"
    DONE = "done"
    """It took effect; do not run it again."""
    UNKNOWN = "unknown"
    """Nobody remembers; it may have taken effect, so it is never run."""


class Answer(NamedTuple):
    verdict: Verdict
    position: Position | None = None
    """With DONE: the record it is in; None while that record is not sealed."""


def check(txn: "lmdb.Transaction", db: "lmdb._Database", session: str, seq: int) -> Answer:
    """Tell whether request `seq` of `session` may run."""
    found = txn.get(b"s" + session.encode(), db=db)
    if found is None:
        return judge(seq, 0, None)
    last, gen, lsn, _ = _ENTRY.unpack(found)
    return judge(seq, last, Position(gen, lsn))


def judge(seq: int, last: int, position: Position | None) -> Answer:
    """Compare a request with the last of its session that took effect; 0 for none."""
    if seq == last + 1:
        return Answer(Verdict.RUN)
    if seq == last > 0:
        return Answer(Verdict.DONE, position)
    return Answer(Verdict.UNKNOWN)


def note(txn: "lmdb.Transaction", db: "lmdb._Database", session: str, seq: int, record: Record) -> None:
    """Remember that `record` holds request `seq` of `session`."""
    key = session.encode()
    before = txn.replace(b"s" + key, _ENTRY.pack(seq, record.gen, record.lsn, record.time_ms), db=db)
    if before is not None:
        txn.delete(b"t" + _TIME.pack(_ENTRY.unpack(before)[3]) + key, db=db)
    txn.put(b"t" + _TIME.pack(record.time_ms) + key, b"", db=db)


def expire(txn: "lmdb.Transaction[Any]", db: "lmdb._Database", time_ms: int) -> int:
    """Forget the entries that are older than `time_ms` allows; return when the next one will be, or NEVER."""
    with txn.cursor(db) as cursor:
        while cursor.set_range(b"t"):
            key = bytes(cursor.key())
            (noted_ms,) = _TIME.unpack_from(key, 1)
            if noted_ms >= time_ms - KEPT_MS:
                return int(noted_ms) + KEPT_MS
            cursor.delete()
            txn.delete(b"s" + key[1 + _TIME.size :], db=db)
    return NEVER
