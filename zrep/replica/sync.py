"""Where two logs part, from their gen histories alone.

Logs that have a record of the same (gen, lsn) agree on everything before it. So the common point is the
highest LSN at which both histories name the same gen, and one round trip finds it (SYNC_REQ, SYNC).
"""

from collections.abc import Sequence

from zrep.ids import Lsn
from zrep.records import Reign


def common_point(ours: Sequence[Reign], our_end: Lsn, theirs: Sequence[Reign], their_end: Lsn, floor: Lsn) -> Lsn:
    """Return the highest LSN that both logs hold with the same gen, at least `floor`.

    `floor` is an LSN that is known to be common: a permanent one. Both histories are ascending, and may
    begin late.
    """
    last_by_gen = dict(_last_lsns(theirs, their_end))
    for gen, last in reversed(_last_lsns(ours, our_end)):
        other = last_by_gen.get(gen)
        if other is not None:
            return max(min(last, other), floor)
    return floor


def _last_lsns(reigns: Sequence[Reign], end: Lsn) -> list[tuple[int, Lsn]]:
    """Return (gen, last LSN of that reign) of every reign that begins at or below `end`."""
    ends = [min(later.first - 1, end) for later in reigns[1:]] + [end]
    return [(reign.gen, last) for reign, last in zip(reigns, ends, strict=True) if reign.first <= end] if reigns else []
