"""What the process under the shim does: elections, commits, cuts, applies and trims, always the same.

`script()` is also the model: each step carries the whole state that it leads to, so that a test can tell
what may be on the disk after any number of completed steps.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from zrep import codec
from zrep.ids import Egen, Lsn, SiteId
from zrep.options import MIB, Options
from zrep.records import Kind, Op, Record, Tip, Txn, make_record

SEGMENT = 4096
OPTIONS = Options(map_bytes=16 * MIB, segment_bytes=SEGMENT, max_readers=126)
SITES = tuple(SiteId(letter * 32) for letter in "abc")
REIGNS = 12


class Step(NamedTuple):
    """One thing that a site makes durable, and what is durable afterwards."""

    promise: Egen
    vote: SiteId
    cut: Lsn | None
    append: tuple[Record, ...]
    trim: Lsn
    applied: Lsn
    log: tuple[Record, ...]
    """Every record since the first, trimmed or not."""


START = Step(0, SiteId(""), None, (), 0, 0, ())


@cache
def script() -> Sequence[Step]:
    """Return the steps, beginning with the empty home."""
    rng = random.Random(1)
    steps = [START]
    for gen in range(1, REIGNS + 1):
        steps.extend(_reign(steps[-1], gen, rng))
    return steps


def _reign(last: Step, gen: Egen, rng: random.Random) -> Iterator[Step]:
    """A vote, a cut at times, the reign record, six groups, an apply in between, a trim at times."""
    site = rng.choice(SITES)
    last = last._replace(promise=gen, vote=site, cut=None, append=(), trim=0)
    yield last
    kept = rng.randint(last.applied, len(last.log)) if gen % 3 else len(last.log)
    last = _append(last, kept, [(Kind.REIGN, codec.encode_reign(site))], gen)
    yield last
    for group in range(6):
        last = _append(last, len(last.log), [(Kind.COMMIT, _payload(rng)) for _ in range(rng.randint(1, 3))], gen)
        yield last
        if group in (2, 4):
            last = last._replace(cut=None, append=(), applied=len(last.log) - 1)
            yield last
    if gen % 4 == 0:
        last = last._replace(append=(), trim=last.applied + 1)
        yield last


def _append(last: Step, kept: Lsn, contents: list[tuple[Kind, bytes]], gen: Egen) -> Step:
    log = list(last.log[:kept])
    for kind, payload in contents:
        tip = Tip(log[-1].gen, log[-1].lsn, log[-1].chain) if log else Tip()
        log.append(make_record(tip, gen, 1_700_000_000_000, kind, payload))
    cut = kept if kept < len(last.log) else None
    return last._replace(cut=cut, append=tuple(log[kept:]), trim=0, log=tuple(log))


def _payload(rng: random.Random) -> bytes:
    key, value = b"key-%d" % rng.randrange(20), rng.randbytes(rng.choice([10, 100, 700]))
    return codec.encode_txns([Txn(((Op.PUT, None, key, value),))])


def contents(log: Sequence[Record]) -> dict[bytes, bytes]:
    """Return what the store holds when these records are applied."""
    pairs: dict[bytes, bytes] = {}
    for record in log:
        if record.kind == Kind.COMMIT:
            for txn in codec.decode_txns(record.payload):
                for op in txn.ops:
                    assert isinstance(op[2], bytes)
                    assert isinstance(op[3], bytes)
                    pairs[op[2]] = op[3]
    return pairs
