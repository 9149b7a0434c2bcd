"""What a site answers to foreign programs, the remote client and the command line (protocol ZREP1).

Reads are of this site's own permanent prefix. Writes are the master's: another site answers REDIRECT and
says where it is, or BUSY while nobody is master, and so does a master with too much in its queue. Runs on
the engine's thread; every answer is bounded.
"""

import time
from typing import TYPE_CHECKING, Any

from zrep import codec
from zrep.bus.arrivals import ClientRequest
from zrep.codec import Reply, Request
from zrep.commit import Batch, CommitResult
from zrep.errors import (
    ConflictError,
    Error,
    NoMasterError,
    NotAppliedError,
    OptionError,
    PermFailedError,
    ProtocolError,
    TxnTooLargeError,
    UnknownOutcomeError,
)
from zrep.ids import Nanoseconds
from zrep.inqueue import COME_BACK
from zrep.messages import TEXT_LIMIT, Status
from zrep.options import MILLISECOND
from zrep.records import MemberRole
from zrep.replica.replica import Role
from zrep.storage.catalogue import DUPSORT, INTEGER_KEY, REVERSE_KEY, flag_bits
from zrep.tickets import Callback

if TYPE_CHECKING:
    from zrep.engine import Engine

SCAN_PAIRS = 10_000


def serve(engine: "Engine", arrival: ClientRequest) -> None:
    """Answer one request, now or when it is decided."""
    request, route = arrival.request, arrival.route

    def answer(status: Status, text: str = "", result: Any = None) -> None:
        engine.transport.reply(route, Reply(request.id, int(status), text[:TEXT_LIMIT], result))

    try:
        if request.verb in ("put", "delete", "write"):
            _write(engine, request, answer)
        else:
            answer(Status.OK, result=_READS[request.verb](engine, *request.args))
    except (Error, ProtocolError) as error:
        answer(Status.REFUSED, str(error))


def _get(engine: "Engine", db: bytes | None, key: bytes) -> bytes | None:
    with engine.store.begin() as txn:
        value = txn.get(key, db=engine.store.handle(db))
        return None if value is None else bytes(value)


def _scan(
    engine: "Engine", db: bytes | None, prefix: bytes, after: bytes | tuple[bytes, bytes] | None, limit: int
) -> list[list[bytes]]:
    """Return a page of the pairs whose keys begin with `prefix`, in order, that follow `after`.

    That is a pair, or a key, with all the values it has. Raises OptionError for a prefix where it means nothing.
    """
    handle = engine.store.handle(db)
    flags = flag_bits(handle.flags())
    if prefix and flags & (REVERSE_KEY | INTEGER_KEY):
        raise OptionError("this database's keys are not in the order of their bytes: scan it without a prefix")
    pairs: list[list[bytes]] = []
    nbytes = 0
    with engine.store.begin() as txn, txn.cursor(db=handle) as cursor:
        there = _move_behind(cursor, prefix, after, bool(flags & DUPSORT))
        while there and (key := bytes(cursor.key())).startswith(prefix):
            pairs.append([key, bytes(cursor.value())])
            nbytes += len(key) + len(pairs[-1][1])
            if len(pairs) >= min(limit, SCAN_PAIRS) or nbytes >= codec.SCAN_BYTES:
                break
            there = cursor.next()
    return pairs


def _move_behind(cursor: Any, prefix: bytes, after: bytes | tuple[bytes, bytes] | None, dupsort: bool) -> bool:
    key, value = after if isinstance(after, tuple) else (after, None)
    if key is None or key < prefix:
        return bool(cursor.set_range(prefix) if prefix else cursor.first())
    if dupsort and value is not None and cursor.set_range_dup(key, value):
        return bool(cursor.next()) if cursor.value() == value else True
    there = cursor.set_range(key)
    return bool(cursor.next_nodup() if there and cursor.key() == key else there)


def _write(engine: "Engine", request: Request, answer: Any) -> None:
    if engine.replica.role is not Role.MASTER:
        _redirect(engine, answer)
        return
    if engine.inqueue.full:
        answer(Status.BUSY, COME_BACK)
        return
    if request.verb == "write":
        session, seq, deadline_ms, data = request.args
        batch = codec.decode_batch(data)
    else:
        session, seq, deadline_ms = "", 0, engine.options.ack_timeout_ms
        db, key, *value = request.args
        batch = Batch().put(key, value[0], db) if value else Batch().delete(key, db)

    def done(result: CommitResult | None, error: Exception | None) -> None:
        if result is not None:
            answer(Status.OK, result=_result(result))
        elif isinstance(error, NoMasterError):
            _redirect(engine, answer)
        elif isinstance(error, ConflictError):
            answer(Status.CONFLICT, str(error), {"key": error.key, "found": error.found})
        else:
            answer(_STATUS.get(type(error), Status.REFUSED), str(error))

    deadline: Nanoseconds = time.monotonic_ns() + deadline_ms * MILLISECOND
    ticket = Callback(engine.options.ack_policy, deadline, done)
    engine.inqueue.enter(ticket, batch.nbytes)
    engine.run(batch, session, seq, ticket)


_STATUS: dict[type, Status] = {
    NotAppliedError: Status.NOT_APPLIED,
    TxnTooLargeError: Status.TOO_LARGE,
    UnknownOutcomeError: Status.UNKNOWN,
    PermFailedError: Status.UNKNOWN,
}


def _result(result: CommitResult) -> dict[str, Any]:
    token = result.token
    return {
        "gen": token.gen if token else 0,
        "lsn": token.lsn if token else 0,
        "site": token.site if token else "",
        "perm": result.perm,
        "acked": list(result.acked),
        "durable": result.durable,
    }


def _redirect(engine: "Engine", answer: Any) -> None:
    replica = engine.replica
    member = replica.config.member(replica.master)
    if member is None or replica.role is Role.MASTER:
        answer(Status.BUSY, "no master is known here: ask again in a moment")
    else:
        answer(
            Status.REDIRECT,
            f"the master is {member.endpoints[0] if member.endpoints else member.site}",
            {"master": member.site, "endpoints": list(member.endpoints)},
        )


def status(engine: "Engine") -> dict[str, Any]:
    """Return what this site knows of itself and its group, as plain values (Berkeley DB: rep_stat)."""
    replica, applied = engine.replica, engine.store.applied.tip
    master = replica.config.member(replica.master)
    return {
        "site": replica.state.site,
        "group": replica.state.meta.group,
        "address": replica.state.endpoints[0] if replica.state.endpoints else None,
        "role": replica.role.value,
        "gen": replica.gen,
        "promise": replica.promise,
        "master": {"site": master.site, "address": next(iter(master.endpoints), None)} if master else None,
        "first": engine.log.first,
        "end": engine.log.tip.lsn,
        "perm": replica.perm,
        "applied": applied.lsn,
        "chain": applied.chain,
        "durability": replica.config.durability,
        "startup_done": replica.startup_done or replica.role is Role.MASTER,
        "members": [
            {
                "site": member.site,
                "role": MemberRole(member.role).name.lower(),
                "priority": member.priority,
                "address": next(iter(member.endpoints), None),
                "endpoints": list(member.endpoints),
                "connected": member.site == replica.state.site or member.site in replica.up,
                "match": replica.match_of(member.site),
            }
            for member in replica.config.members
        ],
        "version": codec.VERSION,
    }


_READS: dict[str, Any] = {"get": _get, "scan": _scan, "status": status}
