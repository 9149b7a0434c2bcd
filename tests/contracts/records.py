"""Records to fill logs with."""

import random

from zrep.records import Kind, Record, Tip, make_record


def chain_of(tip: Tip, count: int, gen: int = 1, size: int = 40, seed: int = 0) -> list[Record]:
    """Return `count` records that follow `tip`, of `size` random payload bytes each."""
    rng = random.Random(f"{seed}/{tip.lsn}/{gen}")
    records = []
    for _ in range(count):
        record = make_record(tip, gen, 1_700_000_000_000, Kind.COMMIT, rng.randbytes(size))
        tip = Tip(record.gen, record.lsn, record.chain)
        records.append(record)
    return records
